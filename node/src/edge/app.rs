//! The routes, and what every request goes through: id, key, room, answer.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use shoal_mesh::{Client, ClientError};
use shoal_protocol::message::{ModelStatus, Status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::Instrument;

use super::body::BodyBudget;
use super::counters::{Counters, Route};
use super::error::{Dialect, EdgeError};
use super::exchange::{Exchange, Reply, text_value};
use super::inputs::InputsSeed;
use super::options::EdgeOptions;
use super::view::NodeView;
use super::{exposition, models, openai, predict, primitives, rerank, tei};
use crate::clock;

/// Names that an error lists before it says how many more there are.
const NAMES_MAX: usize = 16;

/// What requests share.
pub(super) struct App {
    pub(super) client: Client,
    pub(super) view: Arc<dyn NodeView>,
    pub(super) options: EdgeOptions,
    pub(super) counters: Counters,
    pub(super) bodies: BodyBudget,
    pub(super) ids: Ids,
    /// The node's id as a header.
    pub(super) node: HeaderValue,
    pub(super) started_unix_s: u64,
    requests: Arc<Semaphore>,
    pub(super) scrapes: Semaphore,
}

/// Request ids that differ between processes and starts: a counter under the standard library's randomly keyed hash.
#[derive(Default)]
pub(super) struct Ids {
    key: RandomState,
    count: AtomicU64,
}

impl Ids {
    pub(super) fn next(&self) -> u64 {
        self.key.hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}

impl App {
    /// What is served until `stopping` turns true.
    pub(super) fn new(
        options: EdgeOptions,
        client: Client,
        view: Arc<dyn NodeView>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            bodies: BodyBudget::new(&options.limits, stopping),
            requests: Arc::new(Semaphore::new(options.limits.requests_max.min(Semaphore::MAX_PERMITS))),
            scrapes: Semaphore::new(exposition::SCRAPES_MAX),
            node: text_value(view.node().to_string()),
            started_unix_s: clock::unix_time().as_secs(),
            counters: Counters::default(),
            ids: Ids::default(),
            client,
            view,
            options,
        }
    }

    /// How to read texts: no more of them than may go into one request.
    pub(super) fn inputs_seed(&self) -> InputsSeed {
        let limits = &self.options.limits;
        InputsSeed {
            items_max: limits.items_max,
            token_ids_max: usize::try_from(limits.tokens_max).unwrap_or(usize::MAX),
        }
    }

    /// The node's status, with the models of its whole mesh: of what it does not have itself no more is known than what
    /// the others say of it.
    pub(super) async fn status(&self) -> Result<Status, ClientError> {
        let mut status = self.client.status(false).await?;
        models::add_elsewhere(&mut status.models, self.client.models());
        Ok(status)
    }

    /// The model of a request that names none: the configured one, or the only one.
    pub(super) async fn default_model(&self) -> Result<String, EdgeError> {
        if let Some(model) = &self.options.default_model {
            return Ok(model.clone());
        }
        match self.status().await?.models.as_slice() {
            [only] => Ok(only.name.clone()),
            models => Err(EdgeError::Invalid {
                message: format!(
                    "no model is named and there is no default one: send `model` in the body, the header x-model, \
                     or use /m/<model>/embed; {}",
                    served(models)
                ),
                param: Some("model"),
            }),
        }
    }

    /// The model of that name or alias.
    pub(super) fn find_model<'a>(
        &self,
        status: &'a Status,
        name: &str,
    ) -> Result<&'a ModelStatus, EdgeError> {
        let is_it =
            |model: &&ModelStatus| model.name == name || model.aliases.iter().any(|alias| alias == name);
        status
            .models
            .iter()
            .find(is_it)
            .ok_or_else(|| EdgeError::NoModel { model: name.to_owned(), served: served(&status.models) })
    }

    /// What is served here, in words.
    pub(super) async fn served_models(&self) -> String {
        match self.status().await {
            Ok(status) => served(&status.models),
            Err(error) => format!("what is served could not be listed: {error}"),
        }
    }

    /// Takes `Bearer <key>`, as OpenAI's and TEI's clients send it, and the bare key, as LlamaIndex's TEI client does.
    fn authorize(&self, headers: &HeaderMap) -> Result<(), EdgeError> {
        let Some(keys) = &self.options.api_keys else {
            return Ok(());
        };
        let Some(value) = headers.get(AUTHORIZATION) else {
            let what = "the request has no API key";
            return Err(EdgeError::Unauthorized { what });
        };
        let value = value.as_bytes().trim_ascii();
        let key = match value.split_at_checked(7) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii_start(),
            _ => value,
        };
        if keys.accepts(key) {
            return Ok(());
        }
        let what = "the API key is not one of this server's";
        Err(EdgeError::Unauthorized { what })
    }

    /// Room for one more request.
    fn admit(&self) -> Result<OwnedSemaphorePermit, EdgeError> {
        Arc::clone(&self.requests).try_acquire_owned().map_err(|_| EdgeError::Busy {
            what: "the server answers as many requests as it may at once",
            retry_after: Duration::from_secs(1),
        })
    }

    async fn reply(&self, exchange: &Exchange<'_>, request: Request) -> Result<Reply, EdgeError> {
        match exchange.route {
            Route::Health => return Ok(plain("ok\n".to_owned())),
            Route::Ready => return Ok(self.readiness()),
            Route::Metrics => return exposition::metrics(self, request.headers()).await,
            _ => self.authorize(request.headers())?,
        }
        let room = self.admit()?;
        let reply = match exchange.route {
            Route::OpenAiEmbeddings => openai::embeddings(self, exchange, request).await,
            Route::TeiEmbed | Route::TeiEmbedSparse => tei::embed(self, exchange, request).await,
            Route::TeiPredict => predict::predict(self, exchange, request).await,
            Route::Rerank => rerank::rerank(self, exchange, request).await,
            Route::Encode | Route::Score | Route::Extract => {
                primitives::primitive(self, exchange, request).await
            }
            Route::TeiInfo => tei::info(self, request.headers()).await,
            Route::Models => models::models(self, request).await,
            _ => Err(EdgeError::NoRoute {
                method: request.method().to_string(),
                path: request.uri().path().to_owned(),
            }),
        }?;
        Ok(Reply { room: Some(room), ..reply })
    }

    fn readiness(&self) -> Reply {
        let readiness = self.view.readiness();
        let ready = readiness.is_ready();
        let body = serde_json::json!({"ready": ready, "reasons": readiness.reasons});
        let mut reply = Reply::json(body.to_string().into_bytes());
        if !ready {
            reply.status = StatusCode::SERVICE_UNAVAILABLE;
        }
        reply
    }
}

