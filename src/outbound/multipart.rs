//! Writing `multipart/form-data`, files from memory or from a stream whose length is known.

use std::fmt;
use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::HeaderValue;

type Source = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

enum Piece {
    Bytes(Bytes),
    Stream(Source),
}

/// A form in the making. Its length is known before it is sent.
pub struct Multipart {
    boundary: String,
    pieces: Vec<Piece>,
    length: u64,
}

impl fmt::Debug for Multipart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multipart").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Default for Multipart {
    fn default() -> Self {
        Self::new()
    }
}

impl Multipart {
    /// A form without fields. The boundary is drawn, so that no file can hold it on purpose.
    pub fn new() -> Self {
        let boundary = format!("otari-{}", uuid::Uuid::new_v4().simple());
        Self { boundary, pieces: Vec::new(), length: 0 }
    }

    /// Adds a field.
    #[must_use]
    pub fn text(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        self.head(name, None);
        self.push(value.into());
        self.push(Bytes::from_static(b"\r\n"));
        self
    }

    /// Adds a file that is in memory.
    #[must_use]
    pub fn file(mut self, name: &str, filename: &str, mime_type: &str, bytes: Bytes) -> Self {
        self.head(name, Some((filename, mime_type)));
        self.push(bytes);
        self.push(Bytes::from_static(b"\r\n"));
        self
    }

    /// Adds a file that is read while it is sent. `length`: of the file in bytes; a stream of another length breaks the
    /// call.
    #[must_use]
    pub fn stream(
        mut self,
        name: &str,
        filename: &str,
        mime_type: &str,
        length: u64,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Self {
        self.head(name, Some((filename, mime_type)));
        self.pieces.push(Piece::Stream(Box::pin(bytes)));
        self.length += length;
        self.push(Bytes::from_static(b"\r\n"));
        self
    }

    /// The whole form's length, in bytes.
    pub fn len(&self) -> u64 {
        self.length + self.end().len() as u64
    }

    /// Whether it has no fields.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn content_type(&self) -> HeaderValue {
        let value = format!("multipart/form-data; boundary={}", self.boundary);
        HeaderValue::from_str(&value).expect("letters, digits and dashes stand in a header")
    }

    pub(super) fn into_stream(mut self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let end = self.end();
        self.push(end);
        stream::iter(self.pieces).flat_map(|piece| -> Source {
            match piece {
                Piece::Bytes(bytes) => Box::pin(stream::iter([Ok(bytes)])),
                Piece::Stream(source) => source,
            }
        })
    }

    fn end(&self) -> Bytes {
        format!("--{}--\r\n", self.boundary).into()
    }

    fn head(&mut self, name: &str, file: Option<(&str, &str)>) {
        let mut head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{}\"",
            self.boundary,
            escaped(name)
        );
        if let Some((filename, mime_type)) = file {
            let kind = HeaderValue::from_str(mime_type).ok();
            let kind = kind.as_ref().and_then(|kind| kind.to_str().ok());
            head.push_str(&format!(
                "; filename=\"{}\"\r\nContent-Type: {}",
                escaped(filename),
                kind.unwrap_or("application/octet-stream")
            ));
        }
        head.push_str("\r\n\r\n");
        self.push(head.into());
    }

    fn push(&mut self, bytes: Bytes) {
        self.length += bytes.len() as u64;
        self.pieces.push(Piece::Bytes(bytes));
    }
}

/// A name between quotation marks, as browsers write it: it can end neither the marks nor the line.
/// Source: <https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data> (2026-11-23).
fn escaped(text: &str) -> String {
    text.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}
