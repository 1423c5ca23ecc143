//! How many tokens a prompt has, by the tokenizer of the model that will read it.
//!
//! OpenAI's vocabularies are in the binary and are unpacked when the first prompt needs them; nothing is fetched. Of
//! other makers' models the vocabularies are not public: for them there is an estimate from characters
//! (`protocol/messages`).

use tiktoken_rs::CoreBPE;

use crate::translate::messages;
use crate::translate::neutral::{Arguments, Conversation, Kind, Output, Part, Source};
use crate::translate::text::Text;

/// Of one request no more bytes are tokenised; behind them four characters are one token. Text takes 0.13 µs a byte, the
/// worst that a caller can send (one sign, over and over) ten times that: a third of a second.
const MAX_BYTES: usize = 256 << 10;

/// The tokenizer gets no more at once: it gives up, by a panic, on a megabyte of spaces. Where a text is cut, the count
/// may be one off.
const MAX_AT_ONCE: usize = 32 << 10;

/// What a message takes beside its text, and what the beginning of the answer does.
/// Source: <https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken> (2026-11-23).
const PER_MESSAGE: u64 = 3;

/// What a tool takes beside its name, description and schema. Same source.
const PER_TOOL: u64 = 7;

/// A picture of 1024 by 1024 pixels in full detail: 85 and four tiles of 170.
/// Source: <https://platform.openai.com/docs/guides/images-vision#calculating-costs> (2026-11-23).
const IMAGE: u64 = 765;

/// A document of a page or two, of which both the text and the picture are read.
const FILE: u64 = 1_600;

/// The tokens of `text` for the model that its provider calls `provider_model`; `None` when its tokenizer is not known.
pub fn count(provider_model: &str, text: &str) -> Option<u64> {
    let mut counter = Counter::new(provider_model)?;
    counter.add(text);
    Some(counter.sum())
}

/// The tokens of a messages request for the model that its provider calls `provider_model`: instructions, messages,
/// calls, results and tools; pictures and documents at a usual size. Thoughts stay with who made them and count nothing.
/// Takes milliseconds, hundreds of them the first time: not for a thread that serves others.
///
/// `None` when the tokenizer is not known, or when the request cannot be read.
pub fn count_messages(provider_model: &str, body: &[u8]) -> Option<u64> {
    let mut counter = Counter::new(provider_model)?;
    counter.add_conversation(&messages::read_request(body).ok()?);
    Some(counter.sum())
}

/// A vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vocabulary {
    /// `gpt-4` and before.
    Cl100k,
    /// Everything since `gpt-4o`.
    O200k,
}

impl Vocabulary {
    /// Which one a model has, by the name its provider has for it.
    /// Source: <https://github.com/openai/tiktoken/blob/main/tiktoken/model.py> (2026-11-23).
    fn of(provider_model: &str) -> Option<Self> {
        let name = provider_model.strip_prefix("openai/").unwrap_or(provider_model);
        // A tuned model is called after the one it was made of.
        let name = name.strip_prefix("ft:").unwrap_or(name);
        let is = |root: &str| {
            let rest = name.strip_prefix(root);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', ':']))
        };
        if ["gpt-4", "gpt-3.5", "gpt-3.5-turbo", "gpt-35-turbo"].into_iter().any(is) {
            return Some(Self::Cl100k);
        }
        // Other makers have names with `gpt-` too, but behind it they have no number.
        let is_numbered =
            name.strip_prefix("gpt-").is_some_and(|rest| rest.starts_with(['4', '5', '6', '7']));
        let is_known =
            ["o1", "o3", "o4", "chatgpt", "codex", "gpt-oss", "gpt-audio", "gpt-realtime"]
                .into_iter()
                .any(is);
        (is_numbered || is_known).then_some(Self::O200k)
    }

    fn tokenizer(self) -> &'static CoreBPE {
        match self {
            Self::Cl100k => tiktoken_rs::cl100k_base_singleton(),
            Self::O200k => tiktoken_rs::o200k_base_singleton(),
        }
    }
}

/// Counts the texts of one request.
struct Counter {
    tokenizer: &'static CoreBPE,
    /// Bytes that may still be tokenised.
    left: usize,
    tokens: u64,
    /// Characters behind them.
    chars: u64,
}

