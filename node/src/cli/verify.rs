//! `shoal verify`: is what lies on this disk what was published, and does this machine compute what it should?

mod golden;

use std::path::Path;

use futures_util::StreamExt;
use serde::Serialize;
use shoal_mesh::{Call, ItemResult};
use shoal_protocol::message::Input;

use self::golden::{Closeness, Golden};
use super::args::{DeviceArgs, MeshArgs, VerifyArgs};
use super::exit::{Exit, Stop};
use super::output::Output;
use super::runtime::run_interruptible;
use super::target::{Target, device_overrides, name_of, private_config};
use crate::config::Overrides;
use crate::store::pull::SourceError;
use crate::store::{ModelStore, ResolvedModel};

/// The schema of `--json`.
const VERSION: u32 = 1;
/// Golden answers in the model's directory.
const GOLDEN_FILE: &str = "shoal.golden.json";
/// Bytes of golden answers.
const GOLDEN_BYTES_MAX: u64 = 64 << 20;

#[derive(Serialize)]
struct Verdict<'a> {
    version: u32,
    model: &'a str,
    dir: String,
    /// Files whose hash is known and right.
    files: usize,
    /// Those that are wrong, with what is wrong.
    wrong: &'a [String],
    golden: Option<&'a Closeness>,
    ok: bool,
}

pub(super) fn run(args: VerifyArgs) -> Result<Exit, Stop> {
    run_interruptible(verify(args))
}

async fn verify(args: VerifyArgs) -> Result<Exit, Stop> {
    let flags = Overrides { model: Some(args.model.clone()), ..device_overrides(&args.device) };
    let config = private_config(&flags)?;
    let store = ModelStore::open(config.models.store.clone())?;
    let resolved = store.resolve(&name_of(&config, &args.model))?;
    let files = store.check_files(&resolved).map_err(Stop::with(Exit::Model))?;
    let wrong: Vec<_> =
        files.iter().filter_map(|found| found.as_ref().err().map(SourceError::to_string)).collect();
    let golden = match golden_of(&store, &resolved)? {
        Some(golden) if wrong.is_empty() => Some(compare(golden, &args.model, &args.device).await?),
        _ => None,
    };
    let close = golden.as_ref().is_none_or(Closeness::is_close);
    let verdict = Verdict {
        version: VERSION,
        model: &resolved.name,
        dir: resolved.dir.display().to_string(),
        files: files.len() - wrong.len(),
        wrong: &wrong,
        golden: golden.as_ref(),
        ok: wrong.is_empty() && close,
    };
    print(&verdict, args.json)?;
    Ok(if verdict.ok { Exit::Ok } else { Exit::Model })
}

/// The directory's own, else the catalogue's.
fn golden_of(store: &ModelStore, resolved: &ResolvedModel) -> Result<Option<Golden>, Stop> {
    let path = resolved.dir.join(GOLDEN_FILE);
    let wrong =
        |error: &dyn std::fmt::Display| Stop::new(Exit::Model, format!("{}: {error}", path.display()));
    let json = match read_at_most(&path, GOLDEN_BYTES_MAX) {
        Ok(json) => json,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            match store.entry(&resolved.name).ok().and_then(|entry| entry.golden()) {
                Some(json) => json.as_bytes().to_vec(),
                None => return Ok(None),
            }
        }
        Err(error) => return Err(wrong(&error)),
    };
    serde_json::from_slice(&json).map(Some).map_err(|error| wrong(&error))
}

fn read_at_most(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max {
        return Err(std::io::Error::other(format!("longer than {bytes_max} bytes")));
    }
    Ok(content)
}

/// Asks for every case through the client library, as any caller would.
async fn compare(golden: Golden, model: &str, device: &DeviceArgs) -> Result<Closeness, Stop> {
    let target = Target::open(&MeshArgs::none(), device, model).await?;
    let mut closeness = Closeness::new(golden.made_by, golden.cases.len());
    for case in golden.cases {
        let stop = |message| Stop::new(Exit::Model, message);
        let call = Call::of(&target.model, [Input::Text(case.text.clone())], case.task()).no_deadline();
        let mut answers = target.client().stream(call);
        while let Some(answer) = answers.next().await {
            match answer?.1 {
                ItemResult::Answered { answer, .. } => closeness.add(case.compare(&answer).map_err(stop)?),
                ItemResult::Failed { message, .. } => return Err(stop(message)),
            }
        }
        if let Some(by) = answers.summary().and_then(|summary| summary.served_by.as_ref()) {
            closeness.served(by);
        }
    }
    target.close().await;
    Ok(closeness)
}

fn print(verdict: &Verdict<'_>, as_json: bool) -> Result<(), Stop> {
    let mut output = Output::new();
    if as_json {
        output.json(verdict)?;
        return output.flush();
    }
    output.line(&format!("{} in {}", verdict.model, verdict.dir))?;
    verdict.wrong.iter().try_for_each(|wrong| output.line(&format!("wrong: {wrong}")))?;
    output.line(&match verdict.files {
        0 => "files: nobody states their hashes".to_owned(),
        files => format!("files: {files} have the hash that they should have"),
    })?;
    match verdict.golden {
        None => output.line("answers: there is nothing to compare with")?,
        Some(golden) => {
            let Closeness { made_by, cases, cosine, cosine_min, error_max, scores_off, device, .. } = golden;
            let word = if golden.is_close() { "right" } else { "WRONG" };
            let scores = match golden.has_scores() {
                true => format!(", scores off by {scores_off:.1e} (at most {})", golden.scores_off_max),
                false => String::new(),
            };
            output.line(&format!(
                "answers: {word}: cosine {cosine:.7} (at least {cosine_min}){scores}, largest error {error_max:.1e}, \
                 over {cases} texts on {device}; golden answers by {made_by}"
            ))?;
        }
    }
    output.flush()
}
