//! Text to token ids, exactly as sentence-transformers cuts and frames them.
//!
//! `tokenizer.json` brings its own truncation and padding blocks, and real files carry nonsense there (MiniLM's
//! cuts at 128 and pads to 128 while the model takes 256). Both are switched off: batches are packed, and the
//! limit is the model description's.

mod chunked;
mod pair;
mod single;
mod templated;
mod words;

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use shoal_kernels::MultivectorText;
use shoal_protocol::ErrorCode;
use shoal_protocol::message::{Input, Truncate};
use tokenizers::normalizers::{Lowercase, NormalizerWrapper, Sequence as NormalizerSequence};
use tokenizers::{EncodeInput, Encoding, NormalizerWrapper as AnyNormalizer, Tokenizer};

pub(crate) use chunked::{Prompted, TokenChunk};
use pair::PairFrame;
pub(crate) use templated::Template;
pub(crate) use words::LabelPrompt;

/// Bytes of a `tokenizer.json`. The largest known (256k-entry vocabularies) are near 35 MB.
pub(crate) const TOKENIZER_FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Why a model's tokenizer cannot be used. Nothing is kept of it; the files must be repaired or replaced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenizerError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than any tokenizer.
    #[error("{path} is larger than {max} bytes: not a tokenizer")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
    /// The file is not a tokenizer.
    #[error("{path} is not a usable tokenizer: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        message: String,
    },
    /// The special tokens do not stand around the text.
    #[error("{path} frames a text in a way that is not supported: {message}")]
    Template {
        /// The file.
        path: PathBuf,
        /// What was found.
        message: String,
    },
    /// The special tokens alone fill the model's limit.
    #[error(
        "{path} adds {special} special tokens, which leaves no room in the model's limit of {limit} tokens"
    )]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Special tokens.
        special: usize,
        /// The model's limit.
        limit: u32,
    },
}

/// Why one text of a request has no vector. The others proceed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ItemFailure {
    /// The wire's code.
    pub(crate) code: ErrorCode,
    /// For people.
    pub(crate) message: String,
    /// Tokens of the text, where they were counted.
    pub(crate) tokens: u32,
    /// The limit that it broke.
    pub(crate) limit: u32,
}

/// A sequence of tokens: its ids are the next `tokens` ids of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Ids, special tokens included.
    pub(crate) tokens: u32,
    /// How many of them, from the first, are of segment 0; the others are of segment 1.
    pub(crate) segment_tokens: u32,
    /// How many of them, from the first, the others see.
    pub(crate) seen: u32,
    /// Whether the text was cut to the limit.
    pub(crate) truncated: bool,
    /// What it is of its text.
    pub(crate) part: Part,
    /// Stretches of it that get a vector each: the next ones of the buffer of chunks.
    pub(crate) chunks: u32,
}

/// Which of the sequences of its text one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 0.
    pub(crate) index: u32,
    /// How many there are.
    pub(crate) of: u32,
    /// How much it counts.
    pub(crate) weight: u32,
}

impl Part {
    /// A text that is one sequence.
    pub(crate) const WHOLE: Self = Self { index: 0, of: 1, weight: 1 };

    /// Whether no further one of its text follows.
    pub(crate) fn is_last(self) -> bool {
        self.index + 1 == self.of
    }
}

impl Sequence {
    /// Of one segment, in which every token is seen: a text that was not cut.
    pub(crate) const fn whole(tokens: u32) -> Self {
        Self { tokens, segment_tokens: tokens, seen: tokens, truncated: false, part: Part::WHOLE, chunks: 0 }
    }
}

/// What became of a text, or of a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenizedItem {
    /// Its ids were appended to the caller's buffer.
    Ready(Sequence),
    /// The text failed by itself. Its ids are not in the buffer.
    Failed(ItemFailure),
}

/// What the tokenizer must know about its model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenizerLimits {
    /// Tokens that the model takes in one text, special tokens included.
    pub(crate) tokens_max: u32,
    /// Rows of the model's embedding table: ids at or above it would read past its end.
    pub(crate) vocab_size: u32,
    /// Whether the model's own pipeline lower-cases what its tokenizer does not (`do_lower_case`).
    pub(crate) lowercase: bool,
    /// Whether the model tells segments apart: else a pair's are all one.
    pub(crate) segments: bool,
}

/// Where a token stands in its text, in Unicode code points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenPlace {
    /// Its first.
    pub(crate) start: u32,
    /// The one after its last.
    pub(crate) end: u32,
}