impl Counter {
    fn new(provider_model: &str) -> Option<Self> {
        let tokenizer = Vocabulary::of(provider_model)?.tokenizer();
        Some(Self { tokenizer, left: MAX_BYTES, tokens: 0, chars: 0 })
    }

    fn sum(&self) -> u64 {
        self.tokens.saturating_add(self.chars.div_ceil(4))
    }

    fn add(&mut self, text: &str) {
        let (mut near, far) = text.split_at(text.floor_char_boundary(self.left));
        self.left -= near.len();
        self.chars += far.chars().count() as u64;
        while !near.is_empty() {
            let (piece, rest) = near.split_at(near.floor_char_boundary(MAX_AT_ONCE));
            self.tokens += self.tokenizer.count_ordinary(piece) as u64;
            near = rest;
        }
    }

    fn add_text(&mut self, text: &Text<'_>) {
        self.add(&text.plain());
    }

    fn add_conversation(&mut self, conversation: &Conversation<'_>) {
        for turn in &conversation.turns {
            self.tokens += PER_MESSAGE;
            turn.parts.iter().for_each(|part| self.add_part(part));
        }
        for tool in &conversation.tools {
            self.tokens += PER_TOOL;
            self.add_text(&tool.name);
            tool.description.iter().for_each(|text| self.add_text(text));
            tool.schema.iter().for_each(|schema| self.add(schema.get()));
        }
        if let Some(Output::Schema { schema, .. }) = &conversation.output {
            self.add(schema.get());
        }
        // The answer begins as a message does.
        self.tokens += PER_MESSAGE;
    }

