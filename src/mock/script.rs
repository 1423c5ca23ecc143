//! The option grammar of mock model names: `<any name>?key=value&key=value`. It says what to do; the
//! rooms beside it do it.

use std::time::Duration;

/// Longest pause a script may ask for: ten minutes, as long as the most patient client waits.
const MAX_PAUSE_MS: u64 = 600_000;

/// Most output words of one answer.
const MAX_CHUNKS: u64 = 100_000;

/// Largest word.
const MAX_WORD_BYTES: u64 = 64 * 1024;

/// Largest text of one answer: answers are built in memory before they are sent.
const MAX_TEXT_BYTES: u64 = 64 * 1024 * 1024;

/// Words of thought when only `reasoning` is given.
const DEFAULT_REASONING: u32 = 4;

/// Output words when nothing is said.
const DEFAULT_CHUNKS: u32 = 8;

/// What a failing attempt answers when only `fail_first` is given.
const DEFAULT_FAILURE: u16 = 503;

const KEYS: &str = "bytes, cached, chunks, delay_ms, fail_first, fault, first_delay_ms, interval_ms, \
                    end, parallel, polls, preface, reasoning, retry_after, seed, stamp, status, strict, \
                    thinking, tool, tools, usage";

const FAULTS: &str = "bad_crc, bad_json, close_delimited, comments, crlf, cut:N, early_413, empty, \
                      error_event:N, gzip, half_utf8, header_then_silent, html, no_done, refuse, \
                      reset:N, silent, split_lines, stall:N";

/// When token counts are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Usage {
    /// As the protocol has it.
    #[default]
    Usual,
    /// Never.
    Never,
    /// In the last content chunk, asked for or not; other protocols than chat have it there anyway.
    Last,
}

/// Whether given tools are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tools {
    /// Only when `tool_choice` insists.
    #[default]
    Asked,
    /// Whenever the last message is the user's.
    Once,
    /// After tool results too: a conversation that never ends.
    Always,
}

/// How chat completions tell thoughts; the other formats know one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Thinking {
    /// In `reasoning_content`, as DeepSeek and many servers do.
    #[default]
    Content,
    /// In `reasoning`, as Groq, Cerebras and OpenRouter do.
    Field,
    /// Between `<think>` tags in the text; in a stream both tags arrive in two pieces.
    Tags,
    /// In chunks of `content`, as Mistral does.
    Chunks,
}

/// Whose documents say which fields a call may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strict {
    /// OpenAI's, or Anthropic's.
    Own,
    /// Mistral's.
    Mistral,
    /// Voyage's, who embeds and ranks.
    Voyage,
    /// Together's, of the same.
    Together,
}

/// What goes wrong. Counts are output chunks sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Refuse,
    Silent,
    HeaderThenSilent,
    Cut(u32),
    Reset(u32),
    Stall(u32),
    HalfUtf8,
    SplitLines,
    Gzip,
    Crlf,
    Comments,
    NoDone,
    ErrorEvent(u32),
    Html,
    Empty,
    BadJson,
    BadCrc,
    CloseDelimited,
    Early413,
}

/// How one request is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Script<'a> {
    pub(super) chunks: u32,
    pub(super) delay: Duration,
    pub(super) first_delay: Duration,
    pub(super) interval: Duration,
    /// Size of each word; `None`: the word's own.
    pub(super) bytes: Option<usize>,
    /// Words say when they were written.
    pub(super) stamp: bool,
    pub(super) usage: Usage,
    pub(super) cached_tokens: u64,
    pub(super) status: Option<u16>,
    pub(super) retry_after_s: Option<u32>,
    pub(super) fail_first: u32,
    pub(super) seed: Option<&'a str>,
    pub(super) tools: Tools,
    /// The tool to call; `None`: the first one given.
    pub(super) tool: Option<&'a str>,
    /// Two calls instead of one.
    pub(super) parallel: bool,
    /// Words before tool calls.
    pub(super) preface: u32,
    /// Words of thought before anything else.
    pub(super) reasoning: u32,
    pub(super) thinking: Thinking,
    /// Fields that nobody documents are refused.
    pub(super) strict: Option<Strict>,
    pub(super) fault: Option<Fault>,
    /// Looks until a batch has ended.
    pub(super) polls: u32,
    /// How a batch ends.
    pub(super) end: &'static str,
}

impl Default for Script<'_> {
    fn default() -> Self {
        Self {
            chunks: DEFAULT_CHUNKS,
            delay: Duration::ZERO,
            first_delay: Duration::ZERO,
            interval: Duration::ZERO,
            bytes: None,
            stamp: false,
            usage: Usage::default(),
            cached_tokens: 0,
            status: None,
            retry_after_s: None,
            fail_first: 0,
            seed: None,
            tools: Tools::default(),
            tool: None,
            parallel: false,
            preface: 0,
            reasoning: 0,
            thinking: Thinking::default(),
            strict: None,
            fault: None,
            polls: 1,
            end: "completed",
        }
    }
}

