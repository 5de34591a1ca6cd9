//! `shoal-bench`: what the machine can do, and what the kernels and the whole pipeline make of it.
//!
//! Results go to stdout (a table, or one JSON object with `--json`), everything else to stderr.
#![expect(clippy::print_stdout, reason = "a bench's output is its result")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

mod calibrate;
mod gemm;
mod stats;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "shoal-bench", about = "Measures Shoal's kernels and pipeline")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Register-only loops: the peak that every other figure is a share of.
    Calibrate(calibrate::Arguments),
    /// The linear layers of the model's shapes, in per cent of the peak of the same moment.
    Gemm(gemm::Arguments),
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse().command {
        Command::Calibrate(arguments) => calibrate::run(&arguments),
        Command::Gemm(arguments) => gemm::run(&arguments),
    }
}
