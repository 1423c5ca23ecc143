//! The loop in whole answers.
