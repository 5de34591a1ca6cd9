//! The score primitive: how well each text answers a query.

use rkyv::{Archive, Deserialize, Serialize};

use crate::limits::{PROMPT_BYTES_MAX, QUERY_BYTES_MAX};
use crate::message::task::{Numerics, Truncate};

/// How to score the texts of a request, which are the documents.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ScoreOptions {
    /// What the documents are held against.
    pub query: String,
    /// The model's raw outputs, without the activation that its files name.
    pub raw: bool,
    /// What a model that takes an instruction is told to look for. `None`: what its files say.
    pub instruction: Option<String>,
    /// What to do with a pair over the model's limit.
    pub truncate: Truncate,
    /// The precision class in which the model must run.
    pub numerics: Numerics,
}

impl ScoreOptions {
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.query.len() > QUERY_BYTES_MAX {
            return Err("query too long");
        }
        if self.instruction.as_ref().is_some_and(|instruction| instruction.len() > PROMPT_BYTES_MAX) {
            return Err("instruction too long");
        }
        Ok(())
    }
}
