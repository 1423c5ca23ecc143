//! `otari_code_execution`: a session of a sandbox for one request, the service's or this machine's.

use serde_json::{Value, json};

use super::{Scene, is_billed, ways};
use crate::support::mcp::entry;
use crate::support::model::{calls, model, offered, results, says, sum};
use crate::support::provider::{Provider, Reply, Request, Step};

fn code() -> Value {
    json!({"tools": [{"type": "otari_code_execution"}]})
}

/// A sandbox, below `/box`; what it answers stands in the code.
fn sandbox() -> Provider {
    Provider::start(|request| match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/box/sessions") => {
            Reply::json(201, &json!({"session_id": "s-1", "contract_version": 1}))
        }
        ("POST", "/box/sessions/s-1/exec") => {
            ran(request.json()["input"]["code"].as_str().unwrap_or_default())
        }
        ("DELETE", "/box/sessions/s-1") => Reply::bytes(204, "text/plain", ""),
        _ => Reply::bytes(404, "text/plain", ""),
    })
}

fn ran(code: &str) -> Reply {
    let block = |stdout: &str, stderr: &str, status: i64, files: Value| {
        Reply::json(
            200,
            &json!({"result_block": {"type": "code_execution_tool_result", "content": {
            "stdout": stdout, "stderr": stderr, "return_code": status, "content": files}}}),
        )
    };
    match code {
        "golden" => block("2\n", "warn", 1, json!([{"filename": "a.png"}])),
        "quiet" => block("", "", 0, json!([])),
        "warns" => block("", "careful", 0, json!([])),
        "full" => Reply::bytes(503, "text/plain", "at 10.0.0.7"),
        "odd" => Reply::json(200, &json!({"result_block": "none"})),
        "plain" => Reply::json(200, &json!({"result_block": {"content": "text"}})),
        "resets" => Reply::reset(),
        "slow" => block("slow", "", 0, json!([])).before(0, Step::Sleep(300)),
        other => block(other, "", 0, json!([])),
    }
}

fn base(service: &Provider) -> String {
    format!("http://{}/box", service.addr())
}

fn told(model: &Provider) -> Vec<String> {
    let last = model.requests().pop().expect("a round");
    results(&last).into_iter().map(|(_, text)| text).collect()
}

