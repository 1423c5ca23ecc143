//! The built-in mock provider (`provider_type: mock`): speaks the APIs of OpenAI, Anthropic and the other
//! families of providers, costs nothing, and fails on request. For trying out applications, for our tests, and as the load target of
//! `benches/relay.rs`.
//!
//! The server is written by hand on the socket: its faults need control over every segment, and the
//! benchmarks need it to cost next to nothing.
//!
//! Routes, each with `/v1`, `/openai/v1` or without: `POST chat/completions`, `messages`,
//! `messages/count_tokens`, `responses`, `embeddings`, `moderations`, `rerank`, `images/generations`,
//! `audio/speech`, `audio/transcriptions`; `GET models`. Credentials are not looked at. The
//! same request always gets the same answer (stamps apart): ids come from the body, words from a list, token counts from
//! lengths (prompt: a quarter of the characters; completion: one per chunk).
//!
//! # Other families
//!
//! Their routes refuse what their documents do not know, and calls without credentials of the right form,
//! with the family's own 400, 401 or 403: what arrives there was translated, and a wrong translation is to
//! be noticed. Any value will do as a credential; only signatures with AWS's example key (`AKIDEXAMPLE`,
//! `wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY`) are computed again. A model in a path is percent-encoded
//! once, its options included.
//!
//! | Family | `POST` | Credentials |
//! | --- | --- | --- |
//! | Gemini | `/v1beta/models/{m}:generateContent`, `:streamGenerateContent?alt=sse` | `x-goog-api-key` |
//! | Vertex AI | `/v1beta1/projects/{p}/locations/{l}/publishers/google/models/{m}:...` | Bearer |
//! | Vertex AI, Claude | `/v1/projects/{p}/locations/{l}/publishers/anthropic/models/{m}:rawPredict`, `:streamRawPredict` | Bearer |
//! | Bedrock | `/model/{m}/converse`, `/model/{m}/converse-stream` | signature, Bearer |
//! | SageMaker | `/endpoints/{m}/invocations`, `/endpoints/{m}/invocations-response-stream` | signature |
//! | Azure OpenAI | `/openai/deployments/{m}/chat/completions?api-version=V`, `/openai/responses?api-version=V` | `api-key`, Bearer |
//! | Azure AI Inference | `/chat/completions?api-version=V`, `/models/chat/completions?api-version=V` | `api-key`, Bearer |
//! | Foundry, Claude | `/anthropic/v1/messages` with `anthropic-version` | `api-key`, `x-api-key`, Bearer |
//! | Cohere | `/v2/chat` | Bearer |
//! | Ollama | `/api/chat` | none |
//! | watsonx.ai | `/ml/v1/text/chat?version=V`, `/ml/v1/text/chat_stream?version=V` | Bearer |
//!
//! Their vectors, with the same credentials: `:batchEmbedContents` (Gemini), `:predict` (Vertex AI), `/model/{m}/invoke`
//! (Bedrock: Titan's format, or Cohere's when the name holds `cohere.`), the same path as chat with `inputs` (SageMaker),
//! `/openai/deployments/{m}/embeddings` and `/embeddings` with a version (Azure), `/v2/embed` and `/v2/rerank` (Cohere),
//! `/api/embed` (Ollama), `/ml/v1/text/embeddings` (watsonx.ai). Below a deployment of Azure OpenAI there are
//! `images/generations`, `audio/speech` and `audio/transcriptions` too.
//!
//! # What the others answer
//!
//! Moderations flag whoever writes `kill`. Rerank finds longer documents more relevant, and leaves them in their order.
//! Images are as many as `n`, of `bytes` each as base64 (with `fault=no_done` one fewer). Speech is `chunks` pieces of
//! `bytes` (1024) each, which do not compress. The text of a transcription is what was seen of the file: name, content
//! type, length, CRC-32; the file itself is not kept, and `/__mock/requests` shows the parts of the form in its place.
//!
//! Mistral's route is chat's own: `thinking=chunks` and `strict=mistral` make it Mistral's. Tokens are had
//! at `/token` (Google: `jwt-bearer` and `refresh_token`) and `/identity/token` (IBM); there the query
//! says what happens: `expires_in=S`, `status=N`.
//!
//! # Batches
//!
//! OpenAI's `/files` and `/batches`, Mistral's `/batch/jobs`, Anthropic's `/messages/batches`, as strict as the other
//! families. Of the items in a batch, one whose `custom_id` begins with `fail-<status>` gets that status, and one with
//! `lost` no answer at all.
//!
//! # Options in the model name
//!
//! `<any name>?key=value&key=value`, e.g. `gpt?chunks=64&interval_ms=20`. An unknown option is a 400
//! that names the known ones.
//!
//! | Option | Meaning |
//! | --- | --- |
//! | `chunks=N` | output words, one event each in a stream; default 8, at most 100000 |
//! | `bytes=N` | size of each word |
//! | `delay_ms=N` | pause before the response head |
//! | `first_delay_ms=N` | pause between head and first body byte |
//! | `interval_ms=N` | pause between the chunks of a stream |
//! | `stamp` | each word is `t` and the nanoseconds of [`crate::clock::monotonic_ns`] at which it was written |
//! | `usage=none`, `usage=last` | never report token counts; in the last content chunk (chat) |
//! | `cached=N` | prompt tokens that came from a cache; at most all |
//! | `tools`, `tools=always` | call the first given tool after a user's message; after tool results too |
//! | `tool=NAME` | as `tools`, with the tool of this name instead of the first |
//! | `parallel` | two calls: of the first two tools, or of the only one twice |
//! | `preface=N` | words before the calls; default 0 |
//! | `reasoning`, `reasoning=N` | think first, so many words (default 4), signed where the format has that |
//! | `thinking=F` | how chat tells thoughts: `content` (`reasoning_content`, the default), `field` (`reasoning`), `tags` (`<think>`, both tags in two pieces), `chunks` (Mistral's) |
//! | `strict`, `strict=mistral` | refuse fields that OpenAI, Anthropic or Mistral do not document |
//! | `strict=voyage`, `strict=together` | embeddings and rerank as these document and answer them |
//! | `status=N` | answer this error (400 to 599) in the protocol's shape |
//! | `retry_after=S` | with `Retry-After: S` |
//! | `fail_first=N` | `status` (default 503) or `fault` for the first N requests with the same `seed`, then success |
//! | `seed=TEXT` | names the series of `fail_first`; default: the whole model name |
//! | `polls=N` | a batch has ended with the N-th look at it; default 1 |
//! | `end=S` | how it ends: `completed` (the default), `failed`, `expired`, `cancelled` |
//! | `fault=F` | one of the faults below |
//!
//! Without `tools`, a tool is still called when `tool_choice` insists on one. The arguments hold the
//! required properties of the tool's schema. `max_tokens` and its relatives cut the words short.
//!
//! | Fault | What happens |
//! | --- | --- |
//! | `refuse`, `silent` | closes, or never answers, after reading the request |
//! | `header_then_silent` | sends the head and nothing else |
//! | `cut:N`, `reset:N`, `stall:N` | after N chunks (default 1): closes, resets, falls silent; JSON bodies end half way |
//! | `error_event:N` | after N chunks the stream reports an error and ends |
//! | `half_utf8` | a four-byte character arrives in two segments, 20 ms apart |
//! | `split_lines` | segments of three bytes |
//! | `gzip` | compressed, asked or not |
//! | `crlf`, `comments` | CR LF line ends; comment lines between events |
//! | `no_done` | leaves out what ends the stream: `[DONE]`, `message_stop`, `response.completed`, the finish reason of families without such an event |
//! | `bad_json` | the first chunk, or the JSON body, is cut in half |
//! | `bad_crc` | the first chunk's checksum is wrong (AWS event streams) |
//! | `html`, `empty` | 200 with a web page, or with no body |
//! | `close_delimited` | neither length nor chunks: the end of the connection ends the body |
//! | `early_413` | answers 413 before the body is read, if the model stands in its first 64 KiB |
//!
//! # Looking inside
//!
//! `GET /__mock/requests` answers `{"total", "models": {name: {"requests", "disconnected"}},
//! "recording", "requests": [{"method", "path", "headers": [[name, value]], "body_bytes", "body"}]}`:
//! the last 64 requests, oldest first, only when [`Options::record`] is set; credentials in headers,
//! queries and forms are masked.
//! `disconnected` counts answers the caller did not wait for. `DELETE /__mock/requests` starts anew.

