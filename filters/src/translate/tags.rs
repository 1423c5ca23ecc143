//! Thoughts that a provider leaves in the text, between tags such as `<think>` and `</think>`.
//!
//! A tag may be cut anywhere: what could be the beginning of one is held back until it is known. Works on texts as they
//! stand between their quotes, so that nothing is unescaped but the brackets of tags.

use std::borrow::Cow;

use memchr::memmem;

use super::neutral::{Answer, Event, Kind, Part};
use super::text::Text;

/// The tags, opening and closing. No tag is the beginning of another.
const TAGS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning_content>", "</reasoning_content>"),
    ("<chain_of_thought>", "</chain_of_thought>"),
];

/// Whether a document may hold thoughts between tags: what holds none passes as it is.
pub fn may_have_tags(document: &[u8]) -> bool {
    ["think", "reasoning_content", "chain_of_thought"].into_iter().any(|name| {
        memmem::find_iter(document, name).any(|at| {
            ["<", r"\u003c", r"\u003C"].iter().any(|open| document[..at].ends_with(open.as_bytes()))
        })
    })
}

/// Takes thoughts out of a text that comes in pieces. Holds no more than the beginning of a tag.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// What may be the beginning of a tag.
    held: String,
    /// What closes the thought that is open.
    closing: Option<&'static str>,
}

/// A piece of what the model says, or of what it thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'t> {
    Said(&'t str),
    Thought(&'t str),
}

impl Tags {
    /// Passes an event on. Texts are taken apart; whatever is not text lets go what was held back.
    pub(super) fn event(&mut self, event: Event<'_>, each: &mut dyn FnMut(Event<'_>)) {
        match event {
            Event::Text(text) => {
                self.read(&text, &mut |piece| each(said(piece)));
            }
            Event::Stop(_) | Event::End | Event::ToolStart { .. } | Event::BlockEnd => {
                self.finish(&mut |piece| each(said(piece)));
                each(event);
            }
            other => each(other),
        }
    }

    /// Gives `each` what `text` makes certain, never an empty piece.
    fn read(&mut self, text: &Text<'_>, each: &mut dyn FnMut(Piece<'_>)) {
        let mut all = std::mem::take(&mut self.held);
        let text = with_brackets(text.escaped());
        let all: Cow<'_, str> = if all.is_empty() {
            text
        } else {
            all.push_str(&text);
            Cow::Owned(all)
        };
        let (mut told, mut at) = (0, 0);
        while let Some(next) = memchr::memchr(b'<', &all.as_bytes()[at..]) {
            at += next;
            let rest = &all[at..];
            let tag = match self.closing {
                Some(closing) => rest.starts_with(closing).then_some((closing, None)),
                None => TAGS
                    .iter()
                    .find(|(open, _)| rest.starts_with(open))
                    .map(|(open, close)| (*open, Some(*close))),
            };
            let Some((tag, closing)) = tag else {
                at += 1;
                continue;
            };
            self.tell(&all[told..at], each);
            self.closing = closing;
            at += tag.len();
            told = at;
        }
        let rest = &all[told..];
        let certain = rest.len() - self.could_begin(rest);
        self.tell(&rest[..certain], each);
        rest[certain..].clone_into(&mut self.held);
    }

    /// Gives up what was held back: it is what it looks like.
    fn finish(&mut self, each: &mut dyn FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        self.tell(&held, each);
    }

    fn tell(&self, text: &str, each: &mut dyn FnMut(Piece<'_>)) {
        if text.is_empty() {
            return;
        }
        each(if self.closing.is_some() { Piece::Thought(text) } else { Piece::Said(text) });
    }

    /// The length of the longest end of `text` that a tag may begin with.
    fn could_begin(&self, text: &str) -> usize {
        let begins = |tag: &str, end: &str| end.len() < tag.len() && tag.starts_with(end);
        let is_open = |end: &str| match self.closing {
            Some(closing) => begins(closing, end),
            None => TAGS.iter().any(|(open, _)| begins(open, end)),
        };
        let starts = text.rmatch_indices('<').map(|(at, _)| &text[at..]);
        starts
            .take_while(|end| end.len() < 24)
            .filter(|end| is_open(end))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }
}

fn said(piece: Piece<'_>) -> Event<'_> {
    match piece {
        Piece::Said(text) => Event::Text(Text::from_escaped(text)),
        Piece::Thought(text) => Event::Thinking(Text::from_escaped(text)),
    }
}

/// Takes the thoughts out of the texts of a whole answer.
pub(super) fn take_out<'a>(mut answer: Answer<'a>) -> Answer<'a> {
    let has_tag = |part: &Part<'_>| match &part.kind {
        Kind::Text(text) => {
            let text = with_brackets(text.escaped());
            TAGS.iter().any(|(open, _)| text.contains(open))
        }
        _ => false,
    };
    if !answer.parts.iter().any(has_tag) {
        return answer;
    }
    let parts = std::mem::take(&mut answer.parts);
    for part in parts {
        let Kind::Text(text) = &part.kind else {
            answer.parts.push(part);
            continue;
        };
        let mut tags = Tags::default();
        let mut add = |piece: Piece<'_>| {
            let kind = match piece {
                Piece::Said(text) => Kind::Text(Text::from_escaped(text).into_owned()),
                Piece::Thought(text) => Kind::Thinking(Text::from_escaped(text).into_owned(), None),
            };
            answer.parts.push(kind.into());
        };
        tags.read(text, &mut add);
        tags.finish(&mut add);
    }
    answer
}

