//! Toolboxes against scripted servers on loopback.

use std::sync::Arc;
use std::time::Duration;

use otari_filters::secret::Secret;
use otari_filters::tools::{CodeTool, McpServer, SearchTool, ToolCall, ToolResult, Wanted};
use serde_json::{Value, json};

use super::{Kit, Toolbox};
use crate::config::{Env, Sources, load};
use crate::credentials::Credentials;
use crate::documents::Readers;
use crate::outbound::Outbound;
use crate::safety::Safety;
use crate::scripted::{Scripted, mcp_server, on_one_thread, respond, respond_json};

fn kit(yaml: &str) -> Arc<Kit> {
    let env = Env::from_pairs([("OTARI_CONFIG_YAML", yaml)]);
    let config = load(&Sources { env, ..Sources::default() }).unwrap();
    let outbound = Outbound::new(Credentials::new(None));
    Arc::new(Kit::new(&config, Safety::default(), outbound, Readers::default()))
}

fn server(name: &str, url: &str) -> McpServer {
    McpServer {
        name: name.into(),
        url: url.into(),
        authorization_token: None,
        purpose_hint: None,
        allowed_tools: None,
    }
}

fn servers(mcp: Vec<McpServer>) -> Wanted {
    let mut wanted = Wanted::default();
    wanted.mcp.extend(mcp);
    wanted
}

fn code() -> Wanted {
    let mut wanted = Wanted::default();
    wanted.code.replace(CodeTool::default());
    wanted
}

fn call(id: &str, name: &str, arguments: Value) -> ToolCall {
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    ToolCall { id: id.into(), name: name.into(), arguments }
}

fn texts(results: &[ToolResult]) -> Vec<(&str, &str)> {
    results.iter().map(|result| (&*result.id, &*result.text)).collect()
}

/// What is said of a request that cannot begin.
async fn refused(kit: &Arc<Kit>, wanted: &Wanted) -> (u16, String) {
    match Toolbox::open(kit, wanted, None).await {
        Ok(_) => panic!("it opens"),
        Err(refused) => (refused.code.status().as_u16(), refused.message.into_owned()),
    }
}

fn tool(name: &str) -> Value {
    json!({"name": name, "description": "d", "inputSchema": {"type": "object"}})
}

#[test]
fn servers_are_greeted_asked_called_and_left() {
    on_one_thread(async {
        let first = mcp_server(json!([tool("add"), tool("secret")]), |params| {
            assert_eq!(params["arguments"], json!({"a": 1}));
            Some(json!({"content": [{"type": "text", "text": "one"}, {"type": "text", "text": ""},
                {"type": "image", "data": "QUJD", "mimeType": "image/png"},
                {"type": "resource", "resource": {"uri": "file:///r", "text": "t"}}]}))
        })
        .await;
        let second = mcp_server(json!([tool("add"), tool("sub")]), |params| {
            let name = params["name"].as_str().unwrap().to_owned();
            Some(json!({"content": [{"type": "text", "text": name}], "isError": true}))
        })
        .await;
        let one = McpServer {
            allowed_tools: Some(vec!["add".into()]),
            purpose_hint: Some("sums".into()),
            ..server("one", &first.url)
        };
        let wanted = servers(vec![one, server("two", &format!("{}/mcp", second.url))]);
        let tools = Toolbox::open(&kit("{tools_header: Use}"), &wanted, None).await.unwrap();
        let names: Vec<_> = tools.offer().tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["add", "two__add", "sub"]);
        assert_eq!(tools.offer().header.as_deref(), Some("Use"));
        assert!(tools.owned().has("two__add") && !tools.owned().has("secret"));
        let calls = [
            call("1", "add", json!({"a": 1})),
            call("2", "two__add", json!({})),
            call("3", "secret", json!({})),
        ];
        let results = tools.run(&calls).await;
        assert_eq!(
            texts(&results),
            [
                ("1", "one\n[image type=image/png bytes_b64=4]\n[resource uri=file:///r]"),
                ("2", "[tool error] add"),
                ("3", "[tool error] secret failed: there is no such tool"),
            ]
        );
        tools.close().await;
        let methods: Vec<String> = first
            .asked()
            .iter()
            .filter(|asked| asked.method != "GET")
            .map(|asked| {
                format!("{} {}", asked.method, asked.json()["method"].as_str().unwrap_or(""))
            })
            .collect();
        assert_eq!(
            methods,
            [
                "POST initialize",
                "POST notifications/initialized",
                "POST tools/list",
                "POST tools/call",
                "DELETE "
            ]
        );
        let last = second.asked().pop().unwrap();
        assert_eq!((last.method.as_str(), last.path.as_str()), ("DELETE", "/mcp"));
        assert!(last.head.contains("s-1"), "{}", last.head);
    });
}

