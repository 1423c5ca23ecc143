//! What is asked in a soak: kinds of calls, how often each, and how each must end.

use serde_json::{Value, json};

use crate::load::request;
use crate::numbers::Dice;

/// Users, and keys of each.
pub(crate) const USERS: usize = 8;
pub(crate) const KEYS: usize = 2;

/// Seconds after which the provider called `faulty` is given up.
pub(crate) const FAULTY_TIMEOUT_S: u64 = 1;

/// How a call must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// 200, and this in the answer.
    Whole(&'static str),
    /// An error status, or an event in the stream that has begun.
    Told,
    /// The caller hangs up: after the first bytes of a stream, or before the answer has begun.
    LeftReading,
    LeftWaiting,
    /// A file goes up, comes down and is deleted.
    File,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Key,
    Master,
}

/// One kind of calls.
pub(crate) struct Kind {
    /// Also the model's name at the provider, by which it counts.
    pub(crate) name: &'static str,
    /// Of 1000 calls.
    pub(crate) weight: u32,
    pub(crate) path: &'static str,
    /// Provider instance; empty: no generation, and no row.
    pub(crate) provider: &'static str,
    /// Options of the mock, behind the model's name.
    options: &'static str,
    is_stream: bool,
    pub(crate) end: End,
    pub(crate) who: Who,
}

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

/// A stream of ten events or so within a tenth of a second.
const PACED: &str = "?chunks=8&interval_ms=12";

const DONE: &str = "data: [DONE]";
const STOP: &str = "message_stop";
const COMPLETED: &str = "response.completed";

const fn call(
    weight: u32,
    name: &'static str,
    path: &'static str,
    provider: &'static str,
    end: End,
) -> Kind {
    Kind { name, weight, path, provider, options: "", is_stream: false, end, who: Who::Key }
}

const fn stream(
    weight: u32,
    name: &'static str,
    path: &'static str,
    provider: &'static str,
    end: &'static str,
) -> Kind {
    let options = PACED;
    let end = End::Whole(end);
    Kind { name, weight, path, provider, options, is_stream: true, end, who: Who::Key }
}

/// What a provider does wrong, to a plain call or to a stream.
const fn fault(
    weight: u32,
    name: &'static str,
    path: &'static str,
    options: &'static str,
    is_stream: bool,
) -> Kind {
    let end = End::Told;
    Kind { name, weight, path, provider: "faulty", options, is_stream, end, who: Who::Key }
}

const fn left(weight: u32, name: &'static str, path: &'static str, options: &'static str) -> Kind {
    let is_stream = matches!(options.as_bytes(), [_, b'c', ..]);
    let end = if is_stream { End::LeftReading } else { End::LeftWaiting };
    Kind { name, weight, path, provider: "mock", options, is_stream, end, who: Who::Key }
}

const fn read(weight: u32, path: &'static str, who: Who) -> Kind {
    let end = End::Whole("");
    Kind { name: path, weight, path, provider: "", options: "", is_stream: false, end, who }
}

/// The kind that is timed: small plain calls.
pub(crate) const PROBE: usize = 0;

