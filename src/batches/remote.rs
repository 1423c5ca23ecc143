//! A provider's own batch API, called.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::uri::PathAndQuery;
use otari_filters::batches::{Api, Document, List};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::upstream::{Upstream, refusal};
use tokio::time::timeout;

use super::not_found;
use crate::outbound::{self, Answer, Call, Multipart, Opened, Outbound};

/// For a call whose answer is one document; less where the provider has less for the first byte of an answer.
const WITHIN: Duration = Duration::from_secs(60);
/// For sending the items.
const UPLOAD_WITHIN: Duration = Duration::from_secs(600);
/// Items that are sent more slowly than this have to come to their end within the time for the answer.
const UPLOAD_BYTES_PER_MS: u64 = 64;
/// For reading all results.
const RESULTS_WITHIN: Duration = Duration::from_secs(3600);
/// The longest document: a page of batches.
const MAX_BYTES: usize = 4 << 20;
/// All results of a batch: OpenAI's input is 200 MB at most, and answers are longer than questions.
const MAX_RESULT_BYTES: usize = 8 << 30;
/// Results that come as one document are read whole.
pub(super) const MAX_WHOLE_BYTES: usize = 64 << 20;

/// One provider's batch API.
#[derive(Clone, Copy)]
pub(super) struct Remote<'a> {
    pub(super) outbound: &'a Outbound,
    pub(super) upstream: &'a Upstream,
    pub(super) api: Api,
}

/// Why items could not be uploaded.
pub(super) enum NoUpload {
    /// The provider has no such API, whatever its type.
    NoApi,
    /// Something else.
    Refused(Box<Rejection>),
}

impl From<Rejection> for NoUpload {
    fn from(refused: Rejection) -> Self {
        Self::Refused(Box::new(refused))
    }
}

