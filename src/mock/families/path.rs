//! Which path belongs to whom. A model in a path arrives percent-encoded, once.

use super::access::Access;
use super::operations::Kind;
use super::tokens::Issuer;
use super::vectors::{self, Format};
use crate::mock::protocol::Protocol;

/// Whose shape a body must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Gemini,
    Vertex,
    VertexClaude,
    Claude,
    Converse,
    SageMaker,
    AzureOpenAi,
    AzureInference,
    AzureResponses,
    Cohere,
    Ollama,
    Watsonx,
}

/// A call for text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// How it is answered.
    pub(super) protocol: Protocol,
    pub(super) body: Body,
    pub(super) access: Access,
    /// `None`: it stands in the body.
    pub(super) model: Option<String>,
    /// `None`: the body says it.
    pub(super) stream: Option<bool>,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Call(Call),
    Token(Issuer),
    Vectors(vectors::Call),
    /// Of an Azure deployment.
    Operation(Kind),
}

/// Finds what stands at `target`, a path with its query.
pub(super) fn find(target: &str) -> Option<Place> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    match parts[..] {
        ["token"] => return Some(Place::Token(Issuer::Google)),
        ["identity", "token"] => return Some(Place::Token(Issuer::Ibm)),
        _ => {}
    }
    // A version of the API, which Azure and watsonx want on every call.
    let dated = |name| option(query, name).is_some_and(|version| !version.is_empty());
    let azure = dated("api-version");
    match parts[..] {
        ["openai", "deployments", _, first, last] if azure => {
            if let Some(kind) = Kind::at(&format!("/{first}/{last}")) {
                return Some(Place::Operation(kind));
            }
        }
        _ => {}
    }
    if let Some(call) = for_vectors(&parts, azure, dated("version")) {
        return Some(Place::Vectors(call));
    }
    let call = match parts[..] {
        ["v1beta", "models", last] => google(last, query, Body::Gemini, Access::GoogleKey)?,
        ["v1beta1", "projects", _, "locations", _, "publishers", "google", "models", last] => {
            google(last, query, Body::Vertex, Access::Bearer)?
        }
        ["v1", "projects", _, "locations", _, "publishers", "anthropic", "models", last] => {
            claude(last)?
        }
        ["model", id, verb @ ("converse" | "converse-stream")] => {
            let stream = verb == "converse-stream";
            in_path(Protocol::Converse, Body::Converse, Access::Bedrock, id)?.streams(stream)
        }
        ["endpoints", name, verb @ ("invocations" | "invocations-response-stream")] => {
            let stream = verb != "invocations";
            in_path(Protocol::SageMaker, Body::SageMaker, Access::SageMaker, name)?.streams(stream)
        }
        ["openai", "deployments", model, "chat", "completions"] if azure => {
            in_path(Protocol::AzureOpenAi, Body::AzureOpenAi, Access::AzureKey, model)?
        }
        ["openai", "responses"] if azure => {
            Call::new(Protocol::Responses, Body::AzureResponses, Access::AzureKey)
        }
        ["chat", "completions"] | ["models", "chat", "completions"] if azure => {
            Call::new(Protocol::AzureInference, Body::AzureInference, Access::AzureKey)
        }
        ["anthropic", "v1", "messages"] => {
            Call::new(Protocol::Messages, Body::Claude, Access::Foundry)
        }
        ["v2", "chat"] => Call::new(Protocol::Cohere, Body::Cohere, Access::Bearer),
        ["api", "chat"] => Call::new(Protocol::Ollama, Body::Ollama, Access::Open),
        ["ml", "v1", "text", verb @ ("chat" | "chat_stream")] if dated("version") => {
            let stream = verb == "chat_stream";
            Call::new(Protocol::Watsonx, Body::Watsonx, Access::Bearer).streams(stream)
        }
        _ => return None,
    };
    Some(Place::Call(call))
}

