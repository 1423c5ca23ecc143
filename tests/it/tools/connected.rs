//! Connected mode: what the platform is told of a loop, and servers of the workspace.

use otari::mock::platform::{Rule, Seen as Told, Then};
use serde_json::{Value, json};

use super::{Way, ways};
use crate::support::caller::{Api, Seen};
use crate::support::gateway::{Builder, Gateway};
use crate::support::mcp::{Real, entry, result_of, scripted, text_result};
use crate::support::model::{calls, model, offered, provider, results, says, sum};
use crate::support::platform::{GATEWAY_TOKEN, Platform, USER_TOKEN};
use crate::support::provider::{Provider, Reply};

/// A platform, and a gateway before it. The model `o` is at a provider of OpenAI's kind, `a` of Anthropic's.
pub(super) struct Workspace {
    pub(super) platform: Platform,
    pub(super) gateway: Gateway,
    looked_at: usize,
}

/// Some server of the workspace's.
pub(super) const ID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

impl Workspace {
    pub(super) async fn new(model: &Provider) -> Self {
        Self::with(model, |_, start| start).await
    }

    pub(super) async fn with(
        model: &Provider,
        change: impl FnOnce(&Platform, Builder) -> Builder,
    ) -> Self {
        let mut platform = Platform::start().await;
        platform.plan("o", &[("openai", model)]);
        platform.plan("a", &[("anthropic", model)]);
        let start = Gateway::start().connected(&platform).config("circuit_breaker_failures: 0");
        let gateway = change(&platform, start).await;
        Self { platform, gateway, looked_at: 0 }
    }

    pub(super) async fn call(&self, way: Way, fields: Value) -> Seen {
        let mut body = way.ask(fields);
        body["model"] = json!(&way.model[..1]);
        way.api.call(&self.gateway, USER_TOKEN, &body, way.streams).await
    }

    /// The next reports; panics when there are more by now.
    pub(super) async fn reports(&mut self, count: usize) -> Vec<Told> {
        let mut all = self.platform.eventually_reports(self.looked_at + count).await;
        let new = all.split_off(self.looked_at);
        assert_eq!(new.len(), count, "{new:#?}");
        self.looked_at += count;
        new
    }

    /// What was asked of the platform beside plans and reports: path and body.
    pub(super) fn asked(&self) -> Vec<(String, Value)> {
        let others = self.platform.others();
        let asked = others.iter().filter(|seen| seen.path.contains("/gateway/"));
        asked.map(|seen| (seen.path.replace("/api/v1", ""), seen.json())).collect()
    }

    /// Panics unless the protocol was kept and all reports were looked at.
    pub(super) async fn finish(mut self) {
        self.reports(0).await;
        let ended = self.gateway.terminate().await;
        assert!(ended.success(), "{ended}\n{}", self.gateway.log());
        self.platform.assert_clean();
        assert_eq!(self.platform.counts().accepted as usize, self.looked_at);
        for secret in [USER_TOKEN, GATEWAY_TOKEN] {
            assert!(!self.gateway.log().contains(secret), "{}", self.gateway.log());
        }
    }
}

