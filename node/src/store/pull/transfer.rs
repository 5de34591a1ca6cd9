//! Content into a partial file, going on where an earlier pull stopped, until its hash is right.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use ureq::Body;
use ureq::http::{HeaderMap, Response, header};

use super::staging::verify;
use super::{ModelFile, Progress, SourceError};

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Broken connections that are resumed; each must have brought at least a byte.
const RESUMES_MAX: usize = 20;

/// Asks for the content from a byte on. May answer with the whole content (200) all the same.
pub(super) type Ask<'a> = dyn FnMut(u64, &mut dyn Progress) -> Result<Response<Body>, SourceError> + 'a;

/// Fills `part` with the content of `file` and checks it. A broken transfer keeps what arrived; wrong content and a
/// full disk keep nothing.
pub(super) fn download(
    file: &ModelFile,
    part: &Path,
    progress: &mut dyn Progress,
    ask: &mut Ask<'_>,
) -> Result<(), SourceError> {
    let found = fill(file, part, progress, ask).and_then(|()| verify(file, part));
    found.inspect_err(|error| {
        if matches!(error, SourceError::Mismatch { .. }) || error.disk_full().is_some() {
            drop(fs::remove_file(part));
        }
    })
}

fn fill(
    file: &ModelFile,
    part: &Path,
    progress: &mut dyn Progress,
    ask: &mut Ask<'_>,
) -> Result<(), SourceError> {
    let mut out = OpenOptions::new().create(true).append(true).open(part).map_err(SourceError::io(part))?;
    let mut have = out.metadata().map_err(SourceError::io(part))?.len();
    let mut resumes = 0;
    loop {
        if have > file.bytes {
            // Longer than the file: not a part of it.
            out.set_len(0).map_err(SourceError::io(part))?;
            have = 0;
        }
        if have == file.bytes && have > 0 {
            return out.sync_all().map_err(SourceError::io(part));
        }
        let response = ask(have, progress)?;
        if !goes_on_from(&response, have) {
            out.set_len(0).map_err(SourceError::io(part))?;
            have = 0;
        }
        progress.begin(&file.path, have, file.bytes);
        let before = have;
        let broke = copy(response.into_body(), &mut out, part, file.bytes - have, &mut have, progress)?;
        match broke {
            None if have < file.bytes && have == before => {
                return Err(interrupted(file, have, std::io::ErrorKind::UnexpectedEof.into()));
            }
            Some(error) if have == before || resumes == RESUMES_MAX => {
                return Err(interrupted(file, have, error));
            }
            _ if resumes == RESUMES_MAX => {
                return Err(interrupted(file, have, std::io::ErrorKind::UnexpectedEof.into()));
            }
            _ if have < file.bytes => resumes += 1,
            _ => return out.sync_all().map_err(SourceError::io(part)),
        }
    }
}

/// Copies until the body ends (`None`) or breaks (the reason). One byte more than expected is kept, so that the check
/// of the hash sees that the content is another one.
fn copy(
    mut body: Body,
    out: &mut File,
    part: &Path,
    expected: u64,
    have: &mut u64,
    progress: &mut dyn Progress,
) -> Result<Option<std::io::Error>, SourceError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut content = body.as_reader().take(expected.saturating_add(1));
    loop {
        match content.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(count) => {
                out.write_all(&chunk[..count]).map_err(SourceError::io(part))?;
                *have += count as u64;
                progress.advance(count as u64);
            }
            Err(error) => return Ok(Some(error)),
        }
    }
}

fn interrupted(file: &ModelFile, bytes: u64, source: std::io::Error) -> SourceError {
    SourceError::Interrupted { url: file.path.clone(), bytes, source }
}

/// Whether the body starts at byte `from` (206 with that start) and not at the beginning (200).
fn goes_on_from(response: &Response<Body>, from: u64) -> bool {
    from == 0 || (response.status().as_u16() == 206 && range_start(response.headers()) == Some(from))
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
