//! The demo's nodes: processes of this same binary, in a mesh that ends with the demo.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use shoal_mesh::{Authority, Identity, IdentityError, Issuer};
use shoal_protocol::NodeId;
use shoal_protocol::message::Role;
use tokio::sync::oneshot;

use crate::cli::exit::{Exit, Stop};

/// Nodes of the mesh.
pub(super) const NODES: usize = 3;
/// For a node to start and to load its models.
const READY_WAIT: Duration = Duration::from_secs(15);
/// For a node to leave: what it may take at most by its configuration, and a second.
const LEAVE_WAIT: Duration = Duration::from_secs(11);
const DRAIN_S: u64 = 10;
/// How often a leaving process is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// Lines of a node's log that are told when it does not start.
const LOG_LINES_MAX: usize = 10;

/// What one node is given.
pub(super) struct NodePlan {
    pub(super) preload: Vec<String>,
    pub(super) tokens_per_s_max: u64,
}

/// An authority that only this process knows, and where its nodes keep their files.
pub(super) struct Ground {
    home: PathBuf,
    issuer: Issuer,
    /// Flags of `shoal serve` that say how nodes compute.
    device_flags: Vec<String>,
}

impl Ground {
    pub(super) fn new(home: &Path, device_flags: Vec<String>) -> Result<Self, IdentityError> {
        Ok(Self { home: home.to_owned(), issuer: Authority::create()?.issuer()?, device_flags })
    }

    /// An identity for the demo itself.
    pub(super) fn client(&self) -> Result<Identity, IdentityError> {
        self.issuer.issue(Role::Client, "demo-client")
    }

    /// The identity of a node of this process, on the disk.
    pub(super) fn node_identity(&self, name: &str) -> Result<PathBuf, IdentityError> {
        let dir = self.home.join(name);
        self.issuer.issue(Role::Node, name)?.save(&dir)?;
        Ok(dir)
    }

    /// Where catalogue entries for the nodes go.
    pub(super) fn catalogue_dir(&self) -> PathBuf {
        self.home.join("catalogue")
    }

    /// Writes a node's configuration.
    fn configure(&self, name: &str, plan: &NodePlan, seeds: &[SocketAddr]) -> Result<PathBuf, Stop> {
        let quoted = |texts: Vec<String>| format!("{texts:?}");
        let mut text = String::new();
        write!(
            text,
            "version = 1\n\
             [node]\ndrain_s = {DRAIN_S}\n\
             [http]\naddr = \"off\"\n\
             [quic]\naddr = \"127.0.0.1:0\"\nidentity_dir = {:?}\n\
             [mesh]\naddr = \"127.0.0.1:0\"\nseeds = {}\n\
             [device]\nthreads = 1\ntokens_per_s_max = {}\n\
             [models]\ncatalogue_dir = {:?}\npreload = {}\n",
            self.home.join(name),
            quoted(seeds.iter().map(ToString::to_string).collect()),
            plan.tokens_per_s_max,
            self.catalogue_dir(),
            quoted(plan.preload.clone()),
        )
        .expect("a string takes everything");
        let path = self.home.join(format!("{name}.toml"));
        fs::write(&path, text).map_err(Stop::with(Exit::Unavailable))?;
        Ok(path)
    }
}

/// The line that a node prints when it is ready.
#[derive(Deserialize)]
struct Ready {
    node: String,
    quic: SocketAddr,
    mesh: SocketAddr,
}

/// A running node. Dropping it kills the process.
pub(super) struct NodeProcess {
    child: Child,
    pub(super) node: NodeId,
    /// Where clients reach it.
    pub(super) quic: SocketAddr,
    /// Where members reach it.
    pub(super) mesh: SocketAddr,
}

impl NodeProcess {
    /// Starts a node and waits until it is ready. The same name is the same identity.
    pub(super) async fn start(
        ground: &Ground,
        name: &str,
        plan: &NodePlan,
        seeds: &[SocketAddr],
    ) -> Result<Self, Stop> {
        let failed = |what: String| Stop::new(Exit::Unavailable, format!("{name}: {what}"));
        let config = ground.configure(name, plan, seeds)?;
        let log = ground.home.join(format!("{name}.log"));
        let (mut child, stdout) = spawn(ground, &config, &log).map_err(|error| failed(error.to_string()))?;
        let ready = match tokio::time::timeout(READY_WAIT, first_line(stdout)).await {
            Ok(line) => serde_json::from_str::<Ready>(&line).ok(),
            Err(_) => None,
        };
        let Some(ready) = ready else {
            end(&mut child);
            return Err(failed(format!("did not start; its log ends:\n{}", last_lines(&log))));
        };
        let node = ready.node.parse().map_err(|error| failed(format!("{error}")));
        let mut process = Self { child, node: NodeId::default(), quic: ready.quic, mesh: ready.mesh };
        process.node = node?;
        Ok(process)
    }

    /// SIGKILL: no word to anybody.
    pub(super) fn kill(mut self) {
        end(&mut self.child);
    }

    /// Asks it to leave, as a drain or a service manager does, and waits for its end.
    pub(super) async fn leave(mut self) -> Result<ExitStatus, Stop> {
        let failed =
            |error: &dyn std::fmt::Display| Stop::new(Exit::DemoFailed, format!("cannot drain: {error}"));
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| failed(&"no process"))?;
        kill_process(pid, Signal::TERM).map_err(|error| failed(&error))?;
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().map_err(|error| failed(&error))? {
                    return Ok(status);
                }
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        };
        let late = |_| failed(&format!("it did not end within {} s", LEAVE_WAIT.as_secs()));
        tokio::time::timeout(LEAVE_WAIT, ended).await.map_err(late)?
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// `shoal serve`, of this binary. It ends when its standard input does, which this process holds: it does not outlive
/// the demo even where that is killed.
fn spawn(ground: &Ground, config: &Path, log: &Path) -> std::io::Result<(Child, ChildStdout)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "--until-stdin-ends", "--config"]).arg(config).args(&ground.device_flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(log)?);
    command.process_group(0); // what is typed at the terminal is for the demo
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no standard output"))?;
    Ok((child, stdout))
}

/// Kills and reaps it, if it still runs.
fn end(child: &mut Child) {
    // It may have ended, which is as good.
    let _ = child.kill();
    let _ = child.wait();
}

/// The first line of a process's output; empty where it ends without one.
async fn first_line(stdout: ChildStdout) -> String {
    let (send, line) = oneshot::channel();
    thread::spawn(move || {
        let mut line = String::new();
        // A process that died says nothing more.
        let _ = BufReader::new(stdout).read_line(&mut line);
        drop(send.send(line));
    });
    line.await.unwrap_or_default()
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n")
}
