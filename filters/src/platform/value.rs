//! A platform's answer as it was written: text is borrowed, objects are lists. They are small, and every call reads two.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use crate::protocol::top::Key;

/// A JSON value.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number.
    Number(Number),
    /// Text.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Value<'a>>),
    /// An object, in its order. Of several fields with one name the last holds.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Reads a whole document; `None` when it is no JSON.
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// The field of an object.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().rfind(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Text, and nothing else.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value<'de>, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value<'de>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some((Key(name), value)) = map.next_entry()? {
            fields.push((name, value));
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_stand() {
        let body = br#"{"a":"x","b":"\u0041","c":[1,-2,2.5,null,true],"a":"y","d":{}}"#;
        let value = Value::read(body).unwrap();
        assert_eq!(value.get("a").and_then(Value::as_str), Some("y"), "the last one holds");
        let Some(Value::Text(Cow::Owned(escaped))) = value.get("b") else { panic!("{value:?}") };
        assert_eq!(escaped, "A");
        let Some(Value::List(list)) = value.get("c") else { panic!("{value:?}") };
        let [
            Value::Number(one),
            Value::Number(two),
            Value::Number(half),
            Value::Null,
            Value::Bool(true),
        ] = &list[..]
        else {
            panic!("{list:?}")
        };
        assert_eq!((one.as_i64(), two.as_i64(), half.as_f64()), (Some(1), Some(-2), Some(2.5)));
        assert!(value.get("e").is_none() && list[0].get("a").is_none());
        for bad in [&b"{"[..], b"{} x", b"", b"[1e999]", b"\xff"] {
            assert!(Value::read(bad).is_none());
        }
        let deep = "[".repeat(100_000);
        assert!(Value::read(deep.as_bytes()).is_none(), "without running out of stack");
    }
}
