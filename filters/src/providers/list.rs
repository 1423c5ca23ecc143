//! Where each provider's list of models is, and what it says: the one place that knows.

use http::HeaderValue;
use http::uri::PathAndQuery;
use serde_json::Value;

use super::{Family, Operation};
use crate::upstream::Upstream;

mod entry;
mod moment;
#[cfg(test)]
mod tests;

pub use entry::Listed;

/// Models of one provider that are kept: the longest lists, of resellers, have some thousands.
pub const MAX_MODELS: usize = 20_000;
/// Pages of one list that are asked for.
pub const MAX_PAGES: usize = 50;

/// A version of Azure's API that has the list, for resources that name none.
const AZURE_VERSION: &str = "2024-10-21";
const INFERENCE_VERSION: &str = "2024-05-01-preview";
const WATSONX_VERSION: &str = "2024-10-08";

/// How a list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `data`, `models`, or a bare list; everybody who is not below.
    OpenAi,
    Anthropic,
    Gemini,
    Vertex,
    Cohere,
    Ollama,
    /// One model, which is described.
    AzureInfo,
    Watsonx,
    BedrockModels,
    BedrockProfiles,
}

/// One question for a part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Another host of the same provider; `None`: the upstream's own.
    pub authority: Option<Box<str>>,
    /// What is asked for with `GET`.
    pub path_and_query: PathAndQuery,
    /// The value of `Accept`, where it matters.
    pub accept: Option<HeaderValue>,
    /// The list is worth having without what this one adds to it.
    pub is_extra: bool,
    shape: Shape,
    /// The path without the place in the list.
    first: Box<str>,
}

/// Why there is nothing to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoList {
    /// Its API has no list.
    Unsupported,
    /// A setting of the provider's client cannot stand in a path.
    Setting(&'static str),
}

/// The answer is no list of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAList;

/// The questions that begin each part of the provider's list; never empty.
///
/// # Errors
/// When it has none.
pub fn pages(upstream: &Upstream) -> Result<Vec<Page>, NoList> {
    let kind = upstream.kind;
    if !kind.offers(Operation::ListModels) {
        return Err(NoList::Unsupported);
    }
    let base = upstream.base_path();
    let page = |shape, path: String| Page::new(shape, path);
    let one = match kind.family {
        Family::Anthropic => page(Shape::Anthropic, format!("{base}/models?limit=1000")),
        Family::Gemini => {
            let is_versioned = ["/v1", "/v1beta", "/v1alpha"].iter().any(|end| base.ends_with(end));
            let version = if is_versioned { "" } else { "/v1beta" };
            page(Shape::Gemini, format!("{base}{version}/models?pageSize=1000"))
        }
        Family::Vertex => {
            page(Shape::Vertex, format!("{base}/v1beta1/publishers/google/models?pageSize=100"))
        }
        Family::Bedrock => return bedrock(upstream),
        Family::Cohere => {
            let root = without(base, &["/v1", "/v2"]);
            page(Shape::Cohere, format!("{root}/v1/models?page_size=1000"))
        }
        Family::Ollama => {
            page(Shape::Ollama, format!("{}/api/tags", without(base, &["/v1", "/api"])))
        }
        Family::AzureOpenAi if !base.ends_with("/openai/v1") => {
            let version = version(upstream, AZURE_VERSION)?;
            let root = without(base, &["/openai"]);
            page(Shape::OpenAi, format!("{root}/openai/models?api-version={version}"))
        }
        Family::AzureInference => {
            let version = version(upstream, INFERENCE_VERSION)?;
            page(Shape::AzureInfo, format!("{base}/info?api-version={version}"))
        }
        Family::Watsonx => {
            let version = version(upstream, WATSONX_VERSION)?;
            let path = format!("{base}/ml/v1/foundation_model_specs?version={version}&limit=200");
            page(Shape::Watsonx, path)
        }
        // Its catalogue is beside the address of the calls.
        _ if kind.name == "github" => {
            let accept = HeaderValue::from_static("application/vnd.github+json");
            let catalogue = page(Shape::OpenAi, "/catalog/models".to_owned());
            catalogue.map(|page| Page { accept: Some(accept), ..page })
        }
        _ => page(Shape::OpenAi, format!("{base}/models")),
    };
    one.map(|page| vec![page]).ok_or(NoList::Setting("api_base"))
}

