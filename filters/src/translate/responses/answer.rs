//! Reading and writing a whole response.

use bytes::Bytes;

use super::super::fields::{error_message, read_usage};
use super::super::names;
use super::super::neutral::{
    Answer, AsCaller, Conversation, Failure, Kind, Origin, Part, Reasoning, Seal, Stop, ToolCall,
    ToolChoice, Usage,
};
use super::super::object::Object;
use super::super::out::{self, Fields, Items};
use super::super::seal;
use super::super::text::Text;
use super::read::{function_call, part, thought};
use super::write::write_summary;
use crate::prices::CacheCounting;

/// Reads an answer.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer(body: &[u8]) -> Result<Answer<'_>, Failure> {
    let top = Object::document(body).map_err(|fault| Failure::new(&fault.to_string()))?;
    if let Some(failure) = read_error(body) {
        return Err(failure);
    }
    if ["id", "output", "model"].into_iter().all(|name| !top.has(name)) {
        return Err(Failure::new("The provider's answer has neither id, output nor model"));
    }
    let mut parts: Vec<Part<'_>> = Vec::new();
    for item in top.maybe_objects("output") {
        match item.kind().escaped() {
            "message" => {
                let content = item.maybe_objects("content");
                let said = content.iter().filter_map(|one| part(one).ok());
                parts.extend(said.filter(|part| !matches!(part.kind, Kind::Opaque(_))));
            }
            "function_call" => {
                parts.extend(function_call(&item).ok().map(|call| Kind::ToolCall(call).into()));
            }
            "reasoning" => parts.extend(thought(&item).map(Part::from)),
            _ => {}
        }
    }
    let has_calls = parts.iter().any(|part| matches!(part.kind, Kind::ToolCall(_)));
    let mut usage = None;
    read_usage(&mut usage, &top, CacheCounting::Inclusive);
    Ok(Answer {
        id: top.maybe_text("id").filter(|id| !id.is_empty()),
        model: top.maybe_text("model"),
        created: created(&top),
        parts,
        stop: stop(&top, has_calls),
        usage: usage.map(|seen| seen.usage()),
        is_null_without_text: false,
    })
}

/// Reads a body that reports an error.
pub fn read_error(body: &[u8]) -> Option<Failure> {
    let top = Object::document(body).ok()?;
    let (kind, message) = error_message(&top)?;
    Some(Failure {
        kind: kind.map(|kind| kind.plain().into_owned()),
        message: message.plain().into_owned(),
    })
}

/// When a response was made: some servers add a fraction.
pub(super) fn created(response: &Object<'_>) -> Option<u64> {
    response.get("created_at")?.get().split('.').next()?.parse().ok()
}

