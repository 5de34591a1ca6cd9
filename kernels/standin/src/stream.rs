//! Work in order, done when somebody waits for it.

use std::collections::VecDeque;

/// One piece of work.
pub(crate) enum Work {
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Launch(Box<Launch>),
    /// Until that many pieces of another stream are done.
    Wait {
        stream: u64,
        pieces: u64,
    },
}

pub(crate) struct Launch {
    pub(crate) kernel: &'static str,
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) args: Vec<u8>,
}

/// A stream: pieces are counted from its first.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) waiting: VecDeque<Work>,
    pub(crate) done: u64,
}

impl Stream {
    /// Pieces that it was given so far.
    pub(crate) fn given(&self) -> u64 {
        self.done + self.waiting.len() as u64
    }
}

impl Work {
    /// Whether it reads or writes there.
    pub(crate) fn touches(&self, first: u64, bytes: usize) -> bool {
        let meets = |at: u64, len: usize| at < first + bytes as u64 && first < at + len as u64;
        match *self {
            Self::Copy { to, from, bytes } => meets(to, bytes) || meets(from, bytes),
            Self::Launch(_) | Self::Wait { .. } => false,
        }
    }
}

impl Launch {
    /// Runs it to its end on this machine.
    ///
    /// # Safety
    /// Its addresses are of memory that the kernel may read and write.
    pub(crate) unsafe fn run(&self) -> Result<(), shoal_emu::EmuError> {
        let launch = shoal_emu::EmuLaunch {
            variant: shoal_emu::INTACT,
            kernel: self.kernel,
            grid: self.grid,
            threads: self.threads,
            shared_bytes: self.shared_bytes,
            args: &self.args,
            seed: 1,
            host_threads: 2,
        };
        // SAFETY: the caller's promise.
        unsafe { shoal_emu::launch(&launch) }
    }
}
