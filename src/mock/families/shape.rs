//! Looks whether a body is of the shape its format documents. Every mistake is told with its place, as
//! `contents[0].parts[1]`, because it is somebody's translation that made it.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// What is read, or the sentence that says what is wrong with it.
pub(super) type Read<T> = Result<T, String>;

/// A value, and where it stands.
#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    path: String,
}

/// An object, and where it stands.
#[derive(Clone)]
pub(super) struct Object<'a> {
    fields: &'a Map<String, Value>,
    path: String,
}

impl<'a> At<'a> {
    /// The body itself.
    pub(super) fn body(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// A refusal that names this place.
    pub(super) fn wrong<T>(&self, what: &str) -> Read<T> {
        let place = if self.path.is_empty() { "the body" } else { &self.path };
        Err(format!("{place}: {what}"))
    }

    /// As an object that has no other fields than these.
    pub(super) fn object(&self, known: &[&str]) -> Read<Object<'a>> {
        let object = self.open_object()?;
        match object.fields.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(object),
            Some(name) => {
                object.wrong(&format!("unknown field '{name}'; known: {}", known.join(", ")))
            }
        }
    }

    /// As an object whose fields are the caller's business.
    pub(super) fn open_object(&self) -> Read<Object<'a>> {
        match self.value.as_object() {
            Some(fields) => Ok(Object { fields, path: self.path.clone() }),
            None => self.wrong("must be an object"),
        }
    }

    pub(super) fn list(&self) -> Read<Vec<At<'a>>> {
        let Some(list) = self.value.as_array() else { return self.wrong("must be a list") };
        let item = |(n, value)| At { value, path: format!("{}[{n}]", self.path) };
        Ok(list.iter().enumerate().map(item).collect())
    }

    pub(super) fn text(&self) -> Read<&'a str> {
        self.value.as_str().map_or_else(|| self.wrong("must be a string"), Ok)
    }

    /// One of these words.
    pub(super) fn word(&self, known: &[&str]) -> Read<&'a str> {
        let word = self.text()?;
        if known.contains(&word) {
            return Ok(word);
        }
        self.wrong(&format!("'{word}' is none of {}", known.join(", ")))
    }

    pub(super) fn whole(&self) -> Read<u64> {
        self.value.as_u64().map_or_else(|| self.wrong("must be a whole number"), Ok)
    }

    pub(super) fn number(&self) -> Read<f64> {
        self.value.as_f64().map_or_else(|| self.wrong("must be a number"), Ok)
    }

    pub(super) fn flag(&self) -> Read<bool> {
        self.value.as_bool().map_or_else(|| self.wrong("must be true or false"), Ok)
    }

    /// Bytes in base64, in either alphabet when `url_safe` too.
    pub(super) fn bytes(&self, url_safe: bool) -> Read<()> {
        let text = self.text()?;
        let plain = BASE64_STANDARD.decode(text).is_ok();
        let safe = url_safe && BASE64_URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).is_ok();
        if (plain || safe) && !text.is_empty() {
            return Ok(());
        }
        self.wrong("must be base64, and not empty")
    }

    /// A list of strings.
    pub(super) fn texts(&self) -> Read<()> {
        self.list()?.iter().try_for_each(|item| item.text().map(|_| ()))
    }
}

impl<'a> Object<'a> {
    pub(super) fn wrong<T>(&self, what: &str) -> Read<T> {
        let place = if self.path.is_empty() { "the body" } else { &self.path };
        Err(format!("{place}: {what}"))
    }

    /// The field of this name; `null` is absent.
    pub(super) fn get(&self, name: &str) -> Option<At<'a>> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        let dot = if self.path.is_empty() { "" } else { "." };
        Some(At { value, path: format!("{}{dot}{name}", self.path) })
    }

    /// The field of this name, which must be there.
    pub(super) fn need(&self, name: &str) -> Read<At<'a>> {
        match self.get(name) {
            Some(at) => Ok(at),
            None => self.wrong(&format!("missing required field '{name}'")),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// The one field out of `known` that is there; none or several are wrong.
    pub(super) fn one_of(&self, known: &[&str]) -> Read<&'a str> {
        let mut there = self.fields.iter().filter(|(_, value)| !value.is_null());
        let mut named = there.by_ref().map(|(name, _)| name.as_str()).filter(|n| known.contains(n));
        match (named.next(), named.next()) {
            (Some(name), None) => Ok(name),
            (Some(name), Some(other)) => {
                self.wrong(&format!("'{name}' and '{other}' cannot stand together"))
            }
            (None, _) => self.wrong(&format!("must hold one of {}", known.join(", "))),
        }
    }

    /// Fields of these names, where they are there, are numbers.
    pub(super) fn numbers(&self, names: &[&str]) -> Read<()> {
        names.iter().filter_map(|name| self.get(name)).try_for_each(|at| at.number().map(|_| ()))
    }

    /// Fields of these names, where they are there, are whole numbers.
    pub(super) fn wholes(&self, names: &[&str]) -> Read<()> {
        names.iter().filter_map(|name| self.get(name)).try_for_each(|at| at.whole().map(|_| ()))
    }

    /// The text in this field, which must be there.
    pub(super) fn text(&self, name: &str) -> Read<&'a str> {
        self.need(name)?.text()
    }

    /// The names of all fields.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.fields.keys().map(String::as_str)
    }
}

/// Whether a tool may have this name: letters, digits, `_`, `-` and `more`, at most 64.
pub(super) fn is_name(name: &str, more: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c) || more.contains(c))
}

/// Characters of a text, as token counts want them.
pub(super) fn chars(text: &str) -> u64 {
    text.chars().count() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let body = json!({"a": [{"b": 1}, {"c": "x"}], "n": null});
        let body = At::body(&body).object(&["a", "n"]).unwrap();
        let items = body.need("a").unwrap().list().unwrap();
        assert_eq!(items[1].object(&["b"]).err().unwrap(), "a[1]: unknown field 'c'; known: b");
        let first = items[0].object(&["b"]).unwrap();
        assert_eq!(first.text("b").unwrap_err(), "a[0].b: must be a string");
        assert_eq!(body.need("n").err().unwrap(), "the body: missing required field 'n'");
    }

    #[test]
    fn a_union_holds_one() {
        let (none, two) = (json!({"x": 1}), json!({"a": 1, "b": 2, "x": 1}));
        let one_of = |value: &Value| {
            At::body(value).open_object().unwrap().one_of(&["a", "b"]).map(str::to_owned)
        };
        assert!(one_of(&none).unwrap_err().contains("one of a, b"));
        assert!(one_of(&two).unwrap_err().contains("cannot stand together"));
        assert_eq!(one_of(&json!({"b": 2, "a": null})).as_deref(), Ok("b"), "null is absent");
    }

    #[test]
    fn base64_is_looked_at() {
        let is = |text: &str, safe| At::body(&json!(text)).bytes(safe).is_ok();
        assert!(is("+/+/", false) && is("-_-_", true) && !is("-_-_", false));
        assert!(!is("data:image/png;base64,aGk=", true) && !is("", true));
    }
}
