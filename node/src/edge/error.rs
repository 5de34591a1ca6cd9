//! What can go wrong with a request, and how each dialect says it.

use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use shoal_mesh::ClientError;
use shoal_protocol::{ErrorCode, Retry};

/// Which clients a route speaks to, and so which form its errors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `{"error":{"message","type","param","code"}}`.
    OpenAi,
    /// `{"error","error_type"}` of text-embeddings-inference.
    Tei,
    /// `{"message"}` of Cohere, with OpenAI's `error` beside it, which Jina's and vLLM's clients look for.
    Cohere,
}

/// Why a request was not answered with what it asked for. In every case nothing of it is still running.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum EdgeError {
    /// The body is not what the route reads.
    #[error("{message}")]
    Json {
        message: String,
        /// The field at fault.
        param: Option<&'static str>,
        /// Whether it is no JSON at all.
        syntax: bool,
    },
    /// A value is out of its range or does not go with another.
    #[error("{message}")]
    Invalid { message: String, param: Option<&'static str> },
    /// No text was sent.
    #[error("`{param}` is empty: send at least one text (the empty text \"\" is valid)")]
    Empty { param: &'static str },
    /// A text is over the model's limit.
    #[error(
        "{param}[{index}] has {tokens} tokens with the special ones, over this model's maximum context length of \
         {limit} tokens; shorten it, split it{remedy}"
    )]
    TooLong {
        param: &'static str,
        index: u64,
        tokens: u32,
        limit: u32,
        /// What else the dialect offers.
        remedy: &'static str,
    },
    /// The media type of the body is not JSON.
    #[error("the body's content-type is `{found}`; send JSON with `content-type: application/json`")]
    MediaType { found: String },
    /// The body is compressed.
    #[error("the body's content-encoding is `{found}`; send it as it is")]
    ContentEncoding { found: String },
    /// The body is over its bound.
    #[error("the body is larger than {bytes_max} bytes; send fewer texts in one request")]
    BodyTooLarge { bytes_max: usize },
    /// The body did not arrive.
    #[error("the body did not arrive within {seconds} s")]
    BodyTimeout { seconds: u64 },
    /// The body ended early or was framed wrongly.
    #[error("the body could not be read: {what}")]
    BodyBroken { what: String },
    /// No key, or not one of ours.
    #[error("{what}; send a key of this server as `Authorization: Bearer <key>`")]
    Unauthorized { what: &'static str },
    /// No such route.
    #[error("there is no {method} {path} here")]
    NoRoute { method: String, path: String },
    /// The route is for another method.
    #[error("{path} does not take {method}; it takes {allow}")]
    Method { method: String, path: String, allow: &'static str },
    /// No model of that name.
    #[error("the model `{model}` does not exist here; {served}")]
    NoModel { model: String, served: String },
    /// The edge's own bounds are reached.
    #[error("{what}; try again in {} ms", retry_after.as_millis())]
    Busy { what: &'static str, retry_after: Duration },
    /// The node or the mesh refused or failed the work.
    #[error("{message}")]
    Failed { code: ErrorCode, message: String, param: Option<&'static str>, retry_after: Option<Duration> },
}

/// The time after which a refused caller may come back if nobody measured one.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);
/// openai-python gives up above this, so nothing longer is ever said.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

impl From<ClientError> for EdgeError {
    fn from(error: ClientError) -> Self {
        let (code, retry_after) = (error.code(), error.retry_after());
        let message = match error {
            ClientError::Refused { message, .. } => message,
            other => other.to_string(),
        };
        Self::Failed { code, message, param: None, retry_after }
    }
}

/// How an error looks on the wire.
struct Face {
    status: StatusCode,
    /// OpenAI's `type`.
    kind: &'static str,
    /// OpenAI's `code`.
    code: &'static str,
    /// TEI's status, where it differs, and `error_type`: capitalised, as its code sends it and its documentation
    /// does not say.
    tei: (StatusCode, &'static str),
}

const INVALID: &str = "invalid_request_error";

fn face(status: StatusCode, kind: &'static str, code: &'static str, tei: &'static str) -> Face {
    Face { status, kind, code, tei: (status, tei) }
}

/// An error of the caller's: TEI calls those `Validation` and sends 422.
fn invalid(code: &'static str) -> Face {
    Face {
        tei: (StatusCode::UNPROCESSABLE_ENTITY, "Validation"),
        ..face(StatusCode::BAD_REQUEST, INVALID, code, "Validation")
    }
}

/// The faces of what the node or the mesh answers.
fn face_of_code(code: ErrorCode) -> Face {
    let status = match code {
        ErrorCode::InvalidRequest | ErrorCode::TooLong => return invalid(code.as_str()),
        ErrorCode::ModelNotFound => StatusCode::NOT_FOUND,
        // 422 and not 5xx: clients retry those, and this will never load.
        ErrorCode::ModelUnsupported => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::ModelBroken | ErrorCode::DeviceFailed | ErrorCode::Internal => {
            let tei = (StatusCode::FAILED_DEPENDENCY, "Backend");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Face { tei, ..face(status, "server_error", code.as_str(), "Backend") };
        }
        // The client follows a redirect or waits out a load; a caller sees either only when no time is left for it.
        ErrorCode::Overloaded | ErrorCode::Redirect | ErrorCode::Loading => {
            let status = StatusCode::TOO_MANY_REQUESTS;
            return face(status, "rate_limit_error", code.as_str(), "Overloaded");
        }
        ErrorCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        // The caller went away, so nobody reads this; nginx's number for it.
        ErrorCode::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ErrorCode::Draining | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
    };
    let (kind, tei) =
        if status.is_server_error() { ("server_error", "Unhealthy") } else { (INVALID, "Validation") };
    face(status, kind, code.as_str(), tei)
}

impl EdgeError {
    /// The edge stops.
    pub(super) fn leaving() -> Self {
        let message = "the node is leaving; ask another".to_owned();
        Self::Failed { code: ErrorCode::Draining, message, param: None, retry_after: None }
    }

    fn face(&self) -> Face {
        match self {
            Self::Json { syntax: true, .. } | Self::BodyBroken { .. } => {
                face(StatusCode::BAD_REQUEST, INVALID, "invalid_json", "Validation")
            }
            Self::Json { .. } | Self::Invalid { .. } => invalid("invalid_value"),
            Self::Empty { .. } => face(StatusCode::BAD_REQUEST, INVALID, "invalid_value", "Empty"),
            Self::TooLong { .. } => invalid("context_length_exceeded"),
            Self::MediaType { .. } | Self::ContentEncoding { .. } => {
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                face(status, INVALID, "unsupported_media_type", "Validation")
            }
            Self::BodyTooLarge { .. } => {
                face(StatusCode::PAYLOAD_TOO_LARGE, INVALID, "body_too_large", "Validation")
            }
            Self::BodyTimeout { .. } => {
                face(StatusCode::REQUEST_TIMEOUT, INVALID, "body_timeout", "Validation")
            }
            Self::Unauthorized { .. } => {
                face(StatusCode::UNAUTHORIZED, INVALID, "invalid_api_key", "Unauthorized")
            }
            Self::NoRoute { .. } => face(StatusCode::NOT_FOUND, INVALID, "unknown_url", "Validation"),
            Self::Method { .. } => {
                let status = StatusCode::METHOD_NOT_ALLOWED;
                face(status, INVALID, "method_not_allowed", "Validation")
            }
            Self::NoModel { .. } => face_of_code(ErrorCode::ModelNotFound),
            Self::Busy { .. } => face_of_code(ErrorCode::Overloaded),
            Self::Failed { code, .. } => face_of_code(*code),
        }
    }

    /// The HTTP status in `dialect`.
    pub(super) fn status(&self, dialect: Dialect) -> StatusCode {
        let face = self.face();
        match dialect {
            Dialect::OpenAi | Dialect::Cohere => face.status,
            Dialect::Tei => face.tei.0,
        }
    }

    /// The field at fault, as OpenAI names it.
    fn param(&self) -> Option<&'static str> {
        match self {
            Self::Json { param, .. } | Self::Invalid { param, .. } | Self::Failed { param, .. } => *param,
            Self::Empty { param } | Self::TooLong { param, .. } => Some(param),
            Self::NoModel { .. } => Some("model"),
            _ => None,
        }
    }

    /// The JSON body in `dialect`.
    pub(super) fn body(&self, dialect: Dialect) -> Vec<u8> {
        let (face, message) = (self.face(), self.to_string());
        let body = match dialect {
            Dialect::OpenAi | Dialect::Cohere => serde_json::to_vec(&OpenAiError {
                message: (dialect == Dialect::Cohere).then(|| message.clone()),
                error: OpenAiErrorBody { message, kind: face.kind, param: self.param(), code: face.code },
            }),
            Dialect::Tei => serde_json::to_vec(&TeiError { error: message, error_type: face.tei.1 }),
        };
        body.expect("strings serialise")
    }

    /// When the same request may be sent again; `Some` exactly for 429 and 503.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let status = self.face().status;
        let waits = status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE;
        let hint = match self {
            Self::Busy { retry_after, .. } => Some(*retry_after),
            Self::Failed { retry_after, .. } => *retry_after,
            _ => None,
        };
        waits.then(|| hint.unwrap_or(RETRY_AFTER_DEFAULT).min(RETRY_AFTER_MAX))
    }

    /// Whether a client that would retry on the status alone should do so; `None` where the status says enough.
    pub(super) fn should_retry(&self) -> Option<bool> {
        match self {
            Self::Busy { .. } => Some(true),
            Self::Failed { code: ErrorCode::ModelBroken, .. } => Some(false),
            Self::Failed { code, .. } => Some(code.retry() != Retry::Never),
            _ => None,
        }
    }
}

#[derive(Serialize)]
struct OpenAiError {
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    error: OpenAiErrorBody,
}

#[derive(Serialize)]
struct OpenAiErrorBody {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: &'static str,
}

#[derive(Serialize)]
struct TeiError {
    error: String,
    error_type: &'static str,
}
