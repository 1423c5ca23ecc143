//! Batches of chat completions: what providers with a batch API of their own are sent, and what they say in terms of
//! OpenAI's, which is what callers see.

mod document;
mod item;
mod line;

pub use document::{Counts, Document, List, OWNER, has_ended};
pub use item::{Draft, Item, Made, hours};
pub use line::{ItemError, Line, error_of};

use crate::providers::{Family, Operation, Provider};

/// What callers may ask a batch for.
pub const ENDPOINT: &str = "/v1/chat/completions";

/// A batch API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Files with the purpose `batch`, then `/batches`.
    ///
    /// Source: <https://platform.openai.com/docs/api-reference/batch> (2026-11-22).
    OpenAi,
    /// Files as OpenAI's, then `/batch/jobs`.
    ///
    /// Source: <https://docs.mistral.ai/api/endpoint/batch> (2026-11-22).
    Mistral,
    /// `/messages/batches`, its items in the call.
    ///
    /// Source: <https://platform.claude.com/docs/en/api/messages/batches> (2026-11-22).
    Anthropic,
    /// The reference gateway's, and so ours: `/batches`, its items in the call.
    Otari,
}

impl Api {
    /// The batch API of a provider; `None`: it has none, or one that needs storage of the caller's own.
    pub fn of(kind: &Provider) -> Option<Self> {
        if !kind.offers(Operation::Batch) {
            return None;
        }
        match (kind.family, kind.name) {
            (_, "otari") => Some(Self::Otari),
            // Other files and other documents than OpenAI's under the same paths.
            (_, "together") => None,
            (Family::OpenAi, _) => Some(Self::OpenAi),
            (Family::Mistral, _) => Some(Self::Mistral),
            (Family::Anthropic, _) => Some(Self::Anthropic),
            _ => None,
        }
    }

    /// Where batches are made and listed, below the provider's base.
    pub fn path(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Otari => "/batches",
            Self::Mistral => "/batch/jobs",
            Self::Anthropic => "/messages/batches",
        }
    }

    /// Whether items go into a file that is uploaded first, and results come as files.
    pub fn has_files(self) -> bool {
        matches!(self, Self::OpenAi | Self::Mistral)
    }

    /// Whether a batch keeps `metadata`, by which its owner can be told.
    pub fn has_metadata(self) -> bool {
        self != Self::Anthropic
    }
}

#[cfg(test)]
mod tests;
