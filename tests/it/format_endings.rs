//! Every way a message or a response can end: the caller is told in their dialect, one row says so, nothing stays held.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::format::{self, FORMATS, Format, both};
use crate::support::gateway::{Builder, Gateway};
use crate::support::provider::{Gate, Provider, Reply, Step};
use crate::support::{COST, on_both_databases};

const PIECES: [&str; 3] = ["Hello there, ", "how are ", "you"];

/// A gateway before `provider`, and the key of a user whose budget makes every call hold something.
async fn behind(start: Builder, provider: &Provider) -> (Gateway, String) {
    let gateway = both(start, provider).await;
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

fn case(request: &crate::support::provider::Request) -> usize {
    let case = request.json()["case"].as_u64().unwrap_or_default();
    usize::try_from(case).unwrap_or_default()
}

/// Checks that a stream ends with one error event, as the format's clients read it.
fn ends_with_an_error(format: Format, seen: &str) {
    let (_, last) =
        seen.rsplit_once("event: error\ndata: ").unwrap_or_else(|| panic!("no error: {seen}"));
    let error: Value = serde_json::from_str(last.trim_end()).unwrap_or_else(|_| panic!("{seen}"));
    assert!(last.ends_with("\n\n"), "a whole event: {seen}");
    assert_eq!(seen.matches("event: error").count(), 1, "one error: {seen}");
    assert!(error["error"]["message"].is_string() && error["error"]["type"].is_string(), "{seen}");
    if format == Format::Messages {
        assert_eq!(
            (&error["type"], &error["error"]["type"]),
            (&json!("error"), &json!("api_error"))
        );
    }
}

async fn a_stream_cut_by_the_provider_ends_with_an_error_event(start: Builder) {
    let provider = Provider::start(|request| {
        format::of(request).reply(request, &PIECES).before(case(request), Step::CutNow)
    });
    let (gateway, key) = behind(start, &provider).await;
    let mut rows = 0;
    for format in FORMATS {
        let events = format.events(&PIECES);
        for cut in 0..events.len() {
            let answer = format.call(&gateway, &key, &format.streamed(cut)).await;
            let row = settled_row(&gateway, rows).await;
            rows += 1;
            assert_eq!(row["status"], "error", "{format:?}, cut {cut}: {row}");
            if cut == 0 {
                format.refused(&answer, 502);
                assert_eq!(row["cost"], Value::Null, "{row}");
                continue;
            }
            let seen = answer.expect(200).text();
            let came = events[..cut].concat();
            assert!(seen.starts_with(&came), "{format:?}, cut {cut}: what came was passed on");
            ends_with_an_error(format, &seen[came.len()..]);
        }
    }
}

async fn behind_the_last_event_nothing_can_break(start: Builder) {
    let ways = [Step::CutNow, Step::Reset, Step::Silence];
    let provider = Provider::start(move |request| {
        let format = format::of(request);
        let last = format.events(&PIECES).len();
        format.reply(request, &PIECES).before(last, ways[case(request)].clone())
    });
    let start = start.config("idle_timeout_s: 1\nstreaming_keepalive_interval_ms: 0");
    let (gateway, key) = behind(start, &provider).await;
    let mut rows = 0;
    for format in FORMATS {
        for way in 0..3 {
            let answer = format.call(&gateway, &key, &format.streamed(way)).await;
            let seen = answer.expect(200).text();
            assert_eq!(
                seen,
                format.events(&PIECES).concat(),
                "{format:?}, {way}: whole, and no more"
            );
            let row = settled_row(&gateway, rows).await;
            assert_eq!(row["status"], "success", "{format:?}, {way}: {row}");
            rows += 1;
        }
    }
}

async fn a_caller_who_hangs_up_pays_for_what_was_produced(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |request| {
        format::of(request).reply(request, &PIECES).gated(case(request), &held)
    });
    let (gateway, key) = behind(start, &provider).await;
    let (mut rows, mut paid) = (0, 0.0);
    for format in FORMATS {
        let events = format.events(&PIECES);
        // Up to the event before the one that ends it.
        for seen in 1..events.len() {
            let mut answer = format.open(&gateway, &key, &format.streamed(seen)).await;
            read_until(&mut answer, &events[..seen].concat()).await;
            drop(answer);
            provider.aborted(rows + 1).await;
            let row = settled_row(&gateway, rows).await;
            rows += 1;
            let why = row["error_message"].to_string();
            assert!(why.contains("client_disconnected"), "{format:?} after {seen}: {row}");
            let cost = row["cost"].as_f64().unwrap_or_default();
            assert!(cost > 0.0 && cost <= COST, "what was produced is paid, not more: {row}");
            paid += cost;
        }
    }
    let spend = gateway.settled("u").await;
    assert!((spend - paid).abs() < 1e-9, "rows and spend agree: {spend} and {paid}");
}

