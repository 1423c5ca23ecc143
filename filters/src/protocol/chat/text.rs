//! Counts the text of `messages` while the body is scanned, and notices messages without a role.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What an image, sound or file part is taken to cost, in characters: 1,600 tokens, the dearest common image.
const PART_CHARS: u64 = 6_400;

/// What was seen of `messages`.
#[derive(Debug, Default)]
pub struct Messages {
    /// Unicode code points of all text.
    pub chars: u64,
    /// How many messages there are; `None` when the value is not a list.
    pub count: Option<usize>,
    /// Index and faults of the first message that is not an object or has no role.
    pub(super) fault: Option<(usize, Fault)>,
    /// Whether the field was there and not null.
    pub(super) present: bool,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NotAnObject,
    NoRole,
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Messages;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Messages, A::Error> {
        let mut all = Messages { present: true, ..Messages::default() };
        let mut count = 0;
        while let Some(message) = seq.next_element::<Message>()? {
            all.chars += message.chars;
            if all.fault.is_none() {
                all.fault = message.fault.map(|fault| (count, fault));
            }
            count += 1;
        }
        all.count = Some(count);
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Messages, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Messages { present: true, ..Messages::default() })
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Messages, E> {
        Ok(Messages { present: true, ..Messages::default() })
    }
    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Messages, E> {
        self.visit_str("")
    }
    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Messages, E> {
        self.visit_str("")
    }
    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Messages, E> {
        self.visit_str("")
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Messages, E> {
        self.visit_str("")
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Messages, E> {
        Ok(Messages::default())
    }
}

/// One message.
struct Message {
    chars: u64,
    fault: Option<Fault>,
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seen = deserializer.deserialize_any(TextVisitor { in_message: true })?;
        let fault = match (seen.is_object, seen.has_role) {
            (false, _) => Some(Fault::NotAnObject),
            (true, false) => Some(Fault::NoRole),
            (true, true) => None,
        };
        Ok(Self { chars: seen.chars, fault })
    }
}

/// Any value below `messages`: the characters of its text.
#[derive(Default)]
struct Text {
    chars: u64,
    is_object: bool,
    has_role: bool,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor { in_message: false })
    }
}

struct TextVisitor {
    in_message: bool,
}

/// Keys whose values carry bytes of media instead of text.
fn is_media(key: &str) -> bool {
    matches!(key, "image_url" | "input_audio" | "file" | "file_data" | "video_url" | "audio")
}

/// Keys whose values the model does not read.
fn is_label(key: &str) -> bool {
    matches!(key, "role" | "type" | "id" | "tool_call_id" | "cache_control" | "detail" | "index")
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let mut all = Text { is_object: true, ..Text::default() };
        while let Some(super::Key(key)) = map.next_key()? {
            let key = key.as_ref();
            all.has_role |= self.in_message && key == "role";
            if is_media(key) {
                map.next_value::<IgnoredAny>()?;
                all.chars += PART_CHARS;
            } else if is_label(key) {
                map.next_value::<IgnoredAny>()?;
            } else {
                all.chars += map.next_value::<Text>()?.chars;
            }
        }
        Ok(all)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        let mut all = Text::default();
        while let Some(part) = seq.next_element::<Text>()? {
            all.chars += part.chars;
        }
        Ok(all)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text { chars: text.chars().count() as u64, ..Text::default() })
    }
    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Text, E> {
        Ok(Text::default())
    }
    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Text, E> {
        Ok(Text::default())
    }
    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Text, E> {
        Ok(Text::default())
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Text, E> {
        Ok(Text::default())
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Text, E> {
        Ok(Text::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Messages {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn only_text_is_counted() {
        assert_eq!(read(r#"[{"role":"user","content":"héllo"}]"#).chars, 5);
        let parts = r#"[{"role":"user","content":[{"type":"text","text":"abc"},{"type":"image_url","image_url":{"url":"data:xxxx"}}]}]"#;
        assert_eq!(read(parts).chars, 3 + PART_CHARS);
    }

    #[test]
    fn tool_calls_are_text_too() {
        let call = r#"[{"role":"assistant","content":null,"tool_calls":[{"id":"x","type":"function","function":{"name":"f","arguments":"{}"}}]}]"#;
        assert_eq!(read(call).chars, 3);
    }

    #[test]
    fn a_message_without_a_role_is_noticed() {
        assert_eq!(read(r#"[{"role":"user"},{"content":"x"}]"#).fault, Some((1, Fault::NoRole)));
        assert_eq!(read(r#"["x"]"#).fault, Some((0, Fault::NotAnObject)));
        assert_eq!(read(r#""x""#).count, None);
    }
}
