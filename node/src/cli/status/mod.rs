//! `shoal status`, and the models of a node for `shoal models --mesh`.

mod json;
mod table;

use shoal_mesh::Client;

use super::args::StatusArgs;
use super::census::Census;
use super::exit::{Exit, Stop};
use super::output::{Output, tell};
use super::runtime::run_interruptible;
use super::target::Target;

pub(super) use table::{device_name, model_state_name, state_of};

pub(super) fn run(args: &StatusArgs) -> Result<Exit, Stop> {
    run_interruptible(async {
        if args.mesh.mesh.is_empty() {
            tell("shoal: no --mesh HOST:PORT is named: this is what a node here would be");
        }
        let target = Target::open_any(&args.mesh, &args.device).await?;
        let census = Census::take(target.client(), false).await?;
        target.close().await;
        let mut output = Output::new();
        if args.json {
            output.json(&json::of_census(&census))?;
        } else {
            table::print(&mut output, &census)?;
        }
        output.flush()?;
        Ok(Exit::Ok)
    })
}

/// The models of a node, as `shoal models --mesh` prints them.
pub(super) async fn print_models(client: &Client, as_json: bool, output: &mut Output) -> Result<(), Stop> {
    let status = client.status(false).await?;
    if as_json { output.json(&json::of_models(&status)) } else { table::models(output, &status.models) }
}
