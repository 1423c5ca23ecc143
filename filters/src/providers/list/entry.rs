//! One model of a list, whatever words its provider has for what it can do.

use serde::Serialize;
use serde_json::Value;

use super::{Shape, moment};

/// The longest name that is taken for one.
const MAX_ID: usize = 512;
/// Kinds of content that are kept of a model.
const MAX_KINDS: usize = 16;

/// Where lists say how long a conversation may be.
const CONTEXT: [&str; 12] = [
    "/context_window",
    "/context_length",
    "/max_context_length",
    "/max_model_len",
    "/context_size",
    "/inputTokenLimit",
    "/max_input_tokens",
    "/limits/max_input_tokens",
    "/model_limits/max_sequence_length",
    "/top_provider/context_length",
    "/metadata/context_length",
    "/meta/n_ctx_train",
];
/// Where they say how long an answer may be.
const OUTPUT: [&str; 9] = [
    "/max_completion_tokens",
    "/max_output_tokens",
    "/max_output_length",
    "/outputTokenLimit",
    "/limits/max_output_tokens",
    "/model_limits/max_output_tokens",
    "/top_provider/max_completion_tokens",
    "/metadata/max_tokens",
    "/max_tokens",
];
/// Words for the ability to call tools.
const TOOLS: [&str; 8] = [
    "tools",
    "tool-calling",
    "tool_calling",
    "tool_use",
    "function_calling",
    "supports_tools",
    "supports_tool_calling",
    "supports_function_calling",
];
/// Words for the ability to see.
const SIGHT: [&str; 5] =
    ["vision", "image_input", "supports_vision", "supports_image_input", "supports_image_in"];

/// A model as its provider lists it. What the list does not say is empty or `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// What it is called by.
    pub id: Box<str>,
    /// When it was made, in seconds since 1970; zero when nobody says.
    pub created_s: i64,
    /// For people.
    pub name: Option<Box<str>>,
    /// Tokens that a conversation may have, or a prompt where only that is told.
    pub context_window: Option<u64>,
    /// Tokens of an answer.
    pub max_output: Option<u64>,
    /// Kinds of content that it takes: `text`, `image`.
    pub input: Vec<Box<str>>,
    /// Kinds of content that it gives.
    pub output: Vec<Box<str>>,
    /// Whether it calls tools.
    pub tools: Option<bool>,
    /// Whether it thinks before it answers.
    pub reasoning: Option<bool>,
}

/// Reads an entry; `None` for what is no model that could be called.
pub(super) fn read(shape: Shape, value: &Value) -> Option<Listed> {
    let id = match shape {
        Shape::OpenAi | Shape::Anthropic => first_text(value, &["id", "name", "model"])?,
        // `models/gemini-2.5-pro`
        Shape::Gemini => {
            let name = value["name"].as_str()?;
            name.strip_prefix("models/").unwrap_or(name)
        }
        // `publishers/google/models/gemini-2.5-pro`
        Shape::Vertex => value["name"].as_str()?.rsplit('/').next()?,
        Shape::Cohere => value["name"].as_str()?,
        Shape::Ollama => first_text(value, &["model", "name"])?,
        Shape::Watsonx => value["model_id"].as_str()?,
        Shape::BedrockModels => value["modelId"].as_str()?,
        Shape::BedrockProfiles => value["inferenceProfileId"].as_str()?,
        Shape::AzureInfo => return None,
    };
    let is_name = (1..=MAX_ID).contains(&id.len()) && !id.contains(char::is_control);
    if !is_name || is_out_of_use(shape, value) {
        return None;
    }
    let mut listed = described(value);
    // Google's lists have the path of a model for a name.
    let is_path = |name: &str| name.strip_suffix(id).is_some_and(|rest| rest.ends_with('/'));
    listed.name = listed.name.filter(|name| **name != *id && !is_path(name));
    listed.id = id.into();
    Some(listed)
}