impl TokenPlace {
    /// Of a special token, which stands nowhere: no token of a text begins after its end.
    pub(crate) const SPECIAL: Self = Self { start: u32::MAX, end: 0 };

    /// Whether the token is none of the text's.
    pub(crate) fn is_special(self) -> bool {
        self.start > self.end
    }
}

/// One model's tokenizer. Shared by the tokenizer threads.
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    pair: Option<PairFrame>,
    limits: TokenizerLimits,
}

impl TextTokenizer {
    /// Reads `path`, an untrusted `tokenizer.json`.
    ///
    /// # Errors
    /// See [`TokenizerError`].
    pub(crate) fn load(path: &Path, limits: TokenizerLimits) -> Result<Self, TokenizerError> {
        let json = read_bounded(path)?;
        let parsed = catch_unwind(|| Tokenizer::from_bytes(&json));
        let parse_error = |message: String| TokenizerError::Parse { path: path.to_owned(), message };
        let mut tokenizer = match parsed {
            Ok(Ok(tokenizer)) => tokenizer,
            Ok(Err(error)) => return Err(parse_error(error.to_string())),
            Err(_) => return Err(parse_error("its contents contradict each other".to_owned())),
        };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| parse_error(error.to_string()))?;
        if limits.lowercase {
            put_lowercase_first(&mut tokenizer).map_err(parse_error)?;
        }
        let (prefix, suffix) = frame_of(&tokenizer)
            .map_err(|message| TokenizerError::Template { path: path.to_owned(), message })?;
        let special = prefix.len() + suffix.len();
        if special >= limits.tokens_max as usize {
            return Err(TokenizerError::NoRoom { path: path.to_owned(), special, limit: limits.tokens_max });
        }
        let pair = PairFrame::of(&tokenizer, limits.segments);
        Ok(Self { tokenizer, prefix, suffix, pair, limits })
    }

    /// Appends the ids of one input to `ids`, with what it needs for a vector a token where that is told, or says why it
    /// has none. Never panics on input: what the tokenizer library panics on fails that item alone.
    pub(crate) fn append(
        &self,
        input: Text<'_>,
        multivector: Option<&MultivectorText>,
        truncate: Truncate,
        ids: &mut Vec<u32>,
    ) -> TokenizedItem {
        let rule = self.rule(multivector, truncate);
        match input {
            Text::Ids(given) => self.append_ids(given, rule, ids),
            Text::Plain(text) => match self.encode(text, false) {
                Ok(encoding) => self.append_framed(encoding.get_ids(), rule, ids),
                Err(failure) => TokenizedItem::Failed(failure),
            },
        }
    }

    /// As [`append`](Self::append), with the place of each token in `text`.
    pub(crate) fn append_placed(
        &self,
        text: &str,
        truncate: Truncate,
        ids: &mut Vec<u32>,
        places: &mut Vec<TokenPlace>,
    ) -> TokenizedItem {
        match self.append_with_places(text, truncate, ids) {
            Ok((sequence, own)) => {
                places.extend(self.prefix.iter().map(|_| TokenPlace::SPECIAL));
                places.extend(own);
                places.extend(self.suffix.iter().map(|_| TokenPlace::SPECIAL));
                TokenizedItem::Ready(sequence)
            }
            Err(failure) => TokenizedItem::Failed(failure),
        }
    }

    /// The sequence that was appended, and the places of its own tokens, those of the frame left out.
    fn append_with_places(
        &self,
        text: &str,
        truncate: Truncate,
        ids: &mut Vec<u32>,
    ) -> Result<(Sequence, Vec<TokenPlace>), ItemFailure> {
        let encoding = self.encode(text, true)?;
        let sequence = match self.append_framed(encoding.get_ids(), self.rule(None, truncate), ids) {
            TokenizedItem::Ready(sequence) => sequence,
            TokenizedItem::Failed(failure) => return Err(failure),
        };
        let kept = sequence.tokens as usize - self.prefix.len() - self.suffix.len();
        let offsets = encoding.get_offsets();
        let offsets = match truncate {
            Truncate::Left => &offsets[offsets.len() - kept..],
            Truncate::Right | Truncate::Refuse => &offsets[..kept],
        };
        // A text's code points are bounded by its bytes, which are far fewer than 2^32.
        let place = |(start, end): &(usize, usize)| TokenPlace { start: *start as u32, end: *end as u32 };
        Ok((sequence, offsets.iter().map(place).collect()))
    }

    /// Ids of a text without special tokens; `placed` asks for offsets in code points and for words too.
    fn encode<'t>(&self, text: impl Into<EncodeInput<'t>>, placed: bool) -> Result<Encoding, ItemFailure> {
        let text = text.into();
        let failed = |code, message| ItemFailure { code, message, tokens: 0, limit: 0 };
        // The library's state is its configuration and a cache that tolerates a lost writer.
        let encoded = catch_unwind(AssertUnwindSafe(|| match placed {
            true => self.tokenizer.encode_char_offsets(text, false),
            false => self.tokenizer.encode_fast(text, false),
        }));
        match encoded {
            Ok(Ok(encoding)) => Ok(encoding),
            Ok(Err(error)) => {
                let message = format!("the model's tokenizer cannot read this text: {error}");
                Err(failed(ErrorCode::InvalidRequest, message))
            }
            Err(_) => {
                Err(failed(ErrorCode::Internal, "the model's tokenizer failed on this text".to_owned()))
            }
        }
    }
}

