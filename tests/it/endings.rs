//! Every way a call can end: the caller is told, one row says so, and nothing stays held.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::provider::{
    Framing, Gate, Provider, Reply, Step, USAGE, chat_events, completion,
};
use crate::support::raw::Raw;
use crate::support::{COST, ask, ask_streamed, ask_with, eventually, on_both_databases, priced};

const PIECES: [&str; 3] = ["Hel", "lo ", "you"];
/// Events of a whole stream of [`PIECES`]: the pieces, the finish, usage, `[DONE]`.
const EVENTS: usize = PIECES.len() + 3;

/// A gateway before `provider`, and the key of a user whose budget makes every call hold something.
async fn behind(start: Builder, provider: &Provider) -> (Gateway, String) {
    let gateway = priced(start, provider).await;
    let budget = gateway.budget(1000.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    (gateway, key)
}

/// The one new row, once nothing is held any more; `before` rows were there already.
async fn settled_row(gateway: &Gateway, before: usize) -> Value {
    let mut rows = gateway.usage(before + 1).await;
    gateway.settled("u").await;
    // Looked at twice: a second row of the same call would come after the first.
    gateway.usage(before + 1).await;
    rows.remove(0)
}

/// Reads a stream until `text` has arrived.
async fn read_until(answer: &mut reqwest::Response, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let piece = answer.chunk().await.expect("an open stream").unwrap_or_default();
        assert!(!piece.is_empty(), "the stream ended before {text:?}: {seen}");
        seen += &String::from_utf8_lossy(&piece);
    }
    seen
}

