//! A request in its neutral form.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::super::names::ToolName;
use super::super::object::Object;
use super::super::text::Text;
use crate::secret::Secret;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Conversation<'a> {
    /// The selector as the caller wrote it.
    pub model: Text<'a>,
    /// What was said, instructions included, in its order.
    pub turns: Vec<Turn<'a>>,
    /// What the model may call.
    pub tools: Vec<Tool<'a>>,
    /// Which of them it should call.
    pub tool_choice: Option<ToolChoice<'a>>,
    /// Whether it may call several at once.
    pub parallel_tools: Option<bool>,
    /// A number from 0 on.
    pub temperature: Option<&'a RawValue>,
    /// A number from 0 to 1.
    pub top_p: Option<&'a RawValue>,
    /// A whole number.
    pub top_k: Option<&'a RawValue>,
    /// Texts that end the answer.
    pub stop: Vec<Text<'a>>,
    /// Longest answer, in tokens.
    pub max_output: Option<&'a RawValue>,
    /// What the answer must look like.
    pub output: Option<Output<'a>>,
    /// How much the model should think.
    pub reasoning: Option<Reasoning<'a>>,
    /// The provider's name for who asks.
    pub user: Option<Text<'a>>,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Whether the caller wants to see the usage in a chunk of its own.
    pub include_usage: bool,
    /// Fields that some formats have under the same name, as they came.
    pub extras: Vec<(&'static str, &'a RawValue)>,
    /// What could not be kept on the way here.
    pub dropped: Dropped,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, by OpenAI's newer name.
    Developer,
    /// The user, and the results of tools.
    User,
    /// The model.
    Assistant,
}

/// One message, or several items of one side that belong together.
#[derive(Clone, Debug)]
pub struct Turn<'a> {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub parts: Vec<Part<'a>>,
    /// It came as one plain string.
    pub is_plain: bool,
}

/// A piece of a turn or of an answer.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// What it is.
    pub kind: Kind<'a>,
    /// Anthropic's mark of a prefix to cache, as it came.
    pub cache: Option<&'a RawValue>,
}

/// What a part is.
#[derive(Clone, Debug)]
pub enum Kind<'a> {
    /// A text.
    Text(Text<'a>),
    /// The model's words why it does not answer.
    Refusal(Text<'a>),
    /// A picture; OpenAI's level of detail.
    Image(Source<'a>, Option<Text<'a>>),
    /// A document; its name.
    File(Source<'a>, Option<Text<'a>>),
    /// The model calls a tool.
    ToolCall(ToolCall<'a>),
    /// What a tool gave.
    ToolResult(ToolResult<'a>),
    /// What the model thought, and the provider's seal on it.
    Thinking(Text<'a>, Option<Seal<'a>>),
    /// Thoughts that only the provider can read.
    Redacted(Seal<'a>),
    /// A part that only its own format knows.
    Opaque(Object<'a>),
}

impl<'a> From<Kind<'a>> for Part<'a> {
    fn from(kind: Kind<'a>) -> Self {
        Self { kind, cache: None }
    }
}

/// Where a picture or a document is.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// In the request: media type and base64.
    Base64(Text<'a>, Text<'a>),
    /// At an address.
    Url(Text<'a>),
    /// Uploaded to the provider before: its name there.
    Upload(Text<'a>),
    /// A document that is plain text.
    Plain(Text<'a>),
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub struct ToolCall<'a> {
    /// The call's name, which its result repeats.
    pub id: Text<'a>,
    /// The tool's name.
    pub name: Text<'a>,
    /// What it is called with.
    pub arguments: Arguments<'a>,
    /// The provider's seal on the thought that led to it.
    pub seal: Option<Seal<'a>>,
}

/// The arguments of a call.
#[derive(Clone, Debug)]
pub enum Arguments<'a> {
    /// JSON in a string, as OpenAI has it; perhaps none, or none that is JSON.
    Quoted(Text<'a>),
    /// JSON, as Anthropic has it.
    Json(&'a RawValue),
}

impl Arguments<'_> {
    /// The arguments as a JSON object; `None` when they are none. No text at all is `{}`.
    pub fn object(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Json(raw) => raw.get().starts_with('{').then_some(Cow::Borrowed(raw.get())),
            Self::Quoted(text) => {
                let plain = text.plain();
                let trimmed = plain.trim();
                if trimmed.is_empty() {
                    return Some(Cow::Borrowed("{}"));
                }
                let is_json = serde_json::from_str::<&RawValue>(trimmed).is_ok();
                (is_json && trimmed.starts_with('{')).then(|| Cow::Owned(trimmed.to_owned()))
            }
        }
    }

    /// The arguments as the text of a string. No text at all is `{}`.
    pub fn quoted(&self) -> Text<'_> {
        match self {
            Self::Json(raw) => Text::of(raw.get()),
            Self::Quoted(text) if text.is_empty() => Text::of("{}"),
            Self::Quoted(text) => text.borrow(),
        }
    }
}

/// What a tool gave.
#[derive(Clone, Debug)]
pub struct ToolResult<'a> {
    /// The call's id.
    pub id: Text<'a>,
    /// The tool's name, where the format says it.
    pub name: Option<Text<'a>>,
    /// Texts, pictures and documents.
    pub parts: Vec<Part<'a>>,
    /// The result came as one plain string.
    pub is_plain: bool,
    /// The tool failed.
    pub is_error: bool,
    /// The call was one with plain text instead of arguments.
    pub is_custom: bool,
}

/// Who can open a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Anthropic.
    Anthropic,
    /// OpenAI's Responses API.
    OpenAi,
    /// Google.
    Google,
    /// Mistral.
    Mistral,
}

/// A provider's seal on a thought: only who made it can use it, and it must come back byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal<'a> {
    /// Who made it.
    pub origin: Origin,
    /// The seal.
    pub value: Text<'a>,
}

/// A tool that the model may call: a function.
#[derive(Clone, Debug)]
pub struct Tool<'a> {
    /// Its name, by which the provider calls it.
    pub name: Text<'a>,
    /// What it does.
    pub description: Option<Text<'a>>,
    /// JSON schema of its arguments.
    pub schema: Option<&'a RawValue>,
    /// Whether the arguments must keep to the schema.
    pub strict: Option<bool>,
    /// Anthropic's mark of a prefix to cache.
    pub cache: Option<&'a RawValue>,
    /// What the caller calls it, where that is not a plain function of this name.
    pub known_as: Option<ToolName>,
}