/// Why a response ended.
pub(super) fn stop(response: &Object<'_>, has_calls: bool) -> Stop<'static> {
    let reason = response.maybe_object("incomplete_details").maybe_text("reason");
    match reason.unwrap_or_default().escaped() {
        "content_filter" => Stop::Filter,
        "" if has_calls => Stop::ToolUse,
        "" if response.maybe_text("status").is_some_and(|status| status.is("incomplete")) => {
            Stop::MaxTokens
        }
        "" => Stop::End,
        _ => Stop::MaxTokens,
    }
}

/// Why a response is not complete, in this format's words.
fn incomplete(stop: &Stop<'_>) -> Option<&'static str> {
    match stop {
        Stop::MaxTokens | Stop::Context => Some("max_output_tokens"),
        Stop::Filter => Some("content_filter"),
        Stop::End | Stop::ToolUse | Stop::Sequence(_) | Stop::Refusal | Stop::Pause => None,
    }
}

/// Whether a response that ended so is whole, and its last item with it, in this format's words.
pub(super) fn status(stop: &Stop<'_>) -> &'static str {
    if incomplete(stop).is_some() { "incomplete" } else { "completed" }
}

/// What a response repeats of its request, as fields without braces. Of the tools it says nothing: they would travel
/// back with each of three events.
pub fn echo(conversation: &Conversation<'_>) -> String {
    let mut out = Vec::new();
    out::object(&mut out, |to| {
        let null_or =
            |to: &mut Fields<'_>, name: &str, value: Option<&serde_json::value::RawValue>| {
                match value {
                    Some(value) => to.raw(name, value),
                    None => to.null(name),
                }
            };
        null_or(to, "temperature", conversation.temperature);
        null_or(to, "top_p", conversation.top_p);
        null_or(to, "max_output_tokens", conversation.max_output);
        to.flag("parallel_tool_calls", conversation.parallel_tools.unwrap_or(true));
        match &conversation.tool_choice {
            None | Some(ToolChoice::Auto) => to.word("tool_choice", "auto"),
            Some(ToolChoice::None) => to.word("tool_choice", "none"),
            Some(ToolChoice::Required) => to.word("tool_choice", "required"),
            Some(ToolChoice::Tool(name)) => to.object("tool_choice", |choice| {
                choice.word("type", "function");
                choice.text("name", name);
            }),
        }
        to.object("reasoning", |reasoning| {
            match conversation.reasoning.as_ref().and_then(Reasoning::effort) {
                Some(effort) => reasoning.word("effort", effort),
                None => reasoning.null("effort"),
            }
            reasoning.null("summary");
        });
        match conversation.extras.iter().find(|(name, _)| *name == "metadata") {
            Some((_, metadata)) => to.raw("metadata", metadata),
            None => to.object("metadata", |_| {}),
        }
    });
    let fields = String::from_utf8(out).unwrap_or_default();
    fields.trim_start_matches('{').strip_suffix('}').unwrap_or_default().to_owned()
}

/// Writes an answer.
pub fn write_answer(answer: &Answer<'_>, caller: &AsCaller) -> Bytes {
    let mut body = Vec::with_capacity(1024);
    let ours = Text::of(&caller.id);
    let head = Head {
        id: answer.id.as_ref().unwrap_or(&ours).borrow(),
        model: answer.model.clone().unwrap_or_default(),
        created: answer.created.unwrap_or(caller.now),
    };
    let mut output = Vec::new();
    let mut items: Vec<&[Part<'_>]> = Vec::new();
    // Texts that follow one another are one message.
    let mut rest = &answer.parts[..];
    while let Some(first) = rest.first() {
        let is_text = |part: &Part<'_>| matches!(part.kind, Kind::Text(_) | Kind::Refusal(_));
        let texts = rest.iter().take_while(|part| is_text(part)).count();
        let (item, others) = rest.split_at(if is_text(first) { texts } else { 1 });
        items.push(item);
        rest = others;
    }
    out::list(&mut output, |output| {
        for (at, parts) in items.iter().enumerate() {
            let is_last = at + 1 == items.len();
            let status = if is_last { status(&answer.stop) } else { "completed" };
            write_item(output, parts, &head.item(at as u64), status, caller);
        }
    });
    let output = String::from_utf8(output).unwrap_or_default();
    let status = status(&answer.stop);
    out::object(&mut body, |to| {
        let usage = answer.usage.unwrap_or_default();
        write_response(to, &head, status, Some((&answer.stop, &usage)), &output, caller);
    });
    Bytes::from(body)
}

/// What all of a response's events say of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Head<'a> {
    pub(super) id: Text<'a>,
    pub(super) model: Text<'a>,
    pub(super) created: u64,
}

impl Head<'_> {
    /// The name of an item, without the prefix that says what it is.
    pub(super) fn item(&self, index: u64) -> Text<'static> {
        let base = self.id.strip_prefix("resp_").unwrap_or_else(|| self.id.borrow());
        let mut name = base.into_owned();
        name.push(&Text::of(&format!("_{index}")));
        name
    }
}