#[test]
fn servers_that_cannot_be_used_end_the_request() {
    on_one_thread(async {
        let kit = kit("{}");
        for (url, part) in [
            ("http://169.254.169.254/mcp", "link-local"),
            ("http://10.0.0.1/mcp", "private range"),
            ("ftp://a/", "got 'ftp'"),
        ] {
            let (status, said) = refused(&kit, &servers(vec![server("s", url)])).await;
            assert!(status == 400 && said.contains(part), "{status} {said}");
        }
        let token = McpServer {
            authorization_token: Some(Secret::new("hunter2")),
            ..server("s", "http://127.0.0.1:1/")
        };
        let (status, said) = refused(&kit, &servers(vec![token])).await;
        assert!(status == 400 && said.contains("must use https"), "{said}");
        let silent = Scripted::new(|_| respond(500, "", "at 10.0.0.7")).await;
        let page = Scripted::new(|_| respond(200, "content-type: text/html\r\n", "<p>")).await;
        let redirects =
            Scripted::new(|_| respond(307, "location: http://169.254.169.254/latest\r\n", ""))
                .await;
        let lying = Scripted::new(|asked| {
            let id = &asked.json()["id"];
            respond_json(200, &json!({"jsonrpc": "2.0", "id": id, "result": {"tools": "none"}}))
        })
        .await;
        for url in [&silent.url, &page.url, &redirects.url, &lying.url, "http://127.0.0.1:1"] {
            let (status, said) = refused(&kit, &servers(vec![server("mine", url)])).await;
            assert_eq!(status, 502, "{said}");
            assert!(said.starts_with("MCP server 'mine' "), "{said}");
            assert!(!said.contains("10.0.0.7") && !said.contains("127.0.0.1"), "{said}");
        }
    });
}

#[test]
fn a_call_that_fails_is_for_the_model_to_read() {
    on_one_thread(async {
        let tools = json!([tool("big"), tool("odd"), tool("gone"), tool("fine")]);
        let server_ = mcp_server(tools, |params| match params["name"].as_str().unwrap() {
            "big" => Some(json!({"content": [{"type": "text", "text": "x".repeat(10 << 20)}]})),
            "odd" => Some(json!("no result")),
            "gone" => None,
            _ => Some(json!({"content": [{"type": "text", "text": "y".repeat(200_000)}]})),
        });
        let server_ = server_.await;
        let wanted = servers(vec![server("s", &server_.url)]);
        let tools = Toolbox::open(&kit("{}"), &wanted, None).await.unwrap();
        let calls = [call("1", "big", json!({})), call("2", "fine", json!({}))];
        let results = tools.run(&calls).await;
        assert_eq!(results[0].text, "[tool error] big failed: its answer is too large");
        assert!(results[1].text.ends_with("[cut: the first 100000 of 200000 characters]"));
        let odd = tools.run(&[call("3", "odd", json!({}))]).await;
        assert!(odd[0].text.starts_with("[tool error] odd failed: "), "{}", odd[0].text);
        let many: Vec<ToolCall> =
            (0..66).map(|at| call(&at.to_string(), "none", json!({}))).collect();
        let results = tools.run(&many).await;
        assert_eq!((results.len(), &*results[65].id), (66, "65"));
        assert!(results[65].text.contains("a round may have 64 calls"));
        tools.close().await;
    });
}

