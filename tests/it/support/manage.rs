//! Management calls whose answers are looked at, refusals included.

use reqwest::Method;
use serde_json::Value;

use super::gateway::{Answer, Gateway, MASTER};

impl Gateway {
    /// A management call with the master key; whatever it answers.
    pub(crate) async fn try_manage(&self, method: Method, path: &str, body: Value) -> Answer {
        let bearer = format!("Bearer {MASTER}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &headers, body).await
    }

    /// What a management GET answers with 200.
    pub(crate) async fn read(&self, path: &str) -> Value {
        self.manage(Method::GET, path, Value::Null).await
    }

    /// A change that must succeed.
    pub(crate) async fn patch(&self, path: &str, body: Value) -> Value {
        self.manage(Method::PATCH, path, body).await
    }

    /// A deletion that must answer 204 and nothing else.
    pub(crate) async fn delete(&self, path: &str) {
        let answer = self.try_manage(Method::DELETE, path, Value::Null).await.expect(204);
        assert_eq!((answer.text().as_str(), answer.header("content-type")), ("", None));
    }

    /// Checks that a management call is refused with this status and `detail`.
    pub(crate) async fn refuses(
        &self,
        (method, path, body): (Method, &str, Value),
        status: u16,
        detail: &str,
    ) {
        let refusal = self.try_manage(method.clone(), path, body).await.refused(status);
        assert_eq!(refusal["detail"], detail, "{method} {path}");
    }

    /// Checks that a management call is a 422 whose first fault is of this kind and at this place.
    pub(crate) async fn faults(
        &self,
        (method, path, body): (Method, &str, Value),
        kind: &str,
        place: Value,
    ) {
        let what = format!("{method} {path} {body}");
        let refusal = self.try_manage(method, path, body).await.refused(422);
        let first = &refusal["detail"][0];
        assert_eq!((&first["type"], &first["loc"]), (&kind.into(), &place), "{what}: {refusal}");
    }
}

/// The names of an object's fields, in order, with blanks between them.
pub(crate) fn names(object: &Value) -> String {
    let fields = object.as_object().unwrap_or_else(|| panic!("an object, not {object}"));
    fields.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
}
