//! What is answered, apart from how a protocol writes it: ids, thoughts, words, tool calls, token
//! counts. The same request always gets the same answer.

use std::borrow::Cow;

use super::call::Generation;
use super::script::{Fault, Script, Thinking, Usage};
use super::tools::{self, Call};
use crate::clock;

/// Every answer's `created`: 1 January 2026, 00:00 UTC.
pub(super) const CREATED: &str = "1767225600";

/// A character of four bytes, for `half_utf8`.
pub(super) const CRAB: &str = "\u{1f980}";

/// What a model signs its thoughts with, where the format has that: standard base64, with the two
/// characters that the URL-safe alphabet writes differently.
pub(super) const SIGNATURE: &str = "+/+/bW9ja3NpZw==";

/// The word with which a thought begins, so that thoughts and answers read differently.
const FIRST_THOUGHT: usize = 8;

pub(super) const WORDS: [&str; 16] = [
    "lorem",
    "ipsum",
    "dolor",
    "sit",
    "amet",
    "consetetur",
    "sadipscing",
    "elitr",
    "sed",
    "diam",
    "nonumy",
    "eirmod",
    "tempor",
    "invidunt",
    "ut",
    "labore",
];

/// What an answer is made of, in the order in which the model says it.
pub(super) enum Kind {
    Thought,
    Words { bytes: Option<usize>, crab: bool, stamp: bool },
    Call(Call),
}

/// One part of an answer, and which of the answer's pieces are its own.
pub(super) struct Block {
    pub(super) kind: Kind,
    /// The first of its pieces.
    pub(super) first: u32,
    pub(super) pieces: u32,
    /// How many calls stand before it.
    pub(super) number: u32,
}

impl Block {
    /// Appends piece `at` of this block, counted from its own first, as the inside of a JSON string.
    fn piece(&self, at: u32, out: &mut Vec<u8>) {
        let space: &[u8] = if at == 0 { b"" } else { b" " };
        match &self.kind {
            Kind::Call(call) => out.extend_from_slice(call.fragments[at as usize].as_bytes()),
            Kind::Thought => {
                let word = WORDS[(at as usize + FIRST_THOUGHT) % WORDS.len()];
                out.extend_from_slice(space);
                out.extend_from_slice(word.as_bytes());
            }
            Kind::Words { stamp: true, .. } => {
                out.push(b't');
                out.extend_from_slice(itoa::Buffer::new().format(clock::monotonic_ns()).as_bytes());
            }
            Kind::Words { bytes, crab, .. } => {
                let word = WORDS[at as usize % WORDS.len()].as_bytes();
                match bytes {
                    None => {
                        out.extend_from_slice(space);
                        out.extend_from_slice(word);
                    }
                    Some(size) => out.extend(space.iter().chain(word.iter().cycle()).take(*size)),
                }
                if *crab && at == 0 {
                    out.extend_from_slice(CRAB.as_bytes());
                }
            }
        }
    }

    /// Appends all of it as the inside of a JSON string.
    pub(super) fn text(&self, out: &mut Vec<u8>) {
        (0..self.pieces).for_each(|at| self.piece(at, out));
    }

    /// All of it, as it reads.
    pub(super) fn plain(&self) -> String {
        let mut out = Vec::new();
        self.text(&mut out);
        unescaped(&out)
    }

    /// Whether piece `index` of the answer is the last of this block.
    pub(super) fn ends_with(&self, index: u32) -> bool {
        index + 1 == self.first + self.pieces
    }
}

/// What a caller asks for, whatever the protocol calls it.
pub(super) struct Asked<'a> {
    pub(super) model: &'a str,
    pub(super) prompt_tokens: u64,
    /// The most tokens of output.
    pub(super) limit: Option<u64>,
    /// The caller asked for a usage chunk.
    pub(super) include_usage: bool,
    /// The tools to call.
    pub(super) calls: Vec<Call>,
}

impl<'a> Asked<'a> {
    /// What a chat, messages or responses call asks for.
    pub(super) fn of(call: &'a Generation<'_>, script: &Script<'_>) -> Self {
        Self {
            model: &call.model,
            prompt_tokens: call.prompt_tokens(),
            limit: call.limit(),
            include_usage: call.include_usage(),
            calls: tools::calls(call, script),
        }
    }
}

