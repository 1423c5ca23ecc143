//! Every family's list, as files: `fixtures/lists/<name>.json` is what is asked for and answered, `<name>.listed.json`
//! what is made of it. `UPDATE_GOLDEN=1` writes the latter anew.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{NoList, NotAList, Page, pages};
use crate::providers;
use crate::secret::Secret;
use crate::upstream::{Draft, Upstream};

fn upstream(kind: &str, base: Option<&str>, settings: &[(&str, &str)]) -> Upstream {
    let kind = providers::find(kind).unwrap();
    let settings: Vec<_> =
        settings.iter().map(|(name, text)| ((*name).to_owned(), Secret::new(*text))).collect();
    let own = kind.base(&settings);
    let base = base.unwrap_or_else(|| own.as_deref().unwrap_or("https://own.example"));
    let second = Duration::from_secs(1);
    Upstream::new(&Draft {
        instance: kind.name,
        kind,
        base_url: base,
        api_key: None,
        headers: &[],
        client_settings: &settings,
        max_retries: 0,
        first_byte_timeout: second,
        idle_timeout: second,
        address: None,
    })
    .unwrap()
}

fn first(kind: &str, base: &str, settings: &[(&str, &str)]) -> Page {
    pages(&upstream(kind, Some(base), settings)).unwrap().remove(0)
}

#[test]
fn every_familys_list_is_asked_for_and_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lists");
    let mut count = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(stem) = name.strip_suffix(".json").filter(|stem| !stem.ends_with(".listed"))
        else {
            continue;
        };
        count += 1;
        let case: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let region = [("region_name", "eu-west-1")];
        let all = pages(&upstream(case["kind"].as_str().unwrap(), None, &region)).unwrap();
        let page = &all[usize::try_from(case["page"].as_u64().unwrap_or(0)).unwrap()];
        assert_eq!(page.path_and_query.as_str(), case["path"], "{stem}");
        let (models, next) = page.read(case["body"].to_string().as_bytes()).unwrap();
        let next = next.map(|page| page.path_and_query.to_string());
        assert_eq!(next.as_deref(), case["next"].as_str(), "{stem}");
        let made = format!("{}\n", serde_json::to_string_pretty(&models).unwrap());
        let golden = folder.join(format!("{stem}.listed.json"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &made).unwrap();
        }
        assert_eq!(made, fs::read_to_string(&golden).unwrap_or_default(), "{stem}");
    }
    assert!(count > 15, "the fixtures are not where this test looks for them");
}

#[test]
fn bases_of_every_spelling_lead_to_the_list() {
    for (kind, base, path) in [
        ("openai", "https://h.example/v1", "/v1/models"),
        ("openai", "https://h.example", "/models"),
        ("groq", "https://api.groq.com", "/openai/v1/models"),
        ("anthropic", "https://h.example/v1", "/v1/models?limit=1000"),
        ("gemini", "https://h.example/v1", "/v1/models?pageSize=1000"),
        ("cohere", "https://h.example/v2", "/v1/models?page_size=1000"),
        ("ollama", "http://h.example/v1", "/api/tags"),
        ("ollama", "http://h.example/api", "/api/tags"),
        ("azureopenai", "https://h.example/openai", "/openai/models?api-version=2024-10-21"),
        ("azureopenai", "https://h.example/openai/v1", "/openai/v1/models"),
        ("github", "https://h.example/inference", "/catalog/models"),
    ] {
        assert_eq!(first(kind, base, &[]).path_and_query.as_str(), path, "{kind} {base}");
    }
    let accept = first("github", "https://h.example/inference", &[]).accept.unwrap();
    assert_eq!(accept, "application/vnd.github+json");
}

#[test]
fn bedrocks_list_is_on_amazons_host_beside_that_of_the_calls() {
    let beside = |base: &str| {
        let all = pages(&upstream("bedrock", Some(base), &[])).unwrap();
        assert!(!all[0].is_extra && all[1].is_extra);
        assert_eq!(all[0].authority, all[1].authority);
        all[0].authority.clone().map(String::from)
    };
    let host = |text: &str| Some(text.to_owned());
    assert_eq!(
        beside("https://bedrock-runtime.eu-west-1.amazonaws.com"),
        host("bedrock.eu-west-1.amazonaws.com")
    );
    assert_eq!(
        beside("https://bedrock-runtime-fips.us-east-1.amazonaws.com"),
        host("bedrock-fips.us-east-1.amazonaws.com")
    );
    assert_eq!(
        beside("https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
        host("bedrock.cn-north-1.amazonaws.com.cn")
    );
    for own in ["http://127.0.0.1:9", "https://bedrock-runtime.evil.example"] {
        assert_eq!(beside(own), None, "{own}: no other host is asked");
    }
}

#[test]
fn what_has_no_list_says_so() {
    for kind in ["sagemaker", "voyage", "perplexity", "vertexaianthropic"] {
        let upstream = upstream(kind, Some("https://h.example"), &[]);
        assert_eq!(pages(&upstream), Err(NoList::Unsupported), "{kind}");
    }
    let azure = upstream("azure", Some("https://h.example"), &[("api_version", "1&x=/")]);
    assert_eq!(pages(&azure), Err(NoList::Setting("api_version")));
}

#[test]
fn an_answer_that_is_no_list_is_none() {
    let page = first("openai", "https://h.example/v1", &[]);
    for body in ["", "nonsense", "{}", r#"{"data": 7}"#, r#"{"error": {}}"#, "<html>"] {
        assert_eq!(page.read(body.as_bytes()), Err(NotAList), "{body}");
    }
    assert_eq!(page.read(b"[]"), Ok((Vec::new(), None)));
    let azure = first("azure", "https://h.example", &[]);
    assert_eq!(azure.read(br#"{"status": "ok"}"#), Err(NotAList));
}
