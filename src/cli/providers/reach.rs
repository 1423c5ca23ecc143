//! Whether providers answer: each is asked for the list of its models, all at once.

use std::fmt;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue};
use otari_filters::providers::{Auth, Family, Operation, setting};
use reqwest::{Client, Response, Url, redirect};
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::super::client::{Failure, sentence};
use crate::app::upstream;
use crate::config::{Config, CredentialSource, ProviderConfig};

/// From the first byte sent to the last one received.
const WHOLE: Duration = Duration::from_secs(5);
/// Providers that are asked at the same time.
const AT_ONCE: usize = 16;
/// The longest lists, of resellers, take a few MiB.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// A version of Azure's API that has the list, for resources that name none.
const AZURE_VERSION: &str = "2024-10-21";

/// What came of asking a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It answered; how many models it lists.
    Ok(usize),
    /// It is in this binary.
    BuiltIn,
    /// It answered that it has no such list, with this status.
    NoSuchList(u16),
    /// It did not take the credential: the status.
    Refused(u16),
    /// It is there and wants fewer calls.
    Limited,
    /// No answer, or none of a provider.
    Unreachable(String),
    /// There is no credential to ask with.
    NoCredential,
    /// Its API has no list to ask for.
    NoList,
    /// Asking takes more than a credential in a header.
    Signed,
}

impl Reach {
    /// Whether nothing speaks against calling it.
    pub(super) fn is_usable(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Unreachable(_) | Self::NoCredential)
    }

    /// How many models it lists, where it said so.
    pub(super) fn models(&self) -> Option<usize> {
        match self {
            Self::Ok(models) => Some(*models),
            _ => None,
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(1) => f.write_str("ok (1 model)"),
            Self::Ok(models) => write!(f, "ok ({models} models)"),
            Self::BuiltIn => f.write_str("ok (built in)"),
            Self::NoSuchList(status) => write!(f, "answers, but lists no models ({status})"),
            Self::Refused(status) => write!(f, "credential refused ({status})"),
            Self::Limited => f.write_str("answers, but limits the rate (429)"),
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::NoCredential => f.write_str("not asked: no credential"),
            Self::NoList => f.write_str("no list endpoint"),
            Self::Signed => f.write_str("not checked (signed requests)"),
        }
    }
}

/// A question that is ready to be sent, or what is known without one.
enum Question {
    Ask(Url, HeaderMap),
    Known(Reach),
}

/// Asks every provider of the configuration; the answers in its order.
///
/// # Errors
/// When nothing can be sent at all.
pub(super) fn all(config: &Config) -> Result<Vec<Reach>, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::Failed(sentence(error));
    let runtime =
        Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    let questions: Vec<Question> =
        config.providers.iter().map(|provider| question(provider, config)).collect();
    let is_https =
        |question: &Question| matches!(question, Question::Ask(url, _) if url.scheme() == "https");
    let client = client(questions.iter().any(is_https)).map_err(|error| failed(&error))?;
    let broken = || Reach::Unreachable("asking it failed".to_owned());
    let mut reaches: Vec<Reach> = questions.iter().map(|_| broken()).collect();
    runtime.block_on(async {
        let mut asked = JoinSet::new();
        for (at, question) in questions.into_iter().enumerate() {
            match question {
                Question::Known(reach) => reaches[at] = reach,
                Question::Ask(url, headers) => {
                    if asked.len() >= AT_ONCE
                        && let Some(Ok((at, reach))) = asked.join_next().await
                    {
                        reaches[at] = reach;
                    }
                    let client = client.clone();
                    asked.spawn(async move { (at, ask(&client, url, headers).await) });
                }
            }
        }
        while let Some(answered) = asked.join_next().await {
            if let Ok((at, reach)) = answered {
                reaches[at] = reach;
            }
        }
    });
    Ok(reaches)
}

fn client(with_tls: bool) -> reqwest::Result<Client> {
    let mut client = Client::builder()
        .connect_timeout(WHOLE)
        .timeout(WHOLE)
        // A credential goes to the address that was configured, and nowhere else.
        .redirect(redirect::Policy::none())
        // The gateway calls providers without one.
        .no_proxy();
    if !with_tls {
        // A machine without any root certificate can still reach its own servers.
        client = client.tls_certs_only([]);
    }
    client.build()
}