/// Writes the fields of a response. Its stop and usage are known once it has ended.
pub(super) fn write_response(
    to: &mut Fields<'_>,
    head: &Head<'_>,
    status: &str,
    end: Option<(&Stop<'_>, &Usage)>,
    output: &str,
    caller: &AsCaller,
) {
    let prefix = if head.id.strip_prefix("resp_").is_some() { "" } else { "resp_" };
    to.field("id").texts(&[prefix, head.id.escaped()]);
    to.word("object", "response");
    to.number("created_at", head.created);
    to.word("status", status);
    to.flag("background", false);
    to.null("error");
    match end.and_then(|(stop, _)| incomplete(stop)) {
        Some(reason) => to.object("incomplete_details", |to| to.word("reason", reason)),
        None => to.null("incomplete_details"),
    }
    to.null("instructions");
    to.text("model", &head.model);
    to.json("output", output);
    to.null("previous_response_id");
    to.flag("store", false);
    to.object("text", |text| text.object("format", |format| format.word("type", "text")));
    to.list("tools", |_| {});
    to.word("truncation", "disabled");
    to.splice(&caller.echo);
    match end {
        Some((_, usage)) => to.object("usage", |to| write_usage(to, usage)),
        None => to.null("usage"),
    }
}

fn write_item(
    output: &mut Items<'_>,
    parts: &[Part<'_>],
    id: &Text<'_>,
    status: &str,
    caller: &AsCaller,
) {
    match parts {
        [Part { kind: Kind::Thinking(text, seal), .. }] => output.object(|item| {
            write_reasoning(item, id, text, seal.as_ref().map(|seal| (seal, false)));
        }),
        [Part { kind: Kind::Redacted(seal), .. }] => output.object(|item| {
            write_reasoning(item, id, &Text::default(), Some((seal, true)));
        }),
        [Part { kind: Kind::ToolCall(call), .. }] => {
            if let Some(seal) = &call.seal {
                output.object(|item| {
                    write_reasoning(item, id, &Text::default(), Some((seal, false)));
                });
            }
            output.object(|item| write_call(item, id, call, status, caller));
        }
        parts => output.object(|item| {
            item.field("id").texts(&["msg_", id.escaped()]);
            item.word("type", "message");
            item.word("status", status);
            item.word("role", "assistant");
            item.list("content", |content| {
                for part in parts {
                    content.object(|to| match &part.kind {
                        Kind::Refusal(text) => {
                            to.word("type", "refusal");
                            to.text("refusal", text);
                        }
                        Kind::Text(text) => write_text(to, text),
                        _ => {}
                    });
                }
            });
        }),
    }
}

/// A part of text. Clients want the empty lists.
pub(super) fn write_text(to: &mut Fields<'_>, text: &Text<'_>) {
    to.word("type", "output_text");
    to.text("text", text);
    to.list("annotations", |_| {});
    to.list("logprobs", |_| {});
}

/// A thought with what is needed to give it back.
pub(super) fn write_reasoning(
    item: &mut Fields<'_>,
    id: &Text<'_>,
    text: &Text<'_>,
    seal: Option<(&Seal<'_>, bool)>,
) {
    item.field("id").texts(&["rs_", id.escaped()]);
    item.word("type", "reasoning");
    item.list("summary", |summary| write_summary(summary, text));
    if let Some((seal, is_redacted)) = seal {
        item.text("encrypted_content", &seal::carry(seal, Origin::OpenAi, is_redacted));
    }
}

/// A call, by the name the caller knows the tool by.
pub(super) fn write_call(
    item: &mut Fields<'_>,
    id: &Text<'_>,
    call: &ToolCall<'_>,
    status: &str,
    caller: &AsCaller,
) {
    let known = names::find(&caller.tools, &call.name);
    let is_custom = known.is_some_and(|name| name.is_custom);
    item.field("id").texts(&[if is_custom { "ctc_" } else { "fc_" }, id.escaped()]);
    item.word("type", if is_custom { "custom_tool_call" } else { "function_call" });
    item.word("status", status);
    item.text("call_id", &call.id);
    item.text("name", known.map_or(&call.name, |known| &known.name));
    item.maybe_text("namespace", known.and_then(|known| known.namespace.as_ref()));
    let field = if is_custom { "input" } else { "arguments" };
    if status == "in_progress" {
        item.word(field, "");
    } else if is_custom {
        item.text("input", &custom_input(call));
    } else {
        item.text("arguments", &call.arguments.quoted());
    }
}

/// The plain text in the one argument of a function that stands for a tool that takes one.
pub(super) fn custom_input(call: &ToolCall<'_>) -> Text<'static> {
    let input = call.arguments.object().and_then(|json| {
        let arguments = Object::document(json.as_bytes()).ok()?;
        Some(arguments.maybe_text("input")?.into_owned())
    });
    input.unwrap_or_else(|| call.arguments.quoted().into_owned())
}

fn write_usage(to: &mut Fields<'_>, usage: &Usage) {
    to.number("input_tokens", usage.prompt());
    to.object("input_tokens_details", |to| to.number("cached_tokens", usage.cache_read));
    to.number("output_tokens", usage.output);
    to.object("output_tokens_details", |to| {
        to.number("reasoning_tokens", usage.reasoning.unwrap_or(0));
    });
    to.number("total_tokens", usage.prompt().saturating_add(usage.output));
}
