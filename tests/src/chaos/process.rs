//! One `shoal serve`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;

use super::freezer::Frozen;

/// The threads that compute, by the names that the node gives them.
const LANE_PREFIX: &str = "lane-";
/// How long a node may take from its start to its ready line, on a machine that is busy with others.
pub(super) const START_WAIT: Duration = Duration::from_secs(30);

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Set while its executor hangs: thawed before the process, which could not die else.
    frozen: Option<Frozen>,
}

/// The node's ready line; an error if it ended without one.
pub(super) type Ready = oneshot::Receiver<io::Result<Value>>;

impl Process {
    /// Starts `command`, whose log goes to `log`.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn start(mut command: Command, log: &Path) -> io::Result<(Self, Ready)> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = child.stdout.take();
        let process = Self { child, frozen: None };
        let (ready, line) = oneshot::channel();
        if let Some(stdout) = stdout {
            thread::Builder::new().name("ready-line".to_owned()).spawn(move || {
                // Whoever waits for it may have gone.
                drop(ready.send(read_ready_line(stdout)));
            })?;
        }
        Ok((process, line))
    }

    /// No notice at all.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.frozen = None;
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Sends a signal by its name, without `SIG`.
    ///
    /// # Errors
    /// When it could not be sent.
    pub(super) fn signal(&self, name: &str) -> io::Result<()> {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status()?;
        if sent.success() { Ok(()) } else { Err(io::Error::other(format!("kill -{name}: {sent}"))) }
    }

    /// Stops the threads that compute, and them alone, until [`thaw`](Self::thaw): the executor hangs in the middle of
    /// whatever it does, while the node goes on talking.
    ///
    /// # Errors
    /// When this machine has no way to stop single threads.
    pub(super) fn hang_lanes(&mut self) -> io::Result<()> {
        let lanes = threads_named(self.child.id(), LANE_PREFIX)?;
        self.frozen = Some(Frozen::freeze(self.child.id(), &lanes)?);
        Ok(())
    }

    /// They go on.
    pub(super) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn ended(&mut self) -> io::Result<Option<Option<i32>>> {
        Ok(self.child.try_wait()?.map(|status| status.code()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.kill());
    }
}

fn read_ready_line(stdout: ChildStdout) -> io::Result<Value> {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::from)
}

/// The ids of the threads of a process whose names begin so.
fn threads_named(pid: u32, prefix: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path: PathBuf = entry?.path();
        // A thread may end meanwhile.
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        if name.starts_with(prefix) {
            found.extend(path.file_name().and_then(|id| id.to_str()).map(str::to_owned));
        }
    }
    if found.is_empty() {
        return Err(io::Error::other(format!("process {pid} has no thread {prefix}*")));
    }
    Ok(found)
}
