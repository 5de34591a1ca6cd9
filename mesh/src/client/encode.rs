//! What to encode and how.

use std::time::Duration;

use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use shoal_protocol::TraceContext;
use shoal_protocol::message::{DenseDtype, EncodeOptions, Input, Numerics, Priority, Truncate};

use crate::core::WhenOverloaded;

/// The deadline of an interactive call that names none: longer than a person waits, short enough to free the slot.
const DEADLINE_INTERACTIVE: Duration = Duration::from_secs(30);

pub(super) type Progress = Box<dyn FnMut(u64, Option<u64>) + Send>;

/// A call to be made: a model, texts, and how to encode them.
///
/// ```
/// use shoal_mesh::Encode;
/// let call = Encode::new("all-minilm-l6-v2", ["a text", "another"]).dims(128);
/// ```
#[must_use = "a call is made by Client::encode or Client::encode_stream"]
pub struct Encode {
    pub(super) model: String,
    pub(super) inputs: BoxStream<'static, Input>,
    pub(super) total: Option<u64>,
    pub(super) options: EncodeOptions,
    pub(super) priority: Priority,
    pub(super) deadline: Deadline,
    pub(super) when_overloaded: WhenOverloaded,
    pub(super) request_unique: Option<u64>,
    pub(super) trace: Option<TraceContext>,
    pub(super) progress: Option<Progress>,
}

/// When a call gives up.
#[derive(Clone, Copy)]
pub(super) enum Deadline {
    ByPriority,
    After(Duration),
    Never,
}

impl Encode {
    /// Texts that are all there.
    pub fn new<T: Into<String>>(model: impl Into<String>, texts: impl IntoIterator<Item = T>) -> Self {
        Self::inputs(model, texts.into_iter().map(|text| Input::Text(text.into())))
    }

    /// Inputs that are all there: texts or token ids.
    pub fn inputs(model: impl Into<String>, inputs: impl IntoIterator<Item = Input>) -> Self {
        let inputs: Vec<_> = inputs.into_iter().collect();
        let total = inputs.len() as u64;
        Self { total: Some(total), ..Self::lazy(model, inputs) }
    }

    /// Inputs that are pulled as the call proceeds, so that a file of any length is never held as a whole. The
    /// iterator is asked on the caller's task and must not block for long; one that would is a [`live`](Self::live)
    /// input.
    pub fn lazy<I>(model: impl Into<String>, inputs: I) -> Self
    where
        I: IntoIterator<Item = Input>,
        I::IntoIter: Send + 'static,
    {
        Self::live(model, stream::iter(inputs))
    }

    /// Inputs that come in their own time, from a pipe for example. Those that are there are sent without waiting for
    /// more as soon as nothing else of the call is under way.
    pub fn live(model: impl Into<String>, inputs: impl Stream<Item = Input> + Send + 'static) -> Self {
        Self {
            model: model.into(),
            inputs: inputs.boxed(),
            total: None,
            options: EncodeOptions::default(),
            priority: Priority::Interactive,
            deadline: Deadline::ByPriority,
            when_overloaded: WhenOverloaded::Wait,
            request_unique: None,
            trace: None,
            progress: None,
        }
    }

    /// All options at once.
    pub fn options(mut self, options: EncodeOptions) -> Self {
        self.options = options;
        self
    }

    /// Keep the first `dims` values and normalise again (Matryoshka models).
    pub fn dims(mut self, dims: impl Into<Option<u32>>) -> Self {
        self.options.dims = dims.into();
        self
    }

    /// Element type of the vectors.
    pub fn output_dtype(mut self, dtype: DenseDtype) -> Self {
        self.options.output_dtype = dtype;
        self
    }

    /// Whether to normalise; by default as the model's own pipeline does.
    pub fn normalize(mut self, normalize: impl Into<Option<bool>>) -> Self {
        self.options.normalize = normalize.into();
        self
    }

    /// A prompt of the model's configuration, put in front of every text.
    pub fn prompt_name(mut self, name: impl Into<Option<String>>) -> Self {
        self.options.prompt_name = name.into();
        self
    }

    /// What to do with texts over the model's limit; by default they fail.
    pub fn truncate(mut self, truncate: Truncate) -> Self {
        self.options.truncate = truncate;
        self
    }

    /// The precision class that all vectors must have.
    pub fn numerics(mut self, numerics: Numerics) -> Self {
        self.options.numerics = numerics;
        self
    }

    /// Who waits: interactive by default. Bulk yields to interactive work and has no deadline unless given one.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// When to give up, from the start of the call; by default 30 s for an interactive call and never for bulk.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Deadline::After(deadline);
        self
    }

    /// Never give up because of time.
    pub fn no_deadline(mut self) -> Self {
        self.deadline = Deadline::Never;
        self
    }

    /// What to do when the node has no room; by default to wait as it says, within the deadline.
    pub fn when_overloaded(mut self, when_overloaded: WhenOverloaded) -> Self {
        self.when_overloaded = when_overloaded;
        self
    }

    /// The caller's part of the request id, where it has one already; by default a random number.
    pub fn request_unique(mut self, unique: u64) -> Self {
        self.request_unique = Some(unique);
        self
    }

    /// The trace that the call is part of: it crosses to the node and shows in its log.
    pub fn trace(mut self, trace: impl Into<Option<TraceContext>>) -> Self {
        self.trace = trace.into();
        self
    }

    /// Called on the caller's task whenever items were answered, with how many were so far and how many there are
    /// (`None` while a lazy input has not ended).
    pub fn on_progress(mut self, progress: impl FnMut(u64, Option<u64>) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    pub(super) fn deadline_after(&self) -> Option<Duration> {
        match (self.deadline, self.priority) {
            (Deadline::After(deadline), _) => Some(deadline),
            (Deadline::ByPriority, Priority::Interactive) => Some(DEADLINE_INTERACTIVE),
            (Deadline::ByPriority, Priority::Bulk) | (Deadline::Never, _) => None,
        }
    }
}

impl std::fmt::Debug for Encode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Encode");
        out.field("model", &self.model).field("options", &self.options);
        out.field("total", &self.total).finish_non_exhaustive()
    }
}
