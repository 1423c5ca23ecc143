//! JSON schemas of answers, for a provider that takes a part of the language: Anthropic.
//!
//! As its own client does it: objects are closed, and what is not known there moves into the description, where the
//! model can read it. This is the one place where a schema is taken apart; a schema of arguments is touched for one
//! provider alone, which refuses a property without a type.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Formats of strings that are known there.
const FORMATS: [&str; 9] =
    ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "uuid"];

/// Words that stay as they are.
const KEPT: [&str; 5] = ["title", "description", "enum", "const", "default"];

/// The schema as the provider takes it; unchanged where it is none.
pub(super) fn closed(schema: &RawValue) -> String {
    match serde_json::from_str(schema.get()) {
        Ok(Value::Object(schema)) => Value::Object(close(schema)).to_string(),
        _ => schema.get().to_owned(),
    }
}

fn close_any(schema: Value) -> Value {
    match schema {
        Value::Object(schema) => Value::Object(close(schema)),
        other => other,
    }
}

/// The values of an object, closed each.
fn close_each(schemas: Value) -> Value {
    match schemas {
        Value::Object(schemas) => {
            schemas.into_iter().map(|(name, schema)| (name, close_any(schema))).collect()
        }
        Value::Array(schemas) => schemas.into_iter().map(close_any).collect(),
        other => other,
    }
}

fn close(schema: Map<String, Value>) -> Map<String, Value> {
    if let Some(reference) = schema.get("$ref") {
        return Map::from_iter([("$ref".to_owned(), reference.clone())]);
    }
    let is_object = schema.get("type").is_some_and(|kind| kind == "object");
    let (mut kept, mut moved) = (Map::new(), Vec::new());
    for (name, value) in schema {
        let is_known = match (name.as_str(), &value) {
            ("type" | "required" | "$schema", _) => true,
            ("format", Value::String(format)) => FORMATS.contains(&format.as_str()),
            ("minItems", Value::Number(least)) => least.as_u64().is_some_and(|least| least <= 1),
            (name, _) => KEPT.contains(&name),
        };
        match name.as_str() {
            "$defs" | "definitions" | "properties" | "anyOf" | "allOf" => {
                kept.insert(name, close_each(value));
            }
            "oneOf" => {
                kept.insert("anyOf".to_owned(), close_each(value));
            }
            "items" => {
                kept.insert(name, close_any(value));
            }
            "additionalProperties" if is_object => {}
            _ if is_known => {
                kept.insert(name, value);
            }
            _ => moved.push(format!("{name}: {value}")),
        }
    }
    if is_object {
        kept.insert("additionalProperties".to_owned(), false.into());
    }
    if !moved.is_empty() {
        let said = kept.get("description").and_then(Value::as_str);
        let said = said.map_or(String::new(), |said| format!("{said}\n\n"));
        kept.insert("description".to_owned(), format!("{said}{{{}}}", moved.join(", ")).into());
    }
    kept
}

/// A schema of arguments in which properties that have `oneOf` and no `type` are strings, as Llama's API wants it;
/// unchanged where there is none.
pub(crate) fn with_types(schema: &RawValue) -> String {
    if memchr::memmem::find(schema.get().as_bytes(), b"oneOf").is_none() {
        return schema.get().to_owned();
    }
    let Ok(Value::Object(mut fields)) = serde_json::from_str(schema.get()) else {
        return schema.get().to_owned();
    };
    let mut is_changed = false;
    let properties = fields.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(Map::values_mut) {
        let Value::Object(property) = property else { continue };
        if property.contains_key("oneOf") && !property.contains_key("type") {
            property.insert("type".to_owned(), "string".into());
            is_changed = true;
        }
    }
    if is_changed { Value::Object(fields).to_string() } else { schema.get().to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_closed_and_what_is_not_known_is_described() {
        let schema = json!({"type": "object", "$defs": {"d": {"type": "object", "properties": {}}}, "properties": {
            "a": {"type": "integer", "minimum": 3, "maximum": 18446744073709551615u64, "description": "A"},
            "b": {"type": "array", "minItems": 2, "items": {"type": "object", "additionalProperties": true}},
            "c": {"oneOf": [{"type": "string", "format": "uuid"}, {"type": "string", "format": "regex"}]},
            "type": {"$ref": "#/$defs/d", "x": 1}}, "required": ["a"]});
        let raw = serde_json::value::to_raw_value(&schema).unwrap();
        let got: Value = serde_json::from_str(&closed(&raw)).unwrap();
        let want = json!({"type": "object", "$defs": {"d": {"type": "object", "properties": {}, "additionalProperties": false}},
            "properties": {
                "a": {"type": "integer", "description": "A\n\n{minimum: 3, maximum: 18446744073709551615}"},
                "b": {"type": "array", "items": {"type": "object", "additionalProperties": false}, "description": "{minItems: 2}"},
                "c": {"anyOf": [{"type": "string", "format": "uuid"}, {"type": "string", "description": "{format: \"regex\"}"}]},
                "type": {"$ref": "#/$defs/d"}},
            "required": ["a"], "additionalProperties": false});
        assert_eq!(got, want);
    }
}
