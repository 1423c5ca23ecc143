//! The other families of providers: whose paths, credentials and bodies are not OpenAI's or
//! Anthropic's own. Unlike those, they look at credentials (are they there, and of the right form?) and
//! refuse every field that their format does not document: what arrives here somebody translated.

mod access;
pub(super) mod azure;
pub(super) mod bedrock;
mod chatlike;
mod claude;
pub(super) mod cohere;
pub(super) mod frames;
pub(super) mod gemini;
pub(super) mod ollama;
pub(super) mod operations;
mod path;
pub(super) mod sagemaker;
mod shape;
mod signature;
#[cfg(test)]
mod tests;
mod tokens;
mod vectors;
pub(super) mod watsonx;

use std::io;

use serde_json::Value;

use super::answer::{Answer, Asked};
use super::call::{self, Speaker};
use super::connection::{Exchange, Refusal};
use super::emit::Next;
use super::http::Request;
use super::protocol::Protocol;
use super::script::{Script, Strict};
use super::tools::{self, Forced, Tool};
pub(super) use access::header;
use path::{Body, Call, Place};

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
    match path::find(exchange.request.target) {
        None => Ok(None),
        Some(Place::Token(issuer)) => tokens::answer(exchange, issuer).await.map(Some),
        Some(place) if exchange.request.method != "POST" => {
            let protocol = match place {
                Place::Call(call) => call.protocol,
                Place::Vectors(call) => call.protocol,
                _ => Protocol::AzureOpenAi,
            };
            let refusal = (405, "method not allowed".into());
            exchange.refuse(protocol, refusal).await.map(Some)
        }
        Some(Place::Operation(kind)) => operations::answer(exchange, kind, true).await.map(Some),
        Some(Place::Vectors(call)) => vectors::answer(exchange, &call).await.map(Some),
        // An endpoint of SageMaker has one path, whatever it holds.
        Some(Place::Call(call)) if call.body == Body::SageMaker && holds_inputs(exchange) => {
            let Call { protocol, access, model, .. } = call;
            let call =
                vectors::Call { format: vectors::Format::SageMaker, access, protocol, model };
            vectors::answer(exchange, &call).await.map(Some)
        }
        Some(Place::Call(call)) => generate(exchange, &call).await.map(Some),
    }
}

/// Whether a body holds texts to be embedded.
fn holds_inputs(exchange: &Exchange<'_>) -> bool {
    let body = serde_json::from_slice::<Value>(exchange.request.body).unwrap_or_default();
    body.get("inputs").is_some()
}

/// Looks whether a chat or messages body has only documented fields.
pub(super) fn strict(protocol: Protocol, strict: Strict, raw: &[u8]) -> Result<(), Refusal> {
    let body: Value =
        serde_json::from_slice(raw).map_err(|error| (400, format!("bad body: {error}")))?;
    let shape = match strict {
        Strict::Mistral => &chatlike::MISTRAL,
        Strict::Own | Strict::Voyage | Strict::Together => &chatlike::OPENAI,
    };
    let read = match protocol {
        Protocol::Chat => chatlike::check(&body, shape).map(|_| ()),
        Protocol::Messages => claude::read(&body, raw).map(|_| ()),
        _ => Ok(()),
    };
    // Mistral's validation answers 422.
    let status = if strict == Strict::Mistral { 422 } else { 400 };
    read.map_err(|message| (status, message))
}

async fn generate(exchange: &mut Exchange<'_>, call: &Call) -> io::Result<Next> {
    let protocol = call.protocol;
    let raw = exchange.request.body;
    let checked = access::check(call.access, &exchange.request);
    let wants = match checked.and_then(|()| read(call, &exchange.request)) {
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
        prompt_tokens: call::tokens(wants.chars),
        limit: wants.limit,
        include_usage: wants.include_usage,
        calls: tools::choose(&wants.tools, &wants.forced, wants.last, script),
    }
}

/// Reads a body as its format; what the path says outranks it.
fn read(call: &Call, request: &Request<'_>) -> Result<Wants, Refusal> {
    let raw = request.body;
    let body: Value =
        serde_json::from_slice(raw).map_err(|error| (400, format!("bad body: {error}")))?;
    let model = call.model.as_deref().unwrap_or_default();
    let read = match call.body {
        Body::Gemini => gemini::read(&body, gemini::Host::Gemini, model),
        Body::Vertex => gemini::read(&body, gemini::Host::Vertex, model),
        Body::VertexClaude => claude::vertex(&body, raw, call.stream == Some(true)),
        Body::Claude => claude::read(&body, raw),
        Body::Converse => bedrock::read(&body),
        Body::SageMaker => chatlike::read(&body, raw, &chatlike::SAGEMAKER),
        Body::AzureOpenAi => azure::openai(&body, raw),
        Body::AzureInference => azure::inference(&body, raw, access::extra_parameters(request)),
        Body::AzureResponses => azure::responses(&body, raw),
        Body::Cohere => cohere::read(&body, raw),
        Body::Ollama => ollama::read(&body, raw),
        Body::Watsonx => watsonx::read(&body, raw),
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
