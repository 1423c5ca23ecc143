//! The otari gateway: the rooms, in reading order.

pub mod cli;
pub mod demo;
pub mod app;
pub mod first_run;
pub mod server;
pub mod reload;
pub mod certificates;
pub mod life;
pub mod period;
pub mod routes;
pub mod proxy;
pub mod credentials;
pub mod files;
pub mod outbound;
pub mod search;
pub mod safety;
pub mod tools;
pub mod guardrails;
pub mod batches;
pub mod attachments;
pub mod documents;
pub mod api;
pub mod control;
pub mod store;
pub mod mock;
pub mod config;
pub mod telemetry;
pub mod clock;

#[cfg(test)]
mod scripted;
