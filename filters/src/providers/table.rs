//! The rows of the provider table.

use super::operations::{Operation, Operations};
use super::settings::{AWS, AZURE, AZURE_ANTHROPIC, AZURE_OPENAI, GOOGLE, WATSONX};
use super::{Auth, Family, Provider};

const C: Operation = Operation::Chat;
const S: Operation = Operation::Stream;
const R: Operation = Operation::Reasoning;
const I: Operation = Operation::ImagesIn;
const P: Operation = Operation::FilesIn;
const E: Operation = Operation::Embeddings;
const RS: Operation = Operation::Responses;
const MN: Operation = Operation::Messages;
const L: Operation = Operation::ListModels;
const RK: Operation = Operation::Rerank;
const MO: Operation = Operation::Moderation;
const IG: Operation = Operation::Images;
const AT: Operation = Operation::Transcription;
const AS: Operation = Operation::Speech;
const B: Operation = Operation::Batch;

/// See [`super::base`]: Google's regions have rules of their own.
const VERTEX: &str = "https://{location}-aiplatform.googleapis.com";

const fn row(name: &'static str, display_name: &'static str, family: Family) -> Provider {
    Provider {
        name,
        aliases: &[],
        display_name,
        family,
        auth: family.auth(),
        credential_env: &[],
        base_env: &[],
        base_url: None,
        prefix: family.prefix(),
        keyless: false,
        well_known: &[],
        operations: Operations::NONE,
        settings: &[],
    }
}

impl Provider {
    /// Its other names.
    const fn also(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    /// Variables of its credential.
    const fn key(self, credential_env: &'static [&'static str]) -> Self {
        Self { credential_env, ..self }
    }

    /// Where it is unless one of these variables says otherwise.
    const fn at(self, base_env: &'static [&'static str], base_url: &'static str) -> Self {
        Self { base_env, base_url: Some(base_url), ..self }
    }

    /// Only the operator knows where it is.
    const fn based(self, base_env: &'static [&'static str]) -> Self {
        Self { base_env, ..self }
    }

    /// What its own client adds to a base.
    const fn below(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    /// Its credential goes elsewhere than its family's.
    const fn with(self, auth: Auth) -> Self {
        Self { auth, ..self }
    }

    const fn keyless(self) -> Self {
        Self { keyless: true, ..self }
    }

    /// How its models' names begin.
    const fn known_by(self, well_known: &'static [&'static str]) -> Self {
        Self { well_known, ..self }
    }

    /// What its client can be told beyond credential and base.
    const fn takes(self, settings: &'static [super::Setting]) -> Self {
        Self { settings, ..self }
    }

    const fn can(self, operations: &[Operation]) -> Self {
        Self { operations: Operations::of(operations), ..self }
    }
}

/// Stands for every name that is not in the table: a platform's may be newer. It serves nothing, and no credential
/// is sent to it.
pub static UNKNOWN: Provider = row("unknown", "unknown provider", Family::Unknown);

