//! The HTTP edge: OpenAI's and text-embeddings-inference's dialects, health and metrics, in front of the client
//! library and nothing else. A request here takes the same way as one over QUIC.
//!
//! Strict on what it answers, generous on what it reads, and never 200 with less than was asked.

mod app;
mod body;
mod counters;
mod error;
mod exchange;
mod exposition;
mod histograms;
mod inputs;
mod key_watch;
mod models;
mod object;
mod openai;
mod options;
mod pace;
mod predict;
mod primitives;
mod render;
mod rerank;
mod server;
mod task;
mod tei;
mod text_format;
mod view;

pub use options::{EdgeLimits, EdgeOptions};
pub use server::{BindError, EdgeShutdown, HttpEdge};
pub use view::{NodeView, Readiness};