/// Models and the profiles by which many of them must be called, on the host beside that of the calls.
fn bedrock(upstream: &Upstream) -> Result<Vec<Page>, NoList> {
    let beside = ["bedrock-runtime.", "bedrock-runtime-fips."].iter().find_map(|runtime| {
        let rest = upstream.host.strip_prefix(runtime)?;
        // Only Amazon's own names: whatever else is called so is the operator's.
        let is_amazons = rest.ends_with(".amazonaws.com") || rest.ends_with(".amazonaws.com.cn");
        is_amazons.then(|| format!("{}{rest}", runtime.replace("-runtime", "")))
    });
    let authority: Option<Box<str>> = beside.map(|host| match upstream.port {
        443 => host.into(),
        port => format!("{host}:{port}").into(),
    });
    let base = upstream.base_path();
    let page = |shape, path: String| {
        let page = Page::new(shape, path).ok_or(NoList::Setting("api_base"))?;
        let is_extra = shape == Shape::BedrockProfiles;
        Ok(Page { authority: authority.clone(), is_extra, ..page })
    };
    Ok(vec![
        page(Shape::BedrockModels, format!("{base}/foundation-models"))?,
        page(Shape::BedrockProfiles, format!("{base}/inference-profiles?maxResults=1000"))?,
    ])
}

/// `base` without the first of these ends that it has.
fn without<'a>(base: &'a str, ends: &[&str]) -> &'a str {
    ends.iter().find_map(|end| base.strip_suffix(end)).unwrap_or(base)
}

fn version<'a>(upstream: &'a Upstream, default: &'a str) -> Result<&'a str, NoList> {
    let version = upstream.setting("api_version").unwrap_or(default);
    let is_plain = version.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    if is_plain { Ok(version) } else { Err(NoList::Setting("api_version")) }
}

impl Page {
    fn new(shape: Shape, path: String) -> Option<Self> {
        Some(Self {
            authority: None,
            path_and_query: path.parse().ok()?,
            accept: None,
            is_extra: false,
            shape,
            first: path.into(),
        })
    }

    /// The page that this value of a parameter leads to.
    fn at(&self, name: &str, value: &str) -> Option<Self> {
        let separator = if self.first.contains('?') { '&' } else { '?' };
        let path = format!("{}{separator}{name}={}", self.first, escaped(value));
        Some(Self { path_and_query: path.parse().ok()?, ..self.clone() })
    }

    /// Reads an answer: models in the provider's order, and the page that follows.
    ///
    /// # Errors
    /// When it is not what was asked for.
    pub fn read(&self, body: &[u8]) -> Result<(Vec<Listed>, Option<Self>), NotAList> {
        let answer: Value = serde_json::from_slice(body).map_err(|_| NotAList)?;
        let list = |name: &str| answer[name].as_array().ok_or(NotAList);
        let entries = match self.shape {
            Shape::AzureInfo => {
                return Ok((vec![entry::azure_info(&answer).ok_or(NotAList)?], None));
            }
            Shape::OpenAi => {
                let lists = [&answer, &answer["data"], &answer["models"]];
                lists.into_iter().find_map(Value::as_array).ok_or(NotAList)?
            }
            Shape::Anthropic => list("data")?,
            Shape::Gemini | Shape::Cohere | Shape::Ollama => list("models")?,
            // Google leaves out lists that are empty.
            Shape::Vertex if answer["publisherModels"].is_null() => &Vec::new(),
            Shape::Vertex => list("publisherModels")?,
            Shape::Watsonx => list("resources")?,
            Shape::BedrockModels => list("modelSummaries")?,
            Shape::BedrockProfiles => list("inferenceProfileSummaries")?,
        };
        let models = entries.iter().filter_map(|value| entry::read(self.shape, value)).collect();
        Ok((models, self.next(&answer)))
    }

    fn next(&self, answer: &Value) -> Option<Self> {
        let token = |name: &str| answer[name].as_str().filter(|token| !token.is_empty());
        match self.shape {
            Shape::Anthropic if answer["has_more"] == true => {
                self.at("after_id", token("last_id")?)
            }
            Shape::Gemini | Shape::Vertex => self.at("pageToken", token("nextPageToken")?),
            Shape::Cohere => self.at("page_token", token("next_page_token")?),
            Shape::BedrockProfiles => self.at("nextToken", token("nextToken")?),
            Shape::Watsonx => {
                // It names a whole address; only the place in the list is taken from it.
                let (_, query) = answer["next"]["href"].as_str()?.split_once('?')?;
                let start = query.split('&').find_map(|pair| pair.strip_prefix("start="))?;
                let is_plain =
                    start.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b));
                if is_plain {
                    self.at("start", "").and_then(|page| page.ending(start))
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    /// The same page with a text at its end that is escaped already.
    fn ending(self, text: &str) -> Option<Self> {
        let path_and_query = format!("{}{text}", self.path_and_query).parse().ok()?;
        Some(Self { path_and_query, ..self })
    }
}

/// A name or a value of a query string.
pub(crate) fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
        escaped
    })
}
