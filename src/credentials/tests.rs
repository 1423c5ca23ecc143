//! Issuers on loopback, and what callers get of them.

mod aws;
mod google;
mod ibm;
mod keeping;
mod support;
