//! What a node must know of a model before it can take a text for it: where it lies, what it is, its tokenizer.
//!
//! Made once per model, on a thread of its own, because reading files and parsing a vocabulary takes 10 to 500 ms.

mod homes;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};

use shoal_kernels::{DescribeError, Dtype, DtypePolicy, Matryoshka, ModelDescription, Prompts};
use shoal_protocol::{Bytes, DeviceIndex, ErrorCode};
use tokio::sync::{oneshot, watch};

use crate::actors::backend::{Backend, Outlook};
use crate::clock;
use crate::store::{ModelStore, StoreError};
use crate::tasks::tokenizer::{TextTokenizer, TokenizerLimits};

pub(crate) use homes::{Home, Homes, Site};

/// Requests that may wait for a model to be described. The texts of each are in memory and not yet admitted.
pub(crate) const WAITING_MAX: usize = 64;

/// A model that texts can be taken for. Whether its weights are resident is the device's business.
pub(crate) struct Front {
    /// Canonical name.
    pub(crate) name: Arc<str>,
    /// Other names that reach it.
    pub(crate) aliases: Vec<String>,
    /// What its files say.
    pub(crate) description: Arc<ModelDescription>,
    /// Its tokenizer.
    pub(crate) tokenizer: Arc<TextTokenizer>,
    /// The number format that was asked for.
    pub(crate) policy: DtypePolicy,
    /// The device that it is on.
    pub(crate) device: DeviceIndex,
    /// Why on this one; empty where there is no other.
    pub(crate) placed: String,
    /// Whether its vectors may be pooled there from parts of a text.
    pub(crate) pools_parts: bool,
    /// The number format that the device gives it.
    pub(crate) dtype: Dtype,
    /// What it will hold there, about.
    pub(crate) bytes_estimate: Bytes,
    /// Whether it is never unloaded.
    pub(crate) pinned: bool,
}

/// Why no text can be taken for a model. The next request looks again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct FrontError {
    /// The wire's code.
    pub(crate) code: ErrorCode,
    /// For people.
    pub(crate) message: String,
}

impl FrontError {
    fn new(code: ErrorCode, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }
}

struct Job {
    name: String,
    reply: oneshot::Sender<Result<Arc<Front>, FrontError>>,
}

/// What decides a front beside the model's files.
pub(crate) struct FrontRules {
    /// Where models come from.
    pub(crate) store: ModelStore,
    /// The number format of models whose catalogue entry names none.
    pub(crate) dtype: DtypePolicy,
    /// Names of the models that are never unloaded.
    pub(crate) pin: Vec<String>,
    /// The devices, which know what they can make of a model, in the node's order.
    pub(crate) backends: Vec<Arc<dyn Backend>>,
    /// Which of them gets it.
    pub(crate) homes: Homes,
}

/// By every name that was asked for and exists: bounded by the names that the store knows.
type Ready = RwLock<BTreeMap<String, Arc<Front>>>;

/// Models whose files were refused when they were last looked at, with the reason, by canonical name: bounded as [`Ready`].
pub(crate) type Refused = BTreeMap<String, String>;

/// The fronts of a node. Dropping it ends its thread.
pub(crate) struct Fronts {
    ready: Arc<Ready>,
    refused: watch::Receiver<Refused>,
    jobs: SyncSender<Job>,
}

