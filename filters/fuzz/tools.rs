//! The target of the tools that the gateway runs: any bytes as a request that asks for them, as a whole answer, and as
//! the stream of a round.

use bytes::Bytes;
use otari_filters::guardrails::{Builtin, input_text, output_text};
use otari_filters::protocol::{Protocol, Request};
use otari_filters::tools::{
    self, Ending, Loop, Marks, Offer, Options, Owned, SearchTool, Step, Tally, ToolResult, Wanted,
};
use serde_json::Map;

use super::{Input, PROTOCOLS, check_growth, check_json, is_json, same};

/// A second round, in each format: it begins and ends.
const SECOND: [&str; 3] = [
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"x\"},\"finish_reason\":null}]}\n\ndata: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":1}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"output\":[],\"usage\":{\"input_tokens\":1}}}\n\n",
];

pub(super) fn tools(input: &Input<'_>) {
    for (protocol, second) in PROTOCOLS.into_iter().zip(SECOND) {
        request(input, protocol);
        answer(input, protocol);
        stream(input, protocol, second);
    }
}

fn owned() -> Owned {
    ["web_search".to_owned(), "f".to_owned()].into_iter().collect()
}

fn results(calls: &[tools::ToolCall]) -> Vec<ToolResult> {
    let result = |call: &tools::ToolCall| ToolResult {
        id: call.id.clone(),
        text: "r".to_owned(),
        sources: Vec::new(),
    };
    calls.iter().map(result).collect()
}

/// What is claimed of a request, and its first two rounds.
fn request(input: &Input<'_>, protocol: Protocol) {
    let body = Bytes::copy_from_slice(input.bytes);
    input_text(protocol, &body);
    if let Some(stripped) = tools::strip_marks(protocol, &body) {
        check_json(body.len(), &stripped, "marks");
    }
    let Ok(read) = Request::read(protocol, &body) else { return };
    let wanted = tools::claim(&read, &body, input.has(1)).expect("what was read has no faults");
    assert!(wanted.rounds >= 1 && wanted.rounds <= tools::MAX_ROUNDS);
    let same = tools::prepare(protocol, &body, &Wanted::default(), &Offer::default());
    assert!(same.map_or(true, |same| same == body), "nothing wanted, nothing changed");
    let search = SearchTool::default();
    let offer = Offer::search(wanted.search.as_ref().unwrap_or(&search), None);
    let Ok(first) = tools::prepare(protocol, &body, &wanted, &offer) else { return };
    check_json(body.len(), &first, "prepare");
    assert!(Request::read(protocol, &first).is_ok(), "{}", String::from_utf8_lossy(&first));
    let result = ToolResult { id: "t".into(), text: "\"\u{1}".into(), sources: Vec::new() };
    let turn = tools::Turn::default();
    if let Ok(next) = tools::append(protocol, &first, &turn, &[result]) {
        check_json(first.len(), &next, "append");
        assert!(Request::read(protocol, &next).is_ok(), "{}", String::from_utf8_lossy(&next));
    }
}

/// What a whole answer asks for, and what the caller sees of it.
fn answer(input: &Input<'_>, protocol: Protocol) {
    let body = Bytes::copy_from_slice(input.bytes);
    let text = output_text(protocol, &body);
    for profile in ["otari_pii", "otari_secrets"] {
        let check = Builtin::named(profile, &Map::new()).expect("it is built in");
        check.expect("it needs no options").check(&text);
    }
    let mut tally = Tally::default();
    let answered = tools::read_answer(protocol, &body, &owned());
    if let Some(answered) = &answered {
        tally.add(answered.usage.as_ref());
        if input.has(2) {
            tally.add(answered.usage.as_ref());
        }
        assert!(
            !matches!(&answered.step, Step::Run(calls) | Step::Mixed(calls) if calls.is_empty())
        );
    }
    let seen = tools::write_answer(protocol, &body, &owned(), &tally, &Marks::default());
    if is_json(&body) && std::str::from_utf8(&body).is_ok() {
        check_json(body.len(), &seen, "answer");
    } else {
        assert_eq!(seen, body, "what is no answer passes");
    }
}

/// What the caller sees of two rounds' streams.
fn stream(input: &Input<'_>, protocol: Protocol, second: &'static str) {
    let options =
        Options { shows_usage: input.has(1), marks_search: input.has(2), chains: input.has(4) };
    let (seen, _) = same(input, "loop", |pieces| {
        let mut stream = Loop::new(protocol, owned(), options);
        let mut out = Vec::new();
        for piece in pieces {
            stream.feed(Bytes::copy_from_slice(piece), &mut out);
        }
        let end = stream.round_end(&mut out);
        assert!(end.step == Step::Done || end.ending == Ending::Complete);
        stream.results(&results(end.step.calls()), &mut out);
        if matches!(end.step, Step::Run(_)) {
            let turn = format!("[{}]", String::from_utf8_lossy(end.turn.as_bytes()));
            assert!(is_json(turn.as_bytes()), "{turn}");
            stream.feed(Bytes::from_static(second.as_bytes()), &mut out);
            assert_eq!(stream.round_end(&mut out).ending, Ending::Complete);
        }
        if end.ending == Ending::Complete {
            stream.finish(&mut out);
        }
        (out.concat(), format!("{end:?}"))
    });
    check_growth(input.bytes.len(), seen.len(), "loop");
}
