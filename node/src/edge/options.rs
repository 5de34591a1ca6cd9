//! How the edge listens and what it bounds.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_protocol::limits::REQUEST_ITEMS_MAX;

use crate::config::{ApiKeys, HttpConfig, ModelsConfig, TokenIdsPolicy};

/// How the edge listens, who may call and what a request may cost.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// Where it listens; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Who may call; `None`: everybody who reaches the port. Probes and metrics are open either way.
    pub api_keys: Option<ApiKeys>,
    /// The model of a request that names none (the TEI dialect has no such field).
    pub default_model: Option<String>,
    /// Whether token arrays are taken as ids of the model's own vocabulary.
    pub token_ids: TokenIdsPolicy,
    /// What a TEI request that does not say `truncate` gets. TEI's own default is to cut silently; ours is an error
    /// that names the text, because an answer for less than what was asked looks like success.
    pub tei_auto_truncate: bool,
    /// Every bound.
    pub limits: EdgeLimits,
}

impl EdgeOptions {
    /// The defaults on `addr`.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            api_keys: None,
            default_model: None,
            token_ids: TokenIdsPolicy::Refuse,
            tei_auto_truncate: false,
            limits: EdgeLimits::default(),
        }
    }

    /// The edge of a configured node. The default model is the first one to be preloaded.
    #[must_use]
    pub fn from_config(http: &HttpConfig, models: &ModelsConfig) -> Self {
        Self {
            api_keys: http.api_keys.clone(),
            default_model: models.preload.first().cloned(),
            token_ids: models.token_ids,
            tei_auto_truncate: http.tei_auto_truncate,
            limits: EdgeLimits {
                connections_max: http.connections_max,
                requests_max: http.requests_max,
                tokens_max: http.request_tokens_max,
                body_bytes_max: http.body_bytes_max,
                deadline: http.deadline,
                ..EdgeLimits::default()
            },
            ..Self::new(http.addr)
        }
    }
}

/// Every bound of the edge, and so of the memory that callers can make it hold: `connections_max` heads, plus
/// `bodies_bytes_max` of bodies, plus the answers of `requests_max` requests.
#[derive(Clone, Debug)]
pub struct EdgeLimits {
    /// Connections open at once; a further one is answered with 503 and closed.
    pub connections_max: usize,
    /// Requests whose answer is being made or sent, probes apart; a further one is answered with 429.
    pub requests_max: usize,
    /// Bytes of one body; a larger one is answered with 413, before it is read where its length is declared.
    pub body_bytes_max: usize,
    /// Bytes of all bodies held at once; a body that does not fit is answered with 429.
    pub bodies_bytes_max: usize,
    /// Bytes of a request's line and headers; more is answered with 431.
    pub head_bytes_max: usize,
    /// Header lines of a request; more is answered with 431.
    pub headers_max: usize,
    /// Texts in one request.
    pub items_max: usize,
    /// Tokens in one request, over all its texts.
    pub tokens_max: u64,
    /// Time for a request's head, counted from the end of the answer before it: bounds idle connections too.
    pub head_timeout: Duration,
    /// Time for a request's body.
    pub body_timeout: Duration,
    /// Time in which a caller must take 64 KiB of its answer, or what is left of it.
    pub write_timeout: Duration,
    /// Time that a request gets if it names none.
    pub deadline: Duration,
    /// The longest time that a request may name.
    pub deadline_max: Duration,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            requests_max: 512,
            body_bytes_max: 16 << 20,
            bodies_bytes_max: 256 << 20,
            head_bytes_max: 16 << 10,
            headers_max: 64,
            items_max: REQUEST_ITEMS_MAX,
            tokens_max: 300_000,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            deadline: Duration::from_secs(30),
            deadline_max: Duration::from_secs(600),
        }
    }
}
