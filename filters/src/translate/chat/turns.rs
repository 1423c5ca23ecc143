//! Writing the messages of a conversation.

use super::super::fields::{file_name, joined};
use super::super::neutral::{
    Conversation, Dropped, Kind, Origin, Part, Role, Seal, Source, ToolCall, ToolResult, Turn,
};
use super::super::out::{Fields, Items};
use super::super::quirks::{Quirks, Replay};
use super::super::text::Text;

/// The messages that are being written.
pub(in crate::translate) struct Messages<'m, 'o> {
    to: &'m mut Items<'o>,
    quirks: &'m Quirks,
    is_after_tool: bool,
}

/// Writes every turn.
pub(super) fn messages(
    to: &mut Items<'_>,
    conversation: &Conversation<'_>,
    quirks: &Quirks,
    dropped: &mut Dropped,
) {
    let mut messages = Messages::new(to, quirks);
    for turn in &conversation.turns {
        match turn.role {
            // Few providers know `developer`, all know `system`.
            Role::System | Role::Developer => messages.system(turn),
            Role::User => messages.user(turn),
            // Of a turn of thoughts nothing is left.
            Role::Assistant if turn.parts.iter().all(is_thought) => {}
            Role::Assistant => messages.message(|to| assistant(to, turn, quirks, dropped)),
        }
    }
}

fn is_thought(part: &Part<'_>) -> bool {
    matches!(part.kind, Kind::Thinking(..) | Kind::Redacted(_))
}

impl<'m, 'o> Messages<'m, 'o> {
    pub(in crate::translate) fn new(to: &'m mut Items<'o>, quirks: &'m Quirks) -> Self {
        Self { to, quirks, is_after_tool: false }
    }