/// Who makes vectors, or ranks documents, at a path.
fn for_vectors(parts: &[&str], azure: bool, dated: bool) -> Option<vectors::Call> {
    let call = |format, access, protocol, model| vectors::Call { format, access, protocol, model };
    let verb = |last: &str, verb: &str| {
        let (model, other) = last.rsplit_once(':')?;
        (other == verb).then(|| decoded(model)).flatten()
    };
    Some(match parts {
        ["v1beta", "models", last] => {
            let model = verb(last, "batchEmbedContents")?;
            call(Format::Gemini, Access::GoogleKey, Protocol::Gemini, Some(model))
        }
        ["v1beta1", "projects", _, "locations", _, "publishers", "google", "models", last] => {
            let model = verb(last, "predict")?;
            call(Format::Vertex, Access::Bearer, Protocol::Gemini, Some(model))
        }
        ["model", id, "invoke"] => {
            call(Format::Invoke, Access::Bedrock, Protocol::Converse, Some(decoded(id)?))
        }
        ["openai", "deployments", model, "embeddings"] if azure => {
            let model = Some(decoded(model)?);
            call(Format::AzureOpenAi, Access::AzureKey, Protocol::AzureOpenAi, model)
        }
        ["embeddings"] | ["models", "embeddings"] if azure => {
            call(Format::AzureInference, Access::AzureKey, Protocol::AzureInference, None)
        }
        ["v2", "embed"] => call(Format::Cohere, Access::Bearer, Protocol::Cohere, None),
        ["v2", "rerank"] => call(Format::CohereRerank, Access::Bearer, Protocol::Cohere, None),
        ["api", "embed"] => call(Format::Ollama, Access::Open, Protocol::Ollama, None),
        ["ml", "v1", "text", "embeddings"] if dated => {
            call(Format::Watsonx, Access::Bearer, Protocol::Watsonx, None)
        }
        _ => return None,
    })
}

impl Call {
    /// A call whose body says model and stream.
    fn new(protocol: Protocol, body: Body, access: Access) -> Self {
        Self { protocol, body, access, model: None, stream: None }
    }

    fn streams(mut self, stream: bool) -> Self {
        self.stream = Some(stream);
        self
    }
}

/// A call whose path names the model.
fn in_path(protocol: Protocol, body: Body, access: Access, model: &str) -> Option<Call> {
    let model = Some(decoded(model)?);
    Some(Call { model, ..Call::new(protocol, body, access) })
}

fn claude(last: &str) -> Option<Call> {
    let (model, verb) = last.rsplit_once(':')?;
    let stream = match verb {
        "rawPredict" => false,
        "streamRawPredict" => true,
        _ => return None,
    };
    let call = in_path(Protocol::Messages, Body::VertexClaude, Access::Bearer, model)?;
    Some(call.streams(stream))
}

fn google(last: &str, query: &str, body: Body, access: Access) -> Option<Call> {
    let (model, verb) = last.rsplit_once(':')?;
    let stream = match verb {
        "generateContent" => false,
        // Without it the real service answers a list instead of events.
        "streamGenerateContent" if option(query, "alt") == Some("sse") => true,
        _ => return None,
    };
    Some(in_path(Protocol::Gemini, body, access, model)?.streams(stream))
}

/// The value of a query's option, as it stands there.
pub(super) fn option<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A part of a path without its percent-encoding; `None` when that is broken.
fn decoded(part: &str) -> Option<String> {
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            out.push(first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(out).ok().filter(|model| !model.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_in_paths_are_decoded_once() {
        assert_eq!(decoded("gpt%3Fchunks=3%26tools").as_deref(), Some("gpt?chunks=3&tools"));
        assert_eq!(decoded("a%253Fb").as_deref(), Some("a%3Fb"), "once, not twice");
        for broken in ["", "%", "%4", "%zz", "%ff"] {
            assert_eq!(decoded(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_stream_of_googles_needs_its_option() {
        let call = |target| match find(target) {
            Some(Place::Call(call)) => Some((call.model.unwrap(), call.stream.unwrap())),
            _ => None,
        };
        assert_eq!(call("/v1beta/models/a%3Ab:generateContent"), Some(("a:b".into(), false)));
        let stream = "/v1beta/models/m:streamGenerateContent";
        assert_eq!(call(stream), None);
        assert_eq!(call(&format!("{stream}?key=x&alt=sse")), Some(("m".into(), true)));
    }
}
