//! The results of a batch, one by one, wherever they are.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use otari_filters::batches::{Api, Document, ItemError, Line};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::upstream::Upstream;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::remote::{MAX_WHOLE_BYTES, Remote};
use crate::app::Standalone;
use crate::clock;
use crate::outbound::Opened;
use crate::store::{BatchItemRow, BatchRow, ItemOutcome};

/// The longest single result: a long answer with images in it.
const MAX_LINE_BYTES: usize = 64 << 20;
/// Items that are read from the store at once.
const PAGE: i64 = 50;

/// What is to be read: a batch that has ended, and where.
pub struct Results {
    /// The batch as the store knows it.
    pub row: Option<BatchRow>,
    /// Its provider.
    pub upstream: Arc<Upstream>,
    pub(super) lines: Lines,
}

impl Results {
    /// The next result; `None` at the end.
    ///
    /// # Errors
    /// When the provider or the store breaks off.
    pub async fn next(&mut self, app: &Standalone) -> Result<Option<Line>, Rejection> {
        self.lines.next(app, &self.upstream).await
    }
}

/// Where results come from.
pub enum Lines {
    /// Files of lines, one after the other.
    Files(Api, VecDeque<String>, Option<Reader>),
    /// One answer of lines.
    Answer(Api, Reader),
    /// A document that was read whole.
    Whole(Api, VecDeque<Box<RawValue>>),
    /// The gateway's own items.
    Own {
        /// The batch.
        batch: String,
        /// The last position read.
        after: i64,
        /// What was read and not yet given.
        page: VecDeque<BatchItemRow>,
    },
}

impl Lines {
    /// The results of a batch that its provider ran.
    pub(super) async fn remote(
        remote: Remote<'_>,
        document: &Document,
        row: Option<&BatchRow>,
    ) -> Result<Self, Rejection> {
        let model = row.map(|row| row.model.as_str());
        if remote.api.has_files() {
            let files = document.result_files().map(str::to_owned).collect();
            return Ok(Self::Files(remote.api, files, None));
        }
        let opened = remote.results(document.id(), model).await?;
        if remote.api != Api::Otari {
            return Ok(Self::Answer(remote.api, Reader::new(opened)));
        }
        #[derive(Deserialize)]
        struct Document {
            results: VecDeque<Box<RawValue>>,
        }
        let mut reader = Reader::new(opened);
        let whole = reader.rest().await?;
        let read: Document = serde_json::from_slice(&whole).map_err(|error| {
            Rejection::new(Code::ProviderError, "LLM provider error").because(error)
        })?;
        Ok(Self::Whole(remote.api, read.results))
    }

    async fn next(
        &mut self,
        app: &Standalone,
        upstream: &Upstream,
    ) -> Result<Option<Line>, Rejection> {
        let now_s = u64::try_from(clock::now_us() / 1_000_000).unwrap_or(0);
        match self {
            Self::Files(api, files, reader) => loop {
                if let Some(open) = reader {
                    if let Some(line) = open.line().await? {
                        return Ok(Some(api.read_line(&line, now_s)));
                    }
                    *reader = None;
                }
                let Some(file) = files.pop_front() else { return Ok(None) };
                let remote = Remote { outbound: &app.outbound, upstream, api: *api };
                *reader = Some(Reader::new(remote.file(&file).await?));
            },
            Self::Answer(api, reader) => {
                Ok(reader.line().await?.map(|line| api.read_line(&line, now_s)))
            }
            Self::Whole(api, rest) => {
                Ok(rest.pop_front().map(|line| api.read_line(line.get().as_bytes(), now_s)))
            }
            Self::Own { batch, after, page } => {
                if page.is_empty() {
                    page.extend(app.store.batch_items(batch, *after, PAGE).await?);
                }
                let Some(item) = page.pop_front() else { return Ok(None) };
                *after = item.position;
                Ok(Some(own(item)))
            }
        }
    }
}

/// An item of ours as callers see it.
fn own(item: BatchItemRow) -> Line {
    #[derive(Deserialize)]
    struct Stored {
        code: String,
        message: String,
    }
    let outcome = item.outcome.unwrap_or(ItemOutcome { status_code: 0, result: None, error: None });
    let result = outcome.result.and_then(|text| RawValue::from_string(text).ok());
    let error = match &result {
        Some(_) => None,
        None => {
            let stored = outcome.error.and_then(|text| serde_json::from_str::<Stored>(&text).ok());
            let unread = || ("unknown".to_owned(), "Unknown error".to_owned());
            let (code, message) =
                stored.map_or_else(unread, |stored| (stored.code, stored.message));
            Some(ItemError { code, message })
        }
    };
    // Each item was charged when it ran.
    let model = result.as_ref().and_then(|result| {
        let body: serde_json::Value = serde_json::from_str(result.get()).ok()?;
        body.get("model")?.as_str().map(str::to_owned)
    });
    Line { custom_id: item.custom_id, result, error, usage: None, model }
}

/// Lines of an answer that comes in pieces.
pub struct Reader {
    opened: Opened,
    rest: BytesMut,
    /// How far `rest` is known to hold no end of a line.
    scanned: usize,
    is_over: bool,
}

impl Reader {
    fn new(opened: Opened) -> Self {
        Self { opened, rest: BytesMut::new(), scanned: 0, is_over: false }
    }

    /// The next line that is not blank; `None` at the end.
    async fn line(&mut self) -> Result<Option<BytesMut>, Rejection> {
        loop {
            let end = memchr::memchr(b'\n', &self.rest[self.scanned..]);
            let line = match end {
                Some(at) => {
                    let line = self.rest.split_to(self.scanned + at);
                    self.rest.advance(1);
                    self.scanned = 0;
                    line
                }
                None if self.is_over && self.rest.is_empty() => return Ok(None),
                None if self.is_over => {
                    self.scanned = 0;
                    self.rest.split()
                }
                None => {
                    self.scanned = self.rest.len();
                    self.more(MAX_LINE_BYTES).await?;
                    continue;
                }
            };
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// All that is left.
    async fn rest(&mut self) -> Result<BytesMut, Rejection> {
        while !self.is_over {
            self.more(MAX_WHOLE_BYTES).await?;
        }
        Ok(self.rest.split())
    }

    async fn more(&mut self, at_most: usize) -> Result<(), Rejection> {
        let piece = self.opened.body.next().await.map_err(|error| error.rejection())?;
        match piece {
            Some(piece) => self.rest.extend_from_slice(&piece),
            None => self.is_over = true,
        }
        if self.rest.len() > at_most {
            let refused = Rejection::new(Code::ProviderError, "LLM provider error");
            return Err(refused.because(format!("a result is longer than {at_most} bytes")));
        }
        Ok(())
    }
}