/// A reply of plain text.
fn plain(text: String) -> Reply {
    Reply { media_type: "text/plain; charset=utf-8", ..Reply::json(text.into_bytes()) }
}

/// "served here: a, b and 3 more".
fn served(models: &[ModelStatus]) -> String {
    if models.is_empty() {
        return "no model is served here".to_owned();
    }
    let names: Vec<_> = models.iter().take(NAMES_MAX).map(|model| model.name.as_str()).collect();
    let more = match models.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("served here: {}{more}", names.join(", "))
}

/// Answers one request.
async fn answer(app: Arc<App>, route: Route, dialect: Dialect, request: Request) -> Response {
    let exchange = Exchange::begin(&app, route, dialect, &request);
    let span = exchange.span();
    let answer = async {
        let result = app.reply(&exchange, request).await;
        exchange.finish(result)
    };
    answer.instrument(span).await
}

/// The dialect of a path that is no route.
fn dialect_of(path: &str) -> Dialect {
    if path.starts_with("/v1/") { Dialect::OpenAi } else { Dialect::Tei }
}

/// Routes `method` requests to `route`; the others get a typed refusal in the route's dialect.
fn at(method: Method, allow: &'static str, route: Route, dialect: Dialect) -> MethodRouter<Arc<App>> {
    let serve = move |State(app): State<Arc<App>>, request: Request| answer(app, route, dialect, request);
    let refuse = move |State(app): State<Arc<App>>, request: Request| async move {
        let exchange = Exchange::begin(&app, Route::Other, dialect, &request);
        let refused = EdgeError::Method {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            allow,
        };
        exchange.finish(Err(refused))
    };
    if method == Method::POST { post(serve) } else { get(serve) }.fallback(refuse)
}

/// The service of a connection.
pub(super) fn router(app: Arc<App>) -> Router {
    let openai = |route| at(Method::POST, "POST", route, Dialect::OpenAi);
    let tei = |route| at(Method::POST, "POST", route, Dialect::Tei);
    let read = |route, dialect| at(Method::GET, "GET, HEAD", route, dialect);
    let probe = |route| read(route, Dialect::Tei);
    Router::new()
        .route("/v1/embeddings", openai(Route::OpenAiEmbeddings))
        .route("/embeddings", openai(Route::OpenAiEmbeddings))
        .route("/v1/models", read(Route::Models, Dialect::OpenAi))
        .route("/v1/models/{*id}", read(Route::Models, Dialect::OpenAi))
        .route("/embed", tei(Route::TeiEmbed))
        // TEI's natural task; its own load test and hosted endpoints post there. Its GET is TEI's health check.
        .route("/", tei(Route::TeiEmbed))
        .route("/m/{*path}", tei(Route::TeiEmbed))
        .route("/embed_sparse", tei(Route::TeiEmbedSparse))
        .route("/predict", tei(Route::TeiPredict))
        .route("/rerank", tei(Route::Rerank))
        .route("/v1/rerank", at(Method::POST, "POST", Route::Rerank, Dialect::Cohere))
        .route("/v2/rerank", at(Method::POST, "POST", Route::Rerank, Dialect::Cohere))
        .route("/v1/encode/{*model}", openai(Route::Encode))
        .route("/v1/score/{*model}", openai(Route::Score))
        .route("/v1/extract/{*model}", openai(Route::Extract))
        .route("/info", read(Route::TeiInfo, Dialect::Tei))
        .route("/healthz", probe(Route::Health))
        .route("/health", probe(Route::Health))
        .route("/readyz", probe(Route::Ready))
        .route("/metrics", probe(Route::Metrics))
        .fallback(|State(app): State<Arc<App>>, request: Request| {
            let dialect = dialect_of(request.uri().path());
            answer(app, Route::Other, dialect, request)
        })
        .with_state(app)
}
