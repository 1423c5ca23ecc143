//! The top level of a request, scanned once: the fields the gateway knows, each where it stands.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess};
use serde::de::{Error, Visitor};
use serde_json::value::RawValue;

use super::scan::Scan;
use super::text::Content;
use crate::protocol::json;
use crate::validate::Field;

/// Fields of this gateway: they never reach a provider.
pub(crate) const GATEWAY_FIELDS: [&str; 6] = [
    "mcp_servers",
    "mcp_server_ids",
    "guardrails",
    "tools_header",
    "max_tool_iterations",
    "session_label",
];

/// Fields that could steer our credentials or the address they go to: removed, and never honoured.
pub(crate) const STEERING_FIELDS: [&str; 18] = [
    "api_key",
    "api_base",
    "api_version",
    "base_url",
    "provider",
    "organization",
    "client",
    "client_args",
    "credentials",
    "extra_headers",
    "extra_body",
    "extra_query",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "default_headers",
    "http_client",
    "timeout",
];

/// Who is billed, where the wire format says so itself.
const USER: &str = "user";

/// What a request of one wire format is read by.
#[derive(Debug)]
pub(crate) struct Format {
    /// What the gateway reads of it, in the order in which faults are listed.
    pub(crate) fields: &'static [Field],
    /// Those of the fields that hold the prompt: their text is counted on the way.
    pub(crate) prompt: &'static [&'static str],
    /// Whether every message must say its role.
    pub(crate) needs_role: bool,
    /// Fields that only OpenAI itself is meant to get.
    pub(crate) codex: &'static [&'static str],
    /// Fields that some provider wants otherwise, declared or not.
    pub(crate) noted: &'static [&'static str],
}

/// The top level of a request.
#[derive(Debug)]
pub(crate) struct Top<'a> {
    pub(super) format: &'static Format,
    known: Vec<(&'static str, &'a RawValue)>,
    /// Which declared fields may be there: a bit each, which two share where there are very many.
    present: u64,
    /// Those of the fields that are noted, however often they are there.
    pub(super) noted: Vec<(&'static str, &'a RawValue)>,
    prompt: Vec<(&'static str, Content<'a>)>,
    /// The gateway's own and the steering fields.
    pub(crate) unwanted: Vec<&'a RawValue>,
    /// What only OpenAI itself is meant to get.
    pub(super) codex: Vec<&'a RawValue>,
    /// Gateway fields that ask for something.
    pub(super) features: Vec<(&'static str, &'a RawValue)>,
    seen: Vec<&'static str>,
    /// A known field that is there twice.
    pub(crate) repeated: Option<&'static str>,
    pub(crate) is_object: bool,
}

impl<'a> Top<'a> {
    /// Scans a body, which must be one JSON document.
    pub(super) fn read(format: &'static Format, body: &'a str) -> serde_json::Result<Self> {
        Self::plain(format, body).map_or_else(|| Self::by_serde(format, body), Ok)
    }

    /// An object that is plainly written, as nearly every one is.
    fn plain(format: &'static Format, body: &'a str) -> Option<Self> {
        let mut top = Self { is_object: true, ..Self::new(format) };
        let mut scan = Scan::of(body);
        scan.object(|scan, name| top.read_field(name, &mut Plainly(scan)).ok())?;
        scan.end()?;
        Some(top)
    }

    fn by_serde(format: &'static Format, body: &'a str) -> serde_json::Result<Self> {
        let mut from = serde_json::Deserializer::from_slice(body.as_bytes());
        let top = TopVisitor(format).deserialize(&mut from)?;
        from.end()?;
        Ok(top)
    }

    fn new(format: &'static Format) -> Self {
        Self {
            format,
            known: Vec::with_capacity(8),
            present: 0,
            noted: Vec::new(),
            prompt: Vec::with_capacity(2),
            unwanted: Vec::new(),
            codex: Vec::new(),
            features: Vec::new(),
            seen: Vec::with_capacity(8),
            repeated: None,
            is_object: false,
        }
    }