/// The model that an endpoint of Azure AI Inference describes.
pub(super) fn azure_info(answer: &Value) -> Option<Listed> {
    let id = answer["model_name"].as_str().filter(|id| (1..=MAX_ID).contains(&id.len()))?;
    Some(Listed { id: id.into(), ..Listed::default() })
}

/// Whether the list itself says that it cannot be called by this name.
fn is_out_of_use(shape: Shape, value: &Value) -> bool {
    match shape {
        Shape::OpenAi => value["active"] == false,
        Shape::BedrockModels => {
            // The others are called through a profile, which is listed by itself.
            let ways = value["inferenceTypesSupported"].as_array();
            ways.is_some_and(|ways| !ways.is_empty() && !ways.iter().any(|way| way == "ON_DEMAND"))
        }
        Shape::BedrockProfiles => value["status"].as_str().is_some_and(|status| status != "ACTIVE"),
        Shape::Watsonx => value["lifecycle"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|stage| stage["id"] == "withdrawn" && stage["current_state"] == true),
        _ => false,
    }
}

fn described(value: &Value) -> Listed {
    let name = first_text(
        value,
        &["display_name", "displayName", "label", "modelName", "inferenceProfileName", "name"],
    );
    let created = ["created", "created_at", "createdAt", "modified_at", "createTime"];
    let created_s = created.iter().find_map(|name| moment::seconds(&value[*name])).unwrap_or(0);
    let mut input =
        kinds(value, &["input_modalities", "supported_input_modalities", "inputModalities"]);
    let output =
        kinds(value, &["output_modalities", "supported_output_modalities", "outputModalities"]);
    if input.is_empty() && has(value, &SIGHT) == Some(true) {
        input = vec!["text".into(), "image".into()];
    }
    Listed {
        id: Box::default(),
        created_s,
        name: name.map(Into::into),
        context_window: first_count(value, &CONTEXT),
        max_output: first_count(value, &OUTPUT),
        input,
        output,
        tools: has(value, &TOOLS),
        reasoning: has(value, &["reasoning", "thinking", "supports_reasoning"]),
    }
}

/// The first of these fields that holds a text.
fn first_text<'a>(value: &'a Value, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| value[*name].as_str().filter(|text| !text.is_empty()))
}

/// The first of these places that holds a count above zero.
fn first_count(value: &Value, places: &[&str]) -> Option<u64> {
    places.iter().find_map(|place| {
        let found = value.pointer(place)?;
        found.as_u64().or_else(|| found.as_str()?.parse().ok()).filter(|count| *count > 0)
    })
}

/// The first of these lists of kinds of content, here or in `architecture`.
fn kinds(value: &Value, names: &[&str]) -> Vec<Box<str>> {
    let places = [value, &value["architecture"]];
    let found = places.iter().flat_map(|place| names.iter().map(|name| &place[*name]));
    let list = found.filter_map(Value::as_array).find(|list| !list.is_empty());
    let texts = list.into_iter().flatten().filter_map(Value::as_str).take(MAX_KINDS);
    texts.map(|text| text.to_lowercase().into()).collect()
}

/// Whether one of these abilities is said to be there: as a field, or in one of the lists and maps of abilities.
/// `None`: the entry does not say.
fn has(value: &Value, names: &[&str]) -> Option<bool> {
    let yes = |said: &Value| said.as_bool().or_else(|| said["supported"].as_bool());
    let mut said = names.iter().filter_map(|name| yes(&value[*name])).next();
    for place in ["capabilities", "supported_parameters", "features", "supported_features"] {
        match &value[place] {
            Value::Object(map) => {
                for name in names {
                    said = said.max(map.get(*name).and_then(yes));
                }
            }
            Value::Array(list) => {
                // What a list leaves out it may only not know the word for.
                let is_there = list.iter().any(|one| names.iter().any(|name| one == name));
                said = said.max(is_there.then_some(true));
            }
            _ => {}
        }
    }
    said
}