/// Reads what is left of a stream, to its end or to where it breaks.
async fn read_rest(answer: &mut reqwest::Response) -> String {
    let mut seen = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        seen.extend_from_slice(&piece);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

async fn a_success_is_settled_at_its_cost(start: Builder) {
    let provider = Provider::streams(PIECES);
    let (gateway, key) = behind(start, &provider).await;
    for (before, body) in [ask(), ask_streamed()].into_iter().enumerate() {
        gateway.chat(&key, &body).await.expect(200);
        let row = settled_row(&gateway, before).await;
        assert_eq!((&row["status"], &row["cost"]), (&json!("success"), &json!(COST)), "{row}");
    }
    assert!((gateway.settled("u").await - 2.0 * COST).abs() < 1e-9);
}

/// (provider's status, what the caller sees, whether waiting advice is passed on)
const REFUSALS: [(u16, u16, bool); 10] = [
    (400, 400, false),
    (401, 502, false),
    (402, 502, false),
    (403, 502, false),
    (404, 404, false),
    (422, 400, false),
    (429, 429, true),
    (500, 502, false),
    (503, 502, true),
    (529, 502, false),
];

async fn a_providers_refusal_is_told_apart_and_free(start: Builder) {
    let provider = Provider::start(|request| {
        let status = request.json()["seed"].as_u64().unwrap_or_default();
        let said = "the voice sk-abcdefghijklmnopqrstuvwxyz0123456789 is not known";
        let body = json!({"error": {"message": said, "type": "t", "param": null, "code": "c"}});
        Reply::json(status as u16, &body)
            .header("Retry-After", "7")
            .header("x-ratelimit-reset-tokens", "6s")
    });
    let (gateway, key) = behind(start, &provider).await;
    let mut before = 0;
    for (upstream, seen, advice) in REFUSALS {
        for stream in [false, true] {
            let answer =
                gateway.chat(&key, &ask_with(json!({"seed": upstream, "stream": stream}))).await;
            let what = format!("{upstream}, stream: {stream}: {}", answer.text());
            assert_eq!(answer.status, seen, "{what}");
            let body = answer.refused(seen);
            assert_eq!(answer.header("otari-error-source"), Some("provider"), "{what}");
            assert_eq!(answer.header("retry-after"), advice.then_some("7"), "{what}");
            let limits = answer.header("x-ratelimit-reset-tokens");
            assert_eq!(limits, advice.then_some("6s"), "{what}");
            assert!(!body.to_string().contains("sk-abc"), "keys are redacted: {what}");
            if matches!(upstream, 400 | 404 | 422) {
                assert!(
                    body["detail"].to_string().contains("is not known"),
                    "the reason is told: {what}"
                );
            }
            let row = settled_row(&gateway, before).await;
            before += 1;
            assert_eq!(
                (&row["status"], &row["status_code"]),
                (&json!("error"), &json!(upstream)),
                "{row}"
            );
            assert!(!row.to_string().contains("sk-abc"), "nor do rows keep them: {row}");
        }
    }
    assert_eq!(gateway.settled("u").await, 0.0, "a refused call costs nothing");
}

async fn a_stream_cut_by_the_provider_is_an_error_and_settled(start: Builder) {
    let provider = Provider::start(|request| {
        let cut = request.json()["seed"].as_u64().unwrap_or_default();
        Reply::chat(request, &PIECES).before(cut as usize, Step::CutNow)
    });
    let (gateway, key) = behind(start, &provider).await;
    for cut in 0..EVENTS {
        let answer = gateway.chat(&key, &ask_with(json!({"stream": true, "seed": cut}))).await;
        let row = settled_row(&gateway, cut).await;
        if cut == 0 {
            answer.refused(502);
            assert_eq!(row["status"], "error", "{row}");
            continue;
        }
        assert_eq!(answer.status, 200, "cut {cut}: the head was sent with the first piece");
        assert!(
            answer.text().starts_with(&chat_events(&PIECES, false)[0]),
            "what came was passed on"
        );
        // Once usage was seen the call is paid for; whether the missing `[DONE]` is an error is nobody's loss.
        if cut < EVENTS - 1 {
            assert!(
                answer.text().contains("\"error\""),
                "cut {cut}: never a silent end: {}",
                answer.text()
            );
            assert_eq!(row["status"], "error", "cut {cut}: {row}");
        }
    }
}

async fn a_plain_answer_cut_or_reset_by_the_provider_is_502(start: Builder) {
    let provider = Provider::start(|request| {
        let body = completion("hello").to_string().into_bytes();
        let half = body.len() / 2;
        let halves = [Step::Send(body[..half].to_vec()), Step::Send(body[half..].to_vec())];
        let reply = Reply::events(halves).header("Content-Type", "application/json");
        match request.json()["seed"].as_u64() {
            Some(0) => reply.framing(Framing::Length).before(1, Step::CutNow),
            Some(1) => reply.framing(Framing::Chunked).before(1, Step::CutNow),
            Some(2) => reply.framing(Framing::Length).before(1, Step::Reset),
            _ => Reply::silence().before(0, Step::Silence),
        }
    });
    let (gateway, key) = behind(start, &provider).await;
    for cut in 0..3 {
        let bearer = gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key);
        let answer = bearer.json(&ask_with(json!({"seed": cut}))).send().await.expect("a head");
        let (status, body) = (answer.status(), answer.bytes().await);
        // A gateway that passes pieces on has promised 200 by then; it must break off, not pretend an end.
        assert!(status == 502 || body.is_err(), "{cut}: {status} {body:?}");
        let row = settled_row(&gateway, cut).await;
        assert_eq!(row["status"], "error", "{row}");
    }
}

async fn a_provider_that_is_not_there_is_502(start: Builder) {
    let provider = Provider::streams(["ok"]);
    let (gateway, key) = behind(start, &provider).await;
    drop(provider);
    for (before, body) in [ask(), ask_streamed()].into_iter().enumerate() {
        let answer = gateway.chat(&key, &body).await;
        answer.refused(502);
        let row = settled_row(&gateway, before).await;
        assert_eq!((&row["status"], &row["cost"]), (&json!("error"), &Value::Null), "{row}");
    }
}

async fn a_provider_that_never_answers_is_504(start: Builder) {
    let provider = Provider::start(|request| match request.json()["seed"].as_u64() {
        Some(0) => Reply::silence(),
        _ => Reply::events([Step::Silence]),
    });
    let (gateway, key) = behind(start.config("first_byte_timeout_s: 1"), &provider).await;
    let bodies = [
        ask_with(json!({"seed": 0})),
        ask_with(json!({"seed": 0, "stream": true})),
        ask_with(json!({"seed": 1, "stream": true})),
    ];
    for (before, body) in bodies.into_iter().enumerate() {
        let answer = gateway.chat(&key, &body).await;
        let refusal = answer.refused(504);
        assert_eq!(refusal["detail"], "LLM provider timeout", "{body}");
        provider.aborted(before + 1).await;
        let row = settled_row(&gateway, before).await;
        assert_eq!((&row["status"], &row["status_code"]), (&json!("error"), &json!(504)), "{row}");
    }
}

