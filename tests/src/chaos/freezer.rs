//! Single threads that are stopped: a hung executor without a word of help from the process that it hangs in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version 1 of control groups stops threads one by one; version 2 knows whole processes only.
const FREEZER: &str = "/sys/fs/cgroup/freezer";
/// Groups of ours begin so; the process that made one follows, and the process whose threads it stops.
const PREFIX: &str = "shoal-chaos-";
/// How long a group may take to empty after its threads were moved away.
const EMPTY_WAIT: Duration = Duration::from_millis(100);

/// Threads that are stopped until this is dropped.
#[derive(Debug)]
pub(super) struct Frozen(PathBuf);

impl Frozen {
    /// Stops threads of process `pid`.
    ///
    /// # Errors
    /// When the machine has no version 1 freezer that this user may use, or a thread is gone; nothing stays stopped.
    pub(super) fn freeze(pid: u32, threads: &[String]) -> io::Result<Self> {
        sweep();
        let dir = Path::new(FREEZER).join(format!("{PREFIX}{}-{pid}", std::process::id()));
        let told = |error: io::Error| {
            io::Error::new(error.kind(), format!("threads cannot be stopped without {FREEZER}: {error}"))
        };
        fs::create_dir(&dir).map_err(told)?;
        // From here on dropping it undoes it.
        let frozen = Self(dir);
        for thread in threads {
            fs::write(frozen.0.join("tasks"), thread)?;
        }
        fs::write(frozen.0.join("freezer.state"), "FROZEN")?;
        Ok(frozen)
    }

    fn undo(&self) -> io::Result<()> {
        fs::write(self.0.join("freezer.state"), "THAWED")?;
        for thread in fs::read_to_string(self.0.join("tasks"))?.lines() {
            // It may have ended.
            drop(fs::write(Path::new(FREEZER).join("tasks"), thread));
        }
        let start = shoal::clock::now();
        loop {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && start.elapsed() < EMPTY_WAIT => {
                    std::thread::yield_now();
                }
                ended => return ended,
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // An empty group that stays costs nothing, and a drop cannot fail.
        drop(self.undo());
    }
}

/// Lets go what processes left behind that were killed: a stopped thread does not even die.
fn sweep() {
    for entry in fs::read_dir(FREEZER).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ids = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        if ids.is_some_and(|(maker, _)| !Path::new("/proc").join(maker).exists()) {
            drop(Frozen(entry.path()));
        }
    }
}

/// Whether threads can be stopped here.
#[must_use]
pub fn can_freeze() -> bool {
    Frozen::freeze(0, &[]).is_ok()
}
