//! Two providers that say of every answer whose it is, and remember how much of it they gave.
//!
//! Each answers chat completions and messages. What an answer consists of follows from the call and the provider alone,
//! so that the auditor knows every byte of it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::dice::Dice;
use crate::scene::{Api, Call, PROMPT_TOKENS, Part, Scene};
use crate::support::raw;

/// What became of a call at a provider.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) call: String,
    /// 0 of the first provider, 1 of the second.
    pub(crate) place: usize,
    /// The credential that came with it.
    pub(crate) key: String,
    pub(crate) at: Instant,
    /// Everything was written, and it was a success.
    pub(crate) is_whole: bool,
}

struct State {
    scene: Scene,
    place: usize,
    served: Mutex<Vec<Served>>,
    under_way: AtomicUsize,
    /// Answers come in another order than their questions.
    shuffles: AtomicBool,
}

/// A provider; stops when dropped.
pub(crate) struct Upstream {
    addr: SocketAddr,
    state: Arc<State>,
    _accepting: JoinSet<()>,
}

impl Upstream {
    /// The provider at this place of every plan.
    pub(crate) async fn start(scene: &Scene, place: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            scene: scene.clone(),
            place,
            served: Mutex::default(),
            under_way: AtomicUsize::new(0),
            shuffles: AtomicBool::new(false),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, state.clone()));
        Self { addr, state, _accepting: accepting }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it was asked, in the order in which it came.
    pub(crate) fn served(&self) -> Vec<Served> {
        self.state.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers that it is writing now.
    pub(crate) fn under_way(&self) -> usize {
        self.state.under_way.load(Ordering::SeqCst)
    }

    /// From now on its answers overtake each other, or no more.
    pub(crate) fn shuffle(&self, shuffles: bool) {
        self.state.shuffles.store(shuffles, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { return };
                let state = state.clone();
                connections.spawn(async move { connection(socket, &state).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(socket: TcpStream, state: &State) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (mut reader, mut writer) = socket.into_split();
    let mut unread = Vec::new();
    loop {
        let Some((first, headers)) = raw::read_head(&mut reader, &mut unread).await? else {
            return Ok(());
        };
        let body = raw::read_body(&mut reader, &mut unread, &headers, false).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let key = ["authorization", "x-api-key"]
            .into_iter()
            .find_map(|name| raw::header_of(&headers, name))
            .map(|key| key.trim_start_matches("Bearer ").to_owned());
        let api = if first.contains("/messages") { Api::Messages } else { Api::Chat };
        let Some(call) = named(&state.scene, &body) else { return Ok(()) };
        state.under_way.fetch_add(1, Ordering::SeqCst);
        let at = note(state, call, key.unwrap_or_default());
        let streams = body["stream"] == json!(true);
        let goes_on = tokio::select! {
            biased;
            goes_on = answer(state, call, api, streams, &mut writer) => goes_on,
            () = left(&mut reader, &mut unread) => Ok(None),
        };
        state.under_way.fetch_sub(1, Ordering::SeqCst);
        match goes_on? {
            None => return Ok(()),
            Some(is_whole) => {
                let mut served = state.served.lock().unwrap_or_else(PoisonError::into_inner);
                served[at].is_whole = is_whole;
            }
        }
    }
}

/// The call that a prompt names.
fn named<'a>(scene: &'a Scene, body: &Value) -> Option<&'a Call> {
    let prompt = body["messages"][0]["content"].to_string();
    let name = prompt.split_once("call <")?.1.split_once('>')?.0;
    scene.calls.iter().find(|call| call.name == name)
}

fn note(state: &State, call: &Call, key: String) -> usize {
    let mut served = state.served.lock().unwrap_or_else(PoisonError::into_inner);
    let (call, place) = (call.name.clone(), state.place);
    served.push(Served { call, place, key, at: Instant::now(), is_whole: false });
    served.len() - 1
}

/// Returns when the peer has closed; what it sends before is kept.
async fn left(reader: &mut OwnedReadHalf, unread: &mut Vec<u8>) {
    while raw::fill(reader, unread).await.is_ok_and(|read| read > 0) {}
}

/// Writes the answer. Says whether it was a whole success; `None`: the connection ends here.
async fn answer(
    state: &State,
    call: &Call,
    api: Api,
    streams: bool,
    writer: &mut OwnedWriteHalf,
) -> io::Result<Option<bool>> {
    if state.shuffles.load(Ordering::SeqCst) {
        let mut dice = Dice::of(state.scene.seed, &format!("pause of {}", call.name));
        tokio::time::sleep(Duration::from_millis(dice.between(0, 500))).await;
    }
    let part = state.scene.part(&call.name, state.place);
    if let Part::Refuses(status) = part {
        let body = json!({"error": {"message": "as drawn", "type": "scripted"}}).to_string();
        writer.write_all(whole(status, &body).as_bytes()).await?;
        return Ok(Some(false));
    }
    let breaks = if let Part::Breaks(at) = part { Some(at) } else { None };
    if !streams {
        let body = document(api, call, state.place);
        tokio::time::sleep(call.pace).await;
        let answer = whole(200, &body);
        let Some(at) = breaks else {
            writer.write_all(answer.as_bytes()).await?;
            return Ok(Some(true));
        };
        // Without a status line, within the header, or within the body.
        let parts = usize::try_from(at).unwrap_or_default();
        writer.write_all(&answer.as_bytes()[..answer.len() * parts / 4]).await?;
        return Ok(None);
    }
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    writer.write_all(head.as_bytes()).await?;
    let events = events(api, call, state.place);
    let last = events.len() - 1;
    for (number, event) in events.into_iter().enumerate() {
        if breaks.is_some_and(|at| at == number as u64) {
            return Ok(None);
        }
        let mut chunk = format!("{:x}\r\n{event}\r\n", event.len());
        if number == last {
            // With the last event everything is said: whoever hangs up behind it has been served.
            chunk += "0\r\n\r\n";
        }
        writer.write_all(chunk.as_bytes()).await?;
        if number < last {
            tokio::time::sleep(call.pace).await;
        }
    }
    Ok(Some(true))
}

fn whole(status: u16, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Drawn\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn words(call: &Call, place: usize) -> impl Iterator<Item = String> {
    (0..call.pieces).map(move |n| format!("{}/{place}/{n} ", call.name))
}

/// The whole answer of a provider to a call that does not stream.
pub(crate) fn document(api: Api, call: &Call, place: usize) -> String {
    let text: String = words(call, place).collect();
    let (model, tokens) = (&call.name, call.pieces);
    match api {
        Api::Chat => json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_763_800_000, "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens},
        }),
        Api::Messages => json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": model,
            "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": tokens},
        }),
    }
    .to_string()
}

