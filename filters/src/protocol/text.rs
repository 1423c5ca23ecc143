//! Counts the text of a prompt while the body is scanned, and notices messages without a role.

mod plain;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::top::Key;

/// What an image, sound or file part is taken to cost, in characters: 1,600 tokens, the dearest common image.
const PART_CHARS: u64 = 6_400;

/// What Codex adds to an input item for its own provider.
const PASSTHROUGH: &[u8] = b"internal_chat_message_metadata_passthrough";

/// What was seen of a field that holds a prompt, or a part of one.
#[derive(Debug, Default)]
pub(super) struct Content<'a> {
    /// Unicode code points of all text.
    pub(super) chars: u64,
    /// What the value is.
    pub(super) shape: Shape,
    /// Index of the first item that is not an object.
    pub(super) no_object: Option<usize>,
    /// Index of the first item that is an object and has no role.
    pub(super) no_role: Option<usize>,
    /// Something may be an image or a document.
    pub(super) has_media: bool,
    /// Codex's own metadata of the items.
    pub(super) passthrough: Vec<&'a RawValue>,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    #[default]
    Null,
    Text,
    /// With so many items.
    List(usize),
    Object,
    Other,
}

impl<'a> Content<'a> {
    /// Scans a value that has been cut out already.
    pub(super) fn of(raw: &'a RawValue) -> Self {
        let mut content = Self::default();
        let mut from = serde_json::Deserializer::from_str(raw.get());
        // What was cut out is JSON.
        content.shape = content.scan().deserialize(&mut from).unwrap_or_default();
        content
    }

    /// An item is an object and has no role.
    fn lacks_role(&mut self) {
        // The list puts its index in.
        self.no_role.get_or_insert(usize::MAX);
    }

    /// The item at this place was read.
    fn note_item(&mut self, at: usize, shape: Shape) {
        if shape != Shape::Object {
            self.no_object.get_or_insert(at);
        }
        if self.no_role == Some(usize::MAX) {
            self.no_role = Some(at);
        }
    }

    /// Reads a value into this; the shape is returned, to be put in.
    pub(super) fn scan<'w>(&'w mut self) -> Walk<'w, 'a> {
        Walk { content: self, place: Place::Top, has_role: false }
    }
}

/// Where in a prompt a value stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The field itself.
    Top,
    /// A message, an input item, a block of a system prompt.
    Item,
    /// Below.
    Part,
    /// Where Anthropic's images and documents have their bytes.
    Source,
    /// The arguments of a call: every key of them is the model's own.
    Plain,
}

impl Place {
    /// What stands at `place` of this.
    fn below(self, place: Self) -> Self {
        if self == Self::Plain { Self::Plain } else { place }
    }

    /// Where the items of a list stand that stands here.
    fn of_items(self) -> Self {
        if self == Self::Top { Self::Item } else { Self::Part }
    }
}

pub(super) struct Walk<'w, 'a> {
    content: &'w mut Content<'a>,
    place: Place,
    has_role: bool,
}

impl<'a> Walk<'_, 'a> {
    fn below(&mut self, place: Place) -> Walk<'_, 'a> {
        Walk { content: self.content, place: self.place.below(place), has_role: false }
    }
}

/// What is done with the value of a key.
enum Step {
    /// What is in it counts.
    Walk(Place),
    /// As `Pass`, and the message has a role.
    Role,
    /// Nothing of it counts.
    Pass,
    /// It counts as a part without text.
    Media,
    /// It says what it is itself.
    Source,
    /// It says what the source around it is.
    Kind,
    /// It is Codex's.
    Passthrough,
}

impl Step {
    /// At a key of an object at `place`.
    fn at(place: Place, key: &[u8]) -> Self {
        match key {
            _ if place == Place::Plain => Self::Walk(Place::Plain),
            b"type" if place == Place::Source => Self::Kind,
            PASSTHROUGH if place == Place::Item => Self::Passthrough,
            // Nearly every key is one of these: the lists below are long.
            b"content" | b"text" => Self::Walk(Place::Part),
            b"role" => Self::Role,
            b"type" => Self::Pass,
            key if is_media(key) => Self::Media,
            key if is_label(key) => Self::Pass,
            b"input" | b"arguments" => Self::Walk(Place::Plain),
            b"source" => Self::Source,
            _ => Self::Walk(Place::Part),
        }
    }
}

/// Whether a source of this type is bytes, or an address of some.
fn is_of_media(kind: &RawValue) -> bool {
    !matches!(kind.get(), "\"text\"" | "\"content\"")
}

/// Keys whose values carry bytes of media, or say where they are, instead of text.
fn is_media(key: &[u8]) -> bool {
    matches!(
        key,
        b"image_url"
            | b"input_audio"
            | b"file"
            | b"file_data"
            | b"file_id"
            | b"file_url"
            | b"video_url"
            | b"audio"
    )
}