mod answer;
mod batches;
mod call;
mod chat;
mod connection;
mod embeddings;
mod emit;
mod families;
mod form;
mod http;
mod messages;
mod pieces;
pub mod platform;
mod protocol;
mod record;
mod responses;
mod script;
mod tools;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use record::Record;

/// Connections served at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 8192;

/// Pause after a failed accept: it means that file handles ran out, and they come back slowly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a mock is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Keep the last 64 requests with headers and bodies; costs a copy per request.
    pub record: bool,
}

/// A mock provider and what it remembers. Several listeners may share one.
#[derive(Clone)]
pub struct Mock {
    record: Arc<Record>,
}

impl Mock {
    /// A mock that has seen nothing yet.
    pub fn new(options: Options) -> Self {
        Self { record: Arc::new(Record::new(options.record)) }
    }

    /// Requests seen since the start or the last reset, introspection apart.
    pub fn requests(&self) -> u64 {
        self.record.total()
    }

    /// Serves `listener` until `shutdown` resolves, then drops every connection.
    ///
    /// # Errors
    /// When the listener has no address any more; a failed accept is waited out.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        accept(listener, shutdown, |stream| connection::serve(stream, Arc::clone(&self.record)))
            .await
    }
}

/// Serves each connection to `listener` until `shutdown` resolves, then drops them.
///
/// # Errors
/// When the listener has no address any more; a failed accept is waited out.
async fn accept<C: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
    serve: impl Fn(TcpStream) -> C,
) -> io::Result<()> {
    listener.local_addr()?;
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Serves a fresh [`Mock`] that records nothing. See [`Mock::serve`].
///
/// # Errors
/// As [`Mock::serve`].
pub async fn serve(
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    serve_with(listener, Options::default(), shutdown).await
}

/// Serves a fresh [`Mock`]. See [`Mock::serve`].
///
/// # Errors
/// As [`Mock::serve`].
pub async fn serve_with(
    listener: TcpListener,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    Mock::new(options).serve(listener, shutdown).await
}
