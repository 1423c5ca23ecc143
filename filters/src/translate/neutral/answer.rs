//! An answer in its neutral form, whole and in events.

use super::super::names::ToolName;
use super::super::text::Text;
use super::request::{Part, Seal};
use crate::meter;
use crate::prices::CacheCounting;

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer<'a> {
    /// The provider's name for it.
    pub id: Option<Text<'a>>,
    /// The model, as the provider calls it.
    pub model: Option<Text<'a>>,
    /// Seconds since 1970, where the provider says it.
    pub created: Option<u64>,
    /// What the model says.
    pub parts: Vec<Part<'a>>,
    /// Why it ended.
    pub stop: Stop<'a>,
    /// What it took.
    pub usage: Option<Usage>,
    /// A chat completion of it that calls tools and says nothing has no text, instead of an empty one.
    pub is_null_without_text: bool,
}

/// Why an answer ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stop<'a> {
    /// It was over.
    #[default]
    End,
    /// It reached the longest answer.
    MaxTokens,
    /// Tools are to be called.
    ToolUse,
    /// One of the texts that end it came, perhaps known which.
    Sequence(Option<Text<'a>>),
    /// The provider's filter.
    Filter,
    /// The model refused.
    Refusal,
    /// The provider's own tools take long.
    Pause,
    /// The context is full.
    Context,
}

impl Stop<'_> {
    /// The same, kept.
    pub fn into_owned(self) -> Stop<'static> {
        match self {
            Self::End => Stop::End,
            Self::MaxTokens => Stop::MaxTokens,
            Self::ToolUse => Stop::ToolUse,
            Self::Sequence(text) => Stop::Sequence(text.map(Text::into_owned)),
            Self::Filter => Stop::Filter,
            Self::Refusal => Stop::Refusal,
            Self::Pause => Stop::Pause,
            Self::Context => Stop::Context,
        }
    }
}

/// Tokens, each counted once: the whole prompt is `input + cache_read + cache_write`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input that was neither read from a cache nor written to one.
    pub input: u64,
    /// Input from the cache.
    pub cache_read: u64,
    /// Input written to the cache, for however long.
    pub cache_write: u64,
    /// Of it, what was written for an hour.
    pub cache_write_1h: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// Of the output, what was thought, where that is told.
    pub reasoning: Option<u64>,
}

impl Usage {
    /// The whole prompt.
    pub fn prompt(&self) -> u64 {
        self.input.saturating_add(self.cache_read).saturating_add(self.cache_write)
    }

    /// The same counts as the meter has them, cached input told as `counting` says. What they cost does not depend on it;
    /// what is reported does.
    pub fn counted(&self, counting: CacheCounting) -> meter::Usage {
        let cache_write_1h_tokens = self.cache_write_1h.min(self.cache_write);
        let additive = meter::Usage {
            prompt_tokens: self.input,
            completion_tokens: self.output,
            total_tokens: self.input.saturating_add(self.output),
            cache_read_tokens: self.cache_read,
            cache_write_tokens: self.cache_write - cache_write_1h_tokens,
            cache_write_1h_tokens,
            counting: CacheCounting::Additive,
        };
        match counting {
            CacheCounting::Additive => additive,
            CacheCounting::Inclusive => additive.inclusive(),
        }
    }

    pub(in crate::translate) fn of(usage: &meter::Usage, reasoning: Option<u64>) -> Self {
        let write = usage.all_cache_write_tokens();
        let cached = usage.cache_read_tokens.saturating_add(write);
        let (input, cache_read, cache_write) = match usage.counting {
            CacheCounting::Additive => (usage.prompt_tokens, usage.cache_read_tokens, write),
            CacheCounting::Inclusive if cached <= usage.prompt_tokens => {
                (usage.prompt_tokens - cached, usage.cache_read_tokens, write)
            }
            // Counts that contradict each other: the prompt is believed.
            CacheCounting::Inclusive => {
                let read = usage.cache_read_tokens.min(usage.prompt_tokens);
                (usage.prompt_tokens - read, read, 0)
            }
        };
        let cache_write_1h = usage.cache_write_1h_tokens.min(cache_write);
        let output = usage.completion_tokens;
        Self { input, cache_read, cache_write, cache_write_1h, output, reasoning }
    }
}

