//! The name of the model in an answer, when the caller knows it by another one. Every other byte stays as it came.

use bytes::{Bytes, BytesMut};

use crate::protocol::Protocol;
use crate::protocol::json::{Edit, splice, string_at, string_field};
use crate::protocol::sse::{self, Line, Lines};

/// Longest line that is kept to be edited; a longer one passes with the provider's name.
const MAX_LINE_BYTES: usize = 1 << 20;
const FIELD: &str = "model";

/// Puts a name of the caller's in the place of the provider's.
#[derive(Debug)]
pub struct ModelName {
    /// The name as JSON.
    quoted: Bytes,
    /// Where events have it.
    path: &'static [&'static str],
    lines: Lines,
    /// The unfinished line: it has not left yet.
    open: BytesMut,
    /// The unfinished line is too long and leaves unedited.
    is_overlong: bool,
    /// What has left ends inside an event.
    is_inside: bool,
}

impl ModelName {
    /// Answers will show `name`.
    pub fn new(protocol: Protocol, name: &str) -> Self {
        Self {
            path: match protocol {
                Protocol::Chat => &[FIELD],
                Protocol::Messages => &["message", FIELD],
                Protocol::Responses => &["response", FIELD],
            },
            // A string always serialises.
            quoted: serde_json::to_vec(name).unwrap_or_default().into(),
            lines: Lines::default(),
            open: BytesMut::new(),
            is_overlong: false,
            is_inside: false,
        }
    }

    /// The pieces of a document, or of the beginning of one, with the name in it.
    pub fn in_document(&self, document: &Bytes) -> Vec<Bytes> {
        match string_field(document, FIELD) {
            Some(range) => splice(document, vec![Edit { range, with: self.quoted.clone() }]),
            None => vec![document.clone()],
        }
    }

    /// Takes a piece of an event stream and appends to `out` what may pass now: whole lines.
    pub fn feed(&mut self, piece: Bytes, out: &mut Vec<Bytes>) {
        let (whole, mut from) = if self.open.is_empty() {
            let from = self.lines.begin(&piece);
            (piece, from)
        } else {
            self.open.extend_from_slice(&piece);
            (self.open.split().freeze(), 0)
        };
        let mut edits = Vec::new();
        while let Some(line) = self.lines.next(&whole, from) {
            let was_overlong = std::mem::take(&mut self.is_overlong);
            if !was_overlong {
                edits.extend(self.edit(&whole, line));
            }
            self.is_inside = was_overlong || line.start != line.end;
            from = line.next;
        }
        let rest = from.min(whole.len());
        self.is_overlong |= whole.len() - rest > MAX_LINE_BYTES;
        let end = if self.is_overlong { whole.len() } else { rest };
        self.open.extend_from_slice(&whole[end..]);
        pass(whole.slice(..end), edits, out);
    }

    /// What is left when the stream ends inside a line.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) {
        let rest = self.open.split().freeze();
        let line = Line { start: 0, end: rest.len(), next: rest.len() };
        let edit = self.edit(&rest, line);
        self.is_inside |= !rest.is_empty();
        pass(rest, edit.into_iter().collect(), out);
    }

    /// Whether what has left ends with a whole event, so that a comment may follow.
    pub fn is_between_events(&self) -> bool {
        !self.is_inside && !self.is_overlong
    }

    fn edit(&self, whole: &[u8], line: Line) -> Option<Edit> {
        let data = sse::data(&whole[line.start..line.end])?;
        let range = string_at(data, self.path)?;
        let offset = line.end - data.len();
        let range = range.start + offset..range.end + offset;
        Some(Edit { range, with: self.quoted.clone() })
    }
}

