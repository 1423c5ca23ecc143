//! Where providers of the chat format differ from OpenAI: data, by the provider's name.

use super::Wire;

/// How a level of reasoning is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// `reasoning_effort`, every level.
    Plain,
    /// `reasoning_effort`, but never `none`.
    NoNone,
    /// `reasoning_effort: "high"` for every level, never `none`.
    High,
    /// `reasoning: {"effort"}` for low, medium and high.
    Object,
}

/// Which formats of an answer it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Formats {
    /// Both, and a schema has a name: this, where the caller gives none.
    All(&'static str),
    /// Schemas alone; strict, unless the caller says otherwise.
    Schema,
    /// None: the answer would not be what was asked for.
    Refused,
    /// None, but it says so to nobody: the reference leaves the field out.
    Dropped,
}

/// How thoughts go back to who thought them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    /// Not at all.
    Nothing,
    /// With calls of tools, as `reasoning_content`.
    WithCalls,
    /// With their seal, as a part of the content.
    Chunks,
}

/// Which answers have thoughts between tags in their text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tagged {
    /// Whole ones.
    pub(super) whole: bool,
    /// Streams.
    pub(super) streams: bool,
}

/// Shared fields that OpenAI has.
const OPENAI: &[&str] = &[
    "n",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "metadata",
    "store",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
    "service_tier",
    "seed",
];

/// Shared fields that Mistral has; it refuses what it does not know.
const MISTRAL: &[&str] = &["n", "presence_penalty", "frequency_penalty", "metadata", "seed"];

/// Shared fields that watsonx has.
const WATSONX: &[&str] = &[
    "n",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
];

/// What is peculiar about a provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quirks {
    /// It does not know `max_completion_tokens`.
    pub(super) keeps_max_tokens: bool,
    /// It refuses `stream_options`.
    pub(super) no_stream_options: bool,
    /// How it is told how much to think.
    pub(super) effort: Effort,
    /// What it makes of `response_format`.
    pub(super) formats: Formats,
    /// How its thoughts go back to it.
    pub(super) replays: Replay,
    /// Shared fields that it has.
    pub(super) accepts: &'static [&'static str],
    /// Its name for `seed`.
    pub(super) seed: &'static str,
    /// It refuses `user`.
    pub(super) no_user: bool,
    /// It refuses `parallel_tool_calls`.
    pub(super) no_parallel: bool,
    /// A tool's result must be answered before the user speaks again.
    pub(super) answers_tools: bool,
    /// The address says whether the answer is a stream, the settings say whose project it is, and the model is called
    /// `model_id`: watsonx.
    pub(super) is_watsonx: bool,
    /// It has a switch for thinking: DeepSeek.
    pub(super) switches_thinking: bool,
    /// A schema's properties must have a type beside `oneOf`: Llama.
    pub(super) types_one_of: bool,
    /// Documents are parts of the type `document_url`, and of uploaded ones the name stands beside the type: Mistral.
    pub(super) has_document_urls: bool,
}

/// Of the provider called `name`.
pub(super) fn of(name: &str) -> Quirks {
    Quirks {
        keeps_max_tokens: keeps_max_tokens(name),
        no_stream_options: refuses_stream_options(name),
        effort: match name {
            "azure" | "groq" | "deepseek" => Effort::NoNone,
            "mistral" => Effort::High,
            "openrouter" | "requesty" => Effort::Object,
            _ => Effort::Plain,
        },
        formats: match name {
            _ if refuses_formats(name) => Formats::Refused,
            "azure" => Formats::Schema,
            "watsonx" => Formats::Dropped,
            "together" => Formats::All("response_schema"),
            _ => Formats::All("structured_output"),
        },
        replays: match name {
            "deepseek" => Replay::WithCalls,
            "mistral" => Replay::Chunks,
            _ => Replay::Nothing,
        },
        accepts: match name {
            "mistral" => MISTRAL,
            "watsonx" => WATSONX,
            _ => OPENAI,
        },
        seed: if name == "mistral" { "random_seed" } else { "seed" },
        no_user: matches!(name, "mistral" | "watsonx"),
        no_parallel: matches!(name, "huggingface" | "watsonx"),
        answers_tools: name == "mistral",
        is_watsonx: name == "watsonx",
        switches_thinking: name == "deepseek",
        types_one_of: name == "llama",
        has_document_urls: name == "mistral",
    }
}

fn keeps_max_tokens(name: &str) -> bool {
    matches!(
        name,
        "azure"
            | "cerebras"
            | "cohere"
            | "deepseek"
            | "github"
            | "gmi"
            | "groq"
            | "huggingface"
            | "minimax"
            | "mistral"
            | "ollama"
            | "otari"
            | "gateway"
            | "portkey"
            | "sambanova"
            | "together"
            | "watsonx"
    )
}

/// Whether the provider refuses `stream_options`; its streams say their usage without.
pub(crate) fn refuses_stream_options(name: &str) -> bool {
    matches!(
        name,
        "azure" | "cerebras" | "cohere" | "groq" | "mistral" | "ollama" | "together" | "watsonx"
    )
}

/// Whether the provider refuses `response_format`, or passes over it so that the answer is not what was asked for.
pub(crate) fn refuses_formats(name: &str) -> bool {
    matches!(name, "zai" | "inception" | "minimax" | "llamafile")
}

/// What switches thinking of DeepSeek's `model`, given the level that is asked for; `None`: the model has no switch.
pub(crate) fn thinking_switch(model: &str, effort: Option<&str>) -> Option<&'static str> {
    if matches!(model, "deepseek-chat" | "deepseek-reasoner") {
        return None;
    }
    let is_on = effort.is_some_and(|effort| !matches!(effort, "none" | "auto"));
    Some(if is_on { "enabled" } else { "disabled" })
}

/// In which answers of a provider the text holds thoughts: of one that speaks chat, of Ollama, and of Fireworks' responses.
pub(super) fn tagged(name: &str) -> Tagged {
    let is_both = matches!(name, "minimax" | "sambanova" | "portkey");
    Tagged {
        whole: is_both || matches!(name, "llamafile" | "ollama" | "fireworks"),
        streams: is_both || name == "huggingface",
    }
}

/// Whether answers of this provider in this format may have thoughts between tags in their text.
pub(crate) fn has_tags(name: &str, wire: Wire, stream: bool) -> bool {
    let tagged = tagged(name);
    match wire {
        // Its chat completions tell thoughts apart.
        Wire::Chat if name == "fireworks" => false,
        Wire::Chat => {
            if stream {
                tagged.streams
            } else {
                tagged.whole
            }
        }
        Wire::Responses => name == "fireworks" && !stream,
        _ => false,
    }
}

/// Whether a provider's chat completions differ so much that requests and answers are translated.
pub(crate) fn is_own_dialect(name: &str) -> bool {
    matches!(name, "mistral" | "watsonx")
}
