//! Against a platform that does what a test says.

mod reporting;
mod support;