/// All of them; the weights add up to 1000.
pub(crate) static KINDS: [Kind; 32] = [
    call(270, "chat", CHAT, "mock", End::Whole("lorem")),
    call(110, "messages", MESSAGES, "messages", End::Whole("lorem")),
    call(100, "responses", RESPONSES, "mock", End::Whole("lorem")),
    call(60, "embeddings", "/v1/embeddings", "mock", End::Whole("embedding")),
    call(40, "chat-to-messages", CHAT, "messages", End::Whole("lorem")),
    call(40, "chat-to-gemini", CHAT, "gemini", End::Whole("lorem")),
    stream(120, "chat-stream", CHAT, "mock", DONE),
    stream(80, "messages-stream", MESSAGES, "messages", STOP),
    stream(50, "responses-stream", RESPONSES, "mock", COMPLETED),
    stream(20, "messages-stream-to-chat", MESSAGES, "mock", STOP),
    stream(20, "chat-stream-to-gemini", CHAT, "gemini", DONE),
    stream(10, "responses-stream-to-messages", RESPONSES, "messages", COMPLETED),
    left(10, "left-stream", CHAT, "?chunks=40&interval_ms=12"),
    left(5, "left-messages-stream", MESSAGES, "?chunks=40&interval_ms=12"),
    left(5, "left-waiting", CHAT, "?delay_ms=200"),
    fault(2, "status-500", CHAT, "?status=500", false),
    fault(2, "status-500-stream", CHAT, "?status=500", true),
    fault(2, "cut", CHAT, "?fault=cut:1", false),
    fault(2, "cut-stream", CHAT, "?chunks=8&fault=cut:3", true),
    fault(1, "silent", CHAT, "?fault=silent", false),
    fault(1, "stalled-stream", CHAT, "?chunks=8&fault=stall:3", true),
    read(10, "/v1/models", Who::Key),
    read(5, "/v1/models/mock:chat", Who::Key),
    read(3, "/v1/pricing?limit=20", Who::Key),
    read(10, "/v1/users/soak-0", Who::Master),
    read(5, "/v1/keys?limit=20", Who::Master),
    read(4, "/v1/usage?limit=20&user_id=soak-1", Who::Master),
    read(3, "/v1/budgets?limit=20", Who::Master),
    read(2, "/v1/usage/in-flight", Who::Master),
    read(3, "/health/readiness", Who::Key),
    call(1, "/v1/files", "/v1/files", "", End::Whole("data")),
    call(4, "file", "/v1/files", "", End::File),
];

impl Kind {
    /// As callers name the model, without the provider.
    pub(crate) fn model(&self) -> String {
        format!("{}{}", self.name, self.options)
    }

    /// Whether it leaves a usage row.
    pub(crate) fn is_billed(&self) -> bool {
        !self.provider.is_empty()
    }

    /// Whether it belongs into the measurement of the ceiling: what others break or wait for says nothing of the gateway.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.end, End::Whole(_) | End::File)
    }

    /// The request that `key` makes.
    pub(crate) fn request(&self, key: &str) -> Vec<u8> {
        if self.end == End::File {
            return upload(key);
        }
        if !self.is_billed() {
            return request("GET", self.path, key, b"");
        }
        let model = format!("{}:{}", self.provider, self.model());
        request("POST", self.path, key, self.body(&model).to_string().as_bytes())
    }

    fn body(&self, model: &str) -> Value {
        let prompt = "Tell me a story about a lighthouse and the sea. ".repeat(8);
        let messages = json!([{"role": "user", "content": prompt}]);
        match self.path {
            "/v1/embeddings" => json!({"model": model, "input": prompt}),
            RESPONSES => json!({"model": model, "input": prompt, "stream": self.is_stream}),
            MESSAGES => {
                json!({"model": model, "max_tokens": 64, "messages": messages, "stream": self.is_stream})
            }
            _ => json!({"model": model, "messages": messages, "stream": self.is_stream}),
        }
    }
}

/// A small file.
fn upload(key: &str) -> Vec<u8> {
    let form = format!(
        "--soak\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nuser_data\r\n--soak\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"soak.txt\"\r\ncontent-type: text/plain\r\n\r\n\
         {}\r\n--soak--\r\n",
        "A line of a file.\n".repeat(100)
    );
    let mut bytes = format!(
        "POST /v1/files HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
         content-type: multipart/form-data; boundary=soak\r\ncontent-length: {}\r\n\r\n",
        form.len()
    )
    .into_bytes();
    bytes.extend_from_slice(form.as_bytes());
    bytes
}

/// A kind, by the weights.
pub(crate) fn any_kind(dice: &mut Dice) -> usize {
    let mut at = dice.below(1000) as u32;
    let found = KINDS.iter().position(|kind| {
        let is_here = at < kind.weight;
        at = at.saturating_sub(kind.weight);
        is_here
    });
    found.unwrap_or(PROBE)
}
