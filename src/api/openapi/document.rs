//! The document: OpenAPI 3.1, whose schemas are JSON Schema 2020-12.

use otari_filters::protocol::Protocol;
use otari_filters::validate::{Bounds, Field, Kind};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{Operation, Others, Special, Success, index};
use crate::api::id_name;
use crate::routes::{Credential, Handler, ROUTES, Route, Surface};

const ABOUT: &str = "One endpoint in front of every provider of language models: keys, users, budgets, prices and usage.\n\n\
     Every route under `/v1` answers under `/api/v1` too, with or without a trailing slash. Fields are read leniently: \
     `\"5\"` for 5, `1` for true. In a PATCH an absent field keeps, null clears, a value sets. Fields that are not \
     named here are ignored, and answers may gain fields.";
const ABOUT_CONNECTED: &str = "One endpoint in front of every provider of language models. This gateway is in connected mode: \
     keys, users, budgets, prices and usage are managed on its platform.\n\n\
     Every route under `/v1` answers under `/api/v1` too, with or without a trailing slash. Fields are read leniently: \
     `\"5\"` for 5, `1` for true. Answers may gain fields.";

/// The whole document: of the routes that there are.
pub(super) fn document(surface: Surface) -> Value {
    // As answers are written: what can be null is there all the same, and so is required.
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for route in ROUTES.iter().filter(|route| surface.has(route)) {
        let operation = describe(surface, route, index::operation(route), &mut generator);
        let methods = paths.entry(path(route)).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Error".into(), error(json!({"type": "string"})));
    schemas.insert("ValidationError".into(), error(faults()));
    schemas.insert("AnthropicError".into(), anthropic_error(wrapped()));
    schemas.insert("AnthropicValidationError".into(), anthropic_error(faults()));
    let about = match surface {
        Surface::Standalone => ABOUT,
        Surface::Connected => ABOUT_CONNECTED,
    };
    json!({
        "openapi": "3.1.0",
        "info": {"title": "otari", "description": about, "version": env!("CARGO_PKG_VERSION")},
        "tags": tags(surface),
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": credentials(surface)},
    })
}

/// How callers may say who they are. A platform takes a bearer token alone.
fn credentials(surface: Surface) -> Value {
    let bearer = json!({"type": "http", "scheme": "bearer"});
    match surface {
        Surface::Connected => json!({"BearerAuth": bearer}),
        Surface::Standalone => json!({
            "ApiKeyAuth": {"type": "apiKey", "in": "header", "name": "Otari-Key",
                "description": "The key, bare or after `Bearer `"},
            "BearerAuth": bearer,
            "XApiKeyAuth": {"type": "apiKey", "in": "header", "name": "x-api-key",
                "description": "As Anthropic's SDKs send it"},
        }),
    }
}

/// The headings in their order: first what callers and operators come for.
fn tags(surface: Surface) -> Vec<Value> {
    let all = ROUTES.iter().filter(|route| surface.has(route));
    let (api, rest): (Vec<&Route>, _) = all.partition(|route| route.template.starts_with("/v1/"));
    let mut names: Vec<&str> = Vec::new();
    for name in api.into_iter().chain(rest).map(index::tag) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.into_iter().map(|name| json!({"name": name})).collect()
}

/// The path with its variable part named as faults name it.
fn path(route: &Route) -> String {
    match route.template.split_once('{').zip(route.template.split_once('}')) {
        Some(((before, _), (_, after))) => format!("{before}{{{}}}{after}", id_name(route)),
        None => route.template.to_owned(),
    }
}

fn describe(
    surface: Surface,
    route: &Route,
    operation: &Operation,
    generator: &mut SchemaGenerator,
) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "tags": [index::tag(route)],
        "summary": operation.summary,
    });
    let parameters = parameters(route, operation);
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(fields) = operation.body {
        let mut schema = object(fields, operation.others);
        let content = if operation.is_form {
            schema["properties"]["file"]["format"] = "binary".into();
            json!({"multipart/form-data": {"schema": schema}})
        } else {
            as_json(&schema)
        };
        described["requestBody"] = json!({"required": true, "content": content});
    }
    described["responses"] = responses(route, operation, generator);
    let credential = match route.credential {
        Credential::Open => None,
        Credential::Key if surface == Surface::Connected => Some("A token of the platform."),
        Credential::Key => Some("An API key, or the master key."),
        Credential::Master => Some("The master key."),
    };
    described["security"] = json!([]);
    if let Some(credential) = credential {
        described["description"] = credential.into();
        described["security"] = match surface {
            Surface::Connected => json!([{"BearerAuth": []}]),
            Surface::Standalone => {
                json!([{"ApiKeyAuth": []}, {"BearerAuth": []}, {"XApiKeyAuth": []}])
            }
        };
    }
    described
}

