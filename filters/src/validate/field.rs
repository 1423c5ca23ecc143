//! What a field of a request may hold, declared once: `Fields` reads by it, and the API's own document shows it.

use super::Bounds;

/// One field of a body or of a query string.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As it is sent.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it must be there.
    pub is_required: bool,
    /// Whether null may be sent: as good as absent, or, in a PATCH, what clears.
    pub is_nullable: bool,
    /// One line for people.
    pub about: &'static str,
}

/// What a field holds. The gateway reads leniently (`"5"` for 5, `1` for true); this is the strict form.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string.
    Text,
    /// A string of at least and at most so many characters.
    Bounded(usize, usize),
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// An instant: ISO 8601, a bare date, or an epoch.
    Instant,
    /// A boolean.
    Flag,
    /// An integer.
    Whole(Bounds<i64>),
    /// A number from 0 up to this, in USD.
    Amount(f64),
    /// A number.
    Number,
    /// An object of any content.
    Object,
    /// A list of strings.
    Texts,
    /// A list of objects with these fields, of at most so many.
    Objects(&'static [Field], usize),
    /// A list of any content.
    List,
    /// A string, or an object of any content.
    TextOrObject,
    /// Bytes, in a form.
    File,
    /// Anything: what cannot be read is as good as absent.
    Any,
}

impl Field {
    /// A field that may be left out, and then is as good as null.
    pub const fn new(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, kind, is_required: false, is_nullable: true, about }
    }

    /// The same field, and it must be there.
    #[must_use]
    pub const fn required(self) -> Self {
        Self { is_required: true, is_nullable: false, ..self }
    }

    /// Whether it is read as a string; choices and lengths are looked at by whoever reads it.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.kind, Kind::Text | Kind::Bounded(..) | Kind::Choice(_))
    }

    /// The same field, and null is a fault.
    #[must_use]
    pub const fn not_null(self) -> Self {
        Self { is_nullable: false, ..self }
    }
}