/// Splits a model name into the bare name and its script.
///
/// # Errors
/// A sentence for the caller that names the option and what is known.
pub(super) fn parse(model: &str) -> Result<(&str, Script<'_>), String> {
    let mut script = Script::default();
    let Some((name, options)) = model.split_once('?') else { return Ok((model, script)) };
    for option in options.split('&').filter(|o| !o.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        script.set(key, value)?;
    }
    let words = u64::from(script.chunks.max(script.preface));
    let text = words * script.bytes.unwrap_or(0) as u64;
    if text > MAX_TEXT_BYTES {
        return Err(format!("mock options: chunks x bytes may be at most {MAX_TEXT_BYTES}"));
    }
    if script.fail_first > 0 && script.fault.is_none() {
        script.status.get_or_insert(DEFAULT_FAILURE);
    }
    Ok((name, script))
}

impl<'a> Script<'a> {
    fn set(&mut self, key: &str, value: &'a str) -> Result<(), String> {
        match key {
            "chunks" => self.chunks = number(key, value, 0, MAX_CHUNKS)? as u32,
            "delay_ms" => self.delay = pause(key, value)?,
            "first_delay_ms" => self.first_delay = pause(key, value)?,
            "interval_ms" => self.interval = pause(key, value)?,
            "bytes" => self.bytes = Some(number(key, value, 1, MAX_WORD_BYTES)? as usize),
            "cached" => self.cached_tokens = number(key, value, 0, u64::from(u32::MAX))?,
            "status" => self.status = Some(number(key, value, 400, 599)? as u16),
            "retry_after" => self.retry_after_s = Some(number(key, value, 0, 86_400)? as u32),
            "fail_first" => self.fail_first = number(key, value, 0, 1_000_000)? as u32,
            "seed" => self.seed = Some(value),
            "stamp" => match value {
                "" => self.stamp = true,
                _ => return Err(unknown_value(key, value, "none; it stands alone")),
            },
            "usage" => {
                self.usage = match value {
                    "none" => Usage::Never,
                    "last" => Usage::Last,
                    _ => return Err(unknown_value(key, value, "none, last")),
                }
            }
            "tools" => {
                self.tools = match value {
                    "" | "once" => Tools::Once,
                    "always" => Tools::Always,
                    _ => return Err(unknown_value(key, value, "once, always")),
                }
            }
            "parallel" => match value {
                "" => self.parallel = true,
                _ => return Err(unknown_value(key, value, "none; it stands alone")),
            },
            "preface" => self.preface = number(key, value, 0, MAX_CHUNKS)? as u32,
            "reasoning" => {
                self.reasoning = match value {
                    "" => DEFAULT_REASONING,
                    _ => number(key, value, 0, MAX_CHUNKS)? as u32,
                }
            }
            "thinking" => {
                self.thinking = match value {
                    "content" => Thinking::Content,
                    "field" => Thinking::Field,
                    "tags" => Thinking::Tags,
                    "chunks" => Thinking::Chunks,
                    _ => return Err(unknown_value(key, value, "content, field, tags, chunks")),
                }
            }
            "strict" => self.strict = Some(strict(value)?),
            "tool" => {
                self.tool = Some(value);
                if self.tools == Tools::Asked {
                    self.tools = Tools::Once;
                }
            }
            "polls" => self.polls = number(key, value, 1, 1_000_000)? as u32,
            "end" => self.end = end(value)?,
            "fault" => self.fault = Some(fault(value)?),
            _ => return Err(format!("unknown mock option '{key}'; known: {KEYS}")),
        }
        Ok(())
    }
}

/// How a batch ends.
fn strict(value: &str) -> Result<Strict, String> {
    Ok(match value {
        "" => Strict::Own,
        "mistral" => Strict::Mistral,
        "voyage" => Strict::Voyage,
        "together" => Strict::Together,
        _ => return Err(unknown_value("strict", value, "mistral, voyage, together, or none")),
    })
}

fn end(value: &str) -> Result<&'static str, String> {
    const ENDS: [&str; 4] = ["completed", "failed", "expired", "cancelled"];
    let found = ENDS.into_iter().find(|known| *known == value);
    found.ok_or_else(|| unknown_value("end", value, &ENDS.join(", ")))
}