#[test]
fn code_runs_in_a_session_of_the_sandbox() {
    on_one_thread(async {
        let sandbox = Scripted::new(|asked| match (&*asked.method, &*asked.path) {
            ("POST", "/box/sessions") => respond_json(201, &json!({"session_id": "s-1"})),
            ("POST", "/box/sessions/s-1/exec") => {
                let code = asked.json()["input"]["code"].as_str().unwrap().to_owned();
                match &*code {
                    "broken" => respond_json(200, &json!({"result_block": "none"})),
                    "full" => respond(503, "", "at 10.0.0.7"),
                    _ => respond_json(
                        200,
                        &json!({"result_block": {"content":
                        {"stdout": code, "stderr": "", "return_code": 0, "content": []}}}),
                    ),
                }
            }
            ("DELETE", "/box/sessions/s-1") => respond(204, "", ""),
            _ => respond(404, "", ""),
        })
        .await;
        let kit =
            kit(&format!("{{sandbox_url: '{}/box/', sandbox_purpose_hint: sums}}", sandbox.url));
        let wanted = code();
        let token = Secret::new("tk_1");
        let tools = Toolbox::open(&kit, &wanted, Some(&token)).await.unwrap();
        assert_eq!(tools.offer().hints[0].hint, "sums");
        let run = |id: &str, code: Value| call(id, "code_execution", json!({"code": code}));
        let calls = [
            run("1", "1+1".into()),
            run("2", "broken".into()),
            run("3", "full".into()),
            run("4", 7.into()),
        ];
        let results = tools.run(&calls).await;
        assert_eq!(
            texts(&results),
            [
                ("1", "stdout:\n1+1"),
                ("2", "[tool error] code_execution failed: its answer could not be read"),
                ("3", "[tool error] code_execution failed: it answered with status 503"),
                (
                    "4",
                    "[tool error] code_execution failed: give the program in the argument `code`, as text"
                ),
            ]
        );
        tools.close().await;
        let asked = sandbox.asked();
        assert_eq!(asked[0].json(), json!({}));
        assert_eq!(
            asked[1].json(),
            json!({"tool": "code_execution", "input": {"code": "1+1"}, "timeout_seconds": 60})
        );
        assert_eq!(asked.last().unwrap().method, "DELETE");
        assert!(asked.iter().all(|asked| !asked.head.contains("tk_1")), "no platform, no token");
    });
}

#[test]
fn a_sandbox_without_sessions_ends_the_request() {
    on_one_thread(async {
        let wanted = code();
        for answer in [json!({}), json!({"session_id": "../x"}), json!({"session_id": ".."})] {
            let sandbox = Scripted::new(move |_| respond_json(200, &answer)).await;
            let kit = kit(&format!("sandbox_url: '{}'", sandbox.url));
            let (status, said) = refused(&kit, &wanted).await;
            assert!(
                status == 502 && said.starts_with("code_execution sandbox unreachable."),
                "{said}"
            );
            assert!(!said.contains("127.0.0.1"), "{said}");
        }
        assert_eq!(refused(&kit("{}"), &wanted).await.0, 400, "none is configured");
    });
}

/// A search service, and a page of its results on the same machine.
async fn searxng() -> Scripted {
    Scripted::new(|asked| {
        let path = asked.path.split('?').next().unwrap_or_default().to_owned();
        let host = asked
            .head
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .unwrap_or("")
            .to_owned();
        match &*path {
            "/search" if asked.path.contains("q=broken") => respond(500, "", "at 10.0.0.7"),
            "/search" if asked.path.contains("q=odd") => respond(200, "", "<html>"),
            "/search" => respond_json(
                200,
                &json!({"results": [
                {"url": format!("http://{host}/page"), "title": "Page", "content": "its snippet"},
                {"url": "https://blocked.example/", "title": "B", "content": "no"},
                {"url": "http://169.254.169.254/latest", "title": "", "content": "metadata"},
                {"url": "https://c.example/", "title": "C", "extracted_content": "whole"}]}),
            ),
            _ => {
                let page = format!(
                    "<html><body><nav>menu</nav><main><h1>Title</h1><p>{}</p></main></body></html>",
                    "words ".repeat(120)
                );
                respond(200, "content-type: text/html\r\n", &page)
            }
        }
    })
    .await
}