/// SDKs leave at the event that ends the answer, and do not wait for the end of the body.
async fn a_caller_who_hangs_up_at_the_end_has_the_answer(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |request| {
        let events = format::of(request).events(&PIECES).into_iter();
        let never = [Step::WaitFor(held.clone()), Step::Send(b": the end\n\n".to_vec())];
        Reply::events(events.map(|event| Step::Send(event.into())).chain(never))
    });
    let (gateway, key) = behind(start, &provider).await;
    for (rows, (format, last)) in
        [(Format::Messages, "message_stop\"}\n\n"), (Format::Responses, "\"response.completed\"")]
            .into_iter()
            .enumerate()
    {
        let mut answer = format.open(&gateway, &key, &format.streamed(0)).await;
        read_until(&mut answer, last).await;
        // It is recorded before it is seen.
        let row = settled_row(&gateway, rows).await;
        drop(answer);
        provider.aborted(rows + 1).await;
        assert_eq!((&row["status"], &row["cost"]), (&json!("success"), &json!(COST)), "{row}");
        let row = settled_row(&gateway, rows).await;
        assert_eq!(row["status"], "success", "{row}");
    }
}

async fn a_caller_who_leaves_before_the_answer_is_settled_once(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider = Provider::start(move |request| {
        format::of(request).reply(request, &PIECES).before(0, Step::WaitFor(held.clone()))
    });
    let (gateway, key) = behind(start, &provider).await;
    let mut rows = 0;
    for format in FORMATS {
        for body in [format.ask(), format.streamed(0)] {
            let call =
                gateway.http().post(gateway.url(format.route())).bearer_auth(&key).json(&body);
            let mut caller = tokio::task::JoinSet::new();
            caller.spawn(call.send());
            provider.received(rows + 1).await;
            caller.abort_all();
            while caller.join_next().await.is_some() {}
            gate.open(1);
            settled_row(&gateway, rows).await;
            rows += 1;
        }
    }
}

async fn a_providers_error_before_the_answer_is_a_status(start: Builder) {
    let provider = Provider::start(|request| {
        let ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n".to_owned();
        let failure = format::of(request).failure().to_owned();
        let events = match format::of(request) {
            Format::Messages => vec![ping, failure],
            Format::Responses => vec![": wait\n\n".to_owned(), failure],
        };
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    });
    let (gateway, key) = behind(start, &provider).await;
    for (rows, (format, code)) in
        [(Format::Messages, 529), (Format::Responses, 500)].into_iter().enumerate()
    {
        let answer = format.call(&gateway, &key, &format.streamed(0)).await;
        format.refused(&answer, 502);
        assert_eq!(answer.header("otari-error-source"), Some("provider"));
        let row = settled_row(&gateway, rows).await;
        let facts = (&row["status"], &row["status_code"], &row["cost"]);
        assert_eq!(facts, (&json!("error"), &json!(code), &Value::Null), "{row}");
    }
    assert_eq!(gateway.settled("u").await, 0.0);
}

async fn a_providers_error_in_the_answer_is_passed_on_and_an_error(start: Builder) {
    let provider = Provider::start(|request| {
        let format = format::of(request);
        let mut events = format.events(&PIECES);
        events.truncate(4);
        events.push(format.failure().into());
        Reply::events(events.into_iter().map(|event| Step::Send(event.into())))
    });
    let (gateway, key) = behind(start, &provider).await;
    for (rows, format) in FORMATS.into_iter().enumerate() {
        let answer = format.call(&gateway, &key, &format.streamed(0)).await.expect(200);
        let seen = answer.text();
        assert_eq!(seen, format.events(&PIECES)[..4].concat() + format.failure(), "as it came");
        let row = settled_row(&gateway, rows).await;
        assert_eq!(row["status"], "error", "{row}");
    }
}

async fn silence_is_a_timeout_before_the_answer_and_an_error_in_it(start: Builder) {
    let provider = Provider::start(|request| match case(request) {
        0 => Reply::silence(),
        1 => Reply::events([Step::Silence]),
        _ => format::of(request).reply(request, &PIECES).before(4, Step::Silence),
    });
    let start = start
        .config("first_byte_timeout_s: 1\nidle_timeout_s: 1\nstreaming_keepalive_interval_ms: 0");
    let (gateway, key) = behind(start, &provider).await;
    let mut rows = 0;
    for format in FORMATS {
        for case in 0..3 {
            let answer = format.call(&gateway, &key, &format.streamed(case)).await;
            if case < 2 {
                let refusal = format.refused(&answer, 504);
                assert_eq!(format.sentence(&refusal), "LLM provider timeout");
            } else {
                let seen = answer.expect(200).text();
                assert!(seen.starts_with(&format.events(&PIECES)[..4].concat()), "{seen}");
                ends_with_an_error(format, &seen);
            }
            rows += 1;
            provider.aborted(rows).await;
            let row = settled_row(&gateway, rows - 1).await;
            assert_eq!(row["status"], "error", "{row}");
        }
    }
}