impl Fronts {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(mut rules: FrontRules) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(WAITING_MAX);
        let ready = Arc::new(Ready::default());
        let (refusing, refused) = watch::channel(Refused::new());
        let known = Arc::clone(&ready);
        std::thread::Builder::new().name("front".to_owned()).spawn(move || {
            for Job { name, reply } in queue {
                // One at a time, and looked up again: many requests for one model make it once.
                let made = caught(|| make_once(&mut rules, &known, &refusing, &name));
                // The caller may have gone; the front stays for the next one.
                let _ = reply.send(made);
            }
        })?;
        Ok(Self { ready, refused, jobs })
    }

    /// The models that nobody can be served with until their files are repaired; tells of every change.
    pub(crate) fn refused(&self) -> watch::Receiver<Refused> {
        self.refused.clone()
    }

    /// The front of a model, if it was made before.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Front>> {
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        ready.get(name).cloned()
    }

    /// The front of a model, made now if need be.
    ///
    /// # Errors
    /// [`FrontError`]; `Overloaded` when too many wait already.
    pub(crate) async fn make(&self, name: &str) -> Result<Arc<Front>, FrontError> {
        let (reply, made) = oneshot::channel();
        let job = Job { name: name.to_owned(), reply };
        self.jobs.try_send(job).map_err(|_| {
            FrontError::new(ErrorCode::Overloaded, "too many requests wait for models to be read")
        })?;
        let ended = |_| FrontError::new(ErrorCode::Internal, "the thread that reads models has ended");
        made.await.unwrap_or_else(|gone| Err(ended(gone)))
    }

    /// Forgets a model whose load failed, so that repaired files are read anew.
    pub(crate) fn forget(&self, canonical: &str) {
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        ready.retain(|_, front| *front.name != *canonical);
    }

    /// Every front once, in order of name.
    pub(crate) fn all(&self) -> Vec<Arc<Front>> {
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        let by_name: BTreeMap<&str, &Arc<Front>> =
            ready.values().map(|front| (&*front.name, front)).collect();
        by_name.into_values().cloned().collect()
    }
}

/// A library that panics on a model's files costs that model, not the thread.
fn caught<T>(make: impl FnOnce() -> Result<T, FrontError>) -> Result<T, FrontError> {
    catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|_| {
        let what = "reading the model's files panicked; the log says where";
        Err(FrontError::new(ErrorCode::ModelBroken, what))
    })
}

fn make_once(
    rules: &mut FrontRules,
    ready: &Ready,
    refusing: &watch::Sender<Refused>,
    name: &str,
) -> Result<Arc<Front>, FrontError> {
    let found = |name: &str| {
        let ready = ready.read().unwrap_or_else(PoisonError::into_inner);
        ready.get(name).cloned()
    };
    if let Some(front) = found(name) {
        return Ok(front);
    }
    let resolved = rules.store.resolve(name).map_err(|error| match error {
        StoreError::Unknown { .. } | StoreError::NotInstalled { .. } => {
            FrontError::new(ErrorCode::ModelNotFound, error)
        }
        error => FrontError::new(ErrorCode::ModelBroken, error),
    })?;
    let front = match found(&resolved.name) {
        Some(front) => front,
        None => {
            let name = resolved.name.clone();
            let made = caught(|| make(rules, resolved));
            note(refusing, name, made.as_ref().err());
            Arc::new(made?)
        }
    };
    let mut ready = ready.write().unwrap_or_else(PoisonError::into_inner);
    for name in [name, &front.name] {
        ready.insert(name.to_owned(), Arc::clone(&front));
    }
    Ok(front)
}

/// Tells the node, and through its facts the mesh, whether a model's files are refused.
fn note(refusing: &watch::Sender<Refused>, name: String, error: Option<&FrontError>) {
    refusing.send_if_modified(|refused| match error {
        Some(FrontError { message, .. }) => refused.insert(name, message.clone()).as_ref() != Some(message),
        None => refused.remove(&name).is_some(),
    });
}

/// A catalogue entry may not promise more than the model has.
fn check_widths(stated: &Matryoshka, dims: u32) -> Result<(), FrontError> {
    match stated {
        Matryoshka::Widths(widths) if widths.iter().any(|width| *width > dims) => {
            let what = format!("its catalogue entry states matryoshka_dimensions over its {dims} dims");
            Err(FrontError::new(ErrorCode::ModelBroken, what))
        }
        Matryoshka::Widths(_) | Matryoshka::Any | Matryoshka::Untrained => Ok(()),
    }
}

