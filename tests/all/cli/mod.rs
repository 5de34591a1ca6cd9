//! The real command line, as scripts use it.

mod any_node;
mod bad_input;
mod demo;
mod deploy;
mod drain;
mod encode;
mod gpu;
mod gpu_faults;
mod late_interaction;
mod long_input;
mod members;
mod mesh;
mod operators;
mod serve;
mod tasks;
mod usage;
mod verify;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A tiny BERT with mean pooling, 32 values, 48 tokens.
const MODEL: &str = "mean";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/bert").join(name)
}

fn golden_cases(name: &str) -> Value {
    let file = golden(&format!("{name}.json"));
    let text = std::fs::read_to_string(file).expect("golden data");
    serde_json::from_str(&text).expect("JSON")
}

/// A machine of its own: nothing of the user's environment decides a test.
struct Home {
    dir: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary directory"), variables: Vec::new() }
    }

    /// Has commands run with a variable of the environment.
    fn set(&mut self, variable: &'static str, value: String) {
        self.variables.push((variable, value));
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("write");
        path
    }

    fn shoal<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-cli"));
        command
            .args(args)
            .env("SHOAL_HOME", self.dir.path())
            .env("HF_HOME", self.path("hf"))
            .env("HF_HUB_OFFLINE", "1")
            .env("SHOAL_LOG", "warn")
            .env_remove("CUDA_VISIBLE_DEVICES")
            .envs(self.variables.iter().map(|(variable, value)| (variable, value)))
            .stdin(Stdio::null());
        command
    }

    fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Ran {
        Ran::of(self.shoal(args).output().expect("runs"))
    }

    /// Runs with `input` on stdin.
    fn run_with_input<'a>(&self, args: impl IntoIterator<Item = &'a str>, input: &[u8]) -> Ran {
        let mut command = self.shoal(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("runs");
        let mut stdin = child.stdin.take().expect("piped");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A command that stops early closes its stdin.
                drop(stdin.write_all(input));
            });
            Ran::of(child.wait_with_output().expect("ends"))
        })
    }

    /// `shoal encode` with the tiny model on one thread.
    fn encode(&self, args: &[&str]) -> Ran {
        let model = golden(MODEL).display().to_string();
        self.run(["encode", "--model", &model, "--threads", "1"].iter().chain(args).copied())
    }
}

/// How a command ended.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stderr: {}\nstdout: {}", self.err, self.out);
        self
    }

    /// One JSON value a line.
    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

/// A running `shoal serve`, killed when dropped.
struct Serving {
    child: Child,
    stdout: BufReader<ChildStdout>,
    ready: Value,
}

impl Serving {
    #[track_caller]
    fn start<'a>(home: &Home, args: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = home.shoal(["serve"].into_iter().chain(args));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("reads");
        let ready =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("no ready line: {line:?}: {error}"));
        Self { child, stdout, ready }
    }

    fn address(&self, of: &str) -> String {
        self.ready[of].as_str().expect("an address").to_owned()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("runs");
        assert!(sent.success());
    }

    /// Waits for the end and gives the code and the rest of stdout.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut rest).expect("reads");
        (self.child.wait().expect("ends").code(), rest)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