#[test]
fn searches_find_and_read_pages_that_may_be_read() {
    on_one_thread(async {
        let service = searxng().await;
        let mut search = SearchTool::default();
        search.blocked_domains.push("blocked.example".into());
        let mut wanted = Wanted::default();
        wanted.search.replace(search);
        let kit = kit(&format!("web_search_url: '{}'", service.url));
        let tools = Toolbox::open(&kit, &wanted, None).await.unwrap();
        let search = |id: &str, query: &str| call(id, "web_search", json!({"query": query}));
        let calls =
            [search("1", "cats"), search("2", " "), search("3", "broken"), search("4", "odd")];
        let results = tools.run(&calls).await;
        let page = format!("{}/page", service.url);
        let want = format!(
            "[1] Page\n{page}\nits snippet\n\n[2] (untitled)\nhttp://169.254.169.254/latest\nmetadata\n\n[3] C\n\
             https://c.example/\nwhole"
        );
        assert_eq!(
            results[0].text, want,
            "this machine has no pages, and nor has the metadata service"
        );
        assert_eq!(results[0].sources.len(), 3);
        assert_eq!(results[1].text, "[tool error] empty query");
        assert_eq!(results[2].text, "[tool error] web_search failed: it answered with status 500");
        assert_eq!(results[3].text, "[tool error] web_search failed: its answer could not be read");
        let asked = service.asked();
        assert!(
            asked.iter().all(|asked| asked.path.starts_with("/search?q=")),
            "no page was asked for"
        );
        assert_eq!(
            asked[0].path,
            "/search?q=cats&format=json&engines=duckduckgo%2Cmojeek%2Cqwant%2Cwikipedia"
        );
        tools.close().await;
    });
}

#[test]
fn local_code_runs_apart_from_this_machine() {
    on_one_thread(async {
        let wanted = code();
        let tools = match Toolbox::open(&kit("sandbox_local: true"), &wanted, None).await {
            Ok(tools) => tools,
            // A system that does not allow it says so, and runs nothing.
            Err(refused) => {
                assert!(refused.to_string().contains("this system does not allow it"), "{refused}");
                return;
            }
        };
        let run = |id: &str, code: &str| call(id, "code_execution", json!({"code": code}));
        let calls = [
            run("1", "open('note', 'w').write('kept'); print(1 + 1)"),
            run("2", "print(open('note').read())"),
            run(
                "3",
                "import os; print(os.path.exists('/etc/passwd'), os.path.exists('/home'), dict(os.environ).get('OTARI_MASTER_KEY'))",
            ),
            run("4", "import socket; socket.create_connection(('1.1.1.1', 53), 2)"),
            run("5", "open('/usr/x', 'w')"),
            run("6", "import sys; sys.exit(3)"),
            run("7", "open('big', 'wb').write(b'x' * (1 << 28))"),
            run("8", "print(len(bytearray(2 << 30)))"),
            run(
                "9",
                "import os; print([p for p in os.listdir('/proc') if p.isdigit()].__len__() < 9)",
            ),
        ];
        let results = tools.run(&calls).await;
        let text = |at: usize| results[at].text.as_str();
        assert_eq!(text(0), "stdout:\n2\n\nfiles: note");
        assert_eq!(text(1), "stdout:\nkept\n");
        assert_eq!(text(2), "stdout:\nFalse False None\n");
        assert!(text(3).contains("Network is unreachable"), "{}", text(3));
        assert!(text(4).contains("Read-only file system"), "{}", text(4));
        assert_eq!(text(5), "[tool error] return_code: 3");
        for at in [6, 7] {
            assert!(text(at).starts_with("[tool error] "), "{}", text(at));
        }
        assert_eq!(text(8), "stdout:\nTrue\n");
        tools.close().await;
    });
}

#[test]
fn a_server_that_hangs_is_waited_for_so_long() {
    // Half a minute on the clock of the test, which runs ahead where nothing else happens.
    on_one_thread(async {
        let silent = Scripted::new(|_| None).await;
        let wanted = servers(vec![server("slow", &silent.url)]);
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        let (status, said) = refused(&kit("{}"), &wanted).await;
        assert_eq!(status, 502);
        assert!(said.contains("did not answer in time"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(40));
    });
}