    /// Any message but a tool's.
    pub(in crate::translate) fn message(&mut self, write: impl FnOnce(&mut Fields<'_>)) {
        self.is_after_tool = false;
        self.to.object(write);
    }

    pub(in crate::translate) fn system(&mut self, turn: &Turn<'_>) {
        self.message(|message| {
            message.word("role", "system");
            message.text("content", &joined(&turn.parts, ""));
        });
    }

    /// Results of tools become messages of their own; what is said before and after stays before and after.
    pub(in crate::translate) fn user(&mut self, turn: &Turn<'_>) {
        if let ([Part { kind: Kind::Text(text), .. }], true) = (&turn.parts[..], turn.is_plain) {
            return self.said_by_user(|message| message.text("content", text));
        }
        let mut pending: Vec<&Part<'_>> = Vec::new();
        // A tool's message holds text only: its pictures are shown by the user, behind the last result.
        let mut shown: Vec<&Part<'_>> = Vec::new();
        for part in &turn.parts {
            if let Kind::ToolResult(result) = &part.kind {
                self.flush(&mut pending);
                self.tool(result);
                shown.extend(
                    result
                        .parts
                        .iter()
                        .filter(|part| matches!(part.kind, Kind::Image(..) | Kind::File(..))),
                );
            } else {
                pending.append(&mut shown);
                pending.push(part);
            }
        }
        pending.append(&mut shown);
        self.flush(&mut pending);
    }

    fn said_by_user(&mut self, write: impl FnOnce(&mut Fields<'_>)) {
        if self.is_after_tool && self.quirks.answers_tools {
            self.message(|message| {
                message.word("role", "assistant");
                message.word("content", "OK");
            });
        }
        self.message(|message| {
            message.word("role", "user");
            write(message);
        });
    }

    fn tool(&mut self, result: &ToolResult<'_>) {
        self.is_after_tool = true;
        self.to.object(|message| {
            message.word("role", "tool");
            message.text("tool_call_id", &result.id);
            message.text("content", &joined(&result.parts, ""));
        });
    }

    fn flush(&mut self, parts: &mut Vec<&Part<'_>>) {
        parts.retain(|part| !is_thought(part) && !matches!(part.kind, Kind::ToolCall(_)));
        if parts.is_empty() {
            return;
        }
        let quirks = self.quirks;
        self.said_by_user(|message| {
            message.list("content", |content| {
                parts.drain(..).for_each(|part| write_part(content, part, quirks));
            });
        });
    }
}

fn write_part(content: &mut Items<'_>, part: &Part<'_>, quirks: &Quirks) {
    content.object(|to| match &part.kind {
        Kind::Text(text) | Kind::Refusal(text) => {
            to.word("type", "text");
            to.text("text", text);
        }
        Kind::Image(source, detail) => {
            to.word("type", "image_url");
            to.object("image_url", |image| {
                url(image, "url", source);
                image.maybe_text("detail", detail.as_ref());
            });
        }
        Kind::File(Source::Plain(text), _) => {
            to.word("type", "text");
            to.text("text", text);
        }
        Kind::File(source, name) if quirks.has_document_urls => {
            document(to, source, name.as_ref());
        }
        Kind::File(source, name) => {
            to.word("type", "file");
            to.object("file", |file| {
                if let Source::Base64(media, _) = source {
                    file.text("filename", &file_name(name.as_ref(), media));
                } else {
                    file.maybe_text("filename", name.as_ref());
                }
                match source {
                    Source::Upload(id) => file.text("file_id", id),
                    _ => url(file, "file_data", source),
                }
            });
        }
        // The provider says best what it makes of it.
        Kind::Opaque(object) => to.copy(object),
        Kind::ToolCall(_) | Kind::ToolResult(_) | Kind::Thinking(..) | Kind::Redacted(_) => {}
    });
}

/// A document as Mistral has it.
fn document(to: &mut Fields<'_>, source: &Source<'_>, name: Option<&Text<'_>>) {
    if let Source::Upload(id) = source {
        to.word("type", "file");
        return to.text("file_id", id);
    }
    to.word("type", "document_url");
    url(to, "document_url", source);
    to.maybe_text("document_name", name);
}

/// A field that holds an address, or the thing itself as one.
pub(in crate::translate) fn url(to: &mut Fields<'_>, name: &str, source: &Source<'_>) {
    match source {
        Source::Base64(media, data) => {
            to.field(name).texts(&["data:", media.escaped(), ";base64,", data.escaped()]);
        }
        Source::Url(url) | Source::Upload(url) | Source::Plain(url) => to.text(name, url),
    }
}

fn assistant(message: &mut Fields<'_>, turn: &Turn<'_>, quirks: &Quirks, dropped: &mut Dropped) {
    message.word("role", "assistant");
    let has_calls = calls(turn).next().is_some();
    let text = joined(&turn.parts, "");
    let sealed = thoughts(turn).filter_map(|(text, seal)| Some((text, seal?)));
    let mut sealed = sealed.filter(|(_, seal)| seal.origin == Origin::Mistral).peekable();
    if quirks.replays == Replay::Chunks && sealed.peek().is_some() {
        message.list("content", |content| {
            sealed.for_each(|(thought, seal)| content.object(|to| chunk(to, thought, seal)));
            if !text.is_empty() {
                content.object(|to| {
                    to.word("type", "text");
                    to.text("text", &text);
                });
            }
        });
    } else if text.is_empty() && has_calls {
        message.null("content");
    } else {
        message.text("content", &text);
    }
    if quirks.replays == Replay::WithCalls && has_calls {
        message.text("reasoning_content", &Text::join(thoughts(turn).map(|(text, _)| text), ""));
    }
    if turn.parts.iter().any(|part| matches!(part.kind, Kind::Image(..) | Kind::File(..))) {
        dropped.add("assistant.image");
    }
    if has_calls {
        write_calls(message, turn);
    }
}

/// A thought as Mistral has it.
fn chunk(to: &mut Fields<'_>, thought: &Text<'_>, seal: &Seal<'_>) {
    to.word("type", "thinking");
    to.list("thinking", |pieces| {
        pieces.object(|piece| {
            piece.word("type", "text");
            piece.text("text", thought);
        });
    });
    to.text("signature", &seal.value);
}

/// What the model thought in a turn, with its seals.
fn thoughts<'t, 'a>(
    turn: &'t Turn<'a>,
) -> impl Iterator<Item = (&'t Text<'a>, Option<&'t Seal<'a>>)> {
    turn.parts.iter().filter_map(|part| match &part.kind {
        Kind::Thinking(text, seal) => Some((text, seal.as_ref())),
        _ => None,
    })
}

fn calls<'t, 'a>(turn: &'t Turn<'a>) -> impl Iterator<Item = &'t ToolCall<'a>> {
    turn.parts.iter().filter_map(|part| match &part.kind {
        Kind::ToolCall(call) => Some(call),
        _ => None,
    })
}

/// The calls of a turn.
pub(in crate::translate) fn write_calls(message: &mut Fields<'_>, turn: &Turn<'_>) {
    message.list("tool_calls", |list| {
        for call in calls(turn) {
            list.object(|to| {
                to.text("id", &call.id);
                to.word("type", "function");
                to.object("function", |function| {
                    function.text("name", &call.name);
                    function.text("arguments", &call.arguments.quoted());
                });
            });
        }
    });
}
