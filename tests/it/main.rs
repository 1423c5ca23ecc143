//! What users see, through HTTP only: the real binary between a scripted provider and real databases.

// `cfg(test)` is always on here; saying so lets clippy treat helpers as the tests they serve.
#[cfg(test)]
mod support;

#[cfg(test)]
mod health;
#[cfg(test)]
mod chat;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod responses;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod translated;
#[cfg(test)]
mod format_endings;
#[cfg(test)]
mod format_clients;
#[cfg(test)]
mod gates;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod rate_limits;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod cors;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod names;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod agents;
#[cfg(test)]
mod client_risks;
#[cfg(test)]
mod families;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod attachments;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod users;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod ceilings;
#[cfg(test)]
mod gateways;
#[cfg(test)]
mod pricing;
#[cfg(test)]
mod costs;
#[cfg(test)]
mod providers;
#[cfg(test)]
mod models;
#[cfg(test)]
mod files;
#[cfg(test)]
mod discovery;
#[cfg(test)]
mod search;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod guardrails;
#[cfg(test)]
mod batches;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod access;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod tls_listener;
#[cfg(test)]
mod aliases;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod service;
#[cfg(test)]
mod upgrade_binary;
#[cfg(test)]
mod side_by_side;
#[cfg(test)]
mod usage_reports;
#[cfg(test)]
mod usage_refusals;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod modes;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod routing_money;
#[cfg(test)]
mod breaker;
#[cfg(test)]
mod connected;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod schema_fuzz;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod recordings;
#[cfg(test)]
mod billable;
#[cfg(test)]
mod every_route;
#[cfg(test)]
mod operation_clients;
#[cfg(test)]
mod mock_platform;
#[cfg(test)]
mod mock_families;
// What is read instead of run: the walls between the rooms, and the documents.
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod docs;
