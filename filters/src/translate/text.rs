//! The text of a JSON string, kept as it stands between its quotes.
//!
//! What is only passed along is never unescaped and escaped again: it stays byte for byte, even where an escape is half
//! a surrogate pair, which no `String` could hold.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, Visitor};
use serde_json::value::RawValue;

/// The inside of a JSON string.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, str>);

impl<'a> Text<'a> {
    /// The text of a string value; `None` for any other type.
    pub fn read(raw: &'a RawValue) -> Option<Self> {
        Self::of_string(raw.get())
    }

    /// The text of a value that was cut out, if it is a string.
    pub(super) fn of_string(value: &'a str) -> Option<Self> {
        let inside = value.strip_prefix('"')?.strip_suffix('"')?;
        Some(Self(Cow::Borrowed(inside)))
    }

    /// A plain text, escaped where it must be.
    pub fn of(plain: &'a str) -> Self {
        let is_plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | ..0x20);
        if plain.as_bytes().iter().all(is_plain) {
            return Self(Cow::Borrowed(plain));
        }
        let quoted = serde_json::to_string(plain).unwrap_or_default();
        let inside = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        Self(Cow::Owned(inside.to_owned()))
    }

    /// A text that stands between quotes as it is.
    pub(super) fn from_escaped(escaped: &'a str) -> Self {
        Self(Cow::Borrowed(escaped))
    }

    /// A plain text of our own making.
    pub fn owned(plain: &str) -> Text<'static> {
        Text::of(plain).into_owned()
    }

    /// As it stands between the quotes.
    pub fn escaped(&self) -> &str {
        &self.0
    }

    /// What the string means. Half a surrogate pair becomes the replacement character.
    pub fn plain(&self) -> Cow<'_, str> {
        if memchr::memchr(b'\\', self.0.as_bytes()).is_none() {
            return Cow::Borrowed(&self.0);
        }
        let quoted = format!("\"{}\"", self.0);
        let bytes = serde_json::Deserializer::from_str(&quoted).deserialize_bytes(Unescaped);
        let bytes = bytes.unwrap_or_default();
        Cow::Owned(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(odd) => String::from_utf8_lossy(odd.as_bytes()).into_owned(),
        })
    }

    /// Whether the text is `plain`, which needs no escape.
    pub fn is(&self, plain: &str) -> bool {
        self.0 == plain || (self.0.contains('\\') && self.plain() == plain)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `more` behind it.
    pub fn push(&mut self, more: &Text<'_>) {
        self.0.to_mut().push_str(&more.0);
    }

    /// Several texts as one, `between` them a text that needs no escape but `\n`.
    pub fn join<'t>(texts: impl IntoIterator<Item = &'t Text<'a>>, between: &str) -> Self
    where
        'a: 't,
    {
        let between = Text::owned(between);
        let mut texts = texts.into_iter();
        let Some(first) = texts.next() else { return Self::default() };
        let mut all = first.clone();
        for text in texts {
            all.push(&between);
            all.push(text);
        }
        all
    }

    /// Without the leading `prefix`, a text that needs no escape.
    pub fn strip_prefix(&self, prefix: &str) -> Option<Self> {
        match &self.0 {
            Cow::Borrowed(text) => text.strip_prefix(prefix).map(|rest| Self(Cow::Borrowed(rest))),
            Cow::Owned(text) => {
                text.strip_prefix(prefix).map(|rest| Self(Cow::Owned(rest.to_owned())))
            }
        }
    }

    /// Without its first `bytes`, which must end a character and no escape.
    pub fn skip(&self, bytes: usize) -> Self {
        match &self.0 {
            Cow::Borrowed(text) => Self(Cow::Borrowed(text.get(bytes..).unwrap_or_default())),
            Cow::Owned(text) => Self(Cow::Owned(text.get(bytes..).unwrap_or_default().to_owned())),
        }
    }

    /// The same text, borrowed.
    pub fn borrow(&self) -> Text<'_> {
        Text(Cow::Borrowed(&self.0))
    }

    /// The same text, kept.
    pub fn into_owned(self) -> Text<'static> {
        Text(Cow::Owned(self.0.into_owned()))
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// A string as bytes, which may hold halves of surrogate pairs.
struct Unescaped;

impl Visitor<'_> for Unescaped {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_str<E>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_stay_as_they_came_and_mean_what_they_mean() {
        let raw: &RawValue = serde_json::from_str(r#""a\/\u00e9\n\ud83d""#).unwrap();
        let text = Text::read(raw).unwrap();
        assert_eq!(text.escaped(), r"a\/\u00e9\n\ud83d");
        assert!(text.plain().starts_with("a/é\n\u{fffd}"), "{}", text.plain());
        assert_eq!(Text::of("a\"b\n").escaped(), r#"a\"b\n"#);
        assert!(Text::of("user").is("user") && !Text::of("user").is("use"));
    }
}
