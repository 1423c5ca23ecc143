//! What is claimed.
