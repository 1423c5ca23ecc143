//! Against a platform that does what a test says.

mod asking;
mod reporting;
mod support;
