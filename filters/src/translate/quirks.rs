//! Where providers of the chat format differ from OpenAI: data, by the provider's name.

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

/// What is peculiar about a provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quirks {
    /// It does not know `max_completion_tokens`.
    pub(super) keeps_max_tokens: bool,
    /// It refuses `stream_options`.
    pub(super) no_stream_options: bool,
    /// How it is told how much to think.
    pub(super) effort: Effort,
    /// It refuses `response_format`.
    pub(super) no_response_format: bool,
    /// Thoughts go back to it with calls of tools, as `reasoning_content`.
    pub(super) replays_reasoning: bool,
    /// Its name for `seed`.
    pub(super) seed: &'static str,
}

/// Of the provider called `name`.
pub(super) fn of(name: &str) -> Quirks {
    let is_one_of = |names: &[&str]| names.contains(&name);
    Quirks {
        keeps_max_tokens: is_one_of(&[
            "azure",
            "cerebras",
            "cohere",
            "deepseek",
            "github",
            "gmi",
            "groq",
            "huggingface",
            "minimax",
            "mistral",
            "ollama",
            "otari",
            "gateway",
            "portkey",
            "sambanova",
            "together",
            "watsonx",
        ]),
        no_stream_options: is_one_of(&[
            "azure", "cerebras", "cohere", "groq", "mistral", "ollama", "together", "watsonx",
        ]),
        effort: match name {
            "azure" | "groq" => Effort::NoNone,
            "mistral" => Effort::High,
            "openrouter" | "requesty" => Effort::Object,
            _ => Effort::Plain,
        },
        no_response_format: is_one_of(&["zai", "inception", "minimax", "llamafile"]),
        replays_reasoning: name == "deepseek",
        seed: if name == "mistral" { "random_seed" } else { "seed" },
    }
}
