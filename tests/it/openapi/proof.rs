//! The document, held against what the gateway answers.

use std::collections::{BTreeMap, BTreeSet};

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::support::gateway::{Answer, Gateway, MASTER};

/// A call of an operation: what stands for the path's variable part, after the question mark, and in the body.
#[derive(Clone, Debug, Default)]
pub(super) struct Call<'a> {
    pub(super) id: &'a str,
    pub(super) query: &'a str,
    /// Null: none.
    pub(super) body: Value,
    /// A form in the place of a body: its content type and its bytes.
    pub(super) form: Option<(String, Vec<u8>)>,
    /// `None`: the master key.
    pub(super) key: Option<&'a str>,
    pub(super) headers: &'a [(&'a str, &'a str)],
}

/// One operation of the document.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) method: Method,
    /// With the variable part in braces.
    pub(super) path: String,
    pub(super) shown: Value,
}

impl Operation {
    /// The name of the path's variable part.
    pub(super) fn variable(&self) -> Option<&str> {
        Some(self.path.split_once('{')?.1.split_once('}')?.0)
    }

    /// The parameters of the query string.
    pub(super) fn query(&self) -> Vec<&Value> {
        let all = self.shown["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|parameter| parameter["in"] == "query").collect()
    }

    /// The schema of the body.
    pub(super) fn body(&self) -> Option<&Value> {
        self.shown.pointer("/requestBody/content/application~1json/schema")
    }

    /// Whether it needs a key.
    pub(super) fn is_guarded(&self) -> bool {
        self.shown["security"].as_array().is_some_and(|schemes| !schemes.is_empty())
    }

    /// Whether it names this status.
    pub(super) fn declares(&self, status: u16) -> bool {
        self.shown["responses"].get(status.to_string()).is_some()
    }
}

/// The document and what was seen of it.
pub(super) struct Proof {
    pub(super) document: Value,
    pub(super) operations: BTreeMap<String, Operation>,
    /// The schemas, with every object closed that does not say that it is open.
    components: Value,
    seen: BTreeSet<(String, String)>,
}

impl Proof {
    pub(super) fn new(document: Value) -> Self {
        let mut operations = BTreeMap::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, shown) in methods.as_object().expect("methods") {
                let id = shown["operationId"].as_str().expect("an operationId").to_owned();
                let method =
                    Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
                let operation = Operation { method, path: path.clone(), shown: shown.clone() };
                assert!(operations.insert(id.clone(), operation).is_none(), "{id} is there twice");
            }
        }
        let mut components = document["components"].clone();
        close(&mut components);
        Self { document, operations, components, seen: BTreeSet::new() }
    }

    pub(super) fn operation(&self, id: &str) -> Operation {
        self.operations.get(id).unwrap_or_else(|| panic!("no operation {id}")).clone()
    }

    /// Calls an operation and holds the answer against the document.
    pub(super) async fn call(&mut self, gateway: &Gateway, id: &str, call: Call<'_>) -> Answer {
        let operation = self.operation(id);
        let what = format!("{id} {call:?}");
        let mut path = operation.path.clone();
        if let Some(variable) = operation.variable() {
            assert!(!call.id.is_empty(), "{what}: the path has a variable part");
            path = path.replace(&format!("{{{variable}}}"), call.id);
        }
        if !call.query.is_empty() {
            path += &format!("?{}", call.query);
        }
        let bearer = format!("Bearer {}", call.key.unwrap_or(MASTER));
        let json = (
            "application/json".to_owned(),
            match &call.body {
                Value::Null => Vec::new(),
                body => body.to_string().into(),
            },
        );
        let (kind, sent) = call.form.clone().unwrap_or(json);
        let mut headers = vec![("content-type", kind.as_str())];
        if call.key != Some("") {
            headers.push(("authorization", bearer.as_str()));
        }
        headers.extend(call.headers);
        let answer = gateway.send(operation.method.clone(), &path, &headers, sent).await;
        self.check(id, &operation, &answer, &what);
        if let Some(schema) = operation.body().filter(|_| answer.status < 300) {
            self.fits(schema, &call.body, &format!("{what}: what was accepted"));
        }
        answer
    }

    /// As [`Self::call`]; panics unless the status is this one.
    pub(super) async fn expect(
        &mut self,
        gateway: &Gateway,
        status: u16,
        id: &str,
        call: Call<'_>,
    ) -> Value {
        let what = format!("{id} {call:?}");
        let answer = self.call(gateway, id, call).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    fn check(&mut self, id: &str, operation: &Operation, answer: &Answer, what: &str) {
        let responses = &operation.shown["responses"];
        let status = answer.status.to_string();
        let name = if responses.get(&status).is_some() { status.as_str() } else { "default" };
        assert!(
            name != "default" || answer.status >= 400,
            "{what}: {status} is not declared: {}",
            answer.text()
        );
        self.seen.insert((id.to_owned(), name.to_owned()));
        let Some(content) = responses[name].get("content") else {
            let found = (answer.body.len(), answer.header("content-type"));
            assert_eq!(found, (0, None), "{what}: nothing is declared for {status}");
            return;
        };
        let sent = answer.header("content-type").unwrap_or_default();
        let kind = content.get(sent).map(|_| sent).or_else(|| sent.split(';').next());
        let kind = kind.map(|kind| if content.get("*/*").is_some() { "*/*" } else { kind });
        let Some(declared) = kind.and_then(|kind| content.get(kind)) else {
            panic!("{what}: {status} is of an undeclared kind, {sent}");
        };
        if sent == "application/json" && content.get("*/*").is_none() {
            let what = format!("{what}: {status} {}", answer.text());
            self.fits(&declared["schema"], &answer.json(), &what);
        }
    }

    /// Panics unless the value is what the schema says, and has no other fields.
    fn fits(&self, schema: &Value, value: &Value, what: &str) {
        let (schemas, index) = self.compiled(schema, what);
        if let Err(fault) = schemas.validate(value, index) {
            panic!("{what}\n{fault:#}");
        }
    }

    /// The schema with every object closed; panics unless it is one.
    pub(super) fn compiled(&self, schema: &Value, what: &str) -> (Schemas, SchemaIndex) {
        const PLACE: &str = "http://otari.test/schema.json";
        let mut schema = schema.clone();
        close(&mut schema);
        let whole = json!({"allOf": [schema], "components": self.components});
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.set_default_draft(Draft::V2020_12);
        compiler.enable_format_assertions();
        compiler.add_resource(PLACE, whole).expect("a document of its own");
        let index = compiler.compile(PLACE, &mut schemas);
        let index = index.unwrap_or_else(|error| panic!("{what}: no schema: {error:#}"));
        (schemas, index)
    }

    /// What is declared and was not seen.
    pub(super) fn unseen(&self) -> Vec<String> {
        let mut unseen = Vec::new();
        for (id, operation) in &self.operations {
            let responses: &Map<String, Value> =
                operation.shown["responses"].as_object().expect("responses");
            for status in responses.keys().filter(|status| *status != "default") {
                if !self.seen.contains(&(id.clone(), status.clone())) {
                    unseen.push(format!("{id} {status}"));
                }
            }
        }
        unseen
    }
}

/// Forbids undeclared fields wherever they are not allowed in so many words.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") && !object.contains_key("additionalProperties") {
                object.insert("additionalProperties".into(), false.into());
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
