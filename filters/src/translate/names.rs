//! Tools that a caller of the Responses API knows by another name than the provider.
//!
//! Namespaces are flattened and tools that take plain text become functions with one argument; the answer turns both
//! back.

use super::text::Text;

/// The one argument of a function that stands for a tool that takes plain text.
pub(super) const CUSTOM_SCHEMA: &str =
    r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}"#;

/// How the caller calls a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolName {
    /// What the provider calls it.
    pub flat: Text<'static>,
    /// The namespace it lies in.
    pub namespace: Option<Text<'static>>,
    /// Its name within.
    pub name: Text<'static>,
    /// It takes plain text.
    pub is_custom: bool,
}

/// One name for a tool in a namespace.
pub(super) fn flat(namespace: &Text<'_>, name: &Text<'_>) -> Text<'static> {
    let mut flat = namespace.clone().into_owned();
    if !flat.escaped().ends_with("__") {
        flat.push(&Text::of("__"));
    }
    flat.push(name);
    flat
}

/// How the caller calls the tool `flat`.
pub(super) fn find<'n>(names: &'n [ToolName], flat: &Text<'_>) -> Option<&'n ToolName> {
    names.iter().find(|name| name.flat.escaped() == flat.escaped())
}
