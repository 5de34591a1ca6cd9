//! Texts from arguments, a file or stdin, in bounded memory whatever their number.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shoal_protocol::limits::ITEM_TEXT_BYTES_MAX;

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// Texts of one chunk.
const CHUNK_ITEMS_MAX: usize = 1024;
/// Bytes of one chunk's texts, the last text apart.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Bytes of a line: JSON may escape each byte of a text with six characters.
const LINE_BYTES_MAX: usize = 6 * ITEM_TEXT_BYTES_MAX;

/// Where texts come from.
#[derive(Debug)]
pub(super) enum InputSource {
    /// The command line.
    Texts(Vec<OsString>),
    /// A file, or stdin for `-`.
    File {
        /// The file.
        path: PathBuf,
        /// Whether each line is JSON.
        jsonl: bool,
    },
}

/// The input cannot be read on. Texts before it were taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Not UTF-8.
    #[error("{}:{line}: not valid UTF-8 (byte {at} of the line)", path.display())]
    Utf8 { path: PathBuf, line: u64, at: usize },
    /// Not UTF-8, on the command line.
    #[error("text {number} on the command line is not valid UTF-8")]
    ArgumentUtf8 { number: usize },
    /// Not a JSON string or an object with a `text`.
    #[error("{}:{line}: neither a JSON string nor an object with a string `text`{fault}", path.display())]
    Json { path: PathBuf, line: u64, fault: String },
    /// A line that cannot hold a text within the limits.
    #[error("{}:{line}: the line is longer than {LINE_BYTES_MAX} bytes", path.display())]
    LineTooLong { path: PathBuf, line: u64 },
}

/// Texts that are sent together.
pub(super) type Chunk = Vec<String>;

/// Reads everything and hands out chunks until `send` returns false. A chunk ends at a bound, or where reading on
/// would wait: a slow writer's lines are not held back.
pub(super) fn read_chunks(
    source: InputSource,
    mut send: impl FnMut(Chunk) -> bool,
) -> Result<(), InputError> {
    match source {
        InputSource::Texts(texts) => {
            let texts: Result<Vec<_>, _> = texts
                .into_iter()
                .enumerate()
                .map(|(index, text)| {
                    text.into_string().map_err(|_| InputError::ArgumentUtf8 { number: index + 1 })
                })
                .collect();
            let mut texts = texts?.into_iter().peekable();
            while texts.peek().is_some() && send(texts.by_ref().take(CHUNK_ITEMS_MAX).collect()) {}
            Ok(())
        }
        InputSource::File { path, jsonl } => {
            let reader: Box<dyn Read> = if path == Path::new("-") {
                Box::new(io::stdin().lock())
            } else {
                let opened = File::open(&path);
                Box::new(opened.map_err(|source| InputError::Read { path: path.clone(), source })?)
            };
            Lines { reader: BufReader::with_capacity(BUFFER_BYTES, reader), path, jsonl, line: 0 }
                .send_all(&mut send)
        }
    }
}

/// A line as JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonText {
    Plain(String),
    Object { text: String },
}

struct Lines<R> {
    reader: BufReader<R>,
    path: PathBuf,
    jsonl: bool,
    line: u64,
}

impl<R: Read> Lines<R> {
    fn send_all(&mut self, send: &mut dyn FnMut(Chunk) -> bool) -> Result<(), InputError> {
        let mut chunk = Chunk::new();
        let mut bytes = 0;
        loop {
            let next = self.next_text();
            let ended = !matches!(next, Ok(Some(_)));
            if let Ok(Some(text)) = &next {
                bytes += text.len();
            }
            let next = next.map(|text| text.map(|text| chunk.push(text)));
            let would_wait = !self.reader.buffer().contains(&b'\n');
            let full = chunk.len() >= CHUNK_ITEMS_MAX || bytes >= CHUNK_BYTES_MAX;
            if (ended || would_wait || full) && !chunk.is_empty() {
                bytes = 0;
                if !send(std::mem::take(&mut chunk)) {
                    return Ok(());
                }
            }
            if ended {
                return next.map(|_| ());
            }
        }
    }

