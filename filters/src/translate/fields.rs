//! What the formats' readers and writers share.

use serde_json::value::RawValue;

use super::neutral::{Conversation, Dropped, Kind, Part, Role, Source, Turn, Usage};
use super::object::{Fault, Object};
use super::out::Fields;
use super::text::Text;
use crate::meter;
use crate::prices::CacheCounting;
use crate::protocol::top::{GATEWAY_FIELDS, STEERING_FIELDS};

/// Longest name that is repeated, in bytes: of an answer and its model in every event, of a tool with every result.
/// Providers' own are shorter; a longer one would make much of little.
const MAX_REPEATED: usize = 256;

/// Whether a name may be repeated.
pub(super) fn is_repeatable(name: &Text<'_>) -> bool {
    name.escaped().len() <= MAX_REPEATED
}

/// Keeps the fields of `top` that other formats may know by the same name.
pub(super) fn read_extras<'a>(
    into: &mut Conversation<'a>,
    top: &Object<'a>,
    names: &[&'static str],
) {
    let found = names.iter().filter_map(|name| Some((*name, top.get(name)?)));
    into.extras.extend(found);
}

/// Names every field of `top` that is not `known`; the gateway's own were meant for it.
pub(super) fn drop_unknown(dropped: &mut Dropped, top: &Object<'_>, known: &[&[&str]]) {
    for (name, _) in top.fields() {
        let is_known = known.iter().any(|names| names.contains(&name));
        if !is_known && !GATEWAY_FIELDS.contains(&name) && !STEERING_FIELDS.contains(&name) {
            dropped.add_theirs("", name);
        }
    }
}

/// Writes those of the shared fields that the target has, under the name that `name_there` says, and names the others.
pub(super) fn write_extras(
    to: &mut Fields<'_>,
    extras: &[(&'static str, &RawValue)],
    dropped: &mut Dropped,
    name_there: impl Fn(&str, &RawValue) -> Option<&'static str>,
) {
    for (name, value) in extras {
        if let Some(there) = name_there(name, value) {
            to.raw(there, value);
        } else if !is_default(name, value) {
            dropped.add(*name);
        }
    }
}

/// Whether a field says what holds anyway.
fn is_default(name: &str, value: &RawValue) -> bool {
    match name {
        "n" => value.get() == "1",
        "store" | "logprobs" => value.get() == "false",
        _ => false,
    }
}

/// # Errors
/// When more than one answer is asked for, and the target gives one.
pub(super) fn refuse_choices(conversation: &Conversation<'_>) -> Result<(), Fault> {
    let n = conversation.extras.iter().find(|(name, _)| *name == "n");
    match n {
        Some((_, value)) if value.get() != "1" => {
            Err(Fault::new("n", "must be 1: this model's provider gives one answer to a request"))
        }
        _ => Ok(()),
    }
}

/// A string, or a list of strings.
pub(super) fn texts<'a>(top: &Object<'a>, name: &str) -> Result<Vec<Text<'a>>, Fault> {
    if let Some(text) = top.maybe_text(name) {
        return Ok(vec![text]);
    }
    let wrong = || Fault::new(name, "must be a string or a list of strings");
    let list = top.list(name).map_err(|_| wrong())?;
    list.into_iter().map(|raw| Text::read(raw).ok_or_else(wrong)).collect()
}

/// Content that is one string, or a list of parts that `read` reads. Says whether it was a string.
pub(super) fn content<'a>(
    of: &Object<'a>,
    name: &str,
    read: impl Fn(&Object<'a>) -> Result<Part<'a>, Fault>,
) -> Result<(Vec<Part<'a>>, bool), Fault> {
    if !of.has(name) {
        return Ok((Vec::new(), true));
    }
    if let Some(text) = of.maybe_text(name) {
        return Ok((vec![Kind::Text(text).into()], true));
    }
    let wrong = |_| Fault::new(name, "must be a string or a list of parts");
    let parts = of.objects(name).map_err(wrong)?;
    let parts =
        parts.iter().enumerate().map(|(at, part)| read(part).map_err(|f| f.in_item(name, at)));
    Ok((parts.collect::<Result<_, _>>()?, false))
}

/// Where a picture or document is that is given by an address, which may hold it.
pub(super) fn source<'a>(url: Text<'a>) -> Source<'a> {
    let plain = url.plain();
    let Some(data) = plain.strip_prefix("data:") else { return Source::Url(url) };
    let Some((head, data)) = data.split_once(',') else { return Source::Url(url) };
    let Some(media) = head.strip_suffix(";base64") else { return Source::Url(url) };
    let media = media.split(';').next().unwrap_or_default();
    let media = Text::owned(if media.is_empty() { "application/octet-stream" } else { media });
    let skip = plain.len() - data.len();
    match url.escaped().get(skip..) {
        // Without escapes the data is a part of what was read.
        Some(_) if url.escaped() == plain => Source::Base64(media, url.skip(skip)),
        _ => Source::Base64(media, Text::owned(data)),
    }
}

/// The texts among `parts`, as one.
pub(super) fn joined<'a>(parts: &[Part<'a>], between: &str) -> Text<'a> {
    Text::join(parts.iter().filter_map(text_of), between)
}

