//! Reading JSON of a known shape without building a tree: an object is its fields, and a value is looked into only when
//! it is asked for. What is wrong is named by its path.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::text::Text;
use crate::protocol::scan::Scan;
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

/// Few objects of an answer have more.
const USUAL_FIELDS: usize = 6;

/// The fields of an object, in their order. Of a repeated one the last counts; one that is null is not there.
#[derive(Clone, Debug, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a str)>);

/// A value that was cut out of a document.
fn raw(value: &str) -> Option<&RawValue> {
    // It is JSON.
    serde_json::from_str(value).ok()
}

impl<'a> Object<'a> {
    /// The fields of `raw`; `None` when it is no object.
    pub(crate) fn read(raw: &'a RawValue) -> Option<Self> {
        Self::of(raw.get())
    }

    /// The fields of a document.
    pub(crate) fn document(body: &'a [u8]) -> Result<Self, Fault> {
        if let Some(plain) = std::str::from_utf8(body).ok().and_then(Self::plain) {
            return Ok(plain);
        }
        serde_json::from_slice(body).map_err(|_| Fault::new("", "is not a JSON object"))
    }

    /// The fields of a value that was cut out.
    fn of(value: &'a str) -> Option<Self> {
        if !value.starts_with('{') {
            return None;
        }
        Self::plain(value).or_else(|| serde_json::from_str(value).ok())
    }

    /// The objects of a value that was cut out; `None` where it is anything but a list of objects.
    fn list_of(value: &'a str) -> Option<Vec<Self>> {
        if !value.starts_with('[') {
            return None;
        }
        Self::plain_list(value).or_else(|| serde_json::from_str(value).ok())
    }

    /// The fields of an object that is plainly written; anything else is for serde.
    fn plain(document: &'a str) -> Option<Self> {
        let mut scan = Scan::of(document);
        let object = Self::next_plain(&mut scan)?;
        scan.end()?;
        Some(object)
    }

    /// A list of objects that is plainly written.
    fn plain_list(list: &'a str) -> Option<Vec<Self>> {
        let (mut scan, mut objects) = (Scan::of(list), Vec::new());
        scan.list(|scan| {
            objects.push(Self::next_plain(scan)?);
            Some(())
        })?;
        scan.end()?;
        Some(objects)
    }

    fn next_plain(scan: &mut Scan<'a>) -> Option<Self> {
        let mut fields = Vec::with_capacity(USUAL_FIELDS);
        scan.object(|scan, name| {
            let value = scan.value()?;
            if value != "null" {
                fields.push((Cow::Borrowed(std::str::from_utf8(name).ok()?), value));
            }
            Some(())
        })?;
        Some(Self(fields))
    }

    /// Every field that is not null, with its value as JSON.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }

    /// The value of every field that is not null.
    pub(crate) fn values(&self) -> impl Iterator<Item = &'a RawValue> {
        self.0.iter().filter_map(|(_, value)| raw(value))
    }

    /// The value of a field, to be passed on: what is to be read is asked for by its type.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.value(name).and_then(raw)
    }

    /// Whether there is a field.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<Text<'a>>, Fault> {
        let Some(value) = self.value(name) else { return Ok(None) };
        Text::of_string(value).map(Some).ok_or_else(|| Fault::new(name, "must be a string"))
    }

    /// A text that must be there.
    pub(crate) fn needs_text(&self, name: &str) -> Result<Text<'a>, Fault> {
        self.text(name)?.ok_or_else(|| Fault::new(name, "is required: a string"))
    }

    /// A text, or nothing where it is something else.
    pub(crate) fn maybe_text(&self, name: &str) -> Option<Text<'a>> {
        self.value(name).and_then(Text::of_string)
    }

    /// An object.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Object<'a>>, Fault> {
        let Some(value) = self.value(name) else { return Ok(None) };
        Object::of(value).map(Some).ok_or_else(|| Fault::new(name, "must be an object"))
    }

    /// An object that must be there.
    pub(crate) fn needs_object(&self, name: &str) -> Result<Object<'a>, Fault> {
        self.object(name)?.ok_or_else(|| Fault::new(name, "is required: an object"))
    }

    /// An object; anything else is none.
    pub(crate) fn inner(&self, name: &str) -> Option<Object<'a>> {
        self.value(name).and_then(Object::of)
    }

    /// An object, or nothing where it is something else.
    pub(crate) fn maybe_object(&self, name: &str) -> Object<'a> {
        self.inner(name).unwrap_or_default()
    }

    /// A list of objects.
    pub(crate) fn objects(&self, name: &str) -> Result<Vec<Object<'a>>, Fault> {
        let Some(value) = self.value(name) else { return Ok(Vec::new()) };
        Object::list_of(value).ok_or_else(|| Fault::new(name, "must be a list of objects"))
    }

    /// A list of objects, or nothing where it is something else.
    pub(crate) fn maybe_objects(&self, name: &str) -> Vec<Object<'a>> {
        self.value(name).and_then(Object::list_of).unwrap_or_default()
    }

    /// A list of values.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<&'a RawValue>, Fault> {
        let Some(value) = self.value(name) else { return Ok(Vec::new()) };
        serde_json::from_str(value).map_err(|_| Fault::new(name, "must be a list"))
    }

    /// A flag; anything else is none.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.value(name)? {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// A whole number from zero on; anything else is none.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
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
                let mut fields =
                    Vec::with_capacity(map.size_hint().unwrap_or(USUAL_FIELDS).min(64));
                while let Some(Key(key)) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    if value.get() != "null" {
                        fields.push((key, value.get()));
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

    /// What is read, in whichever way.
    fn told(object: &Object<'_>) -> Vec<(String, String)> {
        object.fields().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn documents() -> Vec<Vec<u8>> {
        let documents = [
            r#"{"candidates":[{"content":{"parts":[{"text":"wo\"rd\u00e9 é"}]},"index":0}],"usage":{"n":12},"a":null}"#,
            r#"[{"a":1,"a":[2.5e3]}, {}, {"b":"x"}]"#,
            "{ \"a\" : {\"b\":true} ,\n\"c\" : [ ] }",
            r#"{"\u0061":1,"é":2}"#,
        ];
        documents.map(|document| document.as_bytes().to_vec()).to_vec()
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 4096, failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_damaged_object_is_what_serde_reads(document in crate::protocol::scan::damaged(documents())) {
            let by_serde: Option<Object<'_>> = serde_json::from_slice(&document).ok();
            let text = std::str::from_utf8(&document).unwrap_or_default();
            if let Some(plain) = Object::plain(text) {
                proptest::prop_assert_eq!(by_serde.as_ref().map(told), Some(told(&plain)));
            }
            let by_serde: Option<Vec<Object<'_>>> = serde_json::from_slice(&document).ok();
            if let Some(plain) = Object::plain_list(text) {
                let told = |list: &Vec<Object<'_>>| list.iter().map(told).collect::<Vec<_>>();
                proptest::prop_assert_eq!(by_serde.as_ref().map(told), Some(told(&plain)));
            }
        }
    }

    #[test]
    fn an_object_as_providers_write_it_is_read_in_one_walk() {
        let documents = documents().into_iter().map(String::from_utf8).map(Result::unwrap);
        let documents: Vec<String> = documents.collect();
        assert!(Object::plain(&documents[0]).is_some() && Object::plain(&documents[2]).is_some());
        assert_eq!(Object::plain_list(&documents[1]).map(|list| list.len()), Some(3));
        assert!(Object::plain(&documents[3]).is_none(), "it is for serde");
        assert_eq!(told(&Object::document(documents[3].as_bytes()).unwrap()).len(), 2);
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