async fn a_silent_stream_is_kept_alive_in_its_dialect(start: Builder) {
    let gate = Gate::closed();
    let held = gate.clone();
    let provider =
        Provider::start(move |request| format::of(request).reply(request, &PIECES).gated(2, &held));
    let start = start.config("streaming_keepalive_interval_ms: 50");
    let (gateway, key) = behind(start, &provider).await;
    for (rows, (format, sign)) in [
        (Format::Messages, "event: ping\ndata: {\"type\": \"ping\"}\n\n"),
        (Format::Responses, ": keepalive\n\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let events = format.events(&PIECES);
        let mut answer = format.open(&gateway, &key, &format.streamed(0)).await;
        let mut seen = read_until(&mut answer, &format!("{}{sign}{sign}", events[1])).await;
        gate.open(events.len());
        seen += &read_rest(&mut answer).await;
        // The provider's own ping is one of its events.
        assert!(seen.ends_with(events.last().expect("events")), "and then it goes on: {seen}");
        let row = settled_row(&gateway, rows).await;
        assert_eq!((&row["status"], &row["cost"]), (&json!("success"), &json!(COST)), "{row}");
        // What is left of the gate's permits must not reach the next call.
        let left = gate.drain();
        assert!(left <= events.len(), "{left}");
    }
}

async fn a_stream_ends_when_its_hold_cannot_grow(start: Builder) {
    let text = "four chars of text in a token ".repeat(4);
    let provider = Provider::start(move |request| {
        let format = format::of(request);
        format.reply(request, &[&text, " and the rest"]).before(4, Step::Sleep(500))
    });
    // The first step of 4 output tokens costs 0.008 and the prompt a little; a second one does not fit.
    let gateway = both(start, &provider).config("stream_hold_output_tokens: 4").await;
    for (rows, format) in FORMATS.into_iter().enumerate() {
        let budget = gateway.budget(0.01).await;
        let user = format!("u-{}", format.provider());
        gateway.user(&user, Some(&budget)).await;
        let key = gateway.key(&user).await;
        let limit = json!({"stream": true, "max_tokens": 64_000, "max_output_tokens": 64_000});
        let answer = format.call(&gateway, &key, &format.ask_with(limit)).await.expect(200);
        let seen = answer.text();
        assert!(seen.contains("has exceeded budget limit"), "the caller is told: {seen}");
        assert!(!seen.contains("and the rest"), "and gets no more: {seen}");
        let row = gateway.usage(rows + 1).await.remove(0);
        assert_eq!(
            (&row["status"], &row["error_message"]),
            (&json!("error"), &json!("budget_exceeded"))
        );
        let cost = row["cost"].as_f64();
        assert!(cost.is_some_and(|cost| (0.008..=0.01).contains(&cost)), "the cap holds: {row}");
        gateway.settled(&user).await;
    }
}

async fn an_answer_without_sense_is_502(start: Builder) {
    let provider = Provider::start(|request| match case(request) {
        0 => Reply::bytes(200, "text/html", "<html>captive portal</html>"),
        1 => Reply::bytes(200, "application/json", "{\"half\":"),
        _ => Reply::json(200, &json!({"error": {"type": "overloaded_error", "message": "no"}})),
    });
    let (gateway, key) = behind(start, &provider).await;
    let mut rows = 0;
    for format in FORMATS {
        for case in 0..3 {
            let answer = format.call(&gateway, &key, &format.ask_with(json!({"case": case}))).await;
            format.refused(&answer, 502);
            assert_eq!(settled_row(&gateway, rows).await["status"], "error");
            rows += 1;
        }
    }
    assert_eq!(gateway.settled("u").await, 0.0);
}

async fn a_stopping_gateway_ends_what_is_open(start: Builder) {
    let gate = Gate::closed();
    let provider =
        Provider::start(move |request| format::of(request).reply(request, &PIECES).gated(4, &gate));
    let (mut gateway, key) = behind(start.config("drain_s: 1"), &provider).await;
    for (rows, format) in FORMATS.into_iter().enumerate() {
        let mut answer = format.open(&gateway, &key, &format.streamed(0)).await;
        let seen = read_until(&mut answer, &format.events(&PIECES)[3]).await;
        gateway.terminate().await;
        let rest = tokio::time::timeout(Duration::from_secs(15), read_rest(&mut answer)).await;
        ends_with_an_error(format, &(seen + &rest.expect("an end")));
        gateway.restart().await;
        let row = settled_row(&gateway, rows).await;
        assert_eq!(row["status"], "error", "{row}");
        assert!(row["cost"].as_f64().is_some_and(|cost| cost > 0.0), "{row}");
    }
}

on_both_databases!(
    behind_the_last_event_nothing_can_break,
    a_stream_cut_by_the_provider_ends_with_an_error_event,
    a_caller_who_hangs_up_pays_for_what_was_produced,
    a_caller_who_hangs_up_at_the_end_has_the_answer,
    a_caller_who_leaves_before_the_answer_is_settled_once,
    a_providers_error_before_the_answer_is_a_status,
    a_providers_error_in_the_answer_is_passed_on_and_an_error,
    silence_is_a_timeout_before_the_answer_and_an_error_in_it,
    a_silent_stream_is_kept_alive_in_its_dialect,
    a_stream_ends_when_its_hold_cannot_grow,
    an_answer_without_sense_is_502,
    a_stopping_gateway_ends_what_is_open,
);
