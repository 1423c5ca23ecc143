//! The provider table: who can be called, where, and with which credential. Data, not code.
//!
//! A provider is added by adding a row.

use crate::protocol::Protocol;

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `POST {base}/chat/completions` with a bearer token.
    OpenAi,
    /// Anthropic Messages.
    Anthropic,
    /// Google Gemini `generateContent`.
    Gemini,
    /// Google Vertex AI.
    Vertex,
    /// AWS Bedrock Converse.
    Bedrock,
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
    /// AWS SageMaker.
    SageMaker,
    /// Voyage AI: embeddings only.
    Voyage,
    /// The mock provider inside this binary; speaks the OpenAI and Anthropic APIs.
    Mock,
    /// A provider that this version does not know.
    Unknown,
}

/// Where a credential goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer`.
    Bearer,
    /// `x-api-key`.
    XApiKey,
}

/// One row of the table.
#[derive(Debug)]
pub struct Provider {
    /// The name before `:` in a model selector, and the value of `provider_type`.
    pub name: &'static str,
    /// For people.
    pub display_name: &'static str,
    /// Wire format and routes.
    pub family: Family,
    /// Environment variables that may hold the credential; the first that is set wins.
    pub credential_env: &'static [&'static str],
    /// Environment variables that may hold the base URL.
    pub base_env: &'static [&'static str],
    /// Base URL without a trailing slash; `None`: the operator must give one.
    pub base_url: Option<&'static str>,
    /// Whether it answers without a credential.
    pub keyless: bool,
    /// Beginnings of model names by which a bare name is recognised as this provider's.
    pub well_known: &'static [&'static str],
}

/// Providers of the OpenAI family that also answer `POST {base}/responses`.
const WITH_RESPONSES: [&str; 8] =
    ["openai", "azureopenai", "fireworks", "groq", "huggingface", "neosantara", "otari", "mock"];

impl Provider {
    /// Whether it has the Responses API at all.
    pub fn has_responses(&self) -> bool {
        WITH_RESPONSES.contains(&self.name)
    }

    /// Whether this build can send it calls of this API.
    pub fn serves(&self, protocol: Protocol) -> bool {
        match (self.family, protocol) {
            (Family::Mock, _) | (Family::OpenAi, Protocol::Chat) => true,
            (Family::Anthropic, Protocol::Messages) => self.base_url.is_some(),
            (Family::OpenAi, Protocol::Responses) => self.has_responses(),
            _ => false,
        }
    }

    /// Whether this build can call it for anything.
    pub fn is_callable(&self) -> bool {
        [Protocol::Chat, Protocol::Messages, Protocol::Responses]
            .into_iter()
            .any(|protocol| self.serves(protocol))
    }

    /// Where its credential goes.
    pub fn auth(&self) -> Auth {
        match self.family {
            Family::Anthropic => Auth::XApiKey,
            _ => Auth::Bearer,
        }
    }
}

/// The provider called `name`; `openai-compatible` and `openai_compatible` mean `openai`,
/// `anthropic-compatible` means `anthropic`. Case-sensitive.
pub fn find(name: &str) -> Option<&'static Provider> {
    let name = match name {
        "openai-compatible" | "openai_compatible" => "openai",
        "anthropic-compatible" => "anthropic",
        other => other,
    };
    PROVIDERS.iter().find(|provider| provider.name == name)
}

/// Stands for every name that is not in the table: a platform's may be newer. It serves nothing.
pub static UNKNOWN: Provider = Provider {
    name: "unknown",
    display_name: "unknown provider",
    family: Family::Unknown,
    credential_env: &[],
    base_env: &[],
    base_url: None,
    keyless: false,
    well_known: &[],
};