fn question(provider: &ProviderConfig, config: &Config) -> Question {
    let kind = provider.kind;
    if kind.family == Family::Mock && provider.base_url.is_none() {
        return Question::Known(Reach::BuiltIn);
    }
    if provider.credential == CredentialSource::Missing {
        return Question::Known(Reach::NoCredential);
    }
    if matches!(kind.auth(), Auth::Aws | Auth::Google | Auth::Ibm) {
        return Question::Known(Reach::Signed);
    }
    if !kind.offers(Operation::ListModels) {
        return Question::Known(Reach::NoList);
    }
    let unreachable = |why: String| Question::Known(Reach::Unreachable(why));
    let Some(url) = provider.base_url.as_deref().and_then(|base| list(provider, base)) else {
        return unreachable("its address is no URL".to_owned());
    };
    // The headers of a call: the credential where the provider wants it, and what the operator adds.
    let mut headers = match upstream(provider, config, None) {
        Ok(upstream) => upstream.headers,
        Err(what) => return unreachable(what),
    };
    headers.remove(HOST);
    headers.remove(CONTENT_TYPE);
    if kind.name == "github" {
        headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
    }
    if provider.api_key.is_none()
        && let Some(token) = setting(&provider.settings, "azure_ad_token")
        && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}"))
    {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Question::Ask(url, headers)
}

/// Where the list of its models is.
fn list(provider: &ProviderConfig, base: &str) -> Option<Url> {
    let kind = provider.kind;
    let azure = || setting(&provider.settings, "api_version").unwrap_or(AZURE_VERSION);
    let text = match kind.family {
        Family::Anthropic => format!("{}/models?limit=1000", kind.rooted(base)),
        Family::Gemini => format!("{base}/v1beta/models?pageSize=1000"),
        Family::Cohere => format!("{base}/v1/models?page_size=1000"),
        Family::Ollama => format!("{base}/api/tags"),
        Family::AzureOpenAi => format!("{base}/openai/models?api-version={}", azure()),
        // It has one model, which it describes.
        Family::AzureInference => format!("{base}/info?api-version=2024-05-01-preview"),
        _ if kind.name == "github" => {
            let origin = Url::parse(base).ok()?.origin().ascii_serialization();
            format!("{origin}/catalog/models")
        }
        _ => format!("{}/models", kind.rooted(base)),
    };
    Url::parse(&text).ok()
}

async fn ask(client: &Client, url: Url, headers: HeaderMap) -> Reach {
    let answer = match client.get(url).headers(headers).send().await {
        Ok(answer) => answer,
        Err(error) => return unreachable(&error),
    };
    let status = answer.status();
    match status.as_u16() {
        200..=299 => match models(answer).await {
            Ok(Some(models)) => Reach::Ok(models),
            Ok(None) => {
                Reach::Unreachable("the answer is no list of models. Is api_base right?".to_owned())
            }
            Err(error) => unreachable(&error),
        },
        401 | 403 => Reach::Refused(status.as_u16()),
        404 | 405 => Reach::NoSuchList(status.as_u16()),
        429 => Reach::Limited,
        300..=399 => {
            Reach::Unreachable(format!("it leads elsewhere ({status}). Is api_base right?"))
        }
        _ => Reach::Unreachable(format!("it answers {status}")),
    }
}

fn unreachable(error: &reqwest::Error) -> Reach {
    Reach::Unreachable(if error.is_timeout() {
        format!("no answer within {} s", WHOLE.as_secs())
    } else {
        sentence(error)
    })
}

/// How many models an answer lists; `None` when it is no such answer.
async fn models(mut answer: Response) -> reqwest::Result<Option<usize>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(serde_json::from_slice(&bytes).ok().as_ref().and_then(count))
}

