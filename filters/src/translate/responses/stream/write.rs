//! Writing a streamed response.
//!
//! The format says everything twice: in pieces, and whole at the end of each item and of the response. So what was
//! written is kept, up to a limit.

use super::super::super::frames::frame;
use super::super::super::names;
use super::super::super::neutral::{Arguments, AsCaller, Event, Seal, Stop, ToolCall, Usage};
use super::super::super::out::{self, Fields};
use super::super::super::text::Text;
use super::super::answer::{
    Head, custom_input, status, write_call, write_reasoning, write_response, write_text,
};

/// What is repeated at the end is cut off behind that: no model answers at such length.
const MAX_KEPT: usize = 16 << 20;

/// Writes the events of a stream.
#[derive(Debug)]
pub struct StreamWriter {
    has_started: bool,
    sequence: u64,
    head: Head<'static>,
    /// The number of the next item.
    next: u64,
    open: Open,
    calls: Vec<OpenCall>,
    /// Items that are over, by their numbers.
    done: Vec<(u64, String)>,
    kept: usize,
    stop: Stop<'static>,
    usage: Usage,
}

#[derive(Debug)]
enum Open {
    Nothing,
    /// It is ended with what follows: only then is known whether it is whole.
    Message {
        index: u64,
        text: Text<'static>,
        is_over: bool,
    },
    Thought {
        index: u64,
        text: Text<'static>,
        has_part: bool,
    },
}

#[derive(Debug)]
struct OpenCall {
    call: u32,
    index: u64,
    id: Text<'static>,
    name: Text<'static>,
    arguments: Text<'static>,
}

impl OpenCall {
    fn whole(&self) -> ToolCall<'_> {
        ToolCall {
            id: self.id.borrow(),
            name: self.name.borrow(),
            arguments: Arguments::Quoted(self.arguments.borrow()),
            seal: None,
        }
    }
}

impl StreamWriter {
    /// Nothing is written yet.
    pub fn new(caller: &AsCaller) -> Self {
        Self {
            has_started: false,
            sequence: 0,
            head: Head {
                id: Text::owned(&caller.id),
                model: Text::owned(&caller.model),
                created: caller.now,
            },
            next: 0,
            open: Open::Nothing,
            calls: Vec::new(),
            done: Vec::new(),
            kept: 0,
            stop: Stop::End,
            usage: Usage::default(),
        }
    }

    /// Writes what `event` becomes to the end of `out`. Of an error nothing is written.
    pub fn write(&mut self, event: &Event<'_>, caller: &AsCaller, out: &mut Vec<u8>) {
        match event {
            Event::Usage(usage) => return self.usage = *usage,
            Event::Error(_) => return,
            Event::Start { id, model, created } if !self.has_started => {
                if let Some(id) = id {
                    self.head.id = id.clone().into_owned();
                }
                self.head.model = model.clone().unwrap_or_default().into_owned();
                self.head.created = created.unwrap_or(caller.now);
            }
            _ => {}
        }
        self.start(out, caller);
        match event {
            Event::TextStart | Event::ThinkingStart => self.close(out, caller),
            Event::Text(text) | Event::Refusal(text) => self.text(out, caller, text),
            Event::Thinking(text) => self.thinking(out, caller, text),
            Event::Seal(seal) => self.seal(out, caller, seal, false),
            Event::Redacted(seal) => {
                self.close(out, caller);
                self.seal(out, caller, seal, true);
            }
            Event::ToolStart { call, id, name, seal } => {
                if let Some(seal) = seal {
                    self.close(out, caller);
                    self.seal(out, caller, seal, false);
                }
                self.tool(out, caller, *call, id, name);
            }
            Event::ToolArguments { call, json } => self.arguments(out, caller, *call, json),
            Event::BlockEnd => match &mut self.open {
                Open::Message { is_over, .. } => *is_over = true,
                _ => self.close_block(out, None),
            },
            Event::Stop(stop) => {
                self.stop = stop.clone().into_owned();
                self.close(out, caller);
            }
            Event::End => self.end(out, caller),
            Event::Start { .. } | Event::Usage(_) | Event::Error(_) => {}
        }
    }

    fn event(&mut self, out: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Fields<'_>)) {
        let sequence = self.sequence;
        self.sequence += 1;
        frame(out, Some(name), |out| {
            out::object(out, |to| {
                to.word("type", name);
                to.number("sequence_number", sequence);
                write(to);
            });
        });
    }

