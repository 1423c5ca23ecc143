//! The otari gateway: the rooms, in reading order.

pub mod config;
pub mod store;
