//! The trace that a request belongs to.

use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{read_hex, write_hex};

/// Digits and dashes of a `traceparent` of version 00.
const TEXT_BYTES: usize = 55;

/// W3C Trace Context (<https://www.w3.org/TR/trace-context/>): what the header `traceparent` says.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never all zero.
    pub trace_id: [u8; 16],
    /// The caller's span in it; never all zero.
    pub parent_id: [u8; 8],
    /// Bit 0: the caller may have recorded its span. The others are passed on.
    pub flags: u8,
}

/// Text that is no `traceparent`. By the standard it is then as if none had been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a traceparent is 00-<32 hexadecimal digits>-<16>-<2>, lower case, neither id all zero")]
pub struct ParseTraceError;

impl TraceContext {
    /// The same trace, seen from a span below.
    #[must_use]
    pub fn with_parent(self, span: u64) -> Self {
        Self { parent_id: span.max(1).to_be_bytes(), ..self }
    }

    /// Neither id is all zero, which the standard forbids.
    pub(crate) fn is_valid(&self) -> bool {
        self.trace_id != [0; 16] && self.parent_id != [0; 8]
    }
}

impl FromStr for TraceContext {
    type Err = ParseTraceError;

    /// Reads version 00, and the part of a later version that has its form.
    fn from_str(text: &str) -> Result<Self, ParseTraceError> {
        let (known, rest) = text.split_at_checked(TEXT_BYTES).ok_or(ParseTraceError)?;
        let mut fields = known.split('-');
        let mut field =
            || fields.next().filter(|field| !field.contains(|digit: char| digit.is_ascii_uppercase()));
        let (version, trace_id, parent_id, flags) = (field(), field(), field(), field());
        let is_whole = match version {
            Some("00") => rest.is_empty(),
            Some("ff") | None => false,
            Some(_) => rest.is_empty() || rest.starts_with('-'),
        };
        let [_] = hex(version)?;
        let [flags] = hex(flags)?;
        let context = Self { trace_id: hex(trace_id)?, parent_id: hex(parent_id)?, flags };
        if is_whole && context.is_valid() { Ok(context) } else { Err(ParseTraceError) }
    }
}

fn hex<const BYTES: usize>(field: Option<&str>) -> Result<[u8; BYTES], ParseTraceError> {
    field.and_then(read_hex).ok_or(ParseTraceError)
}

impl fmt::Display for TraceContext {
    /// As `traceparent`, version 00.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        write_hex(&self.trace_id, f)?;
        f.write_str("-")?;
        write_hex(&self.parent_id, f)?;
        write!(f, "-{:02x}", self.flags)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert_eq!((context.trace_id[0], context.parent_id[7], context.flags), (0x4b, 0xb7, 1));
        assert_eq!(context.to_string(), EXAMPLE);
        let below = context.with_parent(0xabc).to_string();
        assert_eq!(below, "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01");
        assert!(context.with_parent(0).is_valid());
        let later = format!("{}-more", EXAMPLE.replacen("00", "cc", 1));
        assert_eq!(later.parse(), Ok(context), "a later version is read as far as it is known");
    }

    #[test]
    fn anything_else_is_none() {
        let zero_trace = EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_parent = EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16));
        let version_ff = EXAMPLE.replacen("00", "ff", 1);
        let accents = format!("00-{}-00f067aa0ba902b7-01", "\u{e9}".repeat(16));
        for text in [
            "",
            "00",
            &EXAMPLE[..54],
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replacen("00", "0-", 1),
            &format!("{EXAMPLE}-more"),
            &format!("{EXAMPLE} "),
            &version_ff,
            &zero_trace,
            &zero_parent,
            &accents,
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(ParseTraceError), "{text:?}");
        }
    }
}
