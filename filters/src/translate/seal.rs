//! Seals on thoughts, carried through formats that have one field for them: `otari1.<who made it>.<seal>`.
//!
//! Anthropic's signatures travel in a Responses caller's `encrypted_content`, OpenAI's encrypted thoughts in a Messages
//! caller's `signature`. The caller gives back what it got, and who made it gets its own bytes again.

use super::neutral::{Origin, Seal};
use super::text::Text;

const PREFIX: &str = "otari1.";
/// Whose thoughts only the provider can read.
const REDACTED: &str = "redacted.";

impl Origin {
    /// The word for it, in carried seals and in `extra_content`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::Google => "google",
            Self::Mistral => "mistral",
        }
    }
}

/// A field of `home`'s format that holds `seal`.
pub(super) fn carry(seal: &Seal<'_>, home: Origin, is_redacted: bool) -> Text<'static> {
    if seal.origin == home && !is_redacted {
        return seal.value.clone().into_owned();
    }
    let redacted = if is_redacted { REDACTED } else { "" };
    let mut text = Text::owned(&format!("{PREFIX}{}.{redacted}", seal.origin.word()));
    text.push(&seal.value);
    text
}

/// The seal in a field of `home`'s format, and whether it stands for thoughts that cannot be read.
pub(super) fn open<'a>(field: &Text<'a>, home: Origin) -> (Seal<'a>, bool) {
    let carried = field.strip_prefix(PREFIX).and_then(|rest| {
        [Origin::Anthropic, Origin::OpenAi, Origin::Google, Origin::Mistral]
            .into_iter()
            .find_map(|origin| Some((origin, rest.strip_prefix(origin.word())?.strip_prefix(".")?)))
    });
    match carried {
        None => (Seal { origin: home, value: field.clone() }, false),
        Some((origin, rest)) => match rest.strip_prefix(REDACTED) {
            None => (Seal { origin, value: rest }, false),
            Some(value) => (Seal { origin, value }, true),
        },
    }
}