/// One answer, ready for a protocol to write.
pub(super) struct Answer {
    /// Sixteen hexadecimal digits, from the request's content.
    pub(super) id: String,
    /// The model as asked for, as JSON text with its quotes.
    pub(super) model: String,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) usage: Usage,
    /// The caller asked for a usage chunk.
    pub(super) include_usage: bool,
    /// The caller asked for thoughts that only the model can read.
    pub(super) sealed: bool,
    /// How chat tells thoughts.
    pub(super) thinking: Thinking,
    /// At least one; only a block that stands alone may be without pieces.
    pub(super) blocks: Vec<Block>,
    /// The output limit cut the answer.
    pub(super) limited: bool,
}

impl Answer {
    /// Decides the answer to what was asked in the raw `body`.
    pub(super) fn new(asked: Asked<'_>, script: &Script<'_>, body: &[u8]) -> Self {
        let limit = asked.limit.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let calling = !asked.calls.is_empty();
        let spoken = if calling { script.preface } else { script.chunks };
        let limited = !calling && limit < spoken;
        let mut blocks = Vec::with_capacity(1);
        if script.reasoning > 0 {
            add(&mut blocks, Kind::Thought, script.reasoning, 0);
        }
        let count = spoken.min(limit);
        if count > 0 || (blocks.is_empty() && !calling) {
            let crab = script.fault == Some(Fault::HalfUtf8);
            let words = Kind::Words { bytes: script.bytes, crab, stamp: script.stamp };
            add(&mut blocks, words, count, 0);
        }
        for (number, call) in asked.calls.into_iter().enumerate() {
            let pieces = call.fragments.len() as u32;
            add(&mut blocks, Kind::Call(call), pieces, number as u32);
        }
        Self {
            id: content_id(body),
            model: quoted(asked.model),
            prompt_tokens: asked.prompt_tokens,
            cached_tokens: script.cached_tokens.min(asked.prompt_tokens),
            usage: script.usage,
            include_usage: asked.include_usage,
            sealed: false,
            thinking: script.thinking,
            blocks,
            limited,
        }
    }

    /// Output chunks, which are also the completion tokens.
    pub(super) fn pieces(&self) -> u32 {
        self.blocks.last().map_or(0, |block| block.first + block.pieces)
    }

    /// Of these, the chunks of thought.
    pub(super) fn thoughts(&self) -> u32 {
        match self.blocks.first() {
            Some(Block { kind: Kind::Thought, pieces, .. }) => *pieces,
            _ => 0,
        }
    }

    /// Whether it ends in tool calls.
    pub(super) fn calls(&self) -> bool {
        matches!(self.blocks.last(), Some(Block { kind: Kind::Call(_), .. }))
    }

    /// The block to which chunk `index` belongs, and its place among the blocks.
    pub(super) fn block(&self, index: u32) -> (usize, &Block) {
        let at = self.blocks.iter().rposition(|block| block.first <= index).unwrap_or_default();
        (at, &self.blocks[at])
    }

    /// Appends chunk `index` as the inside of a JSON string.
    pub(super) fn piece(&self, index: u32, out: &mut Vec<u8>) {
        let (_, block) = self.block(index);
        block.piece(index - block.first, out);
    }

    /// Chunk `index`, as it reads.
    pub(super) fn plain(&self, index: u32) -> String {
        let mut out = Vec::new();
        self.piece(index, &mut out);
        unescaped(&out)
    }

    /// The id of a call or a block behind the first: the answer's, numbered.
    pub(super) fn numbered(&self, number: usize) -> Cow<'_, str> {
        if number == 0 {
            Cow::Borrowed(&self.id)
        } else {
            Cow::Owned(format!("{}_{number}", self.id))
        }
    }
}

fn add(blocks: &mut Vec<Block>, kind: Kind, pieces: u32, number: u32) {
    let first = blocks.last().map_or(0, |block| block.first + block.pieces);
    blocks.push(Block { kind, first, pieces, number });
}

/// Appends `parts` in order.
pub(super) fn put(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// `text` as a JSON string with its quotes.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is always JSON")
}

/// What the inside of a JSON string says.
pub(super) fn unescaped(inside: &[u8]) -> String {
    let string = [b"\"", inside, b"\""].concat();
    serde_json::from_slice(&string).expect("pieces are escaped when they are made")
}

/// An id that depends on the content alone: checksum and length, sixteen hexadecimal digits.
pub(super) fn content_id(body: &[u8]) -> String {
    format!("{:08x}{:08x}", crc32fast::hash(body), body.len())
}
