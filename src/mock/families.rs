//! The other families of providers: whose paths, credentials and bodies are not OpenAI's or
//! Anthropic's own. Unlike those, they look at credentials (are they there, and of the right form?) and
//! refuse every field that their format does not document: what arrives here somebody translated.

mod access;
pub(super) mod gemini;
mod path;
mod shape;

use std::io;

use serde_json::Value;

use super::answer::{Answer, Asked};
use super::call::{Speaker, tokens};
use super::connection::{Exchange, Refusal};
use super::emit::Next;
use super::protocol::Protocol;
use super::script::Script;
use super::tools::{self, Forced, Tool};
use path::{Call, Place};

/// What a body asks for, whatever its format.
#[derive(Default)]
struct Wants {
    /// Empty when it stands in the path.
    model: String,
    stream: bool,
    /// Characters of the prompt.
    chars: u64,
    limit: Option<u64>,
    include_usage: bool,
    tools: Vec<Tool>,
    forced: Forced,
    last: Speaker,
}

/// Answers a request to one of the families' paths; `None` when it is nobody's.
pub(super) async fn answer(exchange: &mut Exchange<'_>) -> io::Result<Option<Next>> {
    let Some(place) = path::find(exchange.request.target) else { return Ok(None) };
    let call = match place {
        Place::Call(call) => call,
    };
    if exchange.request.method != "POST" {
        return exchange.refuse(call.protocol, (405, "method not allowed".into())).await.map(Some);
    }
    generate(exchange, &call).await.map(Some)
}

async fn generate(exchange: &mut Exchange<'_>, call: &Call) -> io::Result<Next> {
    let protocol = call.protocol;
    let raw = exchange.request.body;
    let wants = match access::check(call.access, &exchange.request).and_then(|()| read(call, raw)) {
        Ok(wants) => wants,
        Err(refusal) => return exchange.refuse(protocol, refusal).await,
    };
    let script = match exchange.script(&wants.model) {
        Ok(script) => script,
        Err(refusal) => return exchange.refuse(protocol, refusal).await,
    };
    if let Some(next) = exchange.misbehave(protocol, &script, wants.stream).await? {
        return Ok(next);
    }
    let answer = Answer::new(asked(&wants, &script), &script, raw);
    if wants.stream {
        return exchange.outlet.events(&script, &answer, protocol).await;
    }
    protocol.whole(&answer, exchange.body);
    exchange.outlet.whole(&script, exchange.body).await
}

fn asked<'a>(wants: &'a Wants, script: &Script<'_>) -> Asked<'a> {
    Asked {
        model: &wants.model,
        prompt_tokens: tokens(wants.chars),
        limit: wants.limit,
        include_usage: wants.include_usage,
        calls: tools::choose(&wants.tools, &wants.forced, wants.last, script),
    }
}

/// Reads a body as its format; what the path says outranks it.
fn read(call: &Call, raw: &[u8]) -> Result<Wants, Refusal> {
    let body: Value =
        serde_json::from_slice(raw).map_err(|error| (400, format!("bad body: {error}")))?;
    let model = call.model.as_deref().unwrap_or_default();
    let read = match call.body {
        path::Body::Gemini => gemini::read(&body, gemini::Host::Gemini, model),
        path::Body::Vertex => gemini::read(&body, gemini::Host::Vertex, model),
    };
    let mut wants = read.map_err(|message| (400, message))?;
    if let Some(model) = &call.model {
        wants.model.clone_from(model);
    }
    if let Some(stream) = call.stream {
        wants.stream = stream;
    }
    Ok(wants)
}
