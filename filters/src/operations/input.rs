//! What is to be embedded, moderated or compared: looked at in one pass, without building a tree.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What an input is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// One text.
    Text,
    /// Texts, or an empty list.
    Texts,
    /// One text, as numbers of tokens.
    Tokens,
    /// Texts, as lists of numbers.
    TokenLists,
    /// Objects, with texts and texts beside them perhaps.
    Objects,
    /// None of these.
    #[default]
    Other,
}

/// An input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) shape: Shape,
    /// Unicode code points of all strings.
    pub(super) chars: u64,
    /// Numbers of tokens.
    pub(super) tokens: u64,
    /// Items of a list.
    pub(super) count: usize,
    /// Of a list, the first item that is no text.
    pub(super) odd: Option<usize>,
    /// Of a list, the first item that is no object.
    pub(super) odd_object: Option<usize>,
}

impl Input {
    pub(super) fn read(raw: &RawValue) -> Self {
        // What was cut out is JSON.
        serde_json::from_str(raw.get()).unwrap_or_default()
    }
}

/// One item of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    Text(u64),
    Token,
    /// A list of so many tokens.
    Tokens(u64),
    Object,
    Other,
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Input;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an input")
            }
            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(Input { shape: Shape::Text, chars: chars(text), ..Input::default() })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Input, A::Error> {
                let mut input = Input { shape: Shape::Texts, ..Input::default() };
                while let Some(item) = list.next_element()? {
                    input.add(item);
                }
                Ok(input)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Input::default())
            }
            fn visit_unit<E>(self) -> Result<Input, E> {
                Ok(Input::default())
            }
            fn visit_bool<E>(self, _: bool) -> Result<Input, E> {
                Ok(Input::default())
            }
            fn visit_u64<E>(self, _: u64) -> Result<Input, E> {
                Ok(Input::default())
            }
            fn visit_i64<E>(self, _: i64) -> Result<Input, E> {
                Ok(Input::default())
            }
            fn visit_f64<E>(self, _: f64) -> Result<Input, E> {
                Ok(Input::default())
            }
        }
        from.deserialize_any(Whole)
    }
}

impl Input {
    fn add(&mut self, item: Item) {
        let shape = match item {
            Item::Text(chars) => {
                self.chars = self.chars.saturating_add(chars);
                Shape::Texts
            }
            Item::Token => {
                self.tokens = self.tokens.saturating_add(1);
                Shape::Tokens
            }
            Item::Tokens(tokens) => {
                self.tokens = self.tokens.saturating_add(tokens);
                Shape::TokenLists
            }
            Item::Object => Shape::Objects,
            Item::Other => Shape::Other,
        };
        if shape != Shape::Texts {
            self.odd.get_or_insert(self.count);
        }
        if shape != Shape::Objects {
            self.odd_object.get_or_insert(self.count);
        }
        self.shape = if self.count == 0 || self.shape == shape { shape } else { Shape::Other };
        self.count += 1;
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Item;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item")
            }
            fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(chars(text)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
                let (mut tokens, mut is_fine) = (0, true);
                while let Some(item) = list.next_element::<Item>()? {
                    is_fine &= item == Item::Token;
                    tokens += 1;
                }
                Ok(if is_fine { Item::Tokens(tokens) } else { Item::Other })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Item::Object)
            }
            fn visit_unit<E>(self) -> Result<Item, E> {
                Ok(Item::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Item, E> {
                Ok(Item::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Item, E> {
                Ok(Item::Token)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Item, E> {
                Ok(Item::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Item, E> {
                Ok(Item::Other)
            }
        }
        from.deserialize_any(One)
    }
}

fn chars(text: &str) -> u64 {
    text.chars().count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_told_apart_and_counted() {
        for (json, shape, chars, tokens) in [
            (r#""héllo""#, Shape::Text, 5, 0),
            (r#"["ab","c"]"#, Shape::Texts, 3, 0),
            ("[]", Shape::Texts, 0, 0),
            ("[1,2,3]", Shape::Tokens, 0, 3),
            ("[[1,2],[3]]", Shape::TokenLists, 0, 3),
            (r#"[{"type":"text","text":"x"}]"#, Shape::Objects, 0, 0),
            (r#"["a",1]"#, Shape::Other, 1, 1),
            (r#"["a",{}]"#, Shape::Other, 1, 0),
            ("[[1,\"x\"]]", Shape::Other, 0, 0),
            ("[-1]", Shape::Other, 0, 0),
            ("[1.5]", Shape::Other, 0, 0),
            ("null", Shape::Other, 0, 0),
            ("7", Shape::Other, 0, 0),
            (r#"{"a":[1]}"#, Shape::Other, 0, 0),
        ] {
            let input = Input::read(serde_json::from_str(json).unwrap());
            assert_eq!((input.shape, input.chars, input.tokens), (shape, chars, tokens), "{json}");
        }
    }
}
