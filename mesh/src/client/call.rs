//! What to do with which texts, and how.

use std::time::Duration;

use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use shoal_protocol::TraceContext;
use shoal_protocol::message::{
    Chunking, DenseDtype, EncodeOptions, ExtractOptions, Input, InputType, Numerics, Priority, ScoreOptions,
    Task, Truncate, VectorSet,
};

use crate::core::WhenOverloaded;

/// The deadline of an interactive call that names none: longer than a person waits, short enough to free the slot.
const DEADLINE_INTERACTIVE: Duration = Duration::from_secs(30);

pub(super) type Progress = Box<dyn FnMut(u64, Option<u64>) + Send>;

/// A call to be made: a model, texts, and what to do with them.
///
/// ```
/// use shoal_mesh::{Encode, Extract, Score};
/// let call = Encode::new("all-minilm-l6-v2", ["a text", "another"]).dims(128);
/// let call = Score::new("ms-marco-minilm-l6-v2", "a question", ["a document", "another"]);
/// let call = Extract::new("gliner-small-v2.1", ["Ada lives in London"]).labels(["person", "place"]);
/// ```
#[must_use = "a call is made by a method of Client"]
pub struct Call<O> {
    pub(super) model: String,
    pub(super) inputs: BoxStream<'static, Input>,
    pub(super) total: Option<u64>,
    pub(super) options: O,
    pub(super) priority: Priority,
    pub(super) deadline: Deadline,
    pub(super) when_overloaded: WhenOverloaded,
    pub(super) request_unique: Option<u64>,
    pub(super) trace: Option<TraceContext>,
    pub(super) progress: Option<Progress>,
}

/// Texts to vectors.
pub type Encode = Call<EncodeOptions>;
/// Documents to how well they answer a query.
pub type Score = Call<ScoreOptions>;
/// Texts to labels, or to labelled spans in them.
pub type Extract = Call<ExtractOptions>;

/// When a call gives up.
#[derive(Clone, Copy)]
pub(super) enum Deadline {
    ByPriority,
    After(Duration),
    Never,
}

/// What the options of every primitive have.
pub trait TaskOptions: Into<Task> + sealed::Sealed {
    /// What to do with long texts.
    fn truncate_mut(&mut self) -> &mut Truncate;
    /// The precision class.
    fn numerics_mut(&mut self) -> &mut Numerics;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! task_options {
    ($($options:ty),*) => {$(
        impl sealed::Sealed for $options {}

        impl TaskOptions for $options {
            fn truncate_mut(&mut self) -> &mut Truncate {
                &mut self.truncate
            }

            fn numerics_mut(&mut self) -> &mut Numerics {
                &mut self.numerics
            }
        }
    )*};
}

task_options!(EncodeOptions, ScoreOptions, ExtractOptions);

impl sealed::Sealed for Task {}

impl TaskOptions for Task {
    fn truncate_mut(&mut self) -> &mut Truncate {
        match self {
            Self::Encode(options) => &mut options.truncate,
            Self::Score(options) => &mut options.truncate,
            Self::Extract(options) => &mut options.truncate,
        }
    }

    fn numerics_mut(&mut self) -> &mut Numerics {
        match self {
            Self::Encode(options) => &mut options.numerics,
            Self::Score(options) => &mut options.numerics,
            Self::Extract(options) => &mut options.numerics,
        }
    }
}

impl Call<Task> {
    /// Inputs that are all there, for a primitive that is chosen as the program runs.
    pub fn of(
        model: impl Into<String>,
        inputs: impl IntoIterator<Item = Input>,
        task: impl Into<Task>,
    ) -> Self {
        Self::of_all(model, inputs.into_iter().collect(), task.into())
    }
}

fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Vec<Input> {
    texts.into_iter().map(|text| Input::Text(text.into())).collect()
}

impl<O> Call<O> {
    fn of_stream(
        model: impl Into<String>,
        inputs: impl Stream<Item = Input> + Send + 'static,
        options: O,
    ) -> Self {
        Self {
            model: model.into(),
            inputs: inputs.boxed(),
            total: None,
            options,
            priority: Priority::Interactive,
            deadline: Deadline::ByPriority,
            when_overloaded: WhenOverloaded::Wait,
            request_unique: None,
            trace: None,
            progress: None,
        }
    }

    fn of_all(model: impl Into<String>, inputs: Vec<Input>, options: O) -> Self {
        let total = inputs.len() as u64;
        Self { total: Some(total), ..Self::of_stream(model, stream::iter(inputs), options) }
    }