async fn a_stream_that_falls_silent_ends_with_an_error(start: Builder) {
    let provider =
        Provider::start(|request| Reply::chat(request, &PIECES).before(2, Step::Silence));
    let start = start.config("idle_timeout_s: 1\nstreaming_keepalive_interval_ms: 0");
    let (gateway, key) = behind(start, &provider).await;
    let mut answer = gateway.stream(&key, &ask_streamed()).await;
    let seen = read_rest(&mut answer).await;
    assert!(
        seen.starts_with(&chat_events(&PIECES, false)[..2].concat()),
        "what came was passed on: {seen}"
    );
    assert!(seen.contains("\"error\""), "never a silent end: {seen}");
    provider.aborted(1).await;
    assert_eq!(settled_row(&gateway, 0).await["status"], "error");
}

async fn a_silent_stream_is_kept_alive_with_comments(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |request| Reply::chat(request, &PIECES).gated(1, &held));
    let start = start.config("streaming_keepalive_interval_ms: 50");
    let (gateway, key) = behind(start, &provider).await;
    let mut answer = gateway.stream(&key, &ask_streamed()).await;
    read_until(&mut answer, ": keepalive\n\n").await;
    gate.open(EVENTS);
    let rest = read_rest(&mut answer).await;
    assert!(rest.ends_with("data: [DONE]\n\n"), "and then it goes on: {rest}");
    assert_eq!(settled_row(&gateway, 0).await["status"], "success");
}

async fn a_stream_past_its_deadline_is_ended(start: Builder) {
    let provider = Provider::start(|request| {
        let pieces = ["x"; 600];
        (0..600).fold(Reply::chat(request, &pieces), |reply, piece| {
            reply.before(piece, Step::Sleep(50))
        })
    });
    let (gateway, key) = behind(start.config("request_timeout_s: 1"), &provider).await;
    let mut answer = gateway.stream(&key, &ask_streamed()).await;
    let seen = tokio::time::timeout(Duration::from_secs(15), read_rest(&mut answer)).await;
    let seen = seen.expect("the whole stream would take 30 s; the deadline is 1 s");
    assert!(seen.contains("\"error\""), "never a silent end: {seen}");
    provider.aborted(1).await;
    assert_eq!(settled_row(&gateway, 0).await["status"], "error");
}

async fn a_caller_who_hangs_up_pays_for_what_was_produced(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |request| {
        let seen = request.json()["seed"].as_u64().unwrap_or_default();
        Reply::chat(request, &PIECES).gated(seen as usize, &held)
    });
    let (gateway, key) = behind(start, &provider).await;
    let mut paid = 0.0;
    // Up to and including the finish: usage and `[DONE]` are not out yet.
    for seen in 1..=PIECES.len() + 1 {
        let body = ask_with(json!({"stream": true, "seed": seen}));
        let mut answer = gateway.stream(&key, &body).await;
        read_until(&mut answer, PIECES.get(seen - 1).unwrap_or(&"\"stop\"")).await;
        drop(answer);

        provider.aborted(seen).await;
        let row = settled_row(&gateway, seen - 1).await;
        let why = row["error_message"].to_string();
        assert!(why.contains("client_disconnected"), "after piece {seen}: {row}");
        let cost = row["cost"].as_f64().unwrap_or_default();
        assert!(cost > 0.0 && cost <= COST, "what was produced is paid, not more: {row}");
        paid += cost;
    }
    let spend = gateway.settled("u").await;
    assert!((spend - paid).abs() < 1e-9, "rows and spend agree: {spend} and {paid}");
}

async fn a_caller_who_is_reset_in_mid_stream_is_settled(start: Builder) {
    let gate = Gate::closed();
    let provider = Provider::start(move |request| Reply::chat(request, &PIECES).gated(1, &gate));
    let (gateway, key) = behind(start, &provider).await;
    let body = ask_streamed().to_string();
    let mut raw = gateway.connect().await;
    raw.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    raw.until(b"Hel").await;
    raw.reset();
    provider.aborted(1).await;
    let row = settled_row(&gateway, 0).await;
    assert!(row["error_message"].to_string().contains("client_disconnected"), "{row}");
}