/// Every provider, sorted by name.
pub static PROVIDERS: &[Provider] = &[
    row("anthropic", "Anthropic", Family::Anthropic)
        .key(&["ANTHROPIC_API_KEY"])
        .at(&["ANTHROPIC_BASE_URL"], "https://api.anthropic.com")
        .also(&["anthropic-compatible"])
        .known_by(&["claude-"])
        .can(&[C, S, R, I, P, MN, L, B]),
    row("atlascloud", "Atlas Cloud", Family::OpenAi)
        .key(&["ATLASCLOUD_API_KEY"])
        .at(&["ATLASCLOUD_API_BASE"], "https://api.atlascloud.ai/v1")
        .can(&[C, S, R, L]),
    row("azure", "Azure AI Inference", Family::AzureInference)
        .key(&["AZURE_API_KEY"])
        .based(&["AZURE_AI_CHAT_ENDPOINT"])
        .takes(AZURE)
        .can(&[C, S, E, L]),
    row("azureanthropic", "Azure Anthropic (Foundry)", Family::Anthropic)
        .key(&["AZURE_ANTHROPIC_API_KEY"])
        .at(&["AZURE_ANTHROPIC_API_BASE"], "https://{resource}.services.ai.azure.com/anthropic")
        .with(Auth::ApiKey)
        .takes(AZURE_ANTHROPIC)
        .can(&[C, S, R, I, P, MN, B]),
    row("azureopenai", "Azure OpenAI", Family::AzureOpenAi)
        .key(&["AZURE_OPENAI_API_KEY"])
        .based(&["AZURE_OPENAI_ENDPOINT"])
        .takes(AZURE_OPENAI)
        .can(&[C, S, I, E, RS, L, IG, AT, AS]),
    row("bedrock", "AWS Bedrock", Family::Bedrock)
        .key(&["AWS_BEARER_TOKEN_BEDROCK"])
        .at(&["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"], "https://bedrock-runtime.{region}.amazonaws.com")
        .takes(AWS)
        .can(&[C, S, R, I, E, L, B]),
    row("cascadia", "Cascadia", Family::OpenAi)
        .key(&["CASCADIA_API_KEY"])
        .at(&["CASCADIA_API_BASE"], "http://localhost:9090/v1")
        .keyless()
        .can(&[C, S, R, L]),
    row("cerebras", "Cerebras", Family::OpenAi)
        .key(&["CEREBRAS_API_KEY"])
        .at(&["CEREBRAS_API_BASE"], "https://api.cerebras.ai/v1")
        .below("/v1")
        .can(&[C, S, R, L]),
    row("cohere", "Cohere", Family::Cohere)
        .key(&["COHERE_API_KEY"])
        .at(&["COHERE_BASE_URL"], "https://api.cohere.com")
        .known_by(&["command-"])
        .can(&[C, S, R, I, E, L, RK]),
    row("dashscope", "Alibaba DashScope", Family::OpenAi)
        .key(&["DASHSCOPE_API_KEY"])
        .at(&["DASHSCOPE_API_BASE"], "https://dashscope.aliyuncs.com/compatible-mode/v1")
        .known_by(&["qwen"])
        .can(&[C, S, I, P, E, L, MO]),
    row("databricks", "Databricks", Family::OpenAi)
        .key(&["DATABRICKS_TOKEN"])
        .based(&["DATABRICKS_HOST"])
        .can(&[C, S, R, E, MO]),
    row("deepinfra", "DeepInfra", Family::OpenAi)
        .key(&["DEEPINFRA_API_KEY"])
        .at(&["DEEPINFRA_API_BASE"], "https://api.deepinfra.com/v1/openai")
        .can(&[C, S, R, I, E, L, MO]),
    row("deepseek", "DeepSeek", Family::OpenAi)
        .key(&["DEEPSEEK_API_KEY"])
        .at(&["DEEPSEEK_API_BASE"], "https://api.deepseek.com")
        .known_by(&["deepseek-"])
        .can(&[C, S, R, L, MO]),
    row("edenai", "Eden AI", Family::OpenAi)
        .key(&["EDENAI_API_KEY"])
        .at(&["EDENAI_API_BASE"], "https://api.edenai.run/v3")
        .can(&[C, S, I, P, E, L, MO]),
    row("fireworks", "Fireworks", Family::OpenAi)
        .key(&["FIREWORKS_API_KEY"])
        .at(&["FIREWORKS_API_BASE"], "https://api.fireworks.ai/inference/v1")
        .can(&[C, S, R, I, RS, L, MO]),
    row("gemini", "Google Gemini API", Family::Gemini)
        .key(&["GEMINI_API_KEY", "GOOGLE_API_KEY"])
        .at(&["GOOGLE_GEMINI_BASE_URL"], "https://generativelanguage.googleapis.com")
        .known_by(&["gemini-"])
        .can(&[C, S, R, I, P, E, L, B]),
    row("github", "GitHub Models", Family::OpenAi)
        .key(&["GITHUB_TOKEN"])
        .at(&["GITHUB_MODELS_API_BASE"], "https://models.github.ai/inference")
        .can(&[C, S, E, L]),
    row("gmi", "GMI Cloud", Family::OpenAi)
        .key(&["GMI_API_KEY"])
        .at(&["GMI_API_BASE"], "https://api.gmi-serving.com/v1")
        .can(&[C, S, R, RS, L]),
    row("groq", "Groq", Family::OpenAi)
        .key(&["GROQ_API_KEY"])
        .at(&["GROQ_BASE_URL"], "https://api.groq.com/openai/v1")
        .below("/openai/v1")
        .can(&[C, S, R, RS, L]),
    row("huggingface", "Hugging Face", Family::OpenAi)
        .key(&["HF_TOKEN"])
        .at(&["HUGGINGFACE_API_BASE"], "https://router.huggingface.co/v1")
        .below("/v1")
        .can(&[C, S, RS, L]),
    row("inception", "Inception Labs", Family::OpenAi)
        .key(&["INCEPTION_API_KEY"])
        .at(&["INCEPTION_API_BASE"], "https://api.inceptionlabs.ai/v1")
        .can(&[C, S, L, MO]),
    row("kenari", "Kenari", Family::OpenAi)
        .key(&["KENARI_API_KEY"])
        .at(&["KENARI_API_BASE"], "https://kenari.id/v1")
        .can(&[C, S, R, L]),
    row("llama", "Meta Llama API", Family::OpenAi)
        .key(&["LLAMA_API_KEY"])
        .at(&["LLAMA_API_BASE"], "https://api.llama.com/compat/v1")
        .can(&[C, S, L, MO]),
    row("llamacpp", "llama.cpp server", Family::OpenAi)
        .at(&["LLAMACPP_API_BASE"], "http://127.0.0.1:8080/v1")
        .keyless()
        .can(&[C, S, R, I, E, L, MO]),
    row("llamafile", "llamafile", Family::OpenAi)
        .at(&["LLAMAFILE_API_BASE"], "http://127.0.0.1:8080/v1")
        .keyless()
        .can(&[C, R, L, MO]),
    row("lmstudio", "LM Studio", Family::OpenAi)
        .key(&["LM_STUDIO_API_KEY"])
        .at(&["LM_STUDIO_API_BASE"], "http://localhost:1234/v1")
        .below("/v1")
        .keyless()
        .can(&[C, S, R, E, L]),
    row("meta", "Meta AI", Family::OpenAi)
        .key(&["MODEL_API_KEY"])
        .at(&["META_API_BASE"], "https://api.meta.ai/v1")
        .can(&[C, S, I, P, RS, MN, L]),
    row("minimax", "MiniMax", Family::OpenAi)
        .key(&["MINIMAX_API_KEY"])
        .at(&["MINIMAX_API_BASE"], "https://api.minimax.io/v1")
        .can(&[C, S, R, MO]),
    row("mistral", "Mistral", Family::Mistral)
        .key(&["MISTRAL_API_KEY"])
        .at(&["MISTRAL_API_BASE"], "https://api.mistral.ai/v1")
        .below("/v1")
        .known_by(&["mistral-", "codestral-", "magistral-", "ministral-"])
        .can(&[C, S, R, E, L, MO, B]),
    row("mock", "Built-in mock", Family::Mock)
        .keyless()
        .can(&[C, S, R, I, P, E, RS, MN, L, RK, MO, IG, AT, AS]),
    row("moonshot", "Moonshot", Family::OpenAi)
        .key(&["MOONSHOT_API_KEY"])
        .at(&["MOONSHOT_API_BASE"], "https://api.moonshot.ai/v1")
        .known_by(&["kimi-"])
        .can(&[C, S, R, L, MO]),
    row("mzai", "any-llm platform", Family::OpenAi)
        .key(&["ANY_LLM_KEY"])
        .at(&["ANY_LLM_PLATFORM_URL"], "https://platform-api.any-llm.ai/api/v1")
        .can(&[C, S, R, I, E, L, MO]),
    row("nebius", "Nebius", Family::OpenAi)
        .key(&["NEBIUS_API_KEY"])
        .at(&["NEBIUS_API_BASE"], "https://api.studio.nebius.ai/v1")
        .can(&[C, S, R, I, E, L, MO]),
    row("neosantara", "Neosantara", Family::OpenAi)
        .key(&["NEOSANTARA_API_KEY"])
        .at(&["NEOSANTARA_API_BASE"], "https://api.neosantara.xyz/v1")
        .can(&[C, S, R, I, P, E, RS, L, MO, IG, B]),
    row("ollama", "Ollama", Family::Ollama)
        .at(&["OLLAMA_HOST"], "http://127.0.0.1:11434")
        .keyless()
        .can(&[C, S, R, I, P, E, L]),
    row("openai", "OpenAI", Family::OpenAi)
        .key(&["OPENAI_API_KEY"])
        .at(&["OPENAI_BASE_URL"], "https://api.openai.com/v1")
        .also(&["openai-compatible", "openai_compatible"])
        .known_by(&[
            "gpt-",
            "chatgpt-",
            "o1",
            "o3",
            "o4",
            "text-embedding-",
            "dall-e-",
            "whisper-",
            "tts-",
        ])
        .can(&[C, S, I, P, E, RS, L, MO, IG, AT, AS, B]),
    row("openrouter", "OpenRouter", Family::OpenAi)
        .key(&["OPENROUTER_API_KEY"])
        .at(&["OPENROUTER_API_BASE"], "https://openrouter.ai/api/v1")
        .can(&[C, S, R, I, P, E, RS, L]),
    // The platform's tokens are no credentials here: with one of them this gateway itself is a connected one.
    row("otari", "Otari / any Otari gateway", Family::OpenAi)
        .key(&["OTARI_API_KEY", "GATEWAY_API_KEY"])
        .based(&["OTARI_API_BASE", "GATEWAY_API_BASE"])
        .also(&["gateway"])
        .can(&[C, S, R, I, P, E, RS, MN, L, RK, MO, IG, AT, AS, B]),
    row("ovhcloud", "OVHcloud AI Endpoints", Family::OpenAi)
        .key(&["OVHCLOUD_API_KEY"])
        .at(&["OVHCLOUD_API_BASE"], "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1")
        .can(&[C, S, L]),
    row("perplexity", "Perplexity", Family::OpenAi)
        .key(&["PERPLEXITY_API_KEY"])
        .at(&["PERPLEXITY_BASE_URL"], "https://api.perplexity.ai")
        .known_by(&["sonar"])
        .can(&[C, S, I, MO]),
    row("portkey", "Portkey", Family::OpenAi)
        .key(&["PORTKEY_API_KEY"])
        .at(&["PORTKEY_API_BASE"], "https://api.portkey.ai/v1")
        .can(&[C, S, R, I, P, L, MO]),
    row("qiniu", "Qiniu", Family::OpenAi)
        .key(&["QINIU_API_KEY"])
        .at(&["QINIU_API_BASE"], "https://api.qnaigc.com/v1")
        .can(&[C, S, R, I, E, L, MO]),
    row("requesty", "Requesty", Family::OpenAi)
        .key(&["REQUESTY_API_KEY"])
        .at(&["REQUESTY_API_BASE"], "https://router.requesty.ai/v1")
        .can(&[C, S, R, I, P, E, L]),
    row("sagemaker", "AWS SageMaker", Family::SageMaker)
        .at(&["SAGEMAKER_ENDPOINT_URL"], "https://runtime.sagemaker.{region}.amazonaws.com")
        .takes(AWS)
        .can(&[C, S, I, P, E]),
    row("sambanova", "SambaNova", Family::OpenAi)
        .key(&["SAMBANOVA_API_KEY"])
        .at(&["SAMBANOVA_API_BASE"], "https://api.sambanova.ai/v1")
        .can(&[C, S, R, I, E, L, MO]),
    row("telnyx", "Telnyx", Family::OpenAi)
        .key(&["TELNYX_API_KEY"])
        .at(&["TELNYX_API_BASE"], "https://api.telnyx.com/v2/ai")
        .can(&[C, S, R, I, L, MO]),
    row("together", "Together", Family::OpenAi)
        .key(&["TOGETHER_API_KEY"])
        .at(&["TOGETHER_API_BASE"], "https://api.together.xyz/v1")
        .can(&[C, S, R, I, E, L, RK, B]),
    row("vertexai", "Vertex AI (Gemini)", Family::Vertex)
        .at(&["VERTEXAI_API_BASE"], VERTEX)
        .takes(GOOGLE)
        .can(&[C, S, R, I, P, E, L, B]),
    row("vertexaianthropic", "Vertex AI (Claude)", Family::VertexAnthropic)
        .at(&["VERTEXAI_ANTHROPIC_API_BASE"], VERTEX)
        .takes(GOOGLE)
        .can(&[C, S, R, I, P, MN]),
    row("vllm", "vLLM", Family::OpenAi)
        .key(&["VLLM_API_KEY"])
        .at(&["VLLM_API_BASE"], "http://localhost:8000/v1")
        .keyless()
        .can(&[C, S, R, I, E, L, MO]),
    row("voyage", "Voyage AI", Family::Voyage)
        .key(&["VOYAGE_API_KEY"])
        .at(&["VOYAGE_API_BASE"], "https://api.voyageai.com/v1")
        .can(&[E, RK]),
    row("watsonx", "IBM watsonx.ai", Family::Watsonx)
        .key(&["WATSONX_API_KEY"])
        .based(&["WATSONX_URL"])
        .takes(WATSONX)
        .can(&[C, S, I, E, L]),
    row("xai", "xAI", Family::OpenAi)
        .key(&["XAI_API_KEY"])
        .at(&["XAI_API_BASE"], "https://api.x.ai/v1")
        .known_by(&["grok-"])
        .can(&[C, S, R, L]),
    row("zai", "Z.ai (GLM)", Family::OpenAi)
        .key(&["ZAI_API_KEY"])
        .at(&["ZAI_BASE_URL"], "https://api.z.ai/api/paas/v4")
        .known_by(&["glm-"])
        .can(&[C, S, R, L, MO]),
];
