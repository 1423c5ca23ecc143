//! Where calls go, and in which format.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::providers::{PROVIDERS, find};
use crate::secret::Secret;
use crate::upstream::Draft;

const CHAT: &str = r#"{"model":"x","messages":[{"role":"user","content":"Hi"}]"#;
const MESSAGES: &str = r#"{"model":"x","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]"#;
const RESPONSES: &str = r#"{"model":"x","input":"Hi""#;

fn request(protocol: Protocol, rest: &str) -> Request {
    let start = match protocol {
        Protocol::Chat => CHAT,
        Protocol::Messages => MESSAGES,
        Protocol::Responses => RESPONSES,
    };
    Request::read(protocol, &Bytes::from(format!("{start}{rest}}}"))).unwrap()
}

fn upstream(provider: &str, base: Option<&str>, settings: &[(&str, &str)]) -> Upstream {
    let kind = find(provider).unwrap();
    let settings: Vec<(String, Secret)> =
        settings.iter().map(|(name, text)| ((*name).into(), Secret::new(*text))).collect();
    let base = base.map_or_else(|| kind.base(&settings).unwrap().into_owned(), str::to_owned);
    Upstream::new(&Draft {
        instance: provider,
        kind,
        base_url: &base,
        api_key: Some(&Secret::new("k")),
        headers: &[],
        client_settings: &settings,
        max_retries: 0,
        first_byte_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        address: None,
    })
    .unwrap()
}