async fn a_caller_who_leaves_before_the_answer_is_settled_once(start: Builder) {
    let gates = [Gate::closed(), Gate::closed()];
    let held = gates.clone();
    let provider = Provider::start(move |request| {
        let gate = &held[usize::from(request.json()["stream"] == true)];
        Reply::chat(request, &PIECES).before(0, Step::WaitFor(gate.clone()))
    });
    let (gateway, key) = behind(start, &provider).await;
    for (before, body) in [ask(), ask_streamed()].into_iter().enumerate() {
        let call =
            gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key).json(&body);
        let mut caller = JoinSet::new();
        caller.spawn(call.send());
        provider.received(before + 1).await;
        caller.abort_all();
        while caller.join_next().await.is_some() {}
        // Cancelled or run to its end: the gate lets both come to an end.
        gates[before].open(1);
        settled_row(&gateway, before).await;
    }
}

async fn segments_fall_anywhere(start: Builder) {
    let text = ["h\u{e9}llo \u{1f600}", " fin"];
    let provider = Provider::start(move |request| {
        let whole = chat_events(&text, true).concat().into_bytes();
        let segments = match request.json()["seed"].as_u64() {
            // Single bytes: every line, every character of more than one byte, and `\n\n` itself are torn.
            Some(size @ 1..) => {
                whole.chunks(size as usize).map(|piece| Step::Send(piece.to_vec())).collect()
            }
            _ => vec![Step::Send(whole)],
        };
        let framing = if request.json()["n"] == 1 { Framing::Close } else { Framing::Chunked };
        Reply::events(segments).framing(framing)
    });
    let (gateway, key) = behind(start, &provider).await;
    let mut before = 0;
    for size in [1, 2, 7, 0] {
        for ends_by_close in [0, 1] {
            let body = ask_with(json!({
                "stream": true, "seed": size, "n": ends_by_close, "stream_options": {"include_usage": true},
            }));
            let answer = gateway.chat(&key, &body).await.expect(200);
            assert_eq!(answer.text(), chat_events(&text, true).concat(), "segments of {size}");
            let hidden = gateway
                .chat(&key, &ask_with(json!({"stream": true, "seed": size, "n": ends_by_close})))
                .await;
            assert_eq!(hidden.text(), chat_events(&text, false).concat(), "segments of {size}");
            before += 2;
            for row in gateway.usage(before).await {
                assert_eq!(
                    (&row["status"], &row["cost"]),
                    (&json!("success"), &json!(COST)),
                    "{row}"
                );
            }
        }
    }
    gateway.settled("u").await;
}

async fn a_compressed_answer_nobody_asked_for_is_readable_and_counted(start: Builder) {
    let packed = |text: &str| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).expect("memory takes all");
        gzip.finish().expect("memory takes all")
    };
    let provider = Provider::start(move |request| {
        assert_eq!(request.header("accept-encoding").filter(|coding| *coding != "identity"), None);
        let (kind, text) = if request.json()["stream"] == json!(true) {
            ("text/event-stream", chat_events(&PIECES, true).concat())
        } else {
            ("application/json", completion("packed").to_string())
        };
        Reply::bytes(200, kind, packed(&text)).header("Content-Encoding", "gzip")
    });
    let (gateway, key) = behind(start, &provider).await;
    for (before, (body, word)) in
        [(ask(), "packed"), (ask_streamed(), "Hel")].into_iter().enumerate()
    {
        let answer = gateway.chat(&key, &body).await.expect(200);
        let text = if answer.header("content-encoding") == Some("gzip") {
            let unpacked = std::io::read_to_string(flate2::read::GzDecoder::new(&answer.body[..]));
            unpacked.expect("what says gzip is gzip")
        } else {
            answer.text()
        };
        assert!(text.contains(word), "{text}");
        let row = settled_row(&gateway, before).await;
        assert_eq!((&row["cost"], &row["prompt_tokens"]), (&json!(COST), &json!(USAGE.0)), "{row}");
    }
}

