//! How a call reaches a provider: in which format, and along which path.

use std::borrow::Cow;

use http::uri::PathAndQuery;

use super::Upstream;
use crate::protocol::{Protocol, Request};
use crate::providers::{self, DEFAULT_LOCATION, Family};
use crate::translate::{Spoken, Wire, quirks};

mod operation;

/// Azure OpenAI's API version where none is set.
const AZURE_VERSION: &str = "preview";
/// Azure AI Inference's.
const INFERENCE_VERSION: &str = "2024-05-01-preview";
/// watsonx.ai's.
const WATSONX_VERSION: &str = "2024-10-08";

/// One call's way.
#[derive(Clone, Debug)]
pub struct Way {
    /// What the provider speaks.
    pub spoken: Spoken,
    /// Where to.
    pub path: PathAndQuery,
    /// The caller's body passes as it is, but for edits.
    pub same_request: bool,
    /// The provider's answer passes as it is.
    pub same_answer: bool,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWay {
    /// This provider does not generate text, or is not known.
    Unserved,
    /// The model's name cannot stand in a path.
    Model,
    /// A setting of the provider's client is missing, or cannot stand in a path.
    Setting(&'static str),
}

impl Upstream {
    /// The way of `request` to the provider's `model`.
    ///
    /// # Errors
    /// When it has none.
    pub fn way(&self, request: &Request, model: &str) -> Result<Way, NoWay> {
        let protocol = request.protocol;
        let wire = self.wire(protocol)?;
        let has_same_format =
            wire == Wire::from(protocol) && !quirks::is_own_dialect(self.kind.name);
        // What stands between tags in a text becomes what it stands for. Only one choice is read.
        let has_tags = quirks::has_tags(self.kind.name, wire, request.stream);
        let lacks_usage = request.lacks_usage_chunk(self.kind.name);
        Ok(Way {
            spoken: Spoken { wire, provider: self.kind.name },
            path: self.path(wire, model, request.stream)?,
            same_request: has_same_format,
            same_answer: has_same_format && !((has_tags || lacks_usage) && request.choices == 1),
        })
    }

    /// The format in which a caller of this protocol is served: their own where the provider has it.
    fn wire(&self, protocol: Protocol) -> Result<Wire, NoWay> {
        Ok(match self.kind.family {
            Family::Unknown | Family::Voyage => return Err(NoWay::Unserved),
            Family::Anthropic | Family::VertexAnthropic => Wire::Messages,
            Family::Gemini | Family::Vertex => Wire::Gemini,
            Family::Bedrock => Wire::Converse,
            Family::SageMaker => Wire::SageMaker,
            Family::Cohere => Wire::Cohere,
            Family::Ollama => Wire::Ollama,
            Family::Mistral | Family::Watsonx | Family::AzureInference => Wire::Chat,
            Family::OpenAi | Family::AzureOpenAi | Family::Mock => {
                if self.kind.has_native(protocol) { Wire::from(protocol) } else { Wire::Chat }
            }
        })
    }

    /// Where calls of this format go.
    fn path(&self, wire: Wire, model: &str, stream: bool) -> Result<PathAndQuery, NoWay> {
        let base = &*self.base_path;
        let made = match self.kind.family {
            Family::Gemini => self.gemini(model, generate(stream))?,
            Family::Vertex => self.vertex(model, generate(stream))?,
            Family::VertexAnthropic => {
                let (within, model) = (self.project_path("v1")?, segment(model)?);
                let call = if stream { "streamRawPredict" } else { "rawPredict" };
                format!("{base}{within}/publishers/anthropic/models/{model}:{call}")
            }
            Family::Bedrock => {
                let call = if stream { "converse-stream" } else { "converse" };
                format!("{base}/model/{}/{call}", segment(model)?)
            }
            Family::SageMaker => {
                let call = if stream { "invocations-response-stream" } else { "invocations" };
                format!("{base}/endpoints/{}/{call}", segment(model)?)
            }
            // The newer API has no deployments and no versions.
            Family::AzureOpenAi if !base.ends_with("/openai/v1") => {
                let version = self.version(AZURE_VERSION)?;
                let base = base.strip_suffix("/openai").unwrap_or(base);
                match wire {
                    Wire::Responses => format!("{base}/openai/responses?api-version={version}"),
                    _ => {
                        let model = segment(model)?;
                        format!(
                            "{base}/openai/deployments/{model}/chat/completions?api-version={version}"
                        )
                    }
                }
            }
            Family::AzureInference => {
                format!("{base}/chat/completions?api-version={}", self.version(INFERENCE_VERSION)?)
            }
            Family::Watsonx => {
                let call = if stream { "chat_stream" } else { "chat" };
                format!("{base}/ml/v1/text/{call}?version={}", self.version(WATSONX_VERSION)?)
            }
            _ => return Ok(self.paths[fixed(wire)].clone()),
        };
        made.parse().map_err(|_| NoWay::Model)
    }

    /// A call of one of Google's models.
    fn gemini(&self, model: &str, call: &str) -> Result<String, NoWay> {
        let base = &*self.base_path;
        let is_complete = is_versioned(base, &["v1", "v1beta", "v1alpha"]);
        let version = if is_complete { "" } else { "/v1beta" };
        let model = match model.split_once('/') {
            Some((kind @ ("models" | "tunedModels"), name)) => {
                format!("{kind}/{}", segment(name)?)
            }
            _ => format!("models/{}", segment(model)?),
        };
        Ok(format!("{base}{version}/{model}:{call}"))
    }

    /// The same within a project.
    fn vertex(&self, model: &str, call: &str) -> Result<String, NoWay> {
        let (base, within) = (&*self.base_path, self.project_path("v1beta1")?);
        Ok(format!("{base}{within}/publishers/google/models/{}:{call}", segment(model)?))
    }

    /// The folder of a Google project; without a setting it is the project of the credentials.
    fn project_path(&self, version: &str) -> Result<String, NoWay> {
        #[derive(serde::Deserialize)]
        struct Account<'a> {
            #[serde(borrow)]
            project_id: Cow<'a, str>,
        }
        let plain = |name, text: Cow<'_, str>| {
            if is_plain(&text) { Ok(text.into_owned()) } else { Err(NoWay::Setting(name)) }
        };
        let project = self.setting("project").map(Cow::Borrowed).or_else(|| {
            let account = serde_json::from_str::<Account<'_>>(self.setting("credentials")?);
            account.ok().map(|account| account.project_id)
        });
        let project = plain("project", project.ok_or(NoWay::Setting("project"))?)?;
        let location =
            plain("location", self.setting("location").unwrap_or(DEFAULT_LOCATION).into())?;
        Ok(format!("/{version}/projects/{project}/locations/{location}"))
    }

