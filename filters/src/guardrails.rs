//! Checks of what is asked and of what is answered: which text is looked at, what a check says, and what becomes of it.
//!
//! A check is a service's, which the gateway asks, or one of the built-in ones, which are pure functions of the text.

use serde_json::{Map, Value};

mod builtin;
mod personal;
mod secrets;
mod service;
mod text;
mod verdict;

pub use builtin::{Builtin, BuiltinError};
pub use service::{read_service, service_body, unconfigured, unreachable};
pub use text::{OutputText, input_text, output_text};
pub use verdict::{Judged, Verdict, header, judge};

/// Most checks of one request.
pub const MAX_GUARDRAILS: usize = 8;

/// What becomes of a request that a check refuses, or that it cannot judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It goes on, and the caller is told.
    Monitor,
    /// It ends.
    Block,
}

impl Mode {
    /// As requests and answers write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Block => "block",
        }
    }
}

/// A check that a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Guardrail {
    /// What is checked, as the service knows it, or the name of a built-in check.
    pub profile: String,
    /// The caller's own service. Not checked: the rules for addresses are the gateway's.
    pub url: Option<String>,
    /// What is asked is checked.
    pub on_input: bool,
    /// What is answered is checked.
    pub on_output: bool,
    /// What becomes of what it refuses.
    pub mode: Mode,
    /// What becomes of what it cannot judge, where the mode is to block.
    pub on_unavailable: Mode,
    /// Options of the check.
    pub validate_kwargs: Map<String, Value>,
}