/// Provider, base, settings, who calls, whether as a stream, the model, and the path that comes of it.
type Case<'a> =
    (&'a str, Option<&'a str>, &'a [(&'a str, &'a str)], Protocol, bool, &'a str, &'a str);

fn check(cases: &[Case<'_>]) {
    for (provider, base, settings, protocol, stream, model, path) in cases {
        let upstream = upstream(provider, *base, settings);
        let request = request(*protocol, &format!(r#","stream":{stream}"#));
        let way = upstream.way(&request, model).unwrap();
        assert_eq!(way.path, *path, "{provider} {protocol:?}");
    }
}

#[test]
fn calls_go_where_each_vendor_has_them() {
    use Protocol::{Chat, Messages, Responses};
    check(&[
        ("openai", None, &[], Chat, false, "gpt-x", "/v1/chat/completions"),
        ("openai", None, &[], Responses, true, "gpt-x", "/v1/responses"),
        ("openai", None, &[], Messages, true, "gpt-x", "/v1/chat/completions"),
        ("groq", Some("https://g.example"), &[], Chat, false, "m", "/openai/v1/chat/completions"),
        ("meta", None, &[], Messages, false, "m", "/v1/messages"),
        ("anthropic", None, &[], Chat, true, "claude-x", "/v1/messages"),
        ("anthropic", Some("http://h/v1"), &[], Messages, true, "claude-x", "/v1/messages"),
        ("azureanthropic", None, &[("resource", "r")], Chat, false, "c", "/anthropic/v1/messages"),
        ("mistral", None, &[], Chat, true, "m", "/v1/chat/completions"),
        ("cohere", None, &[], Chat, true, "m", "/v2/chat"),
        ("cohere", Some("https://api.cohere.com/v1"), &[], Chat, true, "m", "/v2/chat"),
        ("ollama", None, &[], Chat, true, "m", "/api/chat"),
        ("ollama", Some("http://h:1/v1"), &[], Chat, true, "m", "/api/chat"),
    ]);
}

#[test]
fn models_of_clouds_stand_in_the_path() {
    use Protocol::{Chat, Messages};
    let google: &[_] = &[("project", "p-1"), ("location", "europe-west4")];
    let aws: &[_] = &[("region_name", "us-east-1")];
    let vertex = "/projects/p-1/locations/europe-west4/publishers";
    check(&[
        ("gemini", None, &[], Chat, false, "gemini-x", "/v1beta/models/gemini-x:generateContent"),
        (
            "gemini",
            Some("http://h/v1beta"),
            &[],
            Messages,
            true,
            "models/gemini-x",
            "/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
        ),
        (
            "vertexai",
            None,
            google,
            Chat,
            true,
            "gemini-x",
            &format!("/v1beta1{vertex}/google/models/gemini-x:streamGenerateContent?alt=sse"),
        ),
        (
            "vertexaianthropic",
            None,
            google,
            Messages,
            false,
            "claude-x@20250514",
            &format!("/v1{vertex}/anthropic/models/claude-x@20250514:rawPredict"),
        ),
        (
            "bedrock",
            None,
            aws,
            Chat,
            true,
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.m-v1:0",
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.m-v1%3A0/converse-stream",
        ),
        ("sagemaker", None, aws, Chat, false, "e", "/endpoints/e/invocations"),
    ]);
}

#[test]
fn clouds_with_versions_are_told_theirs() {
    use Protocol::{Chat, Messages, Responses};
    check(&[
        (
            "azureopenai",
            Some("https://r.openai.azure.com"),
            &[("api_version", "2024-10-21")],
            Messages,
            false,
            "my deployment",
            "/openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21",
        ),
        (
            "azureopenai",
            Some("https://r.openai.azure.com/openai"),
            &[],
            Responses,
            false,
            "d",
            "/openai/responses?api-version=preview",
        ),
        (
            "azureopenai",
            Some("https://r.openai.azure.com/openai/v1"),
            &[],
            Chat,
            false,
            "d",
            "/openai/v1/chat/completions",
        ),
        (
            "azure",
            Some("https://a.example/models"),
            &[],
            Chat,
            false,
            "m",
            "/models/chat/completions?api-version=2024-05-01-preview",
        ),
        (
            "watsonx",
            Some("https://w.example"),
            &[],
            Chat,
            true,
            "m",
            "/ml/v1/text/chat_stream?version=2024-10-08",
        ),
    ]);
}

#[test]
fn the_same_format_passes_and_others_are_translated() {
    let all = [Protocol::Chat, Protocol::Messages, Protocol::Responses];
    for kind in PROVIDERS.iter().filter(|kind| kind.generates()) {
        let settings = [("project", "p"), ("region_name", "r"), ("resource", "r")];
        let upstream = upstream(kind.name, Some("http://127.0.0.1:1"), &settings);
        for protocol in all {
            let way = upstream.way(&request(protocol, ""), "m").unwrap();
            let is_dialect = matches!(kind.family, Family::Mistral | Family::Watsonx);
            let passes = kind.has_native(protocol) && !is_dialect;
            assert_eq!(way.same_request, passes, "{} {protocol:?}", kind.name);
            assert!(way.same_request || !way.same_answer, "{}", kind.name);
            assert_eq!(way.spoken.provider, kind.name);
        }
    }
    let voyage = upstream("voyage", None, &[]);
    assert_eq!(voyage.way(&request(Protocol::Chat, ""), "m").err(), Some(NoWay::Unserved));
}

#[test]
fn a_models_name_stays_in_its_place() {
    let google = [("project", "p"), ("region_name", "us-east-1")];
    for provider in
        ["gemini", "vertexai", "vertexaianthropic", "bedrock", "sagemaker", "azureopenai"]
    {
        let upstream = upstream(provider, Some("https://h.example"), &google);
        let way = |model: &str| upstream.way(&request(Protocol::Chat, ""), model);
        for evil in ["..", ".", ""] {
            assert_eq!(way(evil).err(), Some(NoWay::Model), "{provider} {evil:?}");
        }
        for evil in ["a/../../admin", "a?key=1", "a#b", "a%2f..", "é\n", "models/../x"] {
            let path = way(evil).unwrap().path;
            let ours = way("MODEL").unwrap().path;
            let slashes = |path: &PathAndQuery| path.path().matches('/').count();
            assert_eq!(slashes(&path), slashes(&ours), "{provider} {evil:?} {path}");
            assert_eq!(path.query(), ours.query(), "{provider} {evil:?} {path}");
            assert!(!path.path().split('/').any(|part| part == ".."), "{path}");
        }
    }
}

#[test]
fn settings_cannot_leave_their_place_either() {
    for (provider, name, evil) in [
        ("vertexai", "project", "p/../x"),
        ("vertexai", "location", "x/y"),
        ("vertexai", "project", ".."),
        ("azureopenai", "api_version", "1&a=b"),
        ("watsonx", "api_version", "#"),
    ] {
        let settings = [("project", "p"), (name, evil)];
        let settings = if name == "project" { &settings[1..] } else { &settings[..] };
        let upstream = upstream(provider, Some("https://h.example"), settings);
        let way = upstream.way(&request(Protocol::Chat, ""), "m");
        assert_eq!(way.err(), Some(NoWay::Setting(name)), "{provider}");
    }
    let upstream = upstream("vertexai", Some("https://h.example"), &[]);
    let way = upstream.way(&request(Protocol::Chat, ""), "m");
    assert_eq!(way.err(), Some(NoWay::Setting("project")));
}