/// Every provider, by name.
pub static PROVIDERS: &[Provider] = &[
    Provider {
        name: "anthropic",
        display_name: "Anthropic",
        family: Family::Anthropic,
        credential_env: &["ANTHROPIC_API_KEY"],
        base_env: &["ANTHROPIC_BASE_URL"],
        base_url: Some("https://api.anthropic.com"),
        keyless: false,
        well_known: &["claude-"],
    },
    Provider {
        name: "atlascloud",
        display_name: "Atlas Cloud",
        family: Family::OpenAi,
        credential_env: &["ATLASCLOUD_API_KEY"],
        base_env: &["ATLASCLOUD_API_BASE"],
        base_url: Some("https://api.atlascloud.ai/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "azure",
        display_name: "Azure AI Inference",
        family: Family::AzureInference,
        credential_env: &["AZURE_API_KEY"],
        base_env: &["AZURE_AI_CHAT_ENDPOINT"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "azureanthropic",
        display_name: "Azure Anthropic (Foundry)",
        family: Family::Anthropic,
        credential_env: &["AZURE_ANTHROPIC_API_KEY"],
        base_env: &["AZURE_ANTHROPIC_API_BASE"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "azureopenai",
        display_name: "Azure OpenAI",
        family: Family::AzureOpenAi,
        credential_env: &["AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN"],
        base_env: &["AZURE_OPENAI_ENDPOINT"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "bedrock",
        display_name: "AWS Bedrock",
        family: Family::Bedrock,
        credential_env: &["AWS_BEARER_TOKEN_BEDROCK"],
        base_env: &["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "cascadia",
        display_name: "Cascadia",
        family: Family::OpenAi,
        credential_env: &["CASCADIA_API_KEY"],
        base_env: &["CASCADIA_API_BASE"],
        base_url: Some("http://localhost:9090/v1"),
        keyless: true,
        well_known: &[],
    },
    Provider {
        name: "cerebras",
        display_name: "Cerebras",
        family: Family::OpenAi,
        credential_env: &["CEREBRAS_API_KEY"],
        base_env: &["CEREBRAS_API_BASE"],
        base_url: Some("https://api.cerebras.ai/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "cohere",
        display_name: "Cohere",
        family: Family::Cohere,
        credential_env: &["COHERE_API_KEY"],
        base_env: &["COHERE_BASE_URL"],
        base_url: Some("https://api.cohere.com"),
        keyless: false,
        well_known: &["command-"],
    },
    Provider {
        name: "dashscope",
        display_name: "Alibaba DashScope",
        family: Family::OpenAi,
        credential_env: &["DASHSCOPE_API_KEY"],
        base_env: &["DASHSCOPE_API_BASE"],
        base_url: Some("https://dashscope.aliyuncs.com/compatible-mode/v1"),
        keyless: false,
        well_known: &["qwen"],
    },
    Provider {
        name: "databricks",
        display_name: "Databricks",
        family: Family::OpenAi,
        credential_env: &["DATABRICKS_TOKEN"],
        base_env: &["DATABRICKS_HOST"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "deepinfra",
        display_name: "DeepInfra",
        family: Family::OpenAi,
        credential_env: &["DEEPINFRA_API_KEY"],
        base_env: &["DEEPINFRA_API_BASE"],
        base_url: Some("https://api.deepinfra.com/v1/openai"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "deepseek",
        display_name: "DeepSeek",
        family: Family::OpenAi,
        credential_env: &["DEEPSEEK_API_KEY"],
        base_env: &["DEEPSEEK_API_BASE"],
        base_url: Some("https://api.deepseek.com"),
        keyless: false,
        well_known: &["deepseek-"],
    },
    Provider {
        name: "edenai",
        display_name: "Eden AI",
        family: Family::OpenAi,
        credential_env: &["EDENAI_API_KEY"],
        base_env: &["EDENAI_API_BASE"],
        base_url: Some("https://api.edenai.run/v3"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "fireworks",
        display_name: "Fireworks",
        family: Family::OpenAi,
        credential_env: &["FIREWORKS_API_KEY"],
        base_env: &["FIREWORKS_API_BASE"],
        base_url: Some("https://api.fireworks.ai/inference/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "gemini",
        display_name: "Google Gemini API",
        family: Family::Gemini,
        credential_env: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        base_env: &["GOOGLE_GEMINI_BASE_URL"],
        base_url: Some("https://generativelanguage.googleapis.com"),
        keyless: false,
        well_known: &["gemini-"],
    },
    Provider {
        name: "github",
        display_name: "GitHub Models",
        family: Family::OpenAi,
        credential_env: &["GITHUB_TOKEN"],
        base_env: &["GITHUB_MODELS_API_BASE"],
        base_url: Some("https://models.github.ai/inference"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "gmi",
        display_name: "GMI Cloud",
        family: Family::OpenAi,
        credential_env: &["GMI_API_KEY"],
        base_env: &["GMI_API_BASE"],
        base_url: Some("https://api.gmi-serving.com/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "groq",
        display_name: "Groq",
        family: Family::OpenAi,
        credential_env: &["GROQ_API_KEY"],
        base_env: &["GROQ_BASE_URL"],
        base_url: Some("https://api.groq.com/openai/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "huggingface",
        display_name: "Hugging Face",
        family: Family::OpenAi,
        credential_env: &["HF_TOKEN"],
        base_env: &["HUGGINGFACE_API_BASE"],
        base_url: Some("https://router.huggingface.co/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "inception",
        display_name: "Inception Labs",
        family: Family::OpenAi,
        credential_env: &["INCEPTION_API_KEY"],
        base_env: &["INCEPTION_API_BASE"],
        base_url: Some("https://api.inceptionlabs.ai/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "kenari",
        display_name: "Kenari",
        family: Family::OpenAi,
        credential_env: &["KENARI_API_KEY"],
        base_env: &["KENARI_API_BASE"],
        base_url: Some("https://kenari.id/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "llama",
        display_name: "Meta Llama API",
        family: Family::OpenAi,
        credential_env: &["LLAMA_API_KEY"],
        base_env: &["LLAMA_API_BASE"],
        base_url: Some("https://api.llama.com/compat/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "llamacpp",
        display_name: "llama.cpp server",
        family: Family::OpenAi,
        credential_env: &[],
        base_env: &["LLAMACPP_API_BASE"],
        base_url: Some("http://127.0.0.1:8080/v1"),
        keyless: true,
        well_known: &[],
    },
    Provider {
        name: "llamafile",
        display_name: "llamafile",
        family: Family::OpenAi,
        credential_env: &[],
        base_env: &["LLAMAFILE_API_BASE"],
        base_url: Some("http://127.0.0.1:8080/v1"),
        keyless: true,
        well_known: &[],
    },
    Provider {
        name: "lmstudio",
        display_name: "LM Studio",
        family: Family::OpenAi,
        credential_env: &["LM_STUDIO_API_KEY"],
        base_env: &["LM_STUDIO_API_BASE"],
        base_url: Some("http://localhost:1234/v1"),
        keyless: true,
        well_known: &[],
    },
    Provider {
        name: "meta",
        display_name: "Meta AI",
        family: Family::OpenAi,
        credential_env: &["MODEL_API_KEY"],
        base_env: &["META_API_BASE"],
        base_url: Some("https://api.meta.ai/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "minimax",
        display_name: "MiniMax",
        family: Family::OpenAi,
        credential_env: &["MINIMAX_API_KEY"],
        base_env: &["MINIMAX_API_BASE"],
        base_url: Some("https://api.minimax.io/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "mistral",
        display_name: "Mistral",
        family: Family::Mistral,
        credential_env: &["MISTRAL_API_KEY"],
        base_env: &["MISTRAL_API_BASE"],
        base_url: Some("https://api.mistral.ai/v1"),
        keyless: false,
        well_known: &["mistral-", "codestral-", "magistral-", "ministral-"],
    },
    Provider {
        name: "moonshot",
        display_name: "Moonshot",
        family: Family::OpenAi,
        credential_env: &["MOONSHOT_API_KEY"],
        base_env: &["MOONSHOT_API_BASE"],
        base_url: Some("https://api.moonshot.ai/v1"),
        keyless: false,
        well_known: &["kimi-"],
    },
    Provider {
        name: "mzai",
        display_name: "any-llm platform",
        family: Family::OpenAi,
        credential_env: &["ANY_LLM_KEY"],
        base_env: &["ANY_LLM_PLATFORM_URL"],
        base_url: Some("https://platform-api.any-llm.ai/api/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "nebius",
        display_name: "Nebius",
        family: Family::OpenAi,
        credential_env: &["NEBIUS_API_KEY"],
        base_env: &["NEBIUS_API_BASE"],
        base_url: Some("https://api.studio.nebius.ai/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "neosantara",
        display_name: "Neosantara",
        family: Family::OpenAi,
        credential_env: &["NEOSANTARA_API_KEY"],
        base_env: &["NEOSANTARA_API_BASE"],
        base_url: Some("https://api.neosantara.xyz/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "ollama",
        display_name: "Ollama",
        family: Family::Ollama,
        credential_env: &[],
        base_env: &["OLLAMA_HOST"],
        base_url: Some("http://127.0.0.1:11434"),
        keyless: true,
        well_known: &[],
    },
    Provider {
        name: "openai",
        display_name: "OpenAI",
        family: Family::OpenAi,
        credential_env: &["OPENAI_API_KEY"],
        base_env: &["OPENAI_BASE_URL"],
        base_url: Some("https://api.openai.com/v1"),
        keyless: false,
        well_known: &[
            "gpt-",
            "chatgpt-",
            "o1",
            "o3",
            "o4",
            "text-embedding-",
            "dall-e-",
            "whisper-",
            "tts-",
        ],
    },
    Provider {
        name: "openrouter",
        display_name: "OpenRouter",
        family: Family::OpenAi,
        credential_env: &["OPENROUTER_API_KEY"],
        base_env: &["OPENROUTER_API_BASE"],
        base_url: Some("https://openrouter.ai/api/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "otari",
        display_name: "Otari / any Otari gateway",
        family: Family::OpenAi,
        credential_env: &["OTARI_API_KEY", "GATEWAY_API_KEY"],
        base_env: &["OTARI_API_BASE", "GATEWAY_API_BASE"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "ovhcloud",
        display_name: "OVHcloud AI Endpoints",
        family: Family::OpenAi,
        credential_env: &["OVHCLOUD_API_KEY"],
        base_env: &["OVHCLOUD_API_BASE"],
        base_url: Some("https://oai.endpoints.kepler.ai.cloud.ovh.net/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "perplexity",
        display_name: "Perplexity",
        family: Family::OpenAi,
        credential_env: &["PERPLEXITY_API_KEY"],
        base_env: &["PERPLEXITY_BASE_URL"],
        base_url: Some("https://api.perplexity.ai"),
        keyless: false,
        well_known: &["sonar"],
    },
    Provider {
        name: "portkey",
        display_name: "Portkey",
        family: Family::OpenAi,
        credential_env: &["PORTKEY_API_KEY"],
        base_env: &["PORTKEY_API_BASE"],
        base_url: Some("https://api.portkey.ai/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "qiniu",
        display_name: "Qiniu",
        family: Family::OpenAi,
        credential_env: &["QINIU_API_KEY"],
        base_env: &["QINIU_API_BASE"],
        base_url: Some("https://api.qnaigc.com/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "requesty",
        display_name: "Requesty",
        family: Family::OpenAi,
        credential_env: &["REQUESTY_API_KEY"],
        base_env: &["REQUESTY_API_BASE"],
        base_url: Some("https://router.requesty.ai/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "sagemaker",
        display_name: "AWS SageMaker",
        family: Family::SageMaker,
        credential_env: &[],
        base_env: &["SAGEMAKER_ENDPOINT_URL"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "sambanova",
        display_name: "SambaNova",
        family: Family::OpenAi,
        credential_env: &["SAMBANOVA_API_KEY"],
        base_env: &["SAMBANOVA_API_BASE"],
        base_url: Some("https://api.sambanova.ai/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "telnyx",
        display_name: "Telnyx",
        family: Family::OpenAi,
        credential_env: &["TELNYX_API_KEY"],
        base_env: &["TELNYX_API_BASE"],
        base_url: Some("https://api.telnyx.com/v2/ai"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "together",
        display_name: "Together",
        family: Family::OpenAi,
        credential_env: &["TOGETHER_API_KEY"],
        base_env: &["TOGETHER_API_BASE"],
        base_url: Some("https://api.together.xyz/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "vertexai",
        display_name: "Vertex AI (Gemini)",
        family: Family::Vertex,
        credential_env: &[],
        base_env: &["VERTEXAI_API_BASE"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "vertexaianthropic",
        display_name: "Vertex AI (Claude)",
        family: Family::Vertex,
        credential_env: &[],
        base_env: &["VERTEXAI_ANTHROPIC_API_BASE"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "vllm",
        display_name: "vLLM",
        family: Family::OpenAi,
        credential_env: &["VLLM_API_KEY"],
        base_env: &["VLLM_API_BASE"],
        base_url: Some("http://localhost:8000/v1"),
        keyless: true,
        well_known: &[],
    },
    Provider {
        name: "voyage",
        display_name: "Voyage AI",
        family: Family::Voyage,
        credential_env: &["VOYAGE_API_KEY"],
        base_env: &["VOYAGE_API_BASE"],
        base_url: Some("https://api.voyageai.com/v1"),
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "watsonx",
        display_name: "IBM watsonx.ai",
        family: Family::Watsonx,
        credential_env: &["WATSONX_API_KEY"],
        base_env: &["WATSONX_URL"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
    Provider {
        name: "xai",
        display_name: "xAI",
        family: Family::OpenAi,
        credential_env: &["XAI_API_KEY"],
        base_env: &["XAI_API_BASE"],
        base_url: Some("https://api.x.ai/v1"),
        keyless: false,
        well_known: &["grok-"],
    },
    Provider {
        name: "zai",
        display_name: "Z.ai (GLM)",
        family: Family::OpenAi,
        credential_env: &["ZAI_API_KEY"],
        base_env: &["ZAI_BASE_URL"],
        base_url: Some("https://api.z.ai/api/paas/v4"),
        keyless: false,
        well_known: &["glm-"],
    },
    Provider {
        name: "mock",
        display_name: "Built-in mock",
        family: Family::Mock,
        credential_env: &[],
        base_env: &[],
        base_url: None,
        keyless: true,
        well_known: &[],
    },
    Provider {
        name: "gateway",
        display_name: "Any Otari gateway (older name)",
        family: Family::OpenAi,
        credential_env: &["GATEWAY_API_KEY"],
        base_env: &["GATEWAY_API_BASE"],
        base_url: None,
        keyless: false,
        well_known: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_bases_have_no_trailing_slash() {
        for (i, provider) in PROVIDERS.iter().enumerate() {
            assert!(
                PROVIDERS[i + 1..].iter().all(|p| p.name != provider.name),
                "{}",
                provider.name
            );
            assert!(!provider.base_url.is_some_and(|b| b.ends_with('/')), "{}", provider.name);
        }
    }

    #[test]
    fn compatible_spellings_mean_the_vendor() {
        assert_eq!(find("openai-compatible").map(|p| p.name), Some("openai"));
        assert!(find("OpenAI").is_none(), "names are case-sensitive");
    }
}
