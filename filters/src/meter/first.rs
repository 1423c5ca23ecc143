//! shim
use crate::protocol::Protocol;
use bytes::Bytes;
/// shim
#[derive(Debug)]
pub struct FirstEvent;
/// shim
#[derive(Debug)]
pub enum Seen {
    /// shim
    Waiting,
    /// shim
    Event,
    /// shim
    Failed {
        /// shim
        status: Option<u16>,
        /// shim
        body: Bytes,
    },
}
impl FirstEvent {
    /// shim
    pub fn new(_: Protocol) -> Self {
        Self
    }
    /// shim
    pub fn feed(&mut self, _: &Bytes) -> Seen {
        Seen::Event
    }
}