/// What the model's own files say wins.
fn add_prompts(own: &mut Prompts, of_catalogue: Prompts) {
    for (name, prompt) in of_catalogue.by_name {
        own.by_name.entry(name).or_insert(prompt);
    }
    own.default_name = own.default_name.take().or(of_catalogue.default_name);
}

/// Decides which device has the model.
fn settle(
    rules: &mut FrontRules,
    resolved: &crate::store::ResolvedModel,
    (description, policy): (&ModelDescription, DtypePolicy),
) -> Result<Home, FrontError> {
    let outlooks = rules.backends.iter().map(|backend| backend.outlook(description, policy));
    let offers: Vec<_> = outlooks.map(|outlook| outlook.map_err(|error| error.to_string())).collect();
    rules.homes.handle_model(&resolved.name, &resolved.aliases, &offers).map_err(|why| {
        FrontError::new(ErrorCode::ModelUnsupported, format!("model {}: {why}", resolved.name))
    })
}

fn make(rules: &mut FrontRules, resolved: crate::store::ResolvedModel) -> Result<Front, FrontError> {
    let started_at = clock::now();
    let mut description = resolved.describe().map_err(|error| {
        let code = match &error {
            DescribeError::Family { .. } => ErrorCode::ModelUnsupported,
            _ => ErrorCode::ModelBroken,
        };
        FrontError::new(code, error)
    })?;
    if let Some(stated) = resolved.matryoshka.clone() {
        check_widths(&stated, description.dims)?;
        description.matryoshka = stated;
    }
    add_prompts(&mut description.prompts, resolved.prompts.clone());
    let policy = resolved.dtype.unwrap_or(rules.dtype);
    let Home { device, why: placed, outlook: Outlook { dtype, bytes, tokens_max } } =
        settle(rules, &resolved, (&description, policy))?;
    let backend = &rules.backends[usize::from(device.0)];
    // What status tells is what is taken.
    description.tokens_max = tokens_max;
    let limits = TokenizerLimits {
        tokens_max,
        vocab_size: u32::try_from(description.spec.embeddings.vocab).unwrap_or(u32::MAX),
        lowercase: description.lowercases,
        segments: description.spec.embeddings.token_types.is_some_and(|types| types > 1),
    };
    let tokenizer = TextTokenizer::load(&description.dir.join("tokenizer.json"), limits)
        .map_err(|error| FrontError::new(ErrorCode::ModelBroken, error))?;
    if description.pooling_assumed {
        tracing::warn!(model = %resolved.name, "no file says how its token vectors become one: mean is assumed");
    }
    let elapsed_ms = clock::now().saturating_duration_since(started_at).as_millis();
    tracing::info!(model = %resolved.name, dir = %resolved.dir.display(), %dtype, device = backend.name(), placed, elapsed_ms, "read");
    let is_pinned = |name: &String| *name == resolved.name || resolved.aliases.contains(name);
    Ok(Front {
        pinned: rules.pin.iter().any(is_pinned),
        name: resolved.name.into(),
        aliases: resolved.aliases,
        description: Arc::new(description),
        tokenizer: Arc::new(tokenizer),
        policy,
        device,
        placed,
        pools_parts: backend.pools_parts(),
        dtype,
        bytes_estimate: Bytes(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_costs_the_model_and_not_the_thread() {
        let broken = caught::<()>(|| panic!("a library panics on purpose")).expect_err("no front");
        assert_eq!(broken.code, ErrorCode::ModelBroken);
        assert_eq!(caught(|| Ok(1)), Ok(1));
    }

    #[test]
    fn an_entry_promises_no_more_than_the_model_has() {
        let check = |widths: &[u32]| check_widths(&Matryoshka::Widths(widths.to_vec()), 32);
        assert_eq!(check(&[8, 32]), Ok(()));
        assert_eq!(check(&[8, 33]).expect_err("too wide").code, ErrorCode::ModelBroken);
    }
}
