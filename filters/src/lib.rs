//! The decisions of the otari gateway, in the order in which a request meets them.
//!
//! Filters decide, the `otari` crate does: nothing here opens a socket, asks a database or reads a clock.

pub mod money;
pub mod providers;
pub mod settle;