async fn an_error_inside_a_stream_is_an_error(start: Builder) {
    let provider = Provider::start(|_| {
        let error = "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\"}}\n\n";
        Reply::events(
            [chat_events(&PIECES, false)[0].as_str(), error].map(|event| Step::Send(event.into())),
        )
    });
    let (gateway, key) = behind(start, &provider).await;
    let answer = gateway.chat(&key, &ask_streamed()).await.expect(200);
    assert!(answer.text().contains("\"error\""), "{}", answer.text());
    assert_eq!(settled_row(&gateway, 0).await["status"], "error");
}

async fn an_answer_without_sense_is_502(start: Builder) {
    let provider =
        Provider::start(|_| Reply::bytes(200, "text/html", "<html>captive portal</html>"));
    let (gateway, key) = behind(start, &provider).await;
    gateway.chat(&key, &ask()).await.refused(502);
    let row = settled_row(&gateway, 0).await;
    assert_eq!(row["status"], "error", "{row}");
}

async fn a_stopping_gateway_lets_streams_finish(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |request| Reply::chat(request, &PIECES).gated(1, &held));
    let (mut gateway, key) = behind(start.config("drain_s: 20"), &provider).await;
    let mut answer = gateway.stream(&key, &ask_streamed()).await;
    let mut seen = read_until(&mut answer, "Hel").await;
    gateway.signal_term();
    gate.open(EVENTS);
    seen += &read_rest(&mut answer).await;
    assert_eq!(
        seen,
        chat_events(&PIECES, false).concat(),
        "a stream that was open is served to its end"
    );
    let ended = gateway.ended().await;
    assert!(ended.success(), "a drained gateway ends well: {ended}\n{}", gateway.log());

    gateway.restart().await;
    let row = settled_row(&gateway, 0).await;
    assert_eq!((&row["status"], &row["cost"]), (&json!("success"), &json!(COST)), "{row}");
}

async fn a_stream_longer_than_the_drain_is_ended_and_settled(start: Builder) {
    let gate = Gate::closed();
    let provider = Provider::start(move |request| Reply::chat(request, &PIECES).gated(1, &gate));
    let (mut gateway, key) = behind(start.config("drain_s: 1"), &provider).await;
    let mut answer = gateway.stream(&key, &ask_streamed()).await;
    read_until(&mut answer, "Hel").await;
    gateway.terminate().await;
    let rest = read_rest(&mut answer).await;
    assert!(!rest.contains("[DONE]") || rest.contains("\"error\""), "a cut is no success: {rest}");

    gateway.restart().await;
    let row = settled_row(&gateway, 0).await;
    assert_eq!(row["status"], "error", "{row}");
    assert!(
        row["cost"].as_f64().is_some_and(|cost| cost > 0.0),
        "what was produced is paid: {row}"
    );
}

on_both_databases!(
    a_success_is_settled_at_its_cost,
    a_providers_refusal_is_told_apart_and_free,
    a_stream_cut_by_the_provider_is_an_error_and_settled,
    a_provider_that_never_answers_is_504,
    a_caller_who_hangs_up_pays_for_what_was_produced,
    a_stopping_gateway_lets_streams_finish,
    a_stream_longer_than_the_drain_is_ended_and_settled,
);

async fn a_panic_settles_its_request(start: Builder) {
    let provider = Provider::start(|request| match request.json()["seed"].as_u64() {
        Some(1) => Reply::chat(request, &["ok"]).header("otari-test-panic", "1"),
        _ => Reply::chat(request, &["ok"]),
    });
    let (gateway, key) = behind(start, &provider).await;
    let bearer = gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key);
    let answer = bearer.json(&ask_with(json!({"seed": 1}))).send().await;
    assert!(answer.is_err(), "the connection ends with the panic");
    let row = settled_row(&gateway, 0).await;
    assert_eq!((&row["status"], &row["error_message"]), (&json!("error"), &json!("gateway_panic")));
    gateway.chat(&key, &ask()).await.expect(200);
}
on_both_databases!(a_panic_settles_its_request);

