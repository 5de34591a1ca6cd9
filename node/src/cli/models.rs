//! `shoal models`

use serde::Serialize;

use super::args::ModelsArgs;
use super::exit::{Exit, Stop};
use super::output::Output;
use super::runtime::run_interruptible;
use super::status::print_models;
use super::target::connect;
use crate::config::{Environment, Machine, Overrides, resolve};
use crate::store::{KnownModel, ModelStore};

/// The schema of `--json`.
const VERSION: u32 = 1;

/// `--json`
#[derive(Serialize)]
struct Listing<'a> {
    version: u32,
    models: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    aliases: &'a [String],
    description: &'a str,
    installed: bool,
    dir: Option<String>,
    bytes: u64,
}

impl<'a> From<&'a KnownModel> for Model<'a> {
    fn from(model: &'a KnownModel) -> Self {
        Self {
            name: &model.name,
            aliases: &model.aliases,
            description: &model.description,
            installed: model.dir.is_some(),
            dir: model.dir.as_ref().map(|dir| dir.display().to_string()),
            bytes: model.bytes,
        }
    }
}

pub(super) fn run(args: &ModelsArgs) -> Result<Exit, Stop> {
    if !args.mesh.mesh.is_empty() {
        return run_interruptible(of_mesh(args));
    }
    let flags = Overrides::default();
    let config = resolve(None, &flags, &Environment::of_process(), Machine::detect())?;
    let models = ModelStore::open(config.models.store)?.list();
    let mut output = Output::new();
    if args.json {
        output.json(&Listing { version: VERSION, models: models.iter().map(Model::from).collect() })?;
    } else {
        let rows: Vec<_> = models.iter().map(row).collect();
        output.table(&["NAME", "STATE", "SIZE", "DESCRIPTION"], &rows)?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

async fn of_mesh(args: &ModelsArgs) -> Result<Exit, Stop> {
    let mut output = Output::new();
    print_models(&connect(&args.mesh).await?, args.json, &mut output).await?;
    output.flush()?;
    Ok(Exit::Ok)
}

fn row(model: &KnownModel) -> Vec<String> {
    let state = if model.dir.is_some() { "installed" } else { "not installed" };
    vec![model.name.clone(), state.to_owned(), megabytes(model.bytes), model.description.clone()]
}

/// Bytes for people.
pub(super) fn megabytes(bytes: u64) -> String {
    let tenths = (bytes + 50_000) / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}