impl Tool<'_> {
    /// Whether it takes plain text.
    pub fn is_custom(&self) -> bool {
        self.known_as.as_ref().is_some_and(|name| name.is_custom)
    }
}

/// Which tool should be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice<'a> {
    /// As the model likes.
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Tool(Text<'a>),
}

/// What the answer must look like.
#[derive(Clone, Debug)]
pub enum Output<'a> {
    /// Some JSON object.
    Json,
    /// JSON that keeps to a schema.
    Schema {
        /// The schema's name.
        name: Option<Text<'a>>,
        /// What it is for.
        description: Option<Text<'a>>,
        /// The schema.
        schema: &'a RawValue,
        /// Whether it is kept to strictly.
        strict: Option<bool>,
    },
}

/// How much the model should think.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reasoning<'a> {
    /// Not at all.
    Off,
    /// As it sees fit.
    Adaptive,
    /// A level: minimal, low, medium, high, xhigh, max; and how to sum it up, OpenAI's word.
    Effort(Text<'a>, Option<Text<'a>>),
    /// Up to so many tokens.
    Budget(u64),
}

impl Reasoning<'_> {
    /// The level that stands for it.
    pub fn effort(&self) -> Option<&str> {
        match self {
            Self::Off => Some("none"),
            Self::Adaptive => None,
            Self::Effort(level, _) => Some(level.escaped()),
            Self::Budget(..=1024) => Some("minimal"),
            Self::Budget(..=2048) => Some("low"),
            Self::Budget(..=8192) => Some("medium"),
            Self::Budget(..=24576) => Some("high"),
            Self::Budget(_) => Some("xhigh"),
        }
    }
}

/// The names of parameters that a target cannot express, each once, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped(Vec<Cow<'static, str>>);

impl Dropped {
    /// More names than that are not listed.
    const MAX: usize = 32;

    /// Adds a name of ours.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>) {
        let name = name.into();
        if self.0.len() < Self::MAX && !self.0.contains(&name) {
            self.0.push(name);
        }
    }

    /// Adds a name that the caller made up, unless it could not stand in a header.
    pub fn add_theirs(&mut self, within: &str, name: &str) {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if name.len() <= 64 && !name.is_empty() && name.bytes().all(is_fine) {
            self.add(format!("{within}{name}"));
        }
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a header that lists them.
    pub fn header(&self) -> String {
        self.0.join(", ")
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// The model's name there.
    pub model: &'a str,
    /// The provider's name in the provider table.
    pub provider: &'a str,
    /// Whether the provider is asked to stream.
    pub stream: bool,
    /// The settings of the provider's client that are neither key nor address, by name.
    pub settings: &'a [(String, Secret)],
}

impl<'a> Target<'a> {
    /// A setting of the provider's client; an empty one is none.
    pub fn setting(&self, name: &str) -> Option<&'a str> {
        let found = self.settings.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.expose()).filter(|value| !value.is_empty())
    }
}

/// A body and what it does not say.
#[derive(Clone, Debug)]
pub struct Written {
    /// JSON.
    pub body: Bytes,
    /// What the target cannot express.
    pub dropped: Dropped,
}