    fn add_part(&mut self, part: &Part<'_>) {
        match &part.kind {
            Kind::Text(text) | Kind::Refusal(text) | Kind::File(Source::Plain(text), _) => {
                self.add_text(text);
            }
            Kind::Image(..) => self.tokens += IMAGE,
            Kind::File(..) => self.tokens += FILE,
            Kind::ToolCall(call) => {
                self.add_text(&call.name);
                match &call.arguments {
                    Arguments::Json(raw) => self.add(raw.get()),
                    Arguments::Quoted(text) => self.add_text(text),
                }
            }
            Kind::ToolResult(result) => {
                // A message of its own, where it goes.
                self.tokens += PER_MESSAGE;
                result.parts.iter().for_each(|part| self.add_part(part));
            }
            Kind::Thinking(..) | Kind::Redacted(_) => {}
            Kind::Opaque(object) => object.values().for_each(|value| self.add(value.get())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_the_vocabulary_of_its_generation() {
        use Vocabulary::{Cl100k, O200k};
        for (want, names) in [
            (
                Some(Cl100k),
                "gpt-4 gpt-4-turbo gpt-4-0613 gpt-3.5-turbo-16k gpt-35-turbo ft:gpt-4:x",
            ),
            (
                Some(O200k),
                "gpt-4o gpt-4o-mini gpt-4.1-nano gpt-4.5-preview gpt-5 gpt-5.2-codex o1 o1-mini o3 o4-mini \
                 chatgpt-4o-latest codex-mini-latest gpt-oss:20b openai/gpt-oss-120b ft:gpt-4o:x gpt-realtime",
            ),
            (
                None,
                "claude-opus-5-5 gemini-3-pro gpt-j-6b gpt-neo EleutherAI/gpt-neox-20b o1x olmo o100 gpt-image-1 \
                 my-deployment llama-3 gpt-",
            ),
        ] {
            for name in names.split_whitespace() {
                assert_eq!(Vocabulary::of(name), want, "{name}");
            }
        }
        assert_eq!(count("", "hello"), None);
    }

    #[test]
    fn texts_are_counted_as_the_maker_counts_them() {
        for (model, text, want) in [
            // The two answers of OpenAI's cookbook, and its own example of what differs.
            ("gpt-4", "tiktoken is great!", 6),
            ("gpt-4o", "tiktoken is great!", 6),
            ("gpt-4", "お誕生日おめでとう", 9),
            ("gpt-4o", "お誕生日おめでとう", 8),
            ("gpt-4", "antidisestablishmentarianism", 6),
            ("gpt-4", "2 + 2 = 4", 7),
            ("o3", "", 0),
            // The name of a special token is a text like any other.
            ("o3", "<|endoftext|>", 7),
        ] {
            assert_eq!(count(model, text), Some(want), "{model} {text}");
        }
    }

    #[test]
    fn every_part_of_a_request_counts() {
        let count = |body: &str| count_messages("gpt-4o", body.as_bytes());
        let hello = r#"{"model":"x","messages":[{"role":"user","content":"tiktoken is great!"}]}"#;
        assert_eq!(count(hello), Some(3 + 6 + 3));
        let all = r#"{"model":"x","system":"hello","max_tokens":"?","messages":[
            {"role":"user","content":[{"type":"text","text":"hello"},
                {"type":"image","source":{"type":"base64","data":"AAAA"}},
                {"type":"document","source":{"type":"url","url":"https://a.example/b.pdf"}},
                {"type":"document","source":{"type":"text","data":"hello"}}]},
            {"role":"assistant","content":[{"type":"thinking","thinking":"not counted","signature":"s"},
                {"type":"tool_use","id":"t","name":"hello","input":{"a":1}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"hello"}]}],
            "tools":[{"name":"hello","description":"hello","input_schema":{"a":1}}]}"#;
        let schema = super::count("gpt-4o", r#"{"a":1}"#).unwrap();
        let user = 3 + 1 + IMAGE + FILE + 1;
        let want = (3 + 1) + user + (3 + 1 + schema) + (3 + 3 + 1) + (7 + 1 + 1 + schema) + 3;
        assert_eq!(count(all), Some(want));
        assert_eq!(count(r#"{"model":"x","messages":[{}]}"#), None, "no role");
    }

    #[test]
    fn what_is_too_much_is_counted_by_its_characters() {
        let text = "é".repeat(MAX_BYTES);
        let near = "é".repeat(MAX_BYTES / 2);
        let tokens = count("gpt-4o", &near).unwrap();
        assert_eq!(count("gpt-4o", &text), Some(tokens + MAX_BYTES as u64 / 8));
        // The end of what is counted may lie within a character, and spaces without end are no worse than text.
        let shifted = format!("a{text}");
        assert!(count("gpt-4o", &shifted).is_some());
        for space in [" ", "\n", "\t", "\u{3000}"] {
            let spaces = format!("{}a", space.repeat(2 << 20));
            for model in ["gpt-4o", "gpt-4"] {
                assert!(count(model, &spaces).is_some_and(|tokens| tokens > 400_000), "{space:?}");
            }
        }
    }

    /// Run by hand: `cargo test --release -p otari-filters tokens -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures; asserts nothing"]
    fn how_long_does_it_take() {
        let time = |what: &str, work: &dyn Fn() -> Option<u64>| {
            let started = std::time::Instant::now();
            let tokens = work();
            println!("{what:24} {:>10.3?} {tokens:?}", started.elapsed());
        };
        for model in ["gpt-4o", "gpt-4"] {
            time("first", &|| count(model, "hello"));
            let english = include_str!("tokens.rs").repeat(8);
            time("50 KB of code", &|| count(model, &english[..50 << 10]));
            let tools = r#"{"name":"Read","description":"Reads a \"file\".\nThe path is absolute.","input_schema":{"type":"object","properties":{"path":{"type":"string"}}}}"#;
            let list = vec![tools; (50 << 10) / tools.len()].join(",");
            let body = format!(
                r#"{{"model":"x","messages":[{{"role":"user","content":"hi"}}],"tools":[{list}]}}"#
            );
            time("a request of 50 KB", &|| count_messages(model, body.as_bytes()));
            for piece in [
                "a",
                " ",
                "\n ",
                "ab",
                "é",
                "\u{1f468}\u{200d}",
                "0",
                "-",
                "aA",
                "\u{301}",
                "日本",
                "\0",
            ] {
                let text = piece.repeat(MAX_BYTES / piece.len());
                time(&format!("256 KB of {piece:?}"), &|| count(model, &text));
            }
        }
    }
}