/// One input as the tokenizer sees it: the prompt is already in front of the text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Text<'a> {
    /// Text to tokenize.
    Plain(&'a str),
    /// Ids of the model's own vocabulary, special tokens included.
    Ids(&'a [u32]),
}

impl<'a> Text<'a> {
    /// Puts `prompt` in front of a text (never of ids, which are already tokenized); `buffer` holds the sum.
    pub(crate) fn with_prompt(input: &'a Input, prompt: Option<&str>, buffer: &'a mut String) -> Self {
        match (input, prompt) {
            (Input::TokenIds(ids), _) => Self::Ids(ids),
            (Input::Text(text), None) => Self::Plain(text),
            (Input::Text(text), Some(prompt)) => {
                buffer.clear();
                buffer.push_str(prompt);
                buffer.push_str(text);
                Self::Plain(buffer)
            }
        }
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        File::open(path)?.take(TOKENIZER_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > TOKENIZER_FILE_BYTES_MAX {
        return Err(TokenizerError::TooLarge { path: path.to_owned(), max: TOKENIZER_FILE_BYTES_MAX });
    }
    Ok(bytes)
}

/// As sentence-transformers does for `do_lower_case`: in front of what the tokenizer normalises itself.
fn put_lowercase_first(tokenizer: &mut Tokenizer) -> Result<(), String> {
    let own = tokenizer.get_normalizer().cloned();
    let all = [AnyNormalizer::Lowercase(Lowercase)].into_iter().chain(own).collect();
    tokenizer
        .with_normalizer(Some(NormalizerWrapper::Sequence(NormalizerSequence::new(all))))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// Texts that show how special tokens are put around a text, whatever the vocabulary.
const PROBES: [&str; 3] = ["", "a", "b a 1"];

/// The special tokens in front of and behind a text. Post-processors that do anything else are refused, because
/// cutting a text before framing it is only right when the frame does not depend on the text.
fn frame_of(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    let ids_of = |probe: &str, special: bool| {
        let encoded = catch_unwind(AssertUnwindSafe(|| tokenizer.encode_fast(probe, special)));
        let encoding =
            encoded.map_err(|_| "it fails on a short text".to_owned())?.map_err(|error| error.to_string())?;
        if encoding.get_type_ids().iter().any(|id| *id != 0) {
            return Err("a single text gets segment ids other than 0".to_owned());
        }
        Ok(encoding.get_ids().to_vec())
    };
    let mut frame = None;
    // The longest probe first: its ids cannot be mistaken for special tokens.
    for probe in PROBES.iter().rev() {
        let (plain, framed) = (ids_of(probe, false)?, ids_of(probe, true)?);
        let (prefix, suffix) = match &frame {
            None => {
                let start = (0..=framed.len().saturating_sub(plain.len()))
                    .find(|start| framed[*start..].starts_with(&plain))
                    .ok_or("the text's own ids change when special tokens are added")?;
                frame.insert((framed[..start].to_vec(), framed[start + plain.len()..].to_vec()))
            }
            Some(frame) => frame,
        };
        if [prefix.as_slice(), &plain, suffix].concat() != framed {
            return Err("the special tokens depend on the text".to_owned());
        }
    }
    Ok(frame.unwrap_or_default())
}

#[cfg(test)]
mod tests;
