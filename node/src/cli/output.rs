//! The only module that prints: data on stdout, everything else on stderr.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;

use super::exit::{Exit, Stop};

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 64 * 1024;

/// Standard output: lines of JSON, or a table for people.
pub(super) struct Output {
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { out: BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock()) }
    }

    /// One JSON value on a line of its own.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), Stop> {
        serde_json::to_writer(&mut self.out, value).map_err(|error| stop(error.into()))?;
        self.out.write_all(b"\n").map_err(stop)
    }

    /// One line of text.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Stop> {
        writeln!(self.out, "{text}").map_err(stop)
    }

    /// Columns as wide as their widest cell; numbers are the caller's to format.
    pub(super) fn table(&mut self, header: &[&str], rows: &[Vec<String>]) -> Result<(), Stop> {
        table_lines(header, rows).iter().try_for_each(|line| self.line(line))
    }

    /// Text as it is: what moves the cursor of a terminal, for example.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Stop> {
        self.out.write_all(text.as_bytes()).map_err(stop)
    }

    /// Makes everything written so far visible.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        self.out.flush().map_err(stop)
    }
}

/// Columns as wide as their widest cell; the last one as wide as it is.
pub(super) fn table_lines(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<_> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<_> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let lines = std::iter::once(&header).chain(rows).map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect()
}

/// Microseconds for people.
pub(super) fn millis(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

/// A reader that went away has what it wanted, so that is no error; anything else (a full disk) is.
fn stop(error: io::Error) -> Stop {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Stop::silent(Exit::Ok);
    }
    Stop::new(Exit::Unavailable, format!("cannot write to standard output: {error}"))
}

/// A line on stderr. One that cannot be written is lost, because there is nowhere left to say so.
pub(super) fn tell(message: &str) {
    let mut stderr = io::stderr().lock();
    drop(writeln!(stderr, "{message}"));
}

/// Whether a person watches stderr: only then is progress shown.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Whether stdout goes elsewhere than to a terminal.
pub(super) fn is_piped() -> bool {
    !io::stdout().is_terminal()
}
