//! What a whole answer says.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::counting;
use super::usage::plain::lenient;
use super::usage::{Lenient, Usage, WireUsage};
use crate::protocol::Protocol;
use crate::protocol::scan::{Scan, once};

/// What a whole JSON reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is a completion, with or without usage.
    Completion(Option<Usage>),
    /// It has neither id, model nor content, or is no JSON: the provider failed.
    NotACompletion,
}

/// One whole reply, of any format.
#[derive(Deserialize)]
struct WireReply {
    id: Option<IgnoredAny>,
    model: Option<IgnoredAny>,
    /// Chat.
    choices: Option<IgnoredAny>,
    /// Messages.
    content: Option<IgnoredAny>,
    /// Responses.
    output: Option<IgnoredAny>,
    #[serde(default)]
    usage: Lenient<WireUsage>,
}

/// Reads a whole JSON reply.
pub fn read_reply(protocol: Protocol, body: &[u8]) -> Reply {
    plain(protocol, body).unwrap_or_else(|| by_serde(protocol, body))
}

fn by_serde(protocol: Protocol, body: &[u8]) -> Reply {
    let Ok(reply) = serde_json::from_slice::<WireReply>(body) else { return Reply::NotACompletion };
    let content = match protocol {
        Protocol::Chat => reply.choices,
        Protocol::Messages => reply.content,
        Protocol::Responses => reply.output,
    };
    let is_completion = reply.id.is_some() || reply.model.is_some() || content.is_some();
    judge(protocol, is_completion, reply.usage.0.as_ref())
}

/// The same of an answer that is written as providers write them: in one walk, a third of the work.
fn plain(protocol: Protocol, body: &[u8]) -> Option<Reply> {
    let content: &[u8] = match protocol {
        Protocol::Chat => b"choices",
        Protocol::Messages => b"content",
        Protocol::Responses => b"output",
    };
    let (mut seen, mut is_completion, mut usage) = (0, false, Lenient::<WireUsage>::default());
    let mut scan = Scan::new(body);
    scan.object(|scan, name| {
        let field = match name {
            b"id" => 0,
            b"model" => 1,
            b"choices" => 2,
            b"content" => 3,
            b"output" => 4,
            b"usage" => {
                once(&mut seen, 5)?;
                return lenient(&mut usage, scan, WireUsage::plain);
            }
            _ => return scan.skip(),
        };
        once(&mut seen, field)?;
        is_completion |= scan.is_set()? && (field < 2 || name == content);
        Some(())
    })?;
    scan.end()?;
    Some(judge(protocol, is_completion, usage.0.as_ref()))
}

fn judge(protocol: Protocol, is_completion: bool, wire: Option<&WireUsage>) -> Reply {
    if !is_completion {
        return Reply::NotACompletion;
    }
    Reply::Completion(wire.map(|wire| {
        let mut usage = Usage::new(counting(protocol));
        usage.merge(wire);
        usage
    }))
}

#[cfg(test)]
mod tests;
