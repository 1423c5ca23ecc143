//! shim
use crate::protocol::Protocol;
use crate::settle::Cost;
use bytes::Bytes;
/// shim
pub fn attach(_: Protocol, _: &Bytes, _: &Cost) -> Option<Vec<Bytes>> {
    None
}
/// shim
#[derive(Debug)]
pub struct Carriers;
impl Carriers {
    /// shim
    pub fn new(_: Protocol) -> Self {
        Self
    }
    /// shim
    pub fn feed(&mut self, piece: Bytes, out: &mut Vec<Bytes>) {
        out.push(piece);
    }
    /// shim
    pub fn release(&mut self, _: Option<&Cost>, _: &mut Vec<Bytes>) -> bool {
        false
    }
    /// shim
    pub fn is_between_events(&self) -> bool {
        true
    }
}