fn pass(whole: Bytes, edits: Vec<Edit>, out: &mut Vec<Bytes>) {
    if edits.is_empty() {
        out.extend(Some(whole).filter(|whole| !whole.is_empty()));
    } else {
        out.extend(splice(&whole, edits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = concat!(
        ": keepalive\n\n",
        "event: x\ndata: {\"id\":\"c\", \"model\" : \"gpt-1\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\\\"x\\\"\"}}]}\r\n\r\n",
        "data:{\"model\":\"gpt-1\"}\n\n",
        "data: {\"choices\":[{\"model\":\"inner\"}]}\r\r",
        "data: [DONE]\n\n"
    );

    const MESSAGES: &str = concat!(
        "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"gpt-1\",\"content\":[],\"usage\":{}}}\r\n\r\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"model\":\"top\",\"delta\":{\"text\":\"\\\"model\\\":\"}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\",\"message\": { \"model\": \"gpt-1\" }}\n\n",
    );

    const RESPONSES: &str = concat!(
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"tools\":[{\"model\":\"dall-e\"}],\"model\":\"gpt-1\"}}\n\n",
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"response\"}\n\n",
        "event: response.completed\ndata: {\"response\":{\"model\":\"gpt-1\",\"usage\":null},\"type\":\"response.completed\"}\n\n",
    );

    fn run(protocol: Protocol, pieces: &[&[u8]]) -> (String, ModelName) {
        let mut name = ModelName::new(protocol, "my \"model\"");
        let mut out = Vec::new();
        for piece in pieces {
            name.feed(Bytes::copy_from_slice(piece), &mut out);
        }
        name.finish(&mut out);
        (String::from_utf8(out.concat()).unwrap(), name)
    }

    #[test]
    fn a_stream_split_anywhere_differs_in_the_name_alone() {
        for (protocol, stream) in [
            (Protocol::Chat, CHAT),
            (Protocol::Messages, MESSAGES),
            (Protocol::Responses, RESPONSES),
        ] {
            let want = stream.replace("\"gpt-1\"", r#""my \"model\"""#);
            for at in 0..=stream.len() {
                let (head, tail) = stream.as_bytes().split_at(at);
                assert_eq!(run(protocol, &[head, tail]).0, want, "{protocol:?} split at {at}");
            }
            let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
            assert_eq!(run(protocol, &bytes).0, want);
            let unfinished = run(protocol, &[stream.trim_end().as_bytes()]).0;
            assert_eq!(unfinished, want.trim_end(), "an unfinished end");
        }
    }

    #[test]
    fn a_comment_may_follow_whole_events_only() {
        let mut name = ModelName::new(Protocol::Chat, "m");
        let mut out = Vec::new();
        let mut feed = |text: &'static str| {
            name.feed(Bytes::from_static(text.as_bytes()), &mut out);
            name.is_between_events()
        };
        assert!(feed("data: {\"mod"), "nothing of the event has left");
        assert!(!feed("el\":\"a\"}\n"), "a line of it has");
        assert!(feed("\n"));
        assert!(feed("data: x"));
        assert_eq!(out.concat(), b"data: {\"model\":\"m\"}\n\n");
    }

    #[test]
    fn an_overlong_line_passes_as_it_came() {
        let long =
            format!("data: {{\"model\":\"a\",\"x\":\"{}\"}}\n\n", "y".repeat(MAX_LINE_BYTES));
        let (head, tail) = long.as_bytes().split_at(long.len() - 4);
        let (text, name) = run(Protocol::Chat, &[head, tail, b"data: {\"model\":\"a\"}\n\n"]);
        assert_eq!(text, format!("{long}data: {{\"model\":\"my \\\"model\\\"\"}}\n\n"));
        assert!(name.is_between_events());
        let mut name = ModelName::new(Protocol::Chat, "m");
        name.feed(Bytes::copy_from_slice(head), &mut Vec::new());
        assert!(!name.is_between_events(), "half a line has left");
    }

    #[test]
    fn documents_are_edited_in_their_head() {
        let name = ModelName::new(Protocol::Chat, "m");
        let head = Bytes::from_static(br#"{"id":"c","model":"gpt","choices":[{"mess"#);
        assert_eq!(name.in_document(&head).concat(), br#"{"id":"c","model":"m","choices":[{"mess"#);
        let without = Bytes::from_static(b"{}");
        assert_eq!(name.in_document(&without).concat(), b"{}");
    }
}