    fn next_text(&mut self) -> Result<Option<String>, InputError> {
        let mut line = Vec::new();
        let read = (&mut self.reader).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        let count = read.map_err(|source| InputError::Read { path: self.path.clone(), source })?;
        if count == 0 {
            return Ok(None);
        }
        self.line += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if count > LINE_BYTES_MAX {
            return Err(InputError::LineTooLong { path: self.path.clone(), line: self.line });
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let text = String::from_utf8(line).map_err(|error| InputError::Utf8 {
            path: self.path.clone(),
            line: self.line,
            at: error.utf8_error().valid_up_to() + 1,
        })?;
        if !self.jsonl {
            return Ok(Some(text));
        }
        match serde_json::from_str(&text) {
            Ok(JsonText::Plain(text) | JsonText::Object { text }) => Ok(Some(text)),
            Err(error) => {
                Err(InputError::Json { path: self.path.clone(), line: self.line, fault: fault(&error) })
            }
        }
    }
}

/// Where a line is no JSON, and why; nothing where it is, but of another shape.
fn fault(error: &serde_json::Error) -> String {
    if error.is_data() {
        return String::new();
    }
    // The line's own number is known; serde_json counts within what it was given.
    let what = error.to_string();
    let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
    format!(" ({what}, byte {} of the line)", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts, and the error if one ended them.
    fn read(content: impl Read, jsonl: bool) -> (Vec<String>, Option<String>) {
        let mut lines =
            Lines { reader: BufReader::with_capacity(64, content), path: "in.txt".into(), jsonl, line: 0 };
        let mut texts = Vec::new();
        let ended = lines.send_all(&mut |chunk| {
            assert!(!chunk.is_empty() && chunk.len() <= CHUNK_ITEMS_MAX);
            texts.extend(chunk);
            true
        });
        (texts, ended.err().map(|error| error.to_string()))
    }

    #[test]
    fn lines_follow_the_contract() {
        let lines = |text: &'static str| match read(text.as_bytes(), false) {
            (texts, None) => texts,
            (_, Some(error)) => panic!("{error}"),
        };
        assert_eq!(lines(""), [""; 0]);
        assert_eq!(lines("a"), ["a"]);
        assert_eq!(lines("a\n"), ["a"]);
        assert_eq!(lines("a\n\n"), ["a", ""]);
        assert_eq!(lines("\n"), [""]);
        assert_eq!(lines("a\r\nb\r\r\n\r\n"), ["a", "b\r", ""]);
        assert_eq!(lines("é\u{2028}x\ny"), ["é\u{2028}x", "y"]);
    }

    #[test]
    fn bad_utf8_names_its_line_and_keeps_what_came_before() {
        let (texts, error) = read(&b"one\ntwo\nth\xffree\nfour\n"[..], false);
        assert_eq!(texts, ["one", "two"]);
        assert_eq!(error.as_deref(), Some("in.txt:3: not valid UTF-8 (byte 3 of the line)"));
    }

    #[test]
    fn json_lines_may_hold_newlines() {
        let (texts, error) = read(&b"\"a\\nb\"\n{\"text\":\"c\",\"id\":7}\n"[..], true);
        assert_eq!((texts, error), (vec!["a\nb".to_owned(), "c".to_owned()], None));
        for bad in ["7\n", "{\"id\":1}\n", "\n", "{\"text\":null}\n"] {
            let (texts, error) = read(bad.as_bytes(), true);
            assert!(texts.is_empty() && error.expect("refused").starts_with("in.txt:1: neither"), "{bad:?}");
        }
        let (_, error) = read(&b"{\"id\":1}\n"[..], true);
        assert!(error.expect("refused").ends_with("`text`"), "of another shape, and no more to say");
        let (_, error) = read(&b"\"a\"\n\"b\n"[..], true);
        assert!(error.expect("refused").ends_with("(EOF while parsing a string, byte 2 of the line)"));
    }

    #[test]
    fn a_line_beyond_every_limit_is_an_error() {
        let endless = io::repeat(b'x');
        let (texts, error) = read(endless, false);
        assert!(texts.is_empty() && error.expect("refused").contains("longer than"));
    }

    #[test]
    fn chunks_are_bounded_and_a_slow_writer_is_not_held_back() {
        let many = "x\n".repeat(10 * CHUNK_ITEMS_MAX);
        let mut sizes = Vec::new();
        let mut lines = Lines {
            reader: BufReader::with_capacity(1 << 20, many.as_bytes()),
            path: "in.txt".into(),
            jsonl: false,
            line: 0,
        };
        let read = lines.send_all(&mut |chunk| {
            sizes.push(chunk.len());
            true
        });
        assert!(read.is_ok());
        assert_eq!(sizes, [CHUNK_ITEMS_MAX; 10]);

        // Each read gives one line, as a pipe with a slow writer does.
        let slow = Slow(vec!["a\n", "b\n", "c"]);
        let mut chunks = Vec::new();
        let mut lines = Lines { reader: BufReader::new(slow), path: "-".into(), jsonl: false, line: 0 };
        assert!(
            lines
                .send_all(&mut |chunk| {
                    chunks.push(chunk);
                    true
                })
                .is_ok()
        );
        assert_eq!(chunks, [["a"], ["b"], ["c"]]);
    }

    struct Slow(Vec<&'static str>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            self.0.remove(0).as_bytes().read(buffer)
        }
    }

    #[test]
    fn arguments_are_texts_as_they_are() {
        let texts = vec![OsString::from("a\nb"), OsString::from("")];
        let mut all = Vec::new();
        let read = read_chunks(InputSource::Texts(texts), |chunk| {
            all.extend(chunk);
            true
        });
        assert!(read.is_ok());
        assert_eq!(all, ["a\nb", ""]);
    }
}
