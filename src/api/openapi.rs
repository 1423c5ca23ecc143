//! What the routes say of themselves: `/openapi.json` is made of it, and the handlers read their requests by it.
//!
//! A route is described beside its handler, by a `static` of [`Operation`]:
//!
//! ```ignore
//! pub(super) static LIST: Operation = Operation::new("list_keys", "List API keys")
//!     .with_query(&fields::PAGE)            // the fields of the query string, or of the body: `with_body`
//!     .answering::<Vec<KeyInfo<'_>>>()      // a `#[derive(Serialize, JsonSchema)]`; without it: 204
//!     .refusing(&[404]);                    // beside what the credential and the fields bring along
//! ```
//!
//! The handler reads with `LIST.read_query(&query)` or `LIST.read_body(&body)`: reading a field that is not declared, or
//! as another kind, stops a debug build, and so every test. `index.rs` says which route has which operation, and does not
//! compile without one for every `Handler`. `tests/it/openapi.rs` calls every operation and holds the answers
//! against the document: a new route needs a call there.

mod document;
mod generation;
mod operations;
mod index;

use bytes::Bytes;
use otari_filters::validate::{Field, Fields};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value};
use std::sync::LazyLock;

use crate::routes::Surface;
use generation::{CHAT, COUNT_TOKENS, MESSAGES, NO_SOCKET, RESPONSES};

/// Makes the schema of a type, and notes the types that it is made of.
type Shape = fn(&mut SchemaGenerator) -> Schema;

/// One method of one path, as the document shows it.
pub(super) struct Operation {
    id: &'static str,
    summary: &'static str,
    query: &'static [Field],
    body: Option<&'static [Field]>,
    /// The body is a form, and its field `file` a file.
    is_form: bool,
    /// What becomes of other fields of the body.
    others: Others,
    success: Success,
    refusals: &'static [u16],
    special: Option<(u16, Special)>,
}

/// What becomes of fields that are not declared.
#[derive(Clone, Copy)]
enum Others {
    /// Nobody looks at them.
    Ignored,
    /// They are a fault.
    Refused,
    /// They reach the provider.
    Passed,
}

/// What a successful call gets.
#[derive(Clone, Copy)]
enum Success {
    /// 204.
    Nothing,
    /// 200 and JSON of this type.
    Json(Shape),
    /// 200 and JSON of this type, or a stream of events.
    Stream(Shape),
    /// 200 and something else.
    Page(&'static str),
    /// Every call is refused.
    Never,
}

/// What another status carries.
#[derive(Clone, Copy)]
enum Special {
    /// JSON of this type.
    Json(Shape),
    /// An error whose `detail` is of this type.
    Detail(Shape),
    /// An error whose `detail` is the list of faulty fields, or a sentence about several of them together.
    Faults,
}

fn shape<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Operation {
    /// An operation that takes nothing and answers 204. `id` is what generated clients call it; `summary` is a line.
    pub(super) const fn new(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            query: &[],
            body: None,
            is_form: false,
            others: Others::Ignored,
            success: Success::Nothing,
            refusals: &[],
            special: None,
        }
    }

    /// Takes these fields in the query string.
    pub(super) const fn with_query(mut self, fields: &'static [Field]) -> Self {
        self.query = fields;
        self
    }

    /// Takes an object with these fields; others are ignored.
    pub(super) const fn with_body(mut self, fields: &'static [Field]) -> Self {
        self.body = Some(fields);
        self
    }

    /// Takes a form with these fields; others are ignored.
    pub(super) const fn with_form(mut self, fields: &'static [Field]) -> Self {
        self.body = Some(fields);
        self.is_form = true;
        self
    }

    /// Takes an object with these fields; others are a fault.
    pub(super) const fn with_body_of_only(mut self, fields: &'static [Field]) -> Self {
        self.body = Some(fields);
        self.others = Others::Refused;
        self
    }

    /// Answers 200 and JSON of this type.
    pub(super) const fn answering<T: JsonSchema>(mut self) -> Self {
        self.success = Success::Json(shape::<T>);
        self
    }

    /// Answers 200 and a body of this content type.
    pub(super) const fn answering_page(mut self, content_type: &'static str) -> Self {
        self.success = Success::Page(content_type);
        self
    }

    /// Answers this status and JSON of this type, under circumstances.
    pub(super) const fn or_answering<T: JsonSchema>(mut self, status: u16) -> Self {
        self.special = Some((status, Special::Json(shape::<T>)));
        self
    }

    /// Refuses with this status and an error whose `detail` is of this type.
    pub(super) const fn or_refusing_with<T: JsonSchema>(mut self, status: u16) -> Self {
        self.special = Some((status, Special::Detail(shape::<T>)));
        self
    }

    /// Refuses with 422 also what is wrong with fields together, or with what they name: `detail` is a sentence then.
    pub(super) const fn or_refusing_as_a_whole(mut self) -> Self {
        self.special = Some((422, Special::Faults));
        self
    }

    /// Refuses with these statuses, beside 401 (a credential) and 422 (fields), which are known.
    pub(super) const fn refusing(mut self, statuses: &'static [u16]) -> Self {
        self.refusals = statuses;
        self
    }

    /// The fields of a body, to be read as they are declared.
    pub(super) fn read_body<'a>(&self, body: &'a Map<String, Value>) -> Fields<'a> {
        Fields::new("body", body, self.body.unwrap_or_default())
    }

    /// The fields of a query string, to be read as they are declared.
    pub(super) fn read_query<'a>(&self, query: &'a Map<String, Value>) -> Fields<'a> {
        Fields::new("query", query, self.query)
    }
}

/// The document as it is served, and the tag of this version of it.
pub(super) struct Document {
    pub(super) body: Bytes,
    /// With its quotation marks.
    pub(super) etag: String,
}

impl Document {
    /// That of the routes there are. Made once, when it is first asked for.
    pub(super) fn of(surface: Surface) -> &'static Self {
        static STANDALONE: LazyLock<Document> =
            LazyLock::new(|| Document::new(Surface::Standalone));
        static CONNECTED: LazyLock<Document> = LazyLock::new(|| Document::new(Surface::Connected));
        match surface {
            Surface::Standalone => &STANDALONE,
            Surface::Connected => &CONNECTED,
        }
    }

    fn new(surface: Surface) -> Self {
        let body = document::document(surface).to_string();
        let etag = format!("\"{:08x}-{:x}\"", crc32fast::hash(body.as_bytes()), body.len());
        Self { body: body.into(), etag }
    }
}