impl Remote<'_> {
    /// Uploads the lines of a batch; returns the name of the file.
    pub(super) async fn upload(&self, lines: Bytes) -> Result<String, NoUpload> {
        let within = self.sending(lines.len());
        let call = Call::post(self.path("/files")?, Bytes::new(), within, MAX_BYTES);
        let form = Multipart::new().text("purpose", "batch").file(
            "file",
            "batch.jsonl",
            "application/jsonl",
            lines,
        );
        let sent = self.outbound.upload(self.upstream, call, form).await;
        let answer = sent.map_err(|error| error.rejection())?;
        if matches!(answer.status, 404 | 405 | 501) {
            return Err(NoUpload::NoApi);
        }
        let answer = succeeded(answer)?;
        let read: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
        let id = read.and_then(|file| file.get("id")?.as_str().map(str::to_owned));
        id.ok_or_else(|| malformed("a file without an id").into())
    }

    /// Makes a batch of what [`Api::create`] wrote.
    pub(super) async fn create(&self, body: Vec<u8>) -> Result<Document, Rejection> {
        let within = self.sending(body.len());
        let call = Call::post(self.path(self.api.path())?, body, within, MAX_BYTES);
        self.batch(call).await
    }

    /// A batch as it is now. `model`: the batch's, where it is known.
    pub(super) async fn get(&self, id: &str, model: Option<&str>) -> Result<Document, Rejection> {
        let path = self.of_batch(id, "", model)?;
        self.batch(Call::get(path, self.within(), MAX_BYTES)).await.map_err(|it| missing(it, id))
    }

    /// Cancels a batch.
    pub(super) async fn cancel(
        &self,
        id: &str,
        model: Option<&str>,
    ) -> Result<Document, Rejection> {
        let path = self.of_batch(id, "/cancel", model)?;
        let call = Call::post(path, Bytes::new(), self.within(), MAX_BYTES);
        self.batch(call).await.map_err(|it| missing(it, id))
    }

    /// Whether its pages begin after a batch; else they have numbers.
    pub(super) fn has_cursor(&self) -> bool {
        self.api != Api::Mistral
    }

    /// A page of batches, newest first: after one of them, or of this number, from 0.
    pub(super) async fn list(
        &self,
        after: Option<&str>,
        page: i64,
        limit: i64,
    ) -> Result<List, Rejection> {
        let query = match (self.api, after) {
            (Api::Mistral, _) => format!("?page={page}&page_size={limit}"),
            (_, None) => format!("?limit={limit}"),
            (api, Some(after)) => {
                let name = if api == Api::Anthropic { "after_id" } else { "after" };
                let after = plain(after).ok_or_else(|| not_found(after))?;
                format!("?limit={limit}&{name}={after}")
            }
        };
        let path = self.path(&format!("{}{query}", self.api.path()))?;
        let answer = self.call(Call::get(path, self.within(), MAX_BYTES)).await?;
        let list = self.api.read_list(&succeeded(answer)?.body);
        let mut list = list.ok_or_else(|| malformed("no list of batches"))?;
        if !self.has_cursor() {
            list.has_more = i64::try_from(list.batches.len()).is_ok_and(|count| count >= limit);
        }
        Ok(list)
    }

    /// A file of results, in pieces.
    pub(super) async fn file(&self, id: &str) -> Result<Opened, Rejection> {
        let name = plain(id).ok_or_else(|| malformed("a file with an odd name"))?;
        self.opened(self.path(&format!("/files/{name}/content"))?).await
    }

    /// All results of a batch whose API has no files, in pieces.
    pub(super) async fn results(&self, id: &str, model: Option<&str>) -> Result<Opened, Rejection> {
        self.opened(self.of_batch(id, "/results", model)?).await.map_err(|it| missing(it, id))
    }

    async fn opened(&self, path: PathAndQuery) -> Result<Opened, Rejection> {
        let call = Call::get(path, RESULTS_WITHIN, MAX_RESULT_BYTES);
        // Reading may take long; an answer has to begin as soon as any other.
        let opening = timeout(self.within(), self.outbound.open(self.upstream, call)).await;
        let opened = opening.unwrap_or(Err(outbound::Error::Timeout));
        let mut opened = opened.map_err(|error| error.rejection())?;
        if (200..300).contains(&opened.status) {
            return Ok(opened);
        }
        let mut body = Vec::new();
        while body.len() < 64 << 10
            && let Ok(Some(piece)) = opened.body.next().await
        {
            body.extend_from_slice(&piece);
        }
        Err(refusal(opened.status, &body, retry_after(&opened.headers)))
    }

    /// For an answer to begin.
    fn within(&self) -> Duration {
        WITHIN.min(self.upstream.first_byte_timeout)
    }

    /// For so many bytes to be sent, and the answer to come.
    fn sending(&self, bytes: usize) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let sending = Duration::from_millis(bytes / UPLOAD_BYTES_PER_MS);
        UPLOAD_WITHIN.min(self.upstream.first_byte_timeout + sending)
    }

    async fn batch(&self, call: Call) -> Result<Document, Rejection> {
        let answer = succeeded(self.call(call).await?)?;
        self.api.read_batch(&answer.body).ok_or_else(|| malformed("no batch"))
    }

    async fn call(&self, call: Call) -> Result<Answer, Rejection> {
        let answer = self.outbound.call(self.upstream, call).await;
        answer.map_err(|error: outbound::Error| error.rejection())
    }

    fn of_batch(
        &self,
        id: &str,
        verb: &str,
        model: Option<&str>,
    ) -> Result<PathAndQuery, Rejection> {
        let name = plain(id).ok_or_else(|| not_found(id))?;
        // Another gateway wants to know which of its providers it is.
        let provider = model.filter(|_| self.api == Api::Otari).and_then(|model| {
            let (provider, _) = model.split_once([':', '/'])?;
            plain(provider)
        });
        let query = provider.map(|it| format!("?provider={it}")).unwrap_or_default();
        self.path(&format!("{}/{name}{verb}{query}", self.api.path()))
    }

    fn path(&self, tail: &str) -> Result<PathAndQuery, Rejection> {
        format!("{}{tail}", self.upstream.base_path()).parse().map_err(Rejection::internal)
    }
}

/// A name that can stand in a path and a query as it is.
fn plain(name: &str) -> Option<&str> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_plain = !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_fine);
    is_plain.then_some(name)
}

fn succeeded(answer: Answer) -> Result<Answer, Rejection> {
    if answer.is_success() {
        return Ok(answer);
    }
    Err(refusal(answer.status, &answer.body, retry_after(&answer.headers)))
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

fn malformed(what: &'static str) -> Rejection {
    Rejection::new(Code::ProviderError, "LLM provider error").because(what)
}

/// Where the provider knows no such batch, neither do we.
fn missing(refused: Rejection, id: &str) -> Rejection {
    if refused.code == Code::ProviderNotFound { not_found(id) } else { refused }
}