/// One event of a streamed answer. Blocks follow one another; calls of tools may overlap and say which they are.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The answer begins.
    Start {
        /// The provider's name for it.
        id: Option<Text<'a>>,
        /// The model, as the provider calls it.
        model: Option<Text<'a>>,
        /// Seconds since 1970.
        created: Option<u64>,
    },
    /// A block of text begins. Without it the first piece begins one.
    TextStart,
    /// A piece of text.
    Text(Text<'a>),
    /// A piece of the model's words why it does not answer.
    Refusal(Text<'a>),
    /// A block of thought begins. Without it the first piece begins one.
    ThinkingStart,
    /// A piece of thought.
    Thinking(Text<'a>),
    /// The seal on the thought before it.
    Seal(Seal<'a>),
    /// A thought that only the provider can read, whole.
    Redacted(Seal<'a>),
    /// A call begins.
    ToolStart {
        /// Which call: counted from 0.
        call: u32,
        /// Its name, which the result repeats.
        id: Text<'a>,
        /// The tool's name.
        name: Text<'a>,
        /// The provider's seal on the thought that led to it.
        seal: Option<Seal<'a>>,
    },
    /// A piece of a call's arguments.
    ToolArguments {
        /// Which call.
        call: u32,
        /// A piece of JSON, as the text of a string.
        json: Text<'a>,
    },
    /// A block of text or thought is over.
    BlockEnd,
    /// Why the answer ends; it comes before `End`.
    Stop(Stop<'a>),
    /// Counts so far, or all.
    Usage(Usage),
    /// The provider fails.
    Error(Failure),
    /// The answer is whole.
    End,
}

/// What a provider says has failed, or what is wrong with its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The provider's word for it.
    pub kind: Option<String>,
    /// The provider's sentence, not yet redacted.
    pub message: String,
}

impl Failure {
    pub(in crate::translate) fn new(message: &str) -> Self {
        Self { kind: None, message: message.to_owned() }
    }
}

/// What must be known of the request to write its answer.
#[derive(Clone, Debug, Default)]
pub struct AsCaller {
    /// Whether the caller asked for usage in a chunk of its own.
    pub include_usage: bool,
    /// Tools that the caller knows by another name.
    pub tools: Vec<ToolName>,
    /// Fields of the request that an answer repeats, as JSON without braces.
    pub echo: String,
    /// The model that was asked, where the provider does not say which answers.
    pub model: String,
    /// Seconds since 1970: when the answer was made, where the provider does not say.
    pub now: u64,
    /// The answer's name, where the provider gives none. It must need no escape.
    pub id: String,
}

/// Every token once, which loses nothing.
impl From<Usage> for meter::Usage {
    fn from(usage: Usage) -> Self {
        usage.counted(CacheCounting::Additive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_in_either_way_and_are_the_same_counts() {
        let usage = Usage {
            input: 10,
            cache_read: 100,
            cache_write: 30,
            cache_write_1h: 20,
            output: 5,
            reasoning: Some(2),
        };
        let apart = meter::Usage::from(usage);
        assert_eq!((apart.prompt_tokens, apart.total_tokens), (10, 15));
        assert_eq!((apart.cache_write_tokens, apart.cache_write_1h_tokens), (10, 20));
        let within = usage.counted(CacheCounting::Inclusive);
        assert_eq!((within.prompt_tokens, within.total_tokens), (140, 145));
        assert_eq!(within.counting, CacheCounting::Inclusive);
        for told in [apart, within] {
            assert_eq!(Usage::of(&told, Some(2)), usage);
        }
    }
}