/// A model that runs these, and is content.
fn running<const N: usize>(programs: [&'static str; N]) -> Provider {
    model(move |asked| match asked.round {
        0 => calls(programs.map(|code| ("code_execution", json!({"code": code})))),
        _ => says("Ran."),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_is_run_in_one_session_and_told_in_the_references_words() {
    let model = running(["golden", "quiet", "warns", "print", "plain", "full", "odd", "resets"]);
    let service = sandbox();
    let config = format!(
        "sandbox_url: {}/\nsandbox_purpose_hint: for sums\ntools_header: \"<h>\"",
        base(&service)
    );
    let scene = Scene::with(&model, |start| start.config(&config)).await;
    for (rows, way) in (1..).zip(ways()) {
        let seen = scene.call(way, code()).await.good();
        assert_eq!((&*seen.text, seen.usage), ("Ran.", Some(sum(2))), "{way:?}: {}", seen.raw);
        let last = model.requests().pop().expect("a round");
        assert_eq!(offered(&last), ["code_execution"]);
        assert!(last.text().contains("<h>\\n- code_execution: for sums"), "{}", last.text());
        let came = told(&model);
        assert_eq!(
            came[..6],
            [
                "[tool error] stdout:\n2\n\nstderr:\nwarn\nreturn_code: 1\nfiles: a.png",
                "(no output)",
                "[tool error] stderr:\ncareful",
                "stdout:\nprint",
                "{\"content\":\"text\"}",
                "[tool error] code_execution failed: it answered with status 503",
            ]
        );
        assert_eq!(came[6], "[tool error] code_execution failed: its answer could not be read");
        assert!(came[7].starts_with("[tool error] code_execution failed: "), "{}", came[7]);
        assert!(
            !last.text().contains("10.0.0.7") && !last.text().contains("127.0.0.1"),
            "{}",
            last.text()
        );
        service.received(10 * rows).await;
        let asked = service.requests();
        // Eight programs, and a beginning and an end.
        let ours: Vec<&Request> = asked.iter().rev().take(10).rev().collect();
        assert_eq!((ours[0].path.as_str(), ours[0].json()), ("/box/sessions", json!({})));
        assert_eq!(
            ours[1].json(),
            json!({"tool": "code_execution", "input": {"code": "golden"}, "timeout_seconds": 60})
        );
        assert_eq!(
            (ours[9].method.as_str(), ours[9].path.as_str()),
            ("DELETE", "/box/sessions/s-1")
        );
        assert!(ours.iter().all(|one| one.header("authorization").is_none()));
        assert_eq!(asked.len(), 10 * rows);
        is_billed(&scene.row(rows).await, sum(2), "success");
    }
    assert_eq!(service.most_at_once(), 1, "one program after the other: they share their files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requests_own_hint_wins_and_no_program_is_a_word_to_the_model() {
    let model = model(|asked| match asked.round {
        0 => calls([("code_execution", json!({})), ("code_execution", json!({"code": 7}))]),
        _ => says("ok"),
    });
    let service = sandbox();
    let config = format!("sandbox_url: {}\nsandbox_purpose_hint: for sums", base(&service));
    let scene = Scene::with(&model, |start| start.config(&config)).await;
    let way = ways().next().expect("some");
    let own = json!({"tools": [{"type": "otari_code_execution", "purpose_hint": "rarely"}]});
    scene.call(way, own).await.good();
    let said =
        "[tool error] code_execution failed: give the program in the argument `code`, as text";
    assert_eq!(told(&model), [said; 2]);
    assert!(model.requests()[0].text().contains("- code_execution: rarely"));
    service.received(2).await;
    let paths: Vec<String> =
        service.requests().iter().map(|request| request.method.clone()).collect();
    assert_eq!(paths, ["POST", "DELETE"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_without_sessions_ends_the_request() {
    let model = running(["print"]);
    let said = "code_execution sandbox unreachable. Check the sandbox URL in the dashboard's Tools settings, or \
                OTARI_SANDBOX_URL, and that the container is running.";
    let none = |status: u16, body: Value| Provider::answers(status, body);
    let services = [
        none(503, json!({"detail": "full, at 10.0.0.7"})),
        none(200, json!({})),
        none(200, json!({"session_id": "../../etc"})),
        Provider::start(|_| Reply::reset()),
    ];
    for service in &services {
        let config = format!("sandbox_url: {}", base(service));
        let scene = Scene::with(&model, |start| start.config(&config)).await;
        for way in ways().filter(|way| way.model == "o:m") {
            let seen = scene.call(way, code()).await;
            assert_eq!(
                (seen.status, seen.error.as_deref()),
                (502, Some(said)),
                "{way:?}: {}",
                seen.raw
            );
            assert!(
                !seen.raw.contains("10.0.0.7") && !seen.raw.contains("127.0.0.1"),
                "{}",
                seen.raw
            );
        }
        assert!(scene.gateway.settled("u").await.abs() < 1e-12);
    }
    assert_eq!(model.count(), 0, "before a byte of an answer, streamed or not");
}

/// The session ends however the request does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_a_request_that_fails() {
    let model = crate::support::model::provider(|asked| match asked.round {
        0 => asked.answer(calls([("code_execution", json!({"code": "print"}))])),
        _ => Reply::json(500, &json!({"error": {"message": "down"}})),
    });
    let service = sandbox();
    let scene =
        Scene::with(&model, |start| start.config(&format!("sandbox_url: {}", base(&service))))
            .await;
    for (at, way) in (1..).zip(ways()) {
        let seen = scene.call(way, code()).await;
        assert!(seen.error.is_some(), "{way:?}: {}", seen.raw);
        crate::support::eventually("the end of the session", async || {
            let ends =
                service.requests().iter().filter(|request| request.method == "DELETE").count();
            (ends >= at).then_some(())
        })
        .await;
    }
}

/// Namespaces of this machine in the place of a service. Where the system does not allow them the gateway says so, and
/// runs nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_runs_on_this_machine_where_it_may() {
    let model = running([
        "open('note', 'w').write('kept'); print(6 * 7)",
        "print(open('note').read())",
        "import os; print(os.path.exists('/etc/passwd'), sorted(os.environ).count('OTARI_MASTER_KEY'))",
        "import socket; socket.create_connection(('127.0.0.1', 1), 2)",
        "import sys; print('to stderr', file=sys.stderr); sys.exit(3)",
    ]);
    let scene = Scene::with(&model, |start| {
        start.config("sandbox_local: true").env("OTARI_MASTER_KEY", crate::support::gateway::MASTER)
    })
    .await;
    let way = ways().next().expect("some");
    let seen = scene.call(way, code()).await;
    if seen.status == 502 {
        assert!(
            seen.error.unwrap_or_default().starts_with("code_execution sandbox unreachable."),
            "{}",
            seen.raw
        );
        assert!(
            scene.gateway.log().contains("this system does not allow it"),
            "{}",
            scene.gateway.log()
        );
        eprintln!("skipped: this system does not allow namespaces to whoever runs the tests");
        return;
    }
    assert_eq!(seen.good().text, "Ran.");
    let came = told(&model);
    assert_eq!(came[0], "stdout:\n42\n\nfiles: note");
    assert_eq!(came[1], "stdout:\nkept\n");
    assert_eq!(came[2], "stdout:\nFalse 0\n");
    assert!(came[3].starts_with("[tool error] stderr:"), "{}", came[3]);
    assert_eq!(came[4], "[tool error] stderr:\nto stderr\n\nreturn_code: 3");
    // The next request finds nothing of it.
    scene.call(way, code()).await.good();
    assert_eq!(told(&model)[0], "stdout:\n42\n\nfiles: note", "the file is new again");
}

/// Nothing of the sandbox is spoken to for what is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_begun_for_what_is_refused() {
    let model = running(["print"]);
    let service = sandbox();
    let scene =
        Scene::with(&model, |start| start.config(&format!("sandbox_url: {}", base(&service))))
            .await;
    let mut fields = code();
    fields["mcp_servers"] = json!([entry("s", "http://127.0.0.1:1/")]);
    for way in ways() {
        assert_eq!(scene.call(way, fields.clone()).await.status, 400);
        let mut body = way.ask(code());
        body["model"] = json!("nobody:m");
        let seen = way.api.call(&scene.gateway, &scene.key, &body, way.streams).await;
        assert_eq!(seen.status, 402, "a model without a price: {}", seen.raw);
        let seen =
            way.api.call(&scene.gateway, "gw-no-such-key", &way.ask(code()), way.streams).await;
        assert_eq!(seen.status, 401, "{}", seen.raw);
    }
    assert_eq!((service.count(), model.count()), (0, 0));
}