/// The same to one that does, event by event.
pub(crate) fn events(api: Api, call: &Call, place: usize) -> Vec<String> {
    let (model, tokens) = (&call.name, call.pieces);
    let mut events: Vec<String> = Vec::new();
    match api {
        Api::Chat => {
            let chunk = |choices: Value| json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_763_800_000, "model": model, "choices": choices});
            let mut push = |chunk: Value| events.push(format!("data: {chunk}\n\n"));
            for word in words(call, place) {
                push(chunk(
                    json!([{"index": 0, "delta": {"content": word}, "finish_reason": null}]),
                ));
            }
            push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])));
            let mut last = chunk(json!([]));
            last["usage"] = json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens});
            push(last);
            events.push("data: [DONE]\n\n".into());
        }
        Api::Messages => {
            let mut push = |event: Value| {
                let kind = event["type"].as_str().expect("every event has a type").to_owned();
                events.push(format!("event: {kind}\ndata: {event}\n\n"));
            };
            push(
                json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": null, "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": 1}}}),
            );
            push(
                json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            );
            for word in words(call, place) {
                push(
                    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}),
                );
            }
            push(json!({"type": "content_block_stop", "index": 0}));
            push(
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": tokens}}),
            );
            push(json!({"type": "message_stop"}));
        }
    }
    events
}
