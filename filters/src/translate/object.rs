//! Reading JSON of a known shape without building a tree: an object is its fields, and a value is looked into only when
//! it is asked for. What is wrong is named by its path.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::text::Text;
use crate::rejection::{Code, Rejection};

/// What cannot be read or not be said, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    path: String,
    problem: Cow<'static, str>,
}

impl Fault {
    /// The field `name` has a problem: a sentence that goes on behind the name.
    pub fn new(name: &str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { path: name.to_owned(), problem: problem.into() }
    }

    /// The fault is within the item `index` of the list `name`.
    #[must_use]
    pub fn in_item(mut self, name: &str, index: usize) -> Self {
        self.path = match self.path.as_str() {
            "" => format!("{name}[{index}]"),
            path => format!("{name}[{index}].{path}"),
        };
        self
    }

    /// The fault is within the object `name`.
    #[must_use]
    pub fn inside(mut self, name: &str) -> Self {
        self.path =
            if self.path.is_empty() { name.to_owned() } else { format!("{name}.{}", self.path) };
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "The body {}", self.problem),
            path => write!(f, "`{path}` {}", self.problem),
        }
    }
}

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        Self::new(Code::InvalidValue, fault.to_string())
    }
}

/// The fields of an object, in their order. Of a repeated one the last counts; one that is null is not there.
#[derive(Clone, Debug, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// The fields of `raw`; `None` when it is no object.
    pub(crate) fn read(raw: &'a RawValue) -> Option<Self> {
        raw.get().starts_with('{').then(|| serde_json::from_str(raw.get()).ok()).flatten()
    }

    /// The fields of a document.
    pub(crate) fn document(body: &'a [u8]) -> Result<Self, Fault> {
        serde_json::from_slice(body).map_err(|_| Fault::new("", "is not a JSON object"))
    }

    /// Every field that is not null.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }

    /// The value of every field that is not null.
    pub(crate) fn values(&self) -> impl Iterator<Item = &'a RawValue> {
        self.0.iter().map(|(_, value)| *value)
    }

    /// The value of a field.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<Text<'a>>, Fault> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        Text::read(raw).map(Some).ok_or_else(|| Fault::new(name, "must be a string"))
    }

    /// A text that must be there.
    pub(crate) fn needs_text(&self, name: &str) -> Result<Text<'a>, Fault> {
        self.text(name)?.ok_or_else(|| Fault::new(name, "is required: a string"))
    }

    /// A text, or nothing where it is something else.
    pub(crate) fn maybe_text(&self, name: &str) -> Option<Text<'a>> {
        self.get(name).and_then(Text::read)
    }

    /// An object.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Object<'a>>, Fault> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        Object::read(raw).map(Some).ok_or_else(|| Fault::new(name, "must be an object"))
    }

    /// An object that must be there.
    pub(crate) fn needs_object(&self, name: &str) -> Result<Object<'a>, Fault> {
        self.object(name)?.ok_or_else(|| Fault::new(name, "is required: an object"))
    }

    /// An object, or nothing where it is something else.
    pub(crate) fn maybe_object(&self, name: &str) -> Object<'a> {
        self.get(name).and_then(Object::read).unwrap_or_default()
    }

    /// A list of objects.
    pub(crate) fn objects(&self, name: &str) -> Result<Vec<Object<'a>>, Fault> {
        let Some(raw) = self.get(name) else { return Ok(Vec::new()) };
        serde_json::from_str(raw.get()).map_err(|_| Fault::new(name, "must be a list of objects"))
    }

    /// A list of objects, or nothing where it is something else.
    pub(crate) fn maybe_objects(&self, name: &str) -> Vec<Object<'a>> {
        self.objects(name).unwrap_or_default()
    }

    /// A list of values.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<&'a RawValue>, Fault> {
        let Some(raw) = self.get(name) else { return Ok(Vec::new()) };
        serde_json::from_str(raw.get()).map_err(|_| Fault::new(name, "must be a list"))
    }

    /// A flag; anything else is none.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)?.get() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// A whole number from zero on; anything else is none.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.get(name)?.get().parse().ok()
    }

    /// What its `type` says.
    pub(crate) fn kind(&self) -> Text<'a> {
        self.maybe_text("type").unwrap_or_default()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::with_capacity(map.size_hint().unwrap_or(6).min(64));
                while let Some(Key(key)) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    if value.get() != "null" {
                        fields.push((key, value));
                    }
                }
                Ok(Object(fields))
            }
        }
        from.deserialize_map(Fields)
    }
}

/// The name of a field, borrowed where it has no escape.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }
        from.deserialize_str(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_where_it_stands_and_null_is_absent() {
        let object =
            Object::document(br#"{"a":"x","b":null,"c":[{"d":9007199254740993}]}"#).unwrap();
        assert!(object.text("a").unwrap().unwrap().is("x"));
        assert!(object.get("b").is_none());
        assert_eq!(object.objects("c").unwrap()[0].get("d").unwrap().get(), "9007199254740993");
        assert!(Object::document(b"[1]").is_err() && Object::document(b"{} x").is_err());
    }

    #[test]
    fn a_fault_names_its_place() {
        let fault = Fault::new("url", "must be a string").inside("image_url").in_item("content", 1);
        assert_eq!(
            fault.in_item("messages", 3).to_string(),
            "`messages[3].content[1].image_url.url` must be a string"
        );
    }
}