/// A list alone or under one of its usual names, or what describes a single model.
fn count(answer: &Value) -> Option<usize> {
    let lists = [answer, &answer["data"], &answer["models"]];
    let listed = lists.into_iter().find_map(Value::as_array).map(Vec::len);
    listed.or_else(|| answer["model_name"].is_string().then_some(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, Sources, load};

    fn asked(yaml: &str) -> Vec<Question> {
        let env = Env::from_pairs([("OTARI_CONFIG_YAML", yaml)]);
        let config = load(&Sources { env, ..Sources::default() }).unwrap();
        config.providers.iter().map(|provider| question(provider, &config)).collect()
    }

    fn url_and_header(yaml: &str, header: &str) -> (String, String) {
        match asked(&format!("providers: {{{yaml}}}")).remove(0) {
            Question::Known(reach) => panic!("{yaml}: {reach}"),
            Question::Ask(url, headers) => {
                assert!(!headers.contains_key(HOST), "reqwest writes its own");
                let value = headers.get(header).map(|value| value.to_str().unwrap().to_owned());
                (url.into(), value.unwrap_or_default())
            }
        }
    }

    #[test]
    fn each_family_has_its_list_and_its_header() {
        for (yaml, url, header, value) in [
            (
                "openai: {api_key: k}",
                "https://api.openai.com/v1/models",
                "authorization",
                "Bearer k",
            ),
            (
                "groq: {api_key: k, api_base: 'https://api.groq.com'}",
                "https://api.groq.com/openai/v1/models",
                "authorization",
                "Bearer k",
            ),
            (
                "anthropic: {api_key: k}",
                "https://api.anthropic.com/v1/models?limit=1000",
                "x-api-key",
                "k",
            ),
            (
                "gemini: {api_key: k}",
                "https://generativelanguage.googleapis.com/v1beta/models?pageSize=1000",
                "x-goog-api-key",
                "k",
            ),
            (
                "github: {api_key: k}",
                "https://models.github.ai/catalog/models",
                "accept",
                "application/vnd.github+json",
            ),
            ("ollama: ", "http://127.0.0.1:11434/api/tags", "authorization", ""),
            (
                "azureopenai: {api_base: 'https://r.openai.azure.com', azure_ad_token: t, api_version: v1}",
                "https://r.openai.azure.com/openai/models?api-version=v1",
                "authorization",
                "Bearer t",
            ),
            (
                "azure: {api_base: 'https://r.example', api_key: k}",
                "https://r.example/info?api-version=2024-05-01-preview",
                "api-key",
                "k",
            ),
            (
                "openai: {api_key: k, client_args: {default_headers: {x-team: a}}}",
                "https://api.openai.com/v1/models",
                "x-team",
                "a",
            ),
        ] {
            assert_eq!(url_and_header(yaml, header), (url.to_owned(), value.to_owned()), "{yaml}");
        }
    }

    #[test]
    fn some_are_known_without_asking() {
        for (yaml, state, is_usable) in [
            ("openai: ", "not asked: no credential", false),
            ("mock: ", "ok (built in)", true),
            ("perplexity: {api_key: k}", "no list endpoint", true),
            ("bedrock: {region_name: eu-west-1}", "not checked (signed requests)", true),
            ("vertexai: {project: p}", "not checked (signed requests)", true),
            (
                "watsonx: {api_key: k, api_base: 'https://w.example'}",
                "not checked (signed requests)",
                true,
            ),
        ] {
            match asked(&format!("providers: {{{yaml}}}")).remove(0) {
                Question::Known(reach) => {
                    assert_eq!((reach.to_string().as_str(), reach.is_usable()), (state, is_usable));
                }
                Question::Ask(url, _) => panic!("{yaml}: {url}"),
            }
        }
    }

    #[test]
    fn lists_of_every_shape_are_counted() {
        for (text, models) in [
            (r#"{"object": "list", "data": [{}, {}]}"#, Some(2)),
            (r#"{"models": [{}]}"#, Some(1)),
            (r#"[{}, {}, {}]"#, Some(3)),
            (r#"{"model_name": "phi", "model_type": "chat"}"#, Some(1)),
            (r#"{"data": []}"#, Some(0)),
            (r#"{"status": "ok"}"#, None),
        ] {
            assert_eq!(count(&serde_json::from_str(text).unwrap()), models, "{text}");
        }
    }
}
