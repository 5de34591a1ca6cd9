//! The command line: `shoal demo`, `encode`, `score`, `extract`, `serve`, `pull`, `models`, `verify`, `status`, `top`, `explain`, `drain` and `mesh`.
//!
//! Every command returns an `Exit` or a `Stop` with its code; only `output` prints.

mod args;
mod census;
mod demo;
mod drain;
mod encode;
mod exit;
mod explain;
mod extract;
mod input;
mod latencies;
mod logging;
mod mesh;
mod models;
mod output;
mod parent;
mod progress;
mod pull;
mod runtime;
mod score;
mod serve;
mod service_manager;
mod status;
mod target;
mod task;
mod top;
mod verify;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command, MeshCommand};
use self::exit::{Exit, Stop};
use self::output::tell;
use crate::config::Environment;

/// Runs the command that the process was called with, and says how the process ends.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no errors; a closed pipe there is none either.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    // A panic has told its message on stderr by the time it is caught.
    let ended = catch_unwind(AssertUnwindSafe(|| run(cli.command)));
    let exit = match ended {
        Ok(Ok(exit)) => exit,
        Ok(Err(stop)) => {
            if !stop.message.is_empty() {
                tell(&format!("shoal: {}", stop.message));
            }
            stop.exit
        }
        Err(_) => Exit::Unavailable,
    };
    exit.into()
}

fn run(command: Command) -> Result<Exit, Stop> {
    let level = if matches!(command, Command::Serve(_)) { "info" } else { "warn" };
    logging::start(level, &Environment::of_process()).map_err(Stop::with(Exit::Usage))?;
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Encode(args) => encode::run(args),
        Command::Score(args) => score::run(args),
        Command::Extract(args) => extract::run(args),
        Command::Serve(args) => serve::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Verify(args) => verify::run(args),
        Command::Status(args) => status::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Mesh(MeshCommand::Init(args)) => mesh::init(&args),
        Command::Mesh(MeshCommand::Issuer(args)) => mesh::issuer(&args),
        Command::Mesh(MeshCommand::Token(args)) => mesh::token(args),
        Command::Mesh(MeshCommand::Join(args)) => mesh::join(&args),
        Command::Mesh(MeshCommand::Renew(args)) => mesh::renew(&args),
    }
}
