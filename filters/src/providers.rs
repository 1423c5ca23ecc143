//! The provider table: who can be called, where, with which credential, and for what. Data, not code.
//!
//! A provider is added by adding a row to `table`.

use crate::protocol::Protocol;

mod base;
mod operations;
mod settings;
mod table;
pub mod list;

pub use base::{DEFAULT_LOCATION, MissingSetting, setting};
pub use operations::{Operation, Operations};
pub use settings::Setting;
pub use table::{PROVIDERS, UNKNOWN};

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `POST {base}/chat/completions` with a bearer token.
    OpenAi,
    /// Anthropic Messages.
    Anthropic,
    /// Google Gemini `generateContent`.
    Gemini,
    /// Gemini on Google Vertex AI.
    Vertex,
    /// Anthropic Messages on Google Vertex AI.
    VertexAnthropic,
    /// AWS Bedrock Converse.
    Bedrock,
    /// AWS SageMaker.
    SageMaker,
    /// Azure OpenAI.
    AzureOpenAi,
    /// Azure AI Inference.
    AzureInference,
    /// Cohere v2.
    Cohere,
    /// Mistral.
    Mistral,
    /// Ollama.
    Ollama,
    /// IBM watsonx.ai.
    Watsonx,
    /// Voyage AI: embeddings only.
    Voyage,
    /// The mock provider inside this binary; speaks the OpenAI and Anthropic APIs.
    Mock,
    /// A provider that this version does not know.
    Unknown,
}

impl Family {
    /// Where the credentials of most of its providers go.
    const fn auth(self) -> Auth {
        match self {
            Self::Anthropic => Auth::XApiKey,
            Self::Gemini => Auth::GoogApiKey,
            Self::Vertex | Self::VertexAnthropic => Auth::Google,
            Self::Bedrock | Self::SageMaker => Auth::Aws,
            Self::AzureOpenAi => Auth::ApiKey,
            Self::AzureInference => Auth::BearerAndApiKey,
            Self::Watsonx => Auth::Ibm,
            Self::Unknown => Auth::None,
            _ => Auth::Bearer,
        }
    }

    /// See [`Provider::prefix`].
    const fn prefix(self) -> &'static str {
        match self {
            Self::Anthropic => "/v1",
            _ => "",
        }
    }
}

/// Where a credential goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer`.
    Bearer,
    /// `x-api-key`.
    XApiKey,
    /// `api-key`; with the setting `azure_ad_token` instead of a key: `Authorization: Bearer`.
    ApiKey,
    /// `x-goog-api-key`.
    GoogApiKey,
    /// `Authorization: Bearer` and `api-key`, the same in both.
    BearerAndApiKey,
    /// A signature (SigV4) over the request; with an API key and no access key id: `Authorization: Bearer`.
    Aws,
    /// `Authorization: Bearer` with an OAuth token for a service account.
    Google,
    /// `Authorization: Bearer` with an IAM token that the API key is exchanged for.
    Ibm,
    /// No credential is ever sent.
    None,
}

/// One row of the table.
#[derive(Debug)]
pub struct Provider {
    /// The name before `:` in a model selector, and the value of `provider_type`.
    pub name: &'static str,
    /// Other values that `provider_type` may have.
    pub aliases: &'static [&'static str],
    /// For people.
    pub display_name: &'static str,
    /// Wire format and routes.
    pub family: Family,
    /// Where its credential goes.
    pub auth: Auth,
    /// Environment variables that may hold the credential; the first that is set wins.
    pub credential_env: &'static [&'static str],
    /// Environment variables that may hold the base URL.
    pub base_env: &'static [&'static str],
    /// Base URL without a trailing slash; `None`: the operator must give one. It may hold `{region}`, `{location}` or
    /// `{resource}`: ask [`Provider::base`].
    pub base_url: Option<&'static str>,
    /// What its own client adds to a base; see [`Provider::rooted`].
    pub prefix: &'static str,
    /// Whether it answers without a credential.
    pub keyless: bool,
    /// Beginnings of model names by which a bare name is recognised as this provider's.
    pub well_known: &'static [&'static str],
    /// What its API offers.
    pub operations: Operations,
    /// What its client can be told beyond credential and base.
    pub settings: &'static [Setting],
}

impl Provider {
    /// Whether its API offers this.
    pub fn offers(&self, operation: Operation) -> bool {
        self.operations.has(operation)
    }

    /// Whether it has the Responses API itself.
    pub fn has_responses(&self) -> bool {
        self.offers(Operation::Responses)
    }

    /// Whether it speaks this API itself: requests and answers need no translation.
    pub fn has_native(&self, protocol: Protocol) -> bool {
        match (self.family, protocol) {
            (Family::Mock, _) => true,
            (Family::OpenAi | Family::AzureOpenAi, Protocol::Chat) => true,
            (Family::AzureInference, Protocol::Chat) => true,
            (Family::OpenAi | Family::AzureOpenAi, Protocol::Responses) => self.has_responses(),
            (Family::OpenAi | Family::Anthropic | Family::VertexAnthropic, Protocol::Messages) => {
                self.offers(Operation::Messages)
            }
            _ => false,
        }
    }

    /// Whether calls of this API can be sent to it, translated where it speaks another.
    pub fn serves(&self, protocol: Protocol) -> bool {
        self.offers(Operation::Chat) || self.has_native(protocol)
    }

    /// Whether it generates text. Some only embed and rank.
    pub fn generates(&self) -> bool {
        self.offers(Operation::Chat)
    }

    /// Whether this build can call it for anything.
    pub fn is_callable(&self) -> bool {
        self.generates()
            || crate::operations::Kind::ALL.iter().any(|kind| self.offers(kind.operation()))
    }