    /// The version of an API whose calls carry one.
    fn version<'a>(&'a self, default: &'a str) -> Result<&'a str, NoWay> {
        let version = self.setting("api_version").unwrap_or(default);
        if is_plain(version) { Ok(version) } else { Err(NoWay::Setting("api_version")) }
    }

    /// A setting of the provider's client; blank is none.
    pub fn setting(&self, name: &str) -> Option<&str> {
        providers::setting(&self.client_settings, name)
    }
}

/// Where a format's path stands among the fixed ones.
fn fixed(wire: Wire) -> usize {
    match wire {
        Wire::Messages => Protocol::Messages as usize,
        Wire::Responses => Protocol::Responses as usize,
        _ => Protocol::Chat as usize,
    }
}

/// The paths that do not depend on the model, in the order of [`Protocol`].
pub(super) fn fixed_paths(family: Family, base: &str) -> Option<[PathAndQuery; 3]> {
    let [chat, messages, responses] = match family {
        Family::Cohere if is_versioned(base, &["v2"]) => ["/chat", "", ""],
        Family::Cohere => ["/v2/chat", "", ""],
        Family::Ollama if base.ends_with("/api") => ["/chat", "", ""],
        Family::Ollama => ["/api/chat", "", ""],
        _ => ["/chat/completions", "/messages", "/responses"],
    };
    let base = match family {
        Family::Cohere => base.strip_suffix("/v1").unwrap_or(base),
        // The address of its other, OpenAI-like API.
        Family::Ollama => base.strip_suffix("/v1").unwrap_or(base),
        _ => base,
    };
    let path =
        |tail: &str| format!("{base}{}", if tail.is_empty() { "/" } else { tail }).parse().ok();
    Some([path(chat)?, path(messages)?, path(responses)?])
}

/// Whether an address ends with one of these versions.
fn is_versioned(base: &str, versions: &[&str]) -> bool {
    base.rsplit('/').next().is_some_and(|last| versions.contains(&last))
}

fn generate(stream: bool) -> &'static str {
    if stream { "streamGenerateContent?alt=sse" } else { "generateContent" }
}

/// Letters, digits, `-`, `_` and `.`: fit for a path and a query as they are.
fn is_plain(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(is_fine) && !text.starts_with('.')
}

/// A caller's word as one segment of a path: it can neither leave its place nor begin a query.
fn segment(name: &str) -> Result<String, NoWay> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(NoWay::Model);
    }
    let mut segment = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'@') {
            segment.push(char::from(byte));
        } else {
            segment.push('%');
            for digit in [byte >> 4, byte & 15] {
                segment.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    Ok(segment)
}

#[cfg(test)]
mod tests;
