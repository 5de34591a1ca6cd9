//! `shoal pull`

use std::thread;

use serde::Serialize;

use super::args::PullArgs;
use super::exit::{Exit, Stop};
use super::output::Output;
use super::progress::PullProgress;
use crate::config::{Environment, Machine, Overrides, StoreConfig, resolve};
use crate::store::ModelStore;
use crate::store::pull::{Patience, Pulled};

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    model: &'a str,
    dir: String,
    source: Option<&'a str>,
    fetched: bool,
}

pub(super) fn run(args: &PullArgs) -> Result<Exit, Stop> {
    let flags = Overrides {
        offline: args.offline,
        ..Overrides::default()
    };
    let config = resolve(None, &flags, &Environment::of_process(), Machine::detect())?;
    let mut output = Output::new();
    for name in &args.models {
        let pulled = pull(config.models.store.clone(), name)?;
        let dir = pulled.model.dir.display().to_string();
        if args.json {
            output.json(&Line {
                model: &pulled.model.name,
                dir,
                source: pulled.source.as_deref(),
                fetched: pulled.source.is_some(),
            })?;
        } else {
            output.line(&dir)?;
        }
        output.flush()?;
    }
    Ok(Exit::Ok)
}

/// Fetches on a thread of its own, because fetching blocks.
pub(super) fn pull(config: StoreConfig, name: &str) -> Result<Pulled, Stop> {
    let store = ModelStore::open(config)?;
    let fetched = thread::scope(|scope| {
        let fetching = scope.spawn(|| store.pull(name, Patience::default(), &mut PullProgress::new()));
        fetching.join()
    });
    let fetched = fetched.map_err(|_| Stop::new(Exit::Unavailable, "the pull failed unexpectedly"))?;
    Ok(fetched?)
}
