//! Opens files of a model's directory as untrusted input: regular files only, sizes bounded before a byte is read.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Opens a regular file and tells its size. A pipe or device in a model's directory would block or never end.
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    // Asked before opening: opening a pipe without a writer blocks.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// Reads a whole file of at most `bytes_max` bytes.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let (file, bytes) = open_regular(path)?;
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {bytes_max} bytes"));
    if bytes > bytes_max {
        return Err(too_large());
    }
    let mut content = Vec::with_capacity(bytes as usize);
    // The file may have grown since its size was told.
    if file.take(bytes_max + 1).read_to_end(&mut content)? as u64 > bytes_max {
        return Err(too_large());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded_and_kinds_checked() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("config.json");
        std::fs::write(&path, [7; 10]).expect("written");
        assert_eq!(read_bounded(&path, 10).expect("fits"), [7; 10]);
        assert_eq!(read_bounded(&path, 9).expect_err("too large").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(
            read_bounded(dir.path(), 10).expect_err("a directory").kind(),
            io::ErrorKind::InvalidInput
        );
        let missing = read_bounded(&dir.path().join("none"), 10).expect_err("missing");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
