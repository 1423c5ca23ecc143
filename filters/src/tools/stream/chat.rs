//! The rounds of a loop as one stream of chat.

use bytes::Bytes;

use super::super::{Step, ToolResult, Turn};
use super::events::Event;
use super::Shared;

/// One stream, over all rounds.
#[derive(Debug, Default)]
pub(super) struct Stream {
    has_reason: bool,
}

impl Stream {
    pub(super) fn event(&mut self, event: &Event, _: &mut Shared, out: &mut Vec<Bytes>) {
        out.push(event.raw.clone());
    }
    pub(super) fn has_reason(&self) -> bool {
        self.has_reason
    }
    pub(super) fn end(&mut self, _: &mut Shared, _: &mut Vec<Bytes>) -> (Step, Turn) {
        (Step::Done, Turn::default())
    }
    pub(super) fn mark_begin(&mut self, _: &Shared, _: &mut Vec<Bytes>) {}
    pub(super) fn mark_end(&mut self, _: &Shared, _: &[ToolResult], _: &mut Vec<Bytes>) {}
    pub(super) fn finish(&mut self, _: &Shared, _: &mut Vec<Bytes>) {}
}