fn fault(value: &str) -> Result<Fault, String> {
    let (name, count) = match value.split_once(':') {
        Some((name, count)) => (name, Some(number("fault", count, 0, MAX_CHUNKS)? as u32)),
        None => (value, None),
    };
    // One chunk, then trouble: the case most tests are about.
    let after = count.unwrap_or(1);
    Ok(match name {
        "cut" => Fault::Cut(after),
        "reset" => Fault::Reset(after),
        "stall" => Fault::Stall(after),
        "error_event" => Fault::ErrorEvent(after),
        _ if count.is_some() => return Err(unknown_value("fault", value, FAULTS)),
        "refuse" => Fault::Refuse,
        "silent" => Fault::Silent,
        "header_then_silent" => Fault::HeaderThenSilent,
        "half_utf8" => Fault::HalfUtf8,
        "split_lines" => Fault::SplitLines,
        "gzip" => Fault::Gzip,
        "crlf" => Fault::Crlf,
        "comments" => Fault::Comments,
        "no_done" => Fault::NoDone,
        "html" => Fault::Html,
        "empty" => Fault::Empty,
        "bad_crc" => Fault::BadCrc,
        "bad_json" => Fault::BadJson,
        "close_delimited" => Fault::CloseDelimited,
        "early_413" => Fault::Early413,
        _ => return Err(unknown_value("fault", value, FAULTS)),
    })
}

fn number(key: &str, value: &str, min: u64, max: u64) -> Result<u64, String> {
    value.parse().ok().filter(|n| (min..=max).contains(n)).ok_or_else(|| {
        format!("mock option '{key}' must be a whole number from {min} to {max}, got '{value}'")
    })
}

fn pause(key: &str, value: &str) -> Result<Duration, String> {
    number(key, value, 0, MAX_PAUSE_MS).map(Duration::from_millis)
}

fn unknown_value(key: &str, value: &str, known: &str) -> String {
    format!("unknown value '{value}' of mock option '{key}'; known: {known}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_options_is_answered_plainly() {
        assert_eq!(parse("gpt"), Ok(("gpt", Script::default())));
        assert_eq!(parse("gpt?"), Ok(("gpt", Script::default())), "an empty list is no option");
    }

    #[test]
    fn every_option_is_read() {
        let (name, script) = parse(
            "a/b:c?chunks=64&delay_ms=1&first_delay_ms=2&interval_ms=20&bytes=9&usage=last&cached=3\
             &status=429&retry_after=5&fail_first=2&seed=x&tools&tool=t&parallel&preface=4&reasoning=6&thinking=tags&strict\
             &fault=cut:7&polls=8&end=expired&stamp",
        )
        .unwrap();
        assert_eq!(name, "a/b:c");
        let expected = Script {
            chunks: 64,
            delay: Duration::from_millis(1),
            first_delay: Duration::from_millis(2),
            interval: Duration::from_millis(20),
            bytes: Some(9),
            stamp: true,
            usage: Usage::Last,
            cached_tokens: 3,
            status: Some(429),
            retry_after_s: Some(5),
            fail_first: 2,
            seed: Some("x"),
            tools: Tools::Once,
            tool: Some("t"),
            parallel: true,
            preface: 4,
            reasoning: 6,
            thinking: Thinking::Tags,
            strict: Some(Strict::Own),
            fault: Some(Fault::Cut(7)),
            polls: 8,
            end: "expired",
        };
        assert_eq!(script, expected);
    }

    #[test]
    fn every_named_fault_is_known() {
        for name in FAULTS.split(", ") {
            let option = format!("m?fault={}", name.replace(":N", ":2"));
            assert!(parse(&option).is_ok(), "{option} is in the list the caller is shown");
        }
        assert_eq!(parse("m?fault=cut").unwrap().1.fault, Some(Fault::Cut(1)));
    }

    #[test]
    fn every_named_key_is_known() {
        for key in KEYS.split(", ") {
            let refusal = parse(&format!("m?{key}=~")).err().unwrap_or_default();
            assert!(!refusal.starts_with("unknown mock option"), "{key} is in the list: {refusal}");
        }
    }

    #[test]
    fn an_unknown_option_names_the_known_ones() {
        let refusal = parse("m?colour=red").unwrap_err();
        assert!(refusal.contains("'colour'") && refusal.contains("interval_ms"), "{refusal}");
        let refusal = parse("m?fault=gzip:3").unwrap_err();
        assert!(refusal.contains("half_utf8"), "only four faults take a count: {refusal}");
    }

    #[test]
    fn numbers_stay_within_their_limits() {
        for model in
            ["m?chunks=100001", "m?chunks=-1", "m?status=200", "m?delay_ms=600001", "m?bytes=0"]
        {
            assert!(parse(model).is_err(), "{model}");
        }
        assert!(parse("m?chunks=100000&bytes=65536").is_err(), "the product is limited too");
    }

    #[test]
    fn fail_first_alone_means_503() {
        assert_eq!(parse("m?fail_first=1").unwrap().1.status, Some(503));
        assert_eq!(parse("m?fail_first=1&fault=refuse").unwrap().1.status, None);
    }
}