    fn start(&mut self, out: &mut Vec<u8>, caller: &AsCaller) {
        if std::mem::replace(&mut self.has_started, true) {
            return;
        }
        for name in ["response.created", "response.in_progress"] {
            let head = self.head.clone();
            self.event(out, name, |to| {
                to.object("response", |to| {
                    write_response(to, &head, "in_progress", None, "[]", caller);
                });
            });
        }
    }

    /// Begins an item; says its number and name.
    fn begin(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Fields<'_>, &Text<'_>),
    ) -> (u64, Text<'static>) {
        let index = self.next;
        self.next += 1;
        let id = self.head.item(index);
        self.event(out, "response.output_item.added", |to| {
            to.number("output_index", index);
            to.object("item", |item| write(item, &id));
        });
        (index, id)
    }

    /// Ends an item that `write` writes whole.
    fn done(&mut self, out: &mut Vec<u8>, index: u64, write: impl FnOnce(&mut Fields<'_>)) {
        let mut item = Vec::new();
        out::object(&mut item, write);
        let item = String::from_utf8(item).unwrap_or_default();
        self.event(out, "response.output_item.done", |to| {
            to.number("output_index", index);
            to.json("item", &item);
        });
        self.done.push((index, item));
    }

    /// Keeps a piece of what is repeated at the end.
    fn keep(kept: &mut usize, text: &mut Text<'static>, more: &Text<'_>) {
        *kept = kept.saturating_add(more.escaped().len());
        if *kept <= MAX_KEPT {
            text.push(more);
        }
    }

    fn text(&mut self, out: &mut Vec<u8>, caller: &AsCaller, text: &Text<'_>) {
        if !matches!(self.open, Open::Message { is_over: false, .. }) {
            self.close(out, caller);
            let (index, id) = self.begin(out, |item, id| {
                item.field("id").texts(&["msg_", id.escaped()]);
                item.word("type", "message");
                item.word("status", "in_progress");
                item.word("role", "assistant");
                item.list("content", |_| {});
            });
            self.event(out, "response.content_part.added", |to| {
                place(to, "msg_", &id, index, "content_index");
                to.object("part", |part| write_text(part, &Text::default()));
            });
            self.open = Open::Message { index, text: Text::default(), is_over: false };
        }
        let Open::Message { index, text: all, .. } = &mut self.open else { return };
        Self::keep(&mut self.kept, all, text);
        let index = *index;
        let id = self.head.item(index);
        self.event(out, "response.output_text.delta", |to| {
            place(to, "msg_", &id, index, "content_index");
            to.text("delta", text);
            to.list("logprobs", |_| {});
        });
    }

    fn thought(&mut self, out: &mut Vec<u8>, caller: &AsCaller) {
        if !matches!(self.open, Open::Thought { .. }) {
            self.close(out, caller);
            let (index, _) = self.begin(out, |item, id| {
                write_reasoning(item, id, &Text::default(), None);
            });
            self.open = Open::Thought { index, text: Text::default(), has_part: false };
        }
    }

    fn thinking(&mut self, out: &mut Vec<u8>, caller: &AsCaller, text: &Text<'_>) {
        self.thought(out, caller);
        let Open::Thought { index, text: all, has_part } = &mut self.open else { return };
        Self::keep(&mut self.kept, all, text);
        let (index, is_first) = (*index, !std::mem::replace(has_part, true));
        let id = self.head.item(index);
        if is_first {
            self.event(out, "response.reasoning_summary_part.added", |to| {
                place(to, "rs_", &id, index, "summary_index");
                to.object("part", |part| {
                    part.word("type", "summary_text");
                    part.word("text", "");
                });
            });
        }
        self.event(out, "response.reasoning_summary_text.delta", |to| {
            place(to, "rs_", &id, index, "summary_index");
            to.text("delta", text);
        });
    }

    /// The seal of the open thought, or of one that says nothing.
    fn seal(&mut self, out: &mut Vec<u8>, caller: &AsCaller, seal: &Seal<'_>, is_redacted: bool) {
        self.thought(out, caller);
        self.close_block(out, Some((seal, is_redacted)));
    }

    fn tool(
        &mut self,
        out: &mut Vec<u8>,
        caller: &AsCaller,
        call: u32,
        id: &Text<'_>,
        name: &Text<'_>,
    ) {
        self.close_block(out, None);
        let mut open = OpenCall {
            call,
            index: 0,
            id: id.clone().into_owned(),
            name: name.clone().into_owned(),
            arguments: Text::default(),
        };
        let (index, _) = self.begin(out, |item, id| {
            write_call(item, id, &open.whole(), "in_progress", caller);
        });
        open.index = index;
        self.calls.push(open);
    }

    fn arguments(&mut self, out: &mut Vec<u8>, caller: &AsCaller, call: u32, json: &Text<'_>) {
        let Some(open) = self.calls.iter_mut().find(|open| open.call == call) else { return };
        Self::keep(&mut self.kept, &mut open.arguments, json);
        let is_custom = names::find(&caller.tools, &open.name).is_some_and(|name| name.is_custom);
        let index = open.index;
        // What a tool takes as plain text is in one argument: it can only be said whole.
        if !is_custom {
            let id = self.head.item(index);
            self.event(out, "response.function_call_arguments.delta", |to| {
                to.field("item_id").texts(&["fc_", id.escaped()]);
                to.number("output_index", index);
                to.text("delta", json);
            });
        }
    }

    /// Ends the open message or thought.
    fn close_block(&mut self, out: &mut Vec<u8>, seal: Option<(&Seal<'_>, bool)>) {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing => {}
            Open::Message { index, text, .. } => {
                let (id, status) = (self.head.item(index), status(&self.stop));
                self.event(out, "response.output_text.done", |to| {
                    place(to, "msg_", &id, index, "content_index");
                    to.text("text", &text);
                    to.list("logprobs", |_| {});
                });
                self.event(out, "response.content_part.done", |to| {
                    place(to, "msg_", &id, index, "content_index");
                    to.object("part", |part| write_text(part, &text));
                });
                self.done(out, index, |item| {
                    item.field("id").texts(&["msg_", id.escaped()]);
                    item.word("type", "message");
                    item.word("status", status);
                    item.word("role", "assistant");
                    item.list("content", |content| content.object(|part| write_text(part, &text)));
                });
            }
            Open::Thought { index, text, has_part } => {
                let id = self.head.item(index);
                if has_part {
                    self.event(out, "response.reasoning_summary_text.done", |to| {
                        place(to, "rs_", &id, index, "summary_index");
                        to.text("text", &text);
                    });
                    self.event(out, "response.reasoning_summary_part.done", |to| {
                        place(to, "rs_", &id, index, "summary_index");
                        to.object("part", |part| {
                            part.word("type", "summary_text");
                            part.text("text", &text);
                        });
                    });
                }
                self.done(out, index, |item| write_reasoning(item, &id, &text, seal));
            }
        }
    }

    /// Ends whatever is open.
    fn close(&mut self, out: &mut Vec<u8>, caller: &AsCaller) {
        self.close_block(out, None);
        let calls = std::mem::take(&mut self.calls);
        let last = calls.len().saturating_sub(1);
        for (at, open) in calls.into_iter().enumerate() {
            let id = self.head.item(open.index);
            let call = open.whole();
            if names::find(&caller.tools, &open.name).is_some_and(|name| name.is_custom) {
                let input = custom_input(&call);
                for (name, field) in [
                    ("response.custom_tool_call_input.delta", "delta"),
                    ("response.custom_tool_call_input.done", "input"),
                ] {
                    self.event(out, name, |to| {
                        to.field("item_id").texts(&["ctc_", id.escaped()]);
                        to.number("output_index", open.index);
                        to.text(field, &input);
                    });
                }
            } else {
                self.event(out, "response.function_call_arguments.done", |to| {
                    to.field("item_id").texts(&["fc_", id.escaped()]);
                    to.number("output_index", open.index);
                    to.text("arguments", &call.arguments.quoted());
                });
            }
            let status = if at == last { status(&self.stop) } else { "completed" };
            self.done(out, open.index, |item| write_call(item, &id, &call, status, caller));
        }
    }

    fn end(&mut self, out: &mut Vec<u8>, caller: &AsCaller) {
        self.close(out, caller);
        self.done.sort_by_key(|(index, _)| *index);
        let items: Vec<&str> = self.done.iter().map(|(_, item)| item.as_str()).collect();
        let output = format!("[{}]", items.join(","));
        let status = status(&self.stop);
        let name = if status == "completed" { "response.completed" } else { "response.incomplete" };
        let (head, stop, usage) = (self.head.clone(), self.stop.clone(), self.usage);
        self.event(out, name, |to| {
            to.object("response", |to| {
                write_response(to, &head, status, Some((&stop, &usage)), &output, caller);
            });
        });
    }
}

/// Which part of which item an event speaks of: always the first.
fn place(to: &mut Fields<'_>, prefix: &str, id: &Text<'_>, index: u64, part: &str) {
    to.field("item_id").texts(&[prefix, id.escaped()]);
    to.number("output_index", index);
    to.number(part, 0);
}