fn parameters(route: &Route, operation: &Operation) -> Vec<Value> {
    let mut parameters = Vec::new();
    if let Some((_, rest)) = route.template.split_once('{') {
        let about = match rest.contains("...}") {
            true => "May hold slashes.",
            false => "A slash in it is sent as %2F.",
        };
        parameters.push(json!({
            "name": id_name(route), "in": "path", "required": true,
            "description": about, "schema": {"type": "string"},
        }));
    }
    parameters.extend(operation.query.iter().map(|field| {
        // A query string cannot hold null.
        let schema = schema(&field.not_null());
        json!({
            "name": field.name, "in": "query", "required": field.is_required,
            "description": field.about, "schema": schema,
        })
    }));
    parameters
}

fn responses(route: &Route, operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    let mut add = |status: &str, description: &str, content: Value| {
        let mut response = json!({"description": description});
        if !content.is_null() {
            response["content"] = content;
        }
        responses.insert(status.to_owned(), response);
    };
    match operation.success {
        Success::Nothing => add("204", "Done", Value::Null),
        Success::Json(shape) => add("200", "Success", as_json(shape(generator).as_value())),
        Success::Stream(shape) => {
            let mut content = as_json(shape(generator).as_value());
            content["text/event-stream"] = json!({"schema": {"type": "string"}});
            add("200", "Success; events when `stream` is true", content);
        }
        Success::Page(content_type) => {
            add("200", "Success", json!({content_type: {"schema": {"type": "string"}}}));
        }
        Success::Never => {}
    }
    let is_anthropic =
        matches!(route.handler, Handler::Generate(Protocol::Messages) | Handler::CountTokens);
    let named = |name: &str| {
        let dialect = if is_anthropic { "Anthropic" } else { "" };
        json!({"$ref": format!("#/components/schemas/{dialect}{name}")})
    };
    let error = named("Error");
    let mut statuses = operation.refusals.to_vec();
    if route.credential != Credential::Open {
        statuses.push(401);
    }
    statuses.sort_unstable();
    for status in statuses {
        add(&status.to_string(), about(status), as_json(&error));
    }
    if !operation.query.is_empty() || operation.body.is_some() || route.template.contains('{') {
        add("422", about(422), as_json(&named("ValidationError")));
    }
    if let Some((status, special)) = operation.special {
        let schema = match special {
            Special::Json(shape) => shape(generator).to_value(),
            Special::Detail(shape) => self::error(shape(generator).to_value()),
            Special::Faults => self::error(json!({"anyOf": [faults(), {"type": "string"}]})),
        };
        add(&status.to_string(), about(status), as_json(&schema));
    }
    add("default", "Any other refusal", as_json(&error));
    responses.into()
}

fn about(status: u16) -> &'static str {
    match status {
        400 => "A value breaks a rule",
        401 => "The credential is missing, or not good",
        402 => "The model has no price, and prices are required",
        403 => "Not permitted, or the budget does not allow it",
        404 => "Not found",
        405 => "Another method is meant",
        409 => "Conflict",
        413 => "It is larger than it may be",
        416 => "The file has no such range",
        422 => "Fields are missing, or of the wrong kind: all of them are listed",
        426 => "No WebSocket is offered",
        429 => "Too many requests",
        503 => "Not ready",
        _ => "The provider failed",
    }
}

