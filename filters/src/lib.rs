//! The decisions of the otari gateway, in the order in which a request meets them.
//!
//! Filters decide, the `otari` crate does: nothing here opens a socket, asks a database or reads a clock.

pub mod control;
pub mod head;
pub mod authenticate;
pub mod limit;
pub mod gcra;
pub mod rates;
pub mod reserve;
pub mod alias;
pub mod route;
pub mod resolve;
pub mod allow;
pub mod platform;
pub mod upstream;
pub mod meter;
pub mod settle;
pub mod batches;

pub mod protocol;
pub mod attachments;
pub mod translate;
pub mod operations;
pub mod addresses;
pub mod network;
pub mod tools;
pub mod guardrails;
pub mod tokens;
pub mod providers;
pub mod search;
pub mod rejection;
pub mod validate;
pub mod prices;
pub mod money;
pub mod secret;
pub mod files;