/// An escaped text in which brackets and slashes, that some encoders escape, stand for themselves.
fn with_brackets(escaped: &str) -> Cow<'_, str> {
    if memchr::memchr(b'\\', escaped.as_bytes()).is_none() {
        return Cow::Borrowed(escaped);
    }
    let mut plain = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let is_u = |code: &str| rest.get(2..6).is_some_and(|hex| hex.eq_ignore_ascii_case(code));
        let (with, len) = match rest.as_bytes().get(1) {
            Some(b'u') if is_u("003c") => ("<", 6),
            Some(b'u') if is_u("003e") => (">", 6),
            Some(b'/') => ("/", 2),
            Some(_) => (rest.get(..2).unwrap_or(rest), 2),
            None => (rest, 1),
        };
        plain.push_str(with);
        rest = rest.get(len..).unwrap_or_default();
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said and what is thought, of a text that comes in these pieces.
    fn split(pieces: &[&str]) -> (String, String) {
        let (mut said, mut thought) = (String::new(), String::new());
        let mut tags = Tags::default();
        let mut add = |piece: Piece<'_>| match piece {
            Piece::Said(text) => said.push_str(text),
            Piece::Thought(text) => thought.push_str(text),
        };
        for piece in pieces {
            tags.read(&Text::from_escaped(piece), &mut add);
            assert!(tags.held.len() < 24, "{}", tags.held);
        }
        tags.finish(&mut add);
        (said, thought)
    }

    #[test]
    fn thoughts_are_taken_out_however_the_text_is_cut() {
        for (text, said, thought) in [
            ("<think>a</think>b", "b", "a"),
            // In the middle of a word.
            ("wo<think>hm</think>rd", "word", "hm"),
            ("<thinking>a</thinking><think>b</think>c", "c", "ab"),
            (
                "<reasoning_content>a</reasoning_content>b<chain_of_thought>c</chain_of_thought>",
                "b",
                "ac",
            ),
            // Never closed.
            ("a<think>b</thin", "a", "b</thin"),
            ("a<thin", "a<thin", ""),
            ("a<", "a<", ""),
            // A tag within a thought, a closing one outside, another's closing one.
            ("<think>a<think>b</think>c</think>d", "c</think>d", "a<think>b"),
            ("<think>a</thinking>b</think>c", "c", "a</thinking>b"),
            ("<thinker>a</thinker> 1<2 <<think>x</think>", "<thinker>a</thinker> 1<2 <", "x"),
            ("<think></think>é😀", "é😀", ""),
            ("plain", "plain", ""),
            ("", "", ""),
        ] {
            let want = (said.to_owned(), thought.to_owned());
            assert_eq!(split(&[text]), want, "{text}");
            let ends: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
            for at in &ends {
                assert_eq!(split(&[&text[..*at], &text[*at..]]), want, "{text} cut at {at}");
            }
            let each: Vec<_> = ends
                .iter()
                .map(|at| {
                    &text[*at..ends.iter().find(|end| *end > at).copied().unwrap_or(text.len())]
                })
                .collect();
            assert_eq!(split(&each), want, "{text} letter by letter");
        }
    }

    #[test]
    fn escaped_brackets_are_brackets_and_other_escapes_stay() {
        let text = r"\u003cthink\u003Ea\n\\u003c\ud83d<\/think>\u00e9\\";
        assert_eq!(split(&[text]), (r"\u00e9\\".to_owned(), r"a\n\\u003c\ud83d".to_owned()));
    }

    #[test]
    fn what_is_held_back_is_told_before_anything_else() {
        let mut tags = Tags::default();
        let mut told = Vec::new();
        let mut tell = |event: Event<'_>| {
            told.push(match event {
                Event::Text(text) => format!("said {}", text.escaped()),
                Event::Thinking(text) => format!("thought {}", text.escaped()),
                Event::ToolStart { .. } => "call".to_owned(),
                other => format!("{other:?}"),
            });
        };
        let call =
            || Event::ToolStart { call: 0, id: Text::of("c"), name: Text::of("f"), seal: None };
        tags.event(Event::Text(Text::of("<think>a</th")), &mut tell);
        tags.event(call(), &mut tell);
        // The thought is still open.
        tags.event(Event::Text(Text::of("b</think>c<th")), &mut tell);
        tags.event(Event::End, &mut tell);
        let want = ["thought a", "thought </th", "call", "thought b", "said c", "said <th", "End"];
        assert_eq!(told, want);
    }
}