fn as_json(schema: &Value) -> Value {
    json!({"application/json": {"schema": schema}})
}

/// An error: OpenAI's object, and the reference's `detail` of this schema.
fn error(detail: Value) -> Value {
    json!({
        "type": "object",
        "required": ["error", "detail"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string", "description": "What happened and what to do"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string", "description": "What programs switch on"},
                },
            },
            "detail": detail,
        },
    })
}

/// An error as Anthropic's clients read it: its object, and the reference's `detail` of this schema.
fn anthropic_error(detail: Value) -> Value {
    let mut error = wrapped();
    error["required"] = json!(["type", "error", "request_id", "detail"]);
    error["properties"]["request_id"] = json!({"type": "string"});
    error["properties"]["detail"] = detail;
    error
}

/// Anthropic's error object.
fn wrapped() -> Value {
    json!({
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"type": "string", "enum": ["error"]},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {
                    "type": {"type": "string", "description": "What programs switch on"},
                    "message": {"type": "string", "description": "What happened and what to do"},
                },
            },
        },
    })
}

/// The list of faulty fields.
fn faults() -> Value {
    json!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["type", "loc", "msg", "input"],
            "properties": {
                "type": {"type": "string"},
                "loc": {
                    "type": "array",
                    "items": {"type": ["string", "integer"]},
                    "description": "`body`, `query` or `path`, then names and indexes",
                },
                "msg": {"type": "string"},
                "input": {"description": "What was sent there"},
                "ctx": {"type": "object", "additionalProperties": true},
            },
        },
    })
}

/// An object with these fields.
fn object(fields: &[Field], others: Others) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|field| {
            let mut schema = schema(field);
            schema["description"] = field.about.into();
            (field.name.to_owned(), schema)
        })
        .collect();
    let mut object = json!({"type": "object", "properties": properties});
    let required: Vec<&str> =
        fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
    if !required.is_empty() {
        object["required"] = required.into();
    }
    match others {
        Others::Ignored => {}
        Others::Refused => object["additionalProperties"] = false.into(),
        Others::Passed => object["additionalProperties"] = true.into(),
    }
    object
}

/// What a field holds, null included where it may be sent.
fn schema(field: &Field) -> Value {
    let mut schema = match field.kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Bounded(least, most) => {
            json!({"type": "string", "minLength": least, "maxLength": most})
        }
        Kind::Choice(words) => json!({"type": "string", "enum": words}),
        Kind::Instant => json!({"type": "string", "format": "date-time"}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Whole(bounds) => whole(bounds),
        Kind::Amount(most) => json!({"type": "number", "minimum": 0, "maximum": most}),
        Kind::Number => json!({"type": "number"}),
        Kind::Object => json!({"type": "object", "additionalProperties": true}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Objects(fields, most) => {
            json!({"type": "array", "items": object(fields, Others::Ignored), "maxItems": most})
        }
        Kind::List => json!({"type": "array"}),
        Kind::TextOrObject => json!({"type": ["string", "object"]}),
        Kind::File => json!({"type": "string", "contentMediaType": "application/octet-stream"}),
        Kind::Any => return json!({}),
    };
    if field.is_nullable {
        let mut types = match schema["type"].take() {
            Value::Array(types) => types,
            one => vec![one],
        };
        types.push("null".into());
        schema["type"] = types.into();
        if let Some(Value::Array(words)) = schema.get_mut("enum") {
            words.push(Value::Null);
        }
    }
    schema
}

fn whole(bounds: Bounds<i64>) -> Value {
    let mut schema = json!({"type": "integer"});
    let limits = [
        ("minimum", bounds.at_least),
        ("exclusiveMinimum", bounds.above),
        ("maximum", bounds.at_most),
    ];
    for (name, limit) in limits {
        if let Some(limit) = limit {
            schema[name] = limit.into();
        }
    }
    schema
}
