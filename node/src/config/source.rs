//! The text of a configuration file, and how its values are taken with a name for every error.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::DeserializeOwned;
use toml::Spanned;

use super::error::ConfigError;

/// Bytes of a configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file's name and text; empty where there is no file.
#[derive(Debug, Default)]
pub(crate) struct Source {
    file: PathBuf,
    text: String,
}

/// A text value and where it came from.
pub(super) struct Text<'a> {
    pub(super) value: &'a str,
    key: &'static str,
    pub(super) span: Option<Range<usize>>,
    source: &'a Source,
}

impl Text<'_> {
    /// The value as a `T`; `allowed` completes the error.
    pub(super) fn parse<T: FromStr>(&self, allowed: &str) -> Result<T, ConfigError> {
        let refuse =
            |_| self.source.refuse(self.key, self.span.clone(), self.value, format!("must be {allowed}"));
        self.value.parse().map_err(refuse)
    }
}

impl Source {
    pub(crate) fn read(file: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { file: file.to_owned(), source };
        let bytes = fs::metadata(file).map_err(read)?.len();
        if bytes > FILE_BYTES_MAX {
            let message = format!("{bytes} bytes; at most {FILE_BYTES_MAX} are read");
            return Err(read(std::io::Error::new(std::io::ErrorKind::InvalidData, message)));
        }
        Ok(Self { text: fs::read_to_string(file).map_err(read)?, file: file.to_owned() })
    }

    /// Text that comes with the binary, named for errors.
    pub(crate) fn embedded(file: &str, text: &str) -> Self {
        Self { file: file.into(), text: text.to_owned() }
    }

    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|error| {
            let at = error.span().map(|span| span.start);
            ConfigError::Syntax {
                file: self.file.clone(),
                line: at.map_or(1, |at| self.line(at)),
                key: at.and_then(|at| self.key_at(at)),
                message: error.message().to_owned(),
            }
        })
    }

    /// A path of the file: relative ones start where the file lies.
    pub(crate) fn path(&self, written: &str) -> PathBuf {
        self.file.parent().map_or_else(|| PathBuf::from(written), |dir| dir.join(written))
    }

    fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The key of the line that holds byte `at`, with the table it stands in.
    fn key_at(&self, at: usize) -> Option<String> {
        let line = self.line(at);
        let (key, _) = self.text.lines().nth(line - 1)?.split_once('=')?;
        let table = self.text.lines().take(line - 1).filter_map(|line| {
            let line = line.trim();
            line.strip_prefix('[')?.strip_suffix(']')
        });
        let table = table.last().map(|table| format!("{}.", table.trim()));
        Some(format!("{}{}", table.unwrap_or_default(), key.trim()))
    }

    pub(super) fn refuse(
        &self,
        key: &'static str,
        span: Option<Range<usize>>,
        value: impl std::fmt::Display,
        allowed: String,
    ) -> ConfigError {
        let place = span.map(|span| format!("{}:{}: ", self.file.display(), self.line(span.start)));
        ConfigError::Value { place: place.unwrap_or_default(), key, value: value.to_string(), allowed }
    }

    /// The flag's text, or the file's, or the default.
    pub(super) fn text<'a>(
        &'a self,
        key: &'static str,
        field: Option<&'a Spanned<String>>,
        flag: Option<&'a str>,
        default: &'static str,
    ) -> Text<'a> {
        let in_file = field.map(|field| (field.get_ref().as_str(), Some(field.span())));
        let (value, span) = flag.map(|flag| (flag, None)).or(in_file).unwrap_or((default, None));
        Text { value, key, span, source: self }
    }

    /// One of some words; the first is the default.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        field: Option<&Spanned<String>>,
        words: &[(&'static str, T)],
    ) -> Result<T, ConfigError> {
        let text = self.text(key, field, None, words[0].0);
        let found = words.iter().find(|(word, _)| *word == text.value);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.refuse(key, text.span.clone(), text.value, format!("must be one of {}", words.join(", ")))
        })
    }
}