/// One way of all.
pub(super) fn way() -> Way {
    ways().next().expect("some way")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_is_one_report_with_the_sum_of_its_rounds() {
    let uses = |round: usize| [100 + 7 * round as u64, 40 + round as u64, 9 + 2 * round as u64];
    let model = model(move |asked| {
        let turn = if asked.round < 4 { calls([("count", json!({}))]) } else { says("done") };
        turn.using(uses(asked.round))
    });
    let mut workspace =
        Workspace::with(&model, |_, start| start.config("enable_metrics: true")).await;
    for way in ways() {
        let server = Real::new("json", way.tag("report"));
        let fields = json!({"mcp_servers": [entry("s", &server.url())], "session_label": "label"});
        let seen = workspace.call(way, fields).await.good();
        assert_eq!((&*seen.text, seen.usage), ("done", Some((570, 65))), "{way:?}: {}", seen.raw);
        let report = workspace.reports(1).await.remove(0).json();
        // Anthropic counts what came from a cache beside the prompt, whoever asked.
        let prompt = if way.model == "a:m" && way.api == Api::Messages { 360 } else { 570 };
        let usage = &report["usage"];
        assert_eq!(
            (&report["status"], &report["is_final_attempt"]),
            (&json!("success"), &json!(true))
        );
        assert_eq!(report["session_label"], "label");
        assert_eq!(usage["completion_tokens"], 65, "{way:?}: {report}");
        assert_eq!(usage["cache_read_tokens"], 210, "{way:?}: {report}");
        assert!(
            [570, 360].contains(&usage["prompt_tokens"].as_u64().unwrap_or_default()),
            "{way:?}: {report}"
        );
        if way.api == Api::Chat && way.model == "o:m" {
            assert_eq!(usage["prompt_tokens"], prompt, "{report}");
        }
        let cost =
            format!("{:.6}", (usage["prompt_tokens"].as_f64().unwrap_or_default() + 130.0) / 1e6);
        assert!(
            seen.raw.contains(&format!("\"cost_usd\":\"{cost}\"")),
            "{way:?}: {cost} in {}",
            seen.raw
        );
        server.ended(1).await;
        let sent = model.requests().pop().expect("a round");
        assert!(!sent.text().contains("session_label"), "{}", sent.text());
    }
    assert_eq!(workspace.platform.resolves().len(), 12, "one plan for all rounds");
    let metrics = workspace.gateway.get("/metrics").await.text();
    let total: f64 = (metrics.lines())
        .filter(|line| {
            line.starts_with("gateway_tokens_total{") && line.contains("type=\"output\"")
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(total, 12.0 * 65.0, "{metrics}");
    workspace.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_stand_for_the_servers_of_the_workspace() {
    let model = model(|asked| match asked.round {
        0 => calls([("add", json!({"a": 1, "b": 2})), ("mine__add", json!({"a": 1, "b": 2}))]),
        _ => says("ok"),
    });
    let mut workspace = Workspace::new(&model).await;
    for way in ways() {
        let (own, kept) = (Real::new("json", way.tag("ids")), Real::new("other", way.tag("ids")));
        let servers = json!([{"id": 7, "name": "mine", "url": kept.url(), "purpose_hint": "for sums", "allowed_tools": ["add"]}]);
        workspace.platform.edit(|script| {
            script.mcp = vec![Rule::always(Then::json(200, json!({"servers": servers})))]
        });
        let ids = json!([ID.to_uppercase()]);
        let fields = json!({"mcp_servers": [entry("own", &own.url())], "mcp_server_ids": ids});
        workspace.call(way, fields).await.good();
        let last = model.requests().pop().expect("a round");
        let came: Vec<String> = results(&last).into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            came,
            ["the sum is 3", "the other sum is 3"],
            "the request's own stand first: {way:?}"
        );
        let names = offered(&last);
        assert!(
            names.contains(&"mine__add".to_owned()) && !names.contains(&"sub".to_owned()),
            "{names:?}"
        );
        assert!(last.text().contains("- mine: for sums"), "{}", last.text());
        assert!(!last.text().contains("mcp_server"), "{}", last.text());
        workspace.reports(1).await;
    }
    let asked = workspace.asked();
    assert_eq!(asked.len(), 12);
    assert_eq!(asked[0], ("/gateway/mcp-servers/resolve".into(), json!({"mcp_server_ids": [ID]})));
    workspace.finish().await;
}

/// Each refusal of the platform, and addresses that the gateway does not go to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ids_cannot_stand_for_is_refused_and_reported_to_nobody() {
    let model = model(|_| says("never"));
    let mut workspace = Workspace::new(&model).await;
    let token = "hunter2-hunter2";
    let at = |url: &str| {
        Then::json(
            200,
            json!({"servers": [{"name": "s", "url": url, "authorization_token": token}]}),
        )
    };
    let inside = "MCP server host '10.0.0.1' resolves to 10.0.0.1 which is in a private range (RFC 1918 / ULA); rejecting \
                  to prevent SSRF. Set OTARI_MCP_ALLOW_PRIVATE_HOSTS=true to override.";
    let plain = "MCP server URL must use https when an authorization_token is set";
    for (then, status, said) in [
        (at("https://10.0.0.1/mcp"), 400, inside),
        (at("http://127.0.0.1:1/mcp"), 400, plain),
        (Then::json(404, json!({"detail": "no such server"})), 404, "no such server"),
        (Then::json(403, json!({"detail": "not yours"})), 403, "not yours"),
        (Then::status(500), 502, "Authorization service unavailable"),
        (Then::json(200, json!([])), 502, "Authorization service unavailable"),
    ] {
        workspace.platform.edit(|script| script.mcp = vec![Rule::always(then)]);
        for way in ways().filter(|way| way.model == "o:m") {
            let seen = workspace.call(way, json!({"mcp_server_ids": [ID]})).await;
            assert_eq!(
                (seen.status, seen.error.as_deref()),
                (status, Some(said)),
                "{way:?}: {}",
                seen.raw
            );
            assert!(!seen.raw.contains(token), "{}", seen.raw);
        }
    }
    let wrong = workspace.call(way(), json!({"mcp_server_ids": ["no uuid"]})).await;
    assert_eq!(wrong.status, 422, "{}", wrong.raw);
    assert_eq!(model.count(), 0);
    assert!(!workspace.gateway.log().contains(token));
    workspace.finish().await;
}

/// The walk goes on until the first answer of a loop, and not behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_stays_with_the_attempt_that_answered_first() {
    let down = || Reply::json(500, &json!({"error": {"message": "down"}}));
    let first = provider(move |_| down());
    let second = provider(move |asked| match asked.round {
        0 => asked.answer(calls([("one", json!({}))]).saying("One. ")),
        1 if asked.words() == "hi" => asked.answer(says("Two.")),
        _ => down(),
    });
    let third = provider(|asked| asked.answer(says("never")));
    let server = scripted(|rpc, request| {
        (rpc == "tools/call").then(|| result_of(request, text_result("done")))
    });
    let url = format!("{}/mcp", server.base());
    let mut workspace = Workspace::new(&first).await;
    for name in ["o", "a"] {
        let kind = if name == "o" { "openai" } else { "anthropic" };
        workspace.platform.plan(name, &[(kind, &first), (kind, &second), (kind, &third)]);
    }
    for (at, way) in (1..).zip(ways()) {
        let fields = json!({"mcp_servers": [entry("s", &url)]});
        let seen = workspace.call(way, fields.clone()).await.good();
        assert!(seen.text.ends_with("Two.") && seen.usage == Some(sum(2)), "{way:?}: {}", seen.raw);
        let reports = workspace.reports(2).await;
        let mut told: Vec<(String, bool)> = reports
            .iter()
            .map(|report| (report.text("status").unwrap_or_default(), report.is_final()))
            .collect();
        told.sort();
        assert_eq!(told, [("error".into(), false), ("success".into(), true)], "{way:?}");

        let mut body = way.api.ask(&way.model[..1], "breaks", 50);
        body["mcp_servers"] = fields["mcp_servers"].clone();
        let seen = way.api.call(&workspace.gateway, USER_TOKEN, &body, way.streams).await;
        assert!(seen.error.is_some(), "{way:?}: {}", seen.raw);
        assert_eq!(seen.status, if way.streams { 200 } else { 502 }, "{way:?}: {}", seen.raw);
        let reports = workspace.reports(2).await;
        let ends: Vec<&Told> = reports.iter().filter(|report| report.is_final()).collect();
        assert_eq!((ends.len(), ends[0].text("status").as_deref()), (1, Some("error")), "{way:?}");
        // The last word of the only attempt left is asked for twice more, as of any call.
        assert_eq!((first.count(), second.count()), (2 * at, 6 * at), "{way:?}");
    }
    assert_eq!(third.count(), 0);
    workspace.finish().await;
}

/// What does not answer during the preparation is the attempt's last word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_is_not_there_is_a_final_error() {
    let model = model(|_| says("never"));
    let gone = Provider::never_answers();
    let at = format!("http://{}", gone.addr());
    drop(gone);
    let mut workspace =
        Workspace::with(&model, |_, start| start.config(&format!("sandbox_url: {at}"))).await;
    workspace.platform.edit(|script| {
        script.code_execution = vec![Rule::always(Then::json(200, json!({"enabled": true})))]
    });
    for way in ways() {
        let seen = workspace.call(way, json!({"tools": [{"type": "otari_code_execution"}]})).await;
        assert_eq!(seen.status, 502, "{}", seen.raw);
        assert!(
            seen.error.unwrap_or_default().starts_with("code_execution sandbox unreachable."),
            "{}",
            seen.raw
        );
        let report = workspace.reports(1).await.remove(0);
        let told = (report.text("status"), report.is_final(), report.error_class());
        assert_eq!(told, (Some("error".into()), true, None), "{way:?}");
    }
    assert_eq!(model.count(), 0);
    workspace.finish().await;
}
