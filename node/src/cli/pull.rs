//! `shoal pull`

use std::thread;

use serde::Serialize;
use tokio::sync::oneshot;

use super::args::PullArgs;
use super::exit::{Exit, Stop};
use super::output::Output;
use super::progress::PullProgress;
use super::runtime::run_interruptible;
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
    let flags = Overrides { offline: args.offline, ..Overrides::default() };
    let config = resolve(None, &flags, &Environment::of_process(), Machine::detect())?;
    run_interruptible(async {
        let mut output = Output::new();
        for name in &args.models {
            let pulled = pull(config.models.store.clone(), name).await?;
            print(&mut output, &pulled, args.json)?;
        }
        Ok(Exit::Ok)
    })
}

fn print(output: &mut Output, pulled: &Pulled, as_json: bool) -> Result<(), Stop> {
    let dir = pulled.model.dir.display().to_string();
    if as_json {
        output.json(&Line {
            model: &pulled.model.name,
            dir,
            source: pulled.source.as_deref(),
            fetched: pulled.source.is_some(),
        })?;
    } else {
        output.line(&dir)?;
    }
    output.flush()
}

/// Fetches on a thread of its own, because fetching blocks. If the user interrupts, the process ends and the next pull
/// cleans up.
pub(super) async fn pull(config: StoreConfig, name: &str) -> Result<Pulled, Stop> {
    let store = ModelStore::open(config)?;
    let name = name.to_owned();
    let (done, pulled) = oneshot::channel();
    let fetch = move || {
        // Nobody listens once the command was interrupted.
        drop(done.send(store.pull(&name, Patience::default(), &mut PullProgress::new())));
    };
    let started = thread::Builder::new().name("shoal-pull".to_owned()).spawn(fetch);
    started.map_err(Stop::with(Exit::Unavailable))?;
    let pulled = pulled.await;
    Ok(pulled.map_err(|_| Stop::new(Exit::Unavailable, "the pull failed unexpectedly"))??)
}