/// A panic's message is made of whatever was at hand: nothing of it is in the log but where it happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_prints_no_secrets() {
    let provider = Provider::start(|request| {
        Reply::chat(request, &["ok"]).header("otari-test-panic", "secrets")
    });
    let (gateway, key) = behind(Gateway::start(), &provider).await;
    let call = gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key);
    let call = call.header("x-otari-mine", "a-header-of-the-caller").json(&ask());
    assert!(call.send().await.is_err(), "the connection ends with the panic");
    let log = eventually("word of the panic", async || {
        let log = gateway.log();
        log.contains("panicked").then_some(log)
    })
    .await;
    assert!(log.contains("src/proxy/relay.rs:"), "where it was: {log}");
    let provider_key = provider.only().header("authorization").expect("a key").to_owned();
    let provider_key = provider_key.strip_prefix("Bearer ").expect("a bearer").to_owned();
    for secret in [&key[..], MASTER, &provider_key, "a-header-of-the-caller", &key[10..30]] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

async fn a_stream_ends_when_its_hold_cannot_grow(start: Builder) {
    // 0.01 USD: the first step of 4 output tokens costs 0.008, a second one does not fit.
    let text = "four chars of text in a token ".repeat(4);
    let provider = Provider::start(move |request| {
        Reply::chat(request, &[&text, " and the rest"]).before(1, Step::Sleep(500))
    });
    let start = priced(start, &provider).config("stream_hold_output_tokens: 4");
    let gateway = start.await;
    let budget = gateway.budget(0.01).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let mut body = ask_streamed();
    body["max_tokens"] = json!(64_000);
    let stream = gateway.stream(&key, &body).await.text().await.expect("a proper end");
    assert!(stream.contains("budget_exceeded"), "the caller is told in the stream: {stream}");
    assert!(!stream.contains("and the rest"), "and gets no more: {stream}");
    let row = settled_row(&gateway, 0).await;
    assert_eq!(
        (&row["status"], &row["error_message"]),
        (&json!("error"), &json!("budget_exceeded"))
    );
    // The first piece alone is worth 0.06 USD.
    assert!(
        row["cost"].as_f64().is_some_and(|cost| (0.008..=0.01).contains(&cost)),
        "what was produced is paid, and the cap holds: {row}"
    );
}

/// A provider may know before the end that it will not do it. What it says is the answer, and the half request that its
/// connection has in it is followed by nobody's.
#[tokio::test]
async fn an_answer_before_the_end_of_a_long_request_is_heard() {
    // It has no room for what nobody reads, so that the gateway cannot have sent it all.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port on loopback");
    let door = socket.listen(1).expect("a listening socket");
    let base = format!("http://{}/v1", door.local_addr().expect("bound"));
    let gateway = Gateway::start().provider_at("p", &base, "").price("p:m", 1000.0, 2000.0).await;
    let key = gateway.key("u").await;
    let words = "x".repeat(8 << 20);
    let long = ask_with(json!({"messages": [{"role": "user", "content": words}]}));
    let whole = long.to_string().len();
    let refuses = async {
        let mut provider = Raw::of(door.accept().await.expect("a call").0);
        provider.request_head().await;
        let said = r#"{"error":{"message":"too long for us"}}"#;
        let head =
            "HTTP/1.1 413 No\r\nContent-Type: application/json\r\nContent-Length: 39\r\n\r\n";
        provider.send(head).await;
        provider.send(said).await;
        let sent = provider.rest().await.expect("closed, and not reset");
        assert!(sent.len() < whole, "{} bytes", sent.len());
    };
    let (answer, ()) = tokio::join!(gateway.chat(&key, &long), refuses);
    assert!(
        answer.refused(400)["detail"].as_str().is_some_and(|it| it.contains("too long for us"))
    );
    let row = settled_row(&gateway, 0).await;
    assert_eq!((&row["status"], &row["status_code"]), (&json!("error"), &json!(413)), "{row}");
}

on_both_databases!(
    a_plain_answer_cut_or_reset_by_the_provider_is_502,
    a_provider_that_is_not_there_is_502,
    a_stream_that_falls_silent_ends_with_an_error,
    a_silent_stream_is_kept_alive_with_comments,
    a_stream_past_its_deadline_is_ended,
    a_caller_who_is_reset_in_mid_stream_is_settled,
    a_caller_who_leaves_before_the_answer_is_settled_once,
    segments_fall_anywhere,
    a_compressed_answer_nobody_asked_for_is_readable_and_counted,
    an_error_inside_a_stream_is_an_error,
    an_answer_without_sense_is_502,
    a_stream_ends_when_its_hold_cannot_grow,
);
