//! What an operator sees: logs, one line a request, and metrics.

pub mod logs;
pub mod metrics;
pub mod panics;
