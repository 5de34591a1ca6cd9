//! `shoal verify`: is what lies on this disk what was published, and does this machine compute what it should?

use std::path::Path;

use serde::{Deserialize, Serialize};
use shoal_mesh::{Encode, ItemResult, Vector};
use shoal_protocol::message::{Numerics, ServedBy};

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

/// Answers that another implementation gave.
#[derive(Deserialize)]
struct Golden {
    /// Which one.
    made_by: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    prompt_name: Option<String>,
    dense: Vec<f32>,
}

/// How close the answers are.
#[derive(Serialize)]
struct Closeness {
    made_by: String,
    cases: usize,
    /// The smallest.
    cosine: f64,
    /// What it must reach in this precision.
    cosine_min: f64,
    /// The largest difference of two values.
    error_max: f64,
    device: String,
}

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
    let close = golden.as_ref().is_none_or(|golden| golden.cosine >= golden.cosine_min);
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
    let mut closeness = Closeness {
        made_by: golden.made_by,
        cases: golden.cases.len(),
        cosine: 1.0,
        cosine_min: 1.0,
        error_max: 0.0,
        device: String::new(),
    };
    for case in golden.cases {
        let call = Encode::new(&target.model, [case.text]).prompt_name(case.prompt_name).no_deadline();
        let answer = target.client().encode(call).await?;
        let values = match answer.items.first() {
            Some(item @ ItemResult::Answered { .. }) => {
                item.vector().and_then(Vector::as_f32).unwrap_or_default().into_owned()
            }
            Some(ItemResult::Failed { message, .. }) => return Err(Stop::new(Exit::Model, message.clone())),
            None => Vec::new(),
        };
        if values.len() != case.dense.len() {
            let (has, wants) = (values.len(), case.dense.len());
            let message = format!("the model answers {has} values; the golden answer has {wants}");
            return Err(Stop::new(Exit::Model, message));
        }
        closeness.add(&values, &case.dense);
        if let Some(served_by) = &answer.served_by {
            closeness.served(served_by);
        }
    }
    target.close().await;
    Ok(closeness)
}

impl Closeness {
    fn add(&mut self, ours: &[f32], golden: &[f32]) {
        let (mut dot, mut our_square, mut golden_square) = (0.0, 0.0, 0.0);
        for (&our, &wanted) in ours.iter().zip(golden) {
            let (our, wanted) = (f64::from(our), f64::from(wanted));
            dot += our * wanted;
            our_square += our * our;
            golden_square += wanted * wanted;
            self.error_max = self.error_max.max((our - wanted).abs());
        }
        let length = (our_square * golden_square).sqrt();
        // Two zero vectors are the same.
        let cosine =
            if length > 0.0 { dot / length } else { f64::from(u8::from(our_square == golden_square)) };
        // A NaN among the values must not pass for the smallest cosine so far.
        self.cosine = if cosine.is_nan() { -1.0 } else { self.cosine.min(cosine) };
    }

    fn served(&mut self, by: &ServedBy) {
        self.device.clone_from(&by.device_name);
        self.cosine_min = match by.numerics {
            Numerics::F32 | Numerics::Any => 0.99999,
            Numerics::Bits16 => 0.999,
            Numerics::Int8 => 0.99,
        };
    }
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
            let Closeness { made_by, cases, cosine, cosine_min, error_max, device } = golden;
            let word = if cosine >= cosine_min { "right" } else { "WRONG" };
            output.line(&format!(
                "answers: {word}: cosine {cosine:.7} (at least {cosine_min}), largest error {error_max:.1e}, over \
                 {cases} texts on {device}; golden answers by {made_by}"
            ))?;
        }
    }
    output.flush()
}
