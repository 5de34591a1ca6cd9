//! `shoal-bench`: what the machine can do, and what the kernels and the whole pipeline make of it.
//!
//! Results go to stdout (a table, or one JSON object with `--json`), everything else to stderr.
#![expect(clippy::print_stdout, reason = "a bench's output is its result")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

mod calibrate;
mod embed;
mod gemm;
mod http;
mod link;
mod node;
mod overload;
mod pipeline;
mod route;
mod stats;

use clap::{Parser, Subcommand};
use pipeline::AnyError;

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
    /// The whole pipeline in this process: text in, vectors out.
    Embed(embed::Arguments),
    /// The linear layers of the model's shapes, in per cent of the peak of the same moment.
    Gemm(gemm::Arguments),
    /// What the node adds to its kernels: lanes, the client in process, the client over QUIC.
    Node(node::Arguments),
    /// Load on an HTTP server of the OpenAI or TEI dialect, one text a request.
    Http(http::Arguments),
    /// What QUIC adds to a call in process, on a service that computes nothing.
    Link(link::Arguments),
    /// A node or a mesh that is asked for twice what it can.
    Overload(overload::Arguments),
    /// What a routing decision costs in a view of a full cell.
    Route(route::Arguments),
}

fn main() -> Result<(), AnyError> {
    match Arguments::parse().command {
        Command::Calibrate(arguments) => calibrate::run(&arguments),
        Command::Embed(arguments) => embed::run(&arguments),
        Command::Gemm(arguments) => gemm::run(&arguments),
        Command::Http(arguments) => http::run(&arguments),
        Command::Link(arguments) => link::run(&arguments),
        Command::Node(arguments) => node::run(&arguments),
        Command::Overload(arguments) => overload::run(&arguments),
        Command::Route(arguments) => route::run(&arguments),
    }
}
