//! The `shoal` binary, built for the integration tests: cargo tells a test only where the binaries of its own package
//! are.

use std::process::ExitCode;

fn main() -> ExitCode {
    shoal::cli::main()
}
