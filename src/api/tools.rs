//! `/v1/tools`: which tools the gateway itself runs for a model, and how a request asks for them.

use otari_filters::rejection::Rejection;
use otari_filters::tools::{self, OwnTool};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::Answer;
use super::openapi::Operation;
use crate::app::App;

pub(super) static LIST: Operation =
    Operation::new("list_tools", "List the tools that the gateway itself runs").answering::<List>();

/// All of them, also those that this gateway has nothing to run with.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tools")]
struct List {
    object: &'static str,
    data: Vec<Entry>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tool")]
struct Entry {
    /// The `type` of the entry in `tools` that asks for it.
    id: &'static str,
    object: &'static str,
    description: String,
    /// Whether this gateway has what runs it; else requests for it are refused.
    available: bool,
    /// Types of entries that are taken for it; a provider's own may have a date behind it.
    accepted_types: Vec<&'static str>,
    /// JSON schema of what the model gives it.
    input_schema: Value,
    example: Example,
}

/// An entry that asks for it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ToolExample")]
struct Example {
    r#type: &'static str,
}

/// What there is to run tools with is what the configuration says; nobody is asked whether it answers.
pub(super) fn list(app: &App) -> Result<Answer, Rejection> {
    let config = app.kit.config();
    let backends = config.backends(false);
    let [search, code] = tools::own(config.intercepts());
    let data = vec![entry(search, backends.search), entry(code, backends.sandbox)];
    Answer::json(&List { object: "list", data })
}

fn entry(tool: OwnTool, available: bool) -> Entry {
    Entry {
        id: tool.entry,
        object: "tool",
        description: tool.offered.description,
        available,
        accepted_types: [tool.entry].into_iter().chain(tool.also.iter().copied()).collect(),
        input_schema: tool.offered.parameters,
        example: Example { r#type: tool.entry },
    }
}