    /// Where its credential goes.
    pub fn auth(&self) -> Auth {
        self.auth
    }

    /// The setting of its client called `name`.
    pub fn setting(&'static self, name: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }
}

/// The provider called `name`, or with that alias: `openai-compatible` and `openai_compatible` mean `openai`,
/// `anthropic-compatible` means `anthropic`, `gateway` means `otari`. Case-sensitive.
pub fn find(name: &str) -> Option<&'static Provider> {
    match PROVIDERS.binary_search_by_key(&name, |provider| provider.name) {
        Ok(at) => Some(&PROVIDERS[at]),
        Err(_) => PROVIDERS.iter().find(|provider| provider.aliases.contains(&name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Protocol; 3] = [Protocol::Chat, Protocol::Messages, Protocol::Responses];

    #[test]
    fn names_are_sorted_and_every_name_means_one_provider() {
        assert!(PROVIDERS.is_sorted_by(|a, b| a.name < b.name), "binary search needs the order");
        let mut names: Vec<&str> = PROVIDERS
            .iter()
            .flat_map(|provider| provider.aliases.iter().chain([&provider.name]))
            .copied()
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(find(UNKNOWN.name).is_none());
    }

    #[test]
    fn bases_are_https_or_local_and_have_no_trailing_slash() {
        for provider in PROVIDERS {
            let Some(base) = provider.base_url else { continue };
            let is_local = ["http://localhost:", "http://127.0.0.1:"]
                .iter()
                .any(|local| base.starts_with(local));
            assert!(base.starts_with("https://") || (is_local && provider.keyless), "{base}");
            assert!(!base.ends_with('/'), "{base}");
            if provider.family != Family::Anthropic {
                assert!(base.ends_with(provider.prefix), "{base}");
            }
        }
    }

    #[test]
    fn every_provider_can_be_configured_by_variables() {
        for provider in PROVIDERS {
            let has_credential = !provider.credential_env.is_empty()
                || provider.settings.iter().any(|setting| setting.is_credential);
            assert!(has_credential || provider.keyless, "{}", provider.name);
            if provider.family != Family::Mock {
                assert!(!provider.base_env.is_empty(), "{}", provider.name);
            }
        }
    }

    #[test]
    fn aliases_mean_the_vendor() {
        let name = |alias| find(alias).map(|provider| provider.name);
        assert_eq!(name("openai-compatible"), Some("openai"));
        assert_eq!(name("openai_compatible"), Some("openai"));
        assert_eq!(name("anthropic-compatible"), Some("anthropic"));
        assert_eq!(name("gateway"), Some("otari"));
        assert!(find("OpenAI").is_none(), "names are case-sensitive");
    }

    #[test]
    fn all_but_embedders_serve_every_api() {
        for provider in PROVIDERS {
            let expected = provider.family != Family::Voyage;
            assert!(provider.is_callable(), "{}", provider.name);
            assert_eq!(provider.generates(), expected, "{}", provider.name);
            for protocol in ALL {
                assert_eq!(provider.serves(protocol), expected, "{}", provider.name);
            }
        }
        assert!(ALL.iter().all(|protocol| !UNKNOWN.serves(*protocol)) && !UNKNOWN.is_callable());
    }

    #[test]
    fn what_each_speaks_natively() {
        let natives = |protocol| -> Vec<&str> {
            let speaks = PROVIDERS.iter().filter(|provider| provider.has_native(protocol));
            speaks.map(|provider| provider.name).collect()
        };
        let messages =
            ["anthropic", "azureanthropic", "meta", "mock", "otari", "vertexaianthropic"];
        assert_eq!(natives(Protocol::Messages), messages);
        let responses = [
            "azureopenai",
            "fireworks",
            "gmi",
            "groq",
            "huggingface",
            "meta",
            "mock",
            "neosantara",
            "openai",
            "openrouter",
            "otari",
        ];
        assert_eq!(natives(Protocol::Responses), responses);
        let chat = natives(Protocol::Chat);
        let others = [
            "anthropic",
            "azureanthropic",
            "bedrock",
            "cohere",
            "gemini",
            "mistral",
            "ollama",
            "sagemaker",
            "vertexai",
            "vertexaianthropic",
            "voyage",
            "watsonx",
        ];
        assert_eq!(chat.len() + others.len(), PROVIDERS.len());
        assert!(others.iter().all(|name| !chat.contains(name)));
    }

    #[test]
    fn credentials_go_where_each_provider_wants_them() {
        for (name, auth) in [
            ("openai", Auth::Bearer),
            ("anthropic", Auth::XApiKey),
            ("azureanthropic", Auth::ApiKey),
            ("azureopenai", Auth::ApiKey),
            ("azure", Auth::BearerAndApiKey),
            ("gemini", Auth::GoogApiKey),
            ("vertexaianthropic", Auth::Google),
            ("bedrock", Auth::Aws),
            ("watsonx", Auth::Ibm),
            ("cohere", Auth::Bearer),
        ] {
            assert_eq!(find(name).unwrap().auth(), auth, "{name}");
        }
    }

    #[test]
    fn operations_are_told_apart() {
        let named = |name| -> Vec<&str> {
            find(name).unwrap().operations.iter().map(Operation::as_str).collect()
        };
        assert_eq!(named("cerebras"), ["chat", "stream", "reasoning", "list-models"]);
        assert_eq!(named("voyage"), ["embeddings", "rerank"]);
        assert_eq!(named("otari").len(), Operation::ALL.len());
        assert_eq!(Operations::of(&Operation::ALL).iter().count(), Operation::ALL.len());
    }
}
