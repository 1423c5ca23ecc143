//! Against a platform that does what a test says.

mod asking;
mod live;
mod reporting;
mod support;