/// The text of a part that is one.
pub(super) fn text_of<'p, 'a>(part: &'p Part<'a>) -> Option<&'p Text<'a>> {
    match &part.kind {
        Kind::Text(text) | Kind::Refusal(text) => Some(text),
        _ => None,
    }
}

/// Names what marks of a cache there are, for a target without.
pub(super) fn drop_cache_marks(dropped: &mut Dropped, conversation: &Conversation<'_>) {
    let is_marked = |part: &Part<'_>| part.cache.is_some();
    let in_turn = |turn: &Turn<'_>| turn.parts.iter().any(is_marked);
    if conversation.turns.iter().any(in_turn)
        || conversation.tools.iter().any(|tool| tool.cache.is_some())
    {
        dropped.add("cache_control");
    }
}

/// Names the parts that only their own format knows, for a target that copies none but those of the turns of `copied`.
pub(super) fn drop_opaque(
    dropped: &mut Dropped,
    conversation: &Conversation<'_>,
    copied: Option<Role>,
) {
    let mut name = |part: &Part<'_>| {
        if let Kind::Opaque(object) = &part.kind {
            dropped.add_theirs("content.", &object.kind().plain());
        }
    };
    for turn in &conversation.turns {
        for part in &turn.parts {
            match &part.kind {
                Kind::ToolResult(result) => result.parts.iter().for_each(&mut name),
                _ if copied == Some(turn.role) => {}
                _ => name(part),
            }
        }
    }
}

/// The name of a document for formats that must have one.
pub(super) fn file_name<'t>(name: Option<&'t Text<'_>>, media: &Text<'_>) -> Text<'t> {
    match name {
        Some(name) => name.borrow(),
        None if media.is("application/pdf") => Text::of("document.pdf"),
        None => Text::of("document"),
    }
}

/// Reads `usage` into `seen`, which holds what was reported before. Says whether there was any.
pub(super) fn read_usage(
    seen: &mut Option<SeenUsage>,
    of: &Object<'_>,
    counting: CacheCounting,
) -> bool {
    // Groq's streams say it in a place of its own.
    let usage = of.get("usage").or_else(|| of.maybe_object("x_groq").get("usage"));
    usage.is_some_and(|raw| read_counts(seen, raw, counting))
}

/// Reads a usage object into `seen`. Says whether it was one.
pub(super) fn read_counts(
    seen: &mut Option<SeenUsage>,
    raw: &RawValue,
    counting: CacheCounting,
) -> bool {
    let Ok(wire) = serde_json::from_str::<meter::WireUsage>(raw.get()) else { return false };
    let seen = seen
        .get_or_insert_with(|| SeenUsage { counts: meter::Usage::new(counting), reasoning: None });
    seen.counts.merge(&wire);
    let usage = Object::read(raw).unwrap_or_default();
    let details = ["completion_tokens_details", "output_tokens_details"].into_iter();
    let mut details = details.map(|name| usage.maybe_object(name));
    let told = details.find_map(|details| details.count("reasoning_tokens"));
    seen.reasoning = told.or(seen.reasoning);
    true
}

/// What was reported so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenUsage {
    counts: meter::Usage,
    reasoning: Option<u64>,
}

impl SeenUsage {
    pub(super) fn usage(&self) -> Usage {
        Usage::of(&self.counts, self.reasoning)
    }
}

/// The sentence of an error, wherever a provider puts it.
pub(super) fn error_message<'a>(document: &Object<'a>) -> Option<(Option<Text<'a>>, Text<'a>)> {
    let error = document.get("error")?;
    if let Some(text) = Text::read(error) {
        return Some((None, text));
    }
    let error = Object::read(error)?;
    let kind = ["type", "code", "status"].into_iter().find_map(|name| error.maybe_text(name));
    Some((kind, error.maybe_text("message").unwrap_or_default()))
}

/// The sentence of an error that stands at the top: `message`, or `detail`, a text or a list of findings.
pub(super) fn plain_error<'a>(document: &Object<'a>) -> Option<(Option<Text<'a>>, Text<'a>)> {
    let detail = || {
        let findings = document.maybe_objects("detail");
        let finding = findings.first().and_then(|finding| finding.maybe_text("msg"));
        document.maybe_text("detail").or(finding)
    };
    let message = document.maybe_text("message").or_else(detail)?;
    let kind = ["type", "code"].into_iter().find_map(|name| document.maybe_text(name));
    Some((kind, message))
}

/// A JSON schema for a provider that wants `type: object` at its root.
pub(super) fn object_schema(schema: Option<&RawValue>) -> String {
    let Some(raw) = schema else { return r#"{"type":"object","properties":{}}"#.to_owned() };
    let Some(fields) = Object::read(raw) else {
        return r#"{"type":"object","properties":{}}"#.to_owned();
    };
    if fields.maybe_text("type").is_some_and(|kind| kind.is("object")) {
        return raw.get().to_owned();
    }
    let mut out = Vec::new();
    super::out::object(&mut out, |schema| {
        schema.word("type", "object");
        for (name, value) in fields.fields().filter(|(name, _)| *name != "type") {
            schema.json(Text::of(name).escaped(), value);
        }
    });
    String::from_utf8(out).unwrap_or_default()
}