/// Keys whose values the model does not read.
fn is_label(key: &[u8]) -> bool {
    matches!(
        key,
        b"id"
            | b"tool_call_id"
            | b"tool_use_id"
            | b"call_id"
            | b"status"
            | b"signature"
            | b"cache_control"
            | b"detail"
            | b"index"
    )
}

impl<'a> DeserializeSeed<'a> for Walk<'_, 'a> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<Shape, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Walk<'_, 'a> {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<Shape, A::Error> {
        let before = self.content.chars;
        // Of a source, text counts; anything else in it is bytes, or an address of some.
        let mut is_media_source = self.place == Place::Source;
        while let Some(Key(key)) = map.next_key()? {
            match Step::at(self.place, key.as_bytes()) {
                Step::Walk(place) => {
                    map.next_value_seed(self.below(place))?;
                }
                Step::Role => {
                    self.has_role = true;
                    map.next_value::<IgnoredAny>()?;
                }
                Step::Pass => {
                    map.next_value::<IgnoredAny>()?;
                }
                Step::Media => {
                    map.next_value::<IgnoredAny>()?;
                    self.content.has_media = true;
                    self.content.chars += PART_CHARS;
                }
                Step::Source => {
                    self.content.has_media = true;
                    map.next_value_seed(self.below(Place::Source))?;
                }
                Step::Kind => is_media_source = is_of_media(map.next_value()?),
                Step::Passthrough => self.content.passthrough.push(map.next_value()?),
            }
        }
        if is_media_source {
            self.content.chars = before + PART_CHARS;
        }
        if self.place == Place::Item && !self.has_role {
            self.content.lacks_role();
        }
        Ok(Shape::Object)
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut list: A) -> Result<Shape, A::Error> {
        let place = self.place.of_items();
        let mut count = 0;
        while let Some(shape) = list.next_element_seed(self.below(place))? {
            if place == Place::Item {
                self.content.note_item(count, shape);
            }
            count += 1;
        }
        Ok(Shape::List(count))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Shape, E> {
        self.content.chars += text.chars().count() as u64;
        Ok(Shape::Text)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chars(json: &str) -> u64 {
        Content::of(serde_json::from_str(json).unwrap()).chars
    }

    #[test]
    fn only_text_is_counted() {
        for (json, want) in [
            (r#"[{"role":"user","content":"héllo"}]"#, 5),
            (r#""hello""#, 5),
            (
                r#"[{"role":"user","content":[{"type":"text","text":"abc"},{"type":"image_url","image_url":{"url":"data:xxxx"}}]}]"#,
                3 + PART_CHARS,
            ),
            (
                r#"[{"role":"assistant","content":null,"tool_calls":[{"id":"x","type":"function","function":{"name":"f","arguments":"{}"}}]}]"#,
                3,
            ),
            // Anthropic.
            (
                r#"[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo"}}]}]"#,
                PART_CHARS,
            ),
            (
                r#"[{"role":"user","content":[{"type":"document","source":{"data":"abcdef","type":"text"}}]}]"#,
                6,
            ),
            (
                r#"[{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"EqQBCg"},{"type":"tool_use","id":"t","name":"Read","input":{"file":"a.rs","type":"x"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"ok"}]}]"#,
                2 + 4 + 4 + 1 + 2,
            ),
            // OpenAI responses.
            (
                r#"[{"type":"message","role":"user","content":[{"type":"input_text","text":"abc"},{"type":"input_image","image_url":"data:x"}]},{"type":"function_call_output","call_id":"c","output":"12"}]"#,
                3 + PART_CHARS + 2,
            ),
        ] {
            assert_eq!(chars(json), want, "{json}");
        }
    }

    #[test]
    fn items_that_are_none_are_noticed() {
        let seen = |json| {
            let content = Content::of(serde_json::from_str(json).unwrap());
            (content.shape, content.no_object, content.no_role)
        };
        let list = Shape::List;
        assert_eq!(seen(r#"[{"role":"user"},{"content":"x"},{}]"#), (list(2 + 1), None, Some(1)));
        assert_eq!(seen(r#"["x",{"a":{"b":1}}]"#), (list(2), Some(0), Some(1)));
        assert_eq!(seen(r#"[{"role":"user","content":[{"type":"text"}]}]"#), (list(1), None, None));
        assert_eq!(seen(r#""x""#), (Shape::Text, None, None));
        assert_eq!(seen("null"), (Shape::Null, None, None));
        assert_eq!(seen(r#"{"a":[1]}"#), (Shape::Object, None, None));
    }
}
