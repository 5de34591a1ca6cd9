//! `shoal models`

use serde::{Deserialize, Serialize};
use shoal_kernels::{CONFIG_FILES, CpuIsa, ModelDescription, Plan};

use super::args::{ModelsArgs, ModelsCommand, ModelsExplainArgs};
use super::exit::{Exit, Stop};
use super::output::Output;
use super::runtime::run_interruptible;
use super::status::print_models;
use super::target::{connect, device_overrides, name_of, private_config};
use crate::config::{Environment, Machine, Overrides, resolve};
use crate::store::{Card, KnownModel, ModelStore};

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
    family: &'a str,
    task: Option<&'static str>,
    dims: Option<u32>,
    tokens_max: Option<u32>,
    parameters: Option<u64>,
    licence: &'a str,
    /// Revision and licence were read at the source.
    verified: bool,
    sources: &'a [String],
    installed: bool,
    dir: Option<String>,
    bytes: u64,
    /// Why an installed model cannot be run.
    not_covered: Option<&'a str>,
}

/// A model as the catalogue and, where it is installed, its own files tell of it.
struct Told {
    model: KnownModel,
    card: Card,
    not_covered: Option<String>,
}

impl Told {
    /// The files of an installed model know better than the catalogue. Reads headers, no weights.
    fn of(model: KnownModel) -> Self {
        let mut card = model.card.clone();
        let described = model.dir.as_deref().map(ModelDescription::from_dir);
        let not_covered = match described {
            None => None,
            Some(Err(error)) => Some(error.to_string()),
            Some(Ok(description)) => {
                card.dims = Some(description.dims);
                card.tokens_max = Some(description.tokens_max);
                card.parameters = Some(description.spec.parameters());
                if card.family.is_empty() {
                    card.family = model_type(&description);
                }
                None
            }
        };
        Self { model, card, not_covered }
    }

    fn json(&self) -> Model<'_> {
        let Self { model, card, not_covered } = self;
        Model {
            name: &model.name,
            aliases: &model.aliases,
            description: &card.description,
            family: &card.family,
            task: card.task.map(crate::store::Task::as_str),
            dims: card.dims,
            tokens_max: card.tokens_max,
            parameters: card.parameters,
            licence: &card.licence,
            verified: card.verified,
            sources: &model.sources,
            installed: model.dir.is_some(),
            dir: model.dir.as_ref().map(|dir| dir.display().to_string()),
            bytes: model.bytes,
            not_covered: not_covered.as_deref(),
        }
    }

    fn row(&self) -> Vec<String> {
        let Self { model, card, not_covered } = self;
        let state = match (&model.dir, not_covered) {
            (Some(_), None) => "installed",
            (Some(_), Some(_)) => "not covered",
            (None, _) if card.verified => "to pull",
            (None, _) => "to pull, unverified",
        };
        let count = |count: Option<u32>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        vec![
            model.name.clone(),
            card.task.map_or("-", crate::store::Task::as_str).to_owned(),
            if card.family.is_empty() { "-".to_owned() } else { card.family.clone() },
            card.parameters.map_or_else(|| "-".to_owned(), millions),
            count(card.dims),
            count(card.tokens_max),
            if model.bytes == 0 { "-".to_owned() } else { megabytes(model.bytes) },
            state.to_owned(),
            card.description.clone(),
        ]
    }
}

/// What its configuration calls the architecture.
fn model_type(description: &ModelDescription) -> String {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        model_type: String,
    }
    let configs = CONFIG_FILES.iter().rev().map(|name| std::fs::read(description.dir.join(name)));
    let parsed = configs.flatten().next().and_then(|json| serde_json::from_slice::<Config>(&json).ok());
    parsed.map(|config| config.model_type).unwrap_or_default()
}

const HEADER: [&str; 9] =
    ["NAME", "TASK", "FAMILY", "PARAMETERS", "DIMS", "TOKENS", "SIZE", "STATE", "DESCRIPTION"];

pub(super) fn run(args: &ModelsArgs) -> Result<Exit, Stop> {
    if let Some(ModelsCommand::Explain(args)) = &args.command {
        return explain(args);
    }
    if !args.mesh.mesh.is_empty() {
        return run_interruptible(of_mesh(args));
    }
    let flags = Overrides::default();
    let config = resolve(None, &flags, &Environment::of_process(), Machine::detect())?;
    let models = ModelStore::open(config.models.store)?.list();
    let models: Vec<_> = models.into_iter().map(Told::of).collect();
    let mut output = Output::new();
    if args.json {
        output.json(&Listing { version: VERSION, models: models.iter().map(Told::json).collect() })?;
    } else {
        let rows: Vec<_> = models.iter().map(Told::row).collect();
        output.table(&HEADER, &rows)?;
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

/// Prints the description and the plan; what is not covered is the error.
fn explain(args: &ModelsExplainArgs) -> Result<Exit, Stop> {
    let flags = Overrides { model: Some(args.model.clone()), ..device_overrides(&args.device) };
    let config = private_config(&flags)?;
    let store = ModelStore::open(config.models.store.clone())?;
    let resolved = store.resolve(&name_of(&config, &args.model))?;
    let description = resolved.describe().map_err(Stop::with(Exit::Model))?;
    let isa = config.device.cpu_isa.unwrap_or_else(CpuIsa::detect);
    let policy = resolved.dtype.unwrap_or(config.device.dtype);
    let plan = Plan::for_cpu(&description.spec, isa, policy).map_err(Stop::with(Exit::Model))?;
    let mut output = Output::new();
    output.line(&format!("{} in {}", resolved.name, resolved.dir.display()))?;
    output.line(&format!("at most {} tokens", description.tokens_max))?;
    for (name, prompt) in &description.prompts.by_name {
        output.line(&format!("prompt {name}: {prompt:?}"))?;
    }
    output.text(&format!("{}{plan}", description.spec))?;
    output.flush()?;
    Ok(Exit::Ok)
}

/// Bytes for people.
pub(super) fn megabytes(bytes: u64) -> String {
    let tenths = (bytes + 50_000) / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

/// A count for people.
fn millions(count: u64) -> String {
    let tenths = (count + 50_000) / 100_000;
    if tenths < 1000 { format!("{}.{} M", tenths / 10, tenths % 10) } else { format!("{} M", tenths / 10) }
}