    /// All options at once.
    pub fn options(mut self, options: O) -> Self {
        self.options = options;
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

impl<O: TaskOptions> Call<O> {
    /// What to do with texts over the model's limit; by default they fail.
    pub fn truncate(mut self, truncate: Truncate) -> Self {
        *self.options.truncate_mut() = truncate;
        self
    }

    /// The precision class in which the model must run.
    pub fn numerics(mut self, numerics: Numerics) -> Self {
        *self.options.numerics_mut() = numerics;
        self
    }
}

impl Encode {
    /// Texts that are all there.
    pub fn new<T: Into<String>>(model: impl Into<String>, all: impl IntoIterator<Item = T>) -> Self {
        Self::inputs(model, texts(all))
    }

    /// Inputs that are all there: texts or token ids.
    pub fn inputs(model: impl Into<String>, inputs: impl IntoIterator<Item = Input>) -> Self {
        Self::of_all(model, inputs.into_iter().collect(), EncodeOptions::default())
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
        Self::of_stream(model, inputs, EncodeOptions::default())
    }

    /// Which representations; by default the model's own.
    pub fn outputs(mut self, outputs: VectorSet) -> Self {
        self.options.outputs = outputs;
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

    /// What the texts are, for models that read queries and documents differently.
    pub fn input_type(mut self, input_type: impl Into<Option<InputType>>) -> Self {
        self.options.input_type = input_type.into();
        self
    }

    /// Cuts texts into chunks; by default a text is read as a whole.
    pub fn chunking(mut self, chunking: impl Into<Option<Chunking>>) -> Self {
        self.options.chunking = chunking.into().map(Box::new);
        self
    }

    /// A prompt of the model's configuration, put in front of every text.
    pub fn prompt_name(mut self, name: impl Into<Option<String>>) -> Self {
        self.options.prompt_name = name.into();
        self
    }

    /// The caller's own prompt, put in front of every text in place of the model's.
    pub fn prompt(mut self, prompt: impl Into<Option<String>>) -> Self {
        self.options.prompt = prompt.into();
        self
    }
}

impl Score {
    /// Documents that are all there, to be held against a query.
    pub fn new<T: Into<String>>(
        model: impl Into<String>,
        query: impl Into<String>,
        documents: impl IntoIterator<Item = T>,
    ) -> Self {
        let options = ScoreOptions { query: query.into(), ..ScoreOptions::default() };
        Self::of_all(model, texts(documents), options)
    }

    /// Documents that come in their own time; the query is an option.
    pub fn live(model: impl Into<String>, documents: impl Stream<Item = Input> + Send + 'static) -> Self {
        Self::of_stream(model, documents, ScoreOptions::default())
    }

    /// The model's raw outputs, without the activation that its files name.
    pub fn raw(mut self, raw: bool) -> Self {
        self.options.raw = raw;
        self
    }

    /// What a model that takes an instruction is told to look for.
    pub fn instruction(mut self, instruction: impl Into<Option<String>>) -> Self {
        self.options.instruction = instruction.into();
        self
    }
}

impl Extract {
    /// Texts that are all there.
    pub fn new<T: Into<String>>(model: impl Into<String>, all: impl IntoIterator<Item = T>) -> Self {
        Self::of_all(model, texts(all), ExtractOptions::default())
    }

    /// Texts that come in their own time; see [`Encode::live`].
    pub fn live(model: impl Into<String>, inputs: impl Stream<Item = Input> + Send + 'static) -> Self {
        Self::of_stream(model, inputs, ExtractOptions::default())
    }

    /// What to look for; by default all that the model knows.
    pub fn labels<T: Into<String>>(mut self, labels: impl IntoIterator<Item = T>) -> Self {
        self.options.labels = labels.into_iter().map(Into::into).collect();
        self
    }

    /// What a model of entailment is asked about each label, which stands for `{}`.
    pub fn hypothesis(mut self, hypothesis: impl Into<Option<String>>) -> Self {
        self.options.hypothesis = hypothesis.into();
        self
    }

    /// Whether labels that the model does not know hold whatever the others do.
    pub fn multi_label(mut self, multi_label: bool) -> Self {
        self.options.multi_label = multi_label;
        self
    }

    /// Whether a span may lie inside of another, where the model finds spans by the caller's labels.
    pub fn nested(mut self, nested: bool) -> Self {
        self.options.nested = nested;
        self
    }

    /// Leave out what scores less; by default the model's own rule.
    pub fn threshold(mut self, threshold: impl Into<Option<f32>>) -> Self {
        self.options.threshold = threshold.into();
        self
    }
}

impl<O: std::fmt::Debug> std::fmt::Debug for Call<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Call");
        out.field("model", &self.model).field("options", &self.options);
        out.field("total", &self.total).finish_non_exhaustive()
    }
}
