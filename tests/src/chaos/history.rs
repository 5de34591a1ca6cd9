//! What the clients saw and what was done to the nodes, one JSON line each, in the order in which it was written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Bytes that wait for one write to the file.
const BUFFER_BYTES: usize = 1 << 20;

/// One line. Times are microseconds since the run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Record {
    /// A request was sent. One without an [`Ended`] has no outcome.
    Asked(Asked),
    /// A request's outcome.
    Ended(Ended),
    /// Something was done to the mesh.
    Event(Event),
    /// When the clients let go of a node that was killed.
    Unrouted(Unrouted),
}

/// A request as its client sends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Unique in the run.
    pub id: u64,
    /// When it was due: an open loop does not wait for answers.
    pub intended_us: u64,
    /// When it was sent.
    pub sent_us: u64,
    /// When its outcome is due.
    pub deadline_us: u64,
    /// The model.
    pub model: String,
    /// Nobody holds the model yet: its load is part of the answer's time.
    pub is_cold: bool,
    /// The numbers of its texts: equal numbers are equal texts.
    pub texts: Vec<u64>,
}

/// How a request ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The request.
    pub id: u64,
    /// When.
    pub at_us: u64,
    /// `None`: answered. Else the code and the words of the error.
    pub error: Option<(String, String)>,
    /// Every vector that was handed out, in that order: the text's place in the request and the vector's hash.
    pub items: Vec<(u64, u64)>,
    /// The node that answered last.
    pub node: String,
    /// The kind of device that answered last: equal kinds give equal bits.
    pub device: String,
    /// Attempts beyond the first of each part, twins included.
    pub retries: u32,
}

/// What was done to the mesh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it was done (a node that serves: when it said so).
    pub at_us: u64,
    /// For people.
    pub what: String,
    /// Whether it takes nodes from the clients; requests in flight must find others.
    pub takes: bool,
    /// Nodes that the clients can be served by from now on.
    pub serving: u16,
}

/// How long the clients still sent requests to a node that was dead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unrouted {
    /// For people.
    pub what: String,
    /// Clients that had sent it requests in its life.
    pub clients: u16,
    /// From its death until the last attempt began at one of them that was for it; zero: none did.
    pub after_us: u64,
    /// For how long it was watched.
    pub watched_us: u64,
}

/// The file, written by every client at once.
#[derive(Debug)]
pub struct HistoryWriter(Mutex<BufWriter<File>>);

impl HistoryWriter {
    /// A new file in place of a former one.
    ///
    /// # Errors
    /// The operating system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?))))
    }

    /// Appends a line.
    ///
    /// # Errors
    /// The operating system's: the history is worth nothing any more.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }

    /// Writes what still waits.
    ///
    /// # Errors
    /// The operating system's.
    pub fn flush(&self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// The lines of a file. A line that is no record is an error: a history is whole or worth nothing.
///
/// # Errors
/// The operating system's, and `InvalidData`.
pub fn read(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Record>>> {
    let lines = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?).lines();
    Ok(lines.map(|line| serde_json::from_str(&line?).map_err(io::Error::from)))
}