    /// The declared fields that may have a fault: those that may be there, and those that must.
    pub(super) fn to_check(&self) -> impl Iterator<Item = &'static Field> {
        let present = self.present;
        let fields = self.format.fields.iter().enumerate();
        fields
            .filter(move |(at, field)| field.is_required || present & bit(*at) != 0)
            .map(|(_, field)| field)
    }

    /// A field that holds no prompt, as sent, null included.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.known.iter().find(|(known, _)| *known == name).map(|(_, raw)| *raw)
    }

    /// A field that holds no prompt; null is as good as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.raw(name).filter(|raw| !json::is_null(raw))
    }

    /// A string that is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(json::text).filter(|text| !text.is_empty())
    }

    /// A field that holds a prompt.
    pub(super) fn content(&self, name: &str) -> Option<&Content<'a>> {
        self.prompt.iter().find(|(known, _)| *known == name).map(|(_, content)| content)
    }

    /// Characters of the whole prompt.
    pub(super) fn prompt_chars(&self) -> u64 {
        self.prompt.iter().map(|(_, content)| content.chars).sum()
    }

    /// Whether the prompt may hold images or documents.
    pub(super) fn has_media(&self) -> bool {
        self.prompt.iter().any(|(_, content)| content.has_media)
    }

    /// What Codex added to the items of the prompt.
    pub(super) fn passthrough(&self) -> impl Iterator<Item = &'a RawValue> {
        self.prompt.iter().flat_map(|(_, content)| content.passthrough.iter().copied())
    }

    /// Remembers a field name; a second one of a name is a fault, because two parsers may pick two values.
    fn note(&mut self, name: &'static str) {
        if self.seen.contains(&name) {
            self.repeated = Some(name);
        }
        self.seen.push(name);
    }

    fn read_field<V: Values<'a>>(&mut self, key: &[u8], values: &mut V) -> Result<(), V::Error> {
        let is = |name: &str| name.as_bytes() == key;
        let named = |names: &'static [&'static str]| names.iter().find(|name| is(name));
        let declared = self.format.fields.iter().position(|field| is(field.name));
        self.present |= declared.map_or(0, bit);
        let declared = declared.map(|at| &self.format.fields[at]);
        if let Some(name) = named(self.format.prompt) {
            self.prompt.push((name, values.content()?));
            self.note(name);
        } else if let Some(name) = named(&GATEWAY_FIELDS) {
            let raw = values.raw()?;
            if asks_for_something(raw) {
                self.features.push((name, raw));
            }
            self.unwanted.push(raw);
            if declared.is_some() {
                self.known.push((name, raw));
            }
            self.note(name);
        } else if let Some(name) = named(&STEERING_FIELDS) {
            self.unwanted.push(values.raw()?);
            self.note(name);
        } else if let Some(name) = named(self.format.codex) {
            self.codex.push(values.raw()?);
            self.note(name);
        } else if let Some(field) = declared {
            let raw = values.raw()?;
            self.known.push((field.name, raw));
            self.note(field.name);
            if let Some(name) = named(self.format.noted) {
                self.noted.push((name, raw));
            }
        } else if let Some(name) = named(self.format.noted) {
            self.noted.push((name, values.raw()?));
        } else if is(USER) {
            // Where a format has no such field it can only be meant for this gateway.
            self.unwanted.push(values.raw()?);
            self.note(USER);
        } else {
            values.pass()?;
        }
        Ok(())
    }
}

/// Where the values of the fields come from.
trait Values<'a> {
    type Error;
    /// The next one, cut out.
    fn raw(&mut self) -> Result<&'a RawValue, Self::Error>;
    /// The next one, which is a prompt.
    fn content(&mut self) -> Result<Content<'a>, Self::Error>;
    /// Not the next one.
    fn pass(&mut self) -> Result<(), Self::Error>;
}

struct BySerde<'m, A>(&'m mut A);

impl<'a, A: MapAccess<'a>> Values<'a> for BySerde<'_, A> {
    type Error = A::Error;

    fn raw(&mut self) -> Result<&'a RawValue, A::Error> {
        self.0.next_value()
    }

    fn content(&mut self) -> Result<Content<'a>, A::Error> {
        let mut content = Content::default();
        content.shape = self.0.next_value_seed(content.scan())?;
        Ok(content)
    }

    fn pass(&mut self) -> Result<(), A::Error> {
        self.0.next_value::<IgnoredAny>().map(drop)
    }
}

struct Plainly<'s, 'a>(&'s mut Scan<'a>);

/// It is for serde.
struct Odd;

impl<'a> Values<'a> for Plainly<'_, 'a> {
    type Error = Odd;

    fn raw(&mut self) -> Result<&'a RawValue, Odd> {
        self.0.raw().ok_or(Odd)
    }

    fn content(&mut self) -> Result<Content<'a>, Odd> {
        let mut content = Content::default();
        content.plain(self.0).ok_or(Odd)?;
        Ok(content)
    }

    fn pass(&mut self) -> Result<(), Odd> {
        self.0.skip().ok_or(Odd)
    }
}

fn bit(field: usize) -> u64 {
    1 << (field % 64)
}

/// Whether a gateway field asks for anything: null, `[]`, `""` and `{}` do not.
fn asks_for_something(raw: &RawValue) -> bool {
    !matches!(raw.get(), "null" | "[]" | "{}" | "\"\"")
}

/// A key, borrowed when it has no escapes.
pub(crate) struct Key<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E: Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct TopVisitor(&'static Format);

impl<'de> DeserializeSeed<'de> for TopVisitor {
    type Value = Top<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Top<'de>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top<'de>, A::Error> {
        let mut top = Top { is_object: true, ..Top::new(self.0) };
        while let Some(Key(key)) = map.next_key()? {
            top.read_field(key.as_bytes(), &mut BySerde(&mut map))?;
        }
        Ok(top)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Top<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Top::new(self.0))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Top<'de>, E> {
        Ok(Top::new(self.0))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Top<'de>, E> {
        Ok(Top::new(self.0))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Top<'de>, E> {
        Ok(Top::new(self.0))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Top<'de>, E> {
        Ok(Top::new(self.0))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Top<'de>, E> {
        Ok(Top::new(self.0))
    }

    fn visit_unit<E: Error>(self) -> Result<Top<'de>, E> {
        Ok(Top::new(self.0))
    }
}

#[cfg(test)]
mod tests;
