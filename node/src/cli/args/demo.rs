//! The flags of `shoal demo`.

use std::time::Duration;

use clap::Args;

use super::{DeviceArgs, MODEL_DEFAULT};

/// Of the load: long enough for what happens during it, and within the demo's bound.
fn load_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_secs(5)..=Duration::from_secs(30);
    if range.contains(&time) { Ok(time) } else { Err("must be from 5s to 30s".to_owned()) }
}

/// `shoal demo`
#[derive(Args, Debug)]
pub(in crate::cli) struct DemoArgs {
    /// Name of a model, or a directory in Hugging Face layout.
    #[arg(long, default_value = MODEL_DEFAULT, value_name = "NAME|DIR")]
    pub(in crate::cli) model: String,
    #[command(flatten)]
    pub(in crate::cli) device: DeviceArgs,
    /// Fetch nothing: use what the Hugging Face cache has.
    #[arg(long)]
    pub(in crate::cli) offline: bool,
    /// How long the three nodes are under load.
    #[arg(long, default_value = "24s", value_name = "TIME", value_parser = load_time)]
    pub(in crate::cli) time: Duration,
    /// Print one JSON object instead of the report.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
