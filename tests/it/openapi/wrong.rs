//! Values that break what is declared of a field, one rule each.

use serde_json::{Value, json};

use super::proof::Operation;

/// A value of every rule that the schema of a field of a body declares, and that breaks it; with the place of the
/// fault below the field.
pub(super) fn values(schema: &Value) -> Vec<(Value, Vec<Value>)> {
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return Vec::new(),
    };
    let here = |value: Value| (value, Vec::new());
    let mut wrong = vec![match kinds[0] {
        "string" if schema["format"] == "date-time" => here(json!({})),
        // Strings never accept numbers; everything else reads them.
        "string" | "array" | "object" => here(json!(5)),
        _ => here(json!({})),
    }];
    if !kinds.contains(&"null") {
        wrong.push(here(Value::Null));
    }
    if schema["format"] == "date-time" {
        wrong.push(here(json!("soon")));
    }
    if schema.get("enum").is_some() {
        wrong.push(here(json!("no such word")));
    }
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let beyond = [
        number("minimum").map(|least| least - 1.0),
        number("exclusiveMinimum"),
        number("maximum").map(|most| most + 1.0),
    ];
    wrong.extend(beyond.into_iter().flatten().map(|value| here(json!(value))));
    let length = |name: &str| schema.get(name).and_then(Value::as_u64);
    if length("minLength").is_some_and(|least| least > 0) {
        wrong.push(here(json!("")));
    }
    let long = |most: u64| usize::try_from(most + 1).expect("a small length");
    wrong.extend(length("maxLength").map(|most| here(json!("x".repeat(long(most))))));
    wrong.extend(length("maxItems").map(|most| here(json!(vec![json!({}); long(most)]))));
    match schema.pointer("/items/properties").and_then(Value::as_object) {
        Some(nested) => {
            let base = valid(&schema["items"]);
            for (name, schema) in nested {
                for (value, place) in values(schema) {
                    let mut item = base.clone();
                    item[name] = value;
                    let place = [vec![json!(0), json!(name)], place].concat();
                    wrong.push((json!([item]), place));
                }
            }
        }
        None if schema.pointer("/items/type").is_some() => {
            wrong.push((json!([5]), vec![json!(0)]));
        }
        None => {}
    }
    wrong
}

/// An object with every required field, each of the right kind.
pub(super) fn valid(schema: &Value) -> Value {
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    let fields = required.iter().filter_map(Value::as_str).map(|name| {
        let field = &schema["properties"][name];
        let value = match (&field["enum"][0], field["type"].as_str()) {
            (Value::String(word), _) => json!(word),
            (_, Some("string")) => json!("x"),
            (_, Some("array")) => json!([]),
            _ => json!(1),
        };
        (name.to_owned(), value)
    });
    Value::Object(fields.collect())
}

/// Query strings that break a rule, with the name of the parameter.
pub(super) fn queries(operation: &Operation) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    for parameter in operation.query() {
        let name = parameter["name"].as_str().expect("a name");
        let schema = &parameter["schema"];
        let first = match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("string"), Some("date-time")) => "soon",
            (Some("string" | "array"), _) => "%00",
            _ => "x",
        };
        let number = |name: &str| schema.get(name).and_then(Value::as_i64);
        let beyond = [number("minimum").map(|n| n - 1), number("maximum").map(|n| n + 1)];
        let beyond = beyond.into_iter().flatten().map(|n| n.to_string());
        let values = [first.to_owned()].into_iter().chain(beyond);
        wrong.extend(values.map(|value| (name.to_owned(), format!("{name}={value}"))));
    }
    wrong
}
