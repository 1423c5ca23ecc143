//! Marks of searches: put into answers, taken out of what comes back.

use serde_json::json;

use super::{Chat, Messages, Responses, owned, result};
use crate::tools::*;

#[test]
fn our_marks_do_not_come_back_to_a_provider() {
    let call = marks::id(
        marks::MESSAGES_ID,
        1,
        &ToolCall { id: "t".into(), name: "n".into(), arguments: Map::new() },
    );
    let using = json!({"type": "server_tool_use", "id": call, "name": "web_search", "input": {}});
    let found = marks::messages_result(&call, Some(&[]));
    let theirs =
        json!({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}});
    let body = json!({"messages": [{"role": "assistant", "content": [using, found, theirs]},
        {"role": "assistant", "content": [using]}, {"role": "user", "content": "a"}]});
    let stripped = strip_marks(Messages, &Bytes::from(body.to_string())).unwrap();
    let stripped: Value = serde_json::from_slice(&stripped).unwrap();
    let want = json!({"messages": [{"role": "assistant", "content": [theirs]}, {"role": "user", "content": "a"}]});
    assert_eq!(stripped, want);
    let item = json!({"type": "web_search_call", "id": "ws_otari_ab", "status": "completed"});
    let own = json!({"type": "web_search_call", "id": "ws_1"});
    let body = Bytes::from(
        json!({"input": [item, own, {"role": "user", "content": "ws_otari_"}]}).to_string(),
    );
    let stripped: Value = serde_json::from_slice(&strip_marks(Responses, &body).unwrap()).unwrap();
    assert_eq!(stripped["input"].as_array().unwrap().len(), 2);
    for (protocol, body) in [
        (Messages, r#"{"messages":[{"role":"user","content":"srvtoolu_otari_"}]}"#),
        (Responses, r#"{"input":"ws_otari_"}"#),
        (Chat, r#"{"messages":[]}"#),
    ] {
        assert_eq!(strip_marks(protocol, &Bytes::from_static(body.as_bytes())), None);
    }
}

#[test]
fn searches_are_marked_in_front_of_what_was_said() {
    let call = |id: &str| ToolCall {
        id: id.into(),
        name: WEB_SEARCH.into(),
        arguments: json!({"query": "cats"}).as_object().unwrap().clone(),
    };
    let other = ToolCall { name: "run".into(), ..call("x") };
    let mut marks = Marks::default();
    let source = Source { title: "T".into(), url: "https://t.example".into() };
    let found = ToolResult { sources: vec![source], ..result("t", "[1] T") };
    marks.add(&[call("t"), other], &[found, result("x", "1")]);
    marks.add(&[call("t")], &[result("t", "[tool error] web_search failed: no")]);
    let written = |protocol, answer: &Value| -> Value {
        let answer = Bytes::from(answer.to_string());
        let written = write_answer(protocol, &answer, &owned(), &Tally::default(), &marks);
        serde_json::from_slice(&written).unwrap()
    };
    let message = json!({"content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn"});
    let message = written(Messages, &message);
    let kinds: Vec<&Value> =
        message["content"].as_array().unwrap().iter().map(|b| &b["type"]).collect();
    let pair = ["server_tool_use", "web_search_tool_result"];
    assert_eq!(kinds, [pair[0], pair[1], pair[0], pair[1], "text"]);
    assert_eq!(message["content"][0]["input"]["query"], "cats");
    assert_eq!(message["content"][1]["content"][0]["url"], "https://t.example");
    assert_eq!(message["content"][3]["content"]["error_code"], "unavailable");
    assert_ne!(message["content"][0]["id"], message["content"][2]["id"], "one id in two rounds");
    let response = written(Responses, &json!({"output": [{"type": "message"}]}));
    let states: Vec<&Value> =
        response["output"].as_array().unwrap().iter().map(|i| &i["status"]).collect();
    assert_eq!(states, [&json!("completed"), &json!("failed"), &Value::Null]);
    let echoed = json!({"messages": [{"role": "assistant", "content": message["content"]}]});
    let stripped = strip_marks(Messages, &Bytes::from(echoed.to_string())).unwrap();
    let stripped: Value = serde_json::from_slice(&stripped).unwrap();
    assert_eq!(stripped["messages"][0]["content"].as_array().unwrap().len(), 1);
}
