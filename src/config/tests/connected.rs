//! Connected mode: when it is meant, what it takes over, what it leaves alone.

use super::*;

const TOKEN: (&str, &str) = ("OTARI_AI_TOKEN", "gw_secret");

fn connected(yaml: &str, env: &[(&str, &str)]) -> (PlatformConfig, Vec<String>) {
    let env: Vec<_> = env.iter().copied().chain([TOKEN]).collect();
    let config = good(yaml, &env);
    (config.platform.expect("connected"), config.warnings)
}

fn refused(yaml: &str, env: &[(&str, &str)]) -> Vec<String> {
    let env: Vec<_> = env.iter().copied().chain([TOKEN]).collect();
    let problems = bad(yaml, &env);
    assert!(!problems.concat().contains("gw_secret"), "{problems:?}");
    problems
}

#[test]
fn mode_and_token_decide_together() {
    let blank = (TOKEN.0, "  ");
    for (yaml, env, want) in [
        ("", &[][..], false),
        ("", &[TOKEN][..], true),
        ("", &[blank][..], false),
        ("mode: ''", &[TOKEN][..], true),
        ("mode: ' '", &[][..], false),
        ("mode: null", &[TOKEN][..], true),
        ("mode: standalone", &[][..], false),
        ("mode: ' StandAlone '", &[blank][..], false),
        ("mode: hybrid", &[TOKEN][..], true),
        ("mode: ' Platform '", &[TOKEN][..], true),
        ("", &[("OTARI_MODE", "HYBRID"), TOKEN][..], true),
        ("", &[("GATEWAY_MODE", "platform"), TOKEN][..], true),
        ("mode: ''", &[("GATEWAY_MODE", "platform"), TOKEN][..], true),
        // What stands higher wins, and empty is unset.
        ("mode: standalone", &[("OTARI_MODE", "hybrid"), TOKEN][..], true),
        ("mode: hybrid", &[("OTARI_MODE", ""), ("GATEWAY_MODE", "standalone"), TOKEN][..], true),
    ] {
        assert_eq!(good(yaml, env).platform.is_some(), want, "{yaml:?} {env:?}");
    }
}

#[test]
fn what_the_machine_offers_is_not_for_a_platforms_tenants() {
    let aws = ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE");
    let own = good("", &[aws]).ambient.expect("standalone");
    assert_eq!(own.aws.access_key_id.as_ref().map(Secret::expose), Some(aws.1));
    assert!(good("", &[aws, TOKEN]).ambient.is_none());
}

#[test]
fn a_mode_that_cannot_be_is_refused_with_the_documented_text() {
    const CONFLICT: &str = "Standalone mode conflicts with OTARI_AI_TOKEN being set";
    const NO_TOKEN: &str =
        "Hybrid mode (legacy value 'platform') requires OTARI_AI_TOKEN to be set.";
    const INVALID: &str = "Invalid mode (set via OTARI_MODE or the config 'mode' field). Expected 'standalone' or 'hybrid'.";
    for (yaml, env, want) in [
        ("mode: standalone", &[TOKEN][..], format!("1:7 {CONFLICT}")),
        ("", &[("OTARI_MODE", "standalone"), TOKEN][..], format!("environment {CONFLICT}")),
        ("mode: hybrid", &[][..], format!("1:7 {NO_TOKEN}")),
        ("mode: platform", &[("OTARI_AI_TOKEN", " ")][..], format!("1:7 {NO_TOKEN}")),
        ("", &[("GATEWAY_MODE", "platform")][..], format!("environment {NO_TOKEN}")),
        ("mode: ''", &[("GATEWAY_MODE", "platform")][..], format!("environment {NO_TOKEN}")),
        ("mode: cloud", &[][..], format!("1:7 {INVALID}")),
        ("mode: cloud", &[TOKEN][..], format!("1:7 {INVALID}")),
    ] {
        let problems = bad(yaml, env);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&want), "{want}: {problems:?}");
    }
    let older = bad("mode: standalone", &[("ANY_LLM_PLATFORM_TOKEN", "t")]);
    assert!(older[0].contains("conflicts with ANY_LLM_PLATFORM_TOKEN"), "{older:?}");
}

#[test]
fn the_first_filled_token_counts_and_is_never_printed() {
    let all = [
        ("OTARI_AI_TOKEN", " gw_one\n"),
        ("OTARI_PLATFORM_TOKEN", "gw_two"),
        ("ANY_LLM_PLATFORM_TOKEN", "gw_three"),
    ];
    for (env, want) in [
        (&all[..], "gw_one"),
        (&all[1..], "gw_two"),
        (&all[2..], "gw_three"),
        (&[("OTARI_AI_TOKEN", " "), all[1]][..], "gw_two"),
    ] {
        let config = good("", env);
        assert!(!format!("{config:?}").contains("gw_"), "{config:?}");
        assert_eq!(config.platform.expect("connected").token.expose(), want);
    }
    let problems = bad("", &[("OTARI_AI_TOKEN", "gw_ä")]);
    assert!(problems[0].starts_with("environment OTARI_AI_TOKEN: has characters"), "{problems:?}");
    assert!(!problems[0].contains("gw_"));
}

#[test]
fn the_documented_keys_of_the_example_are_the_defaults() {
    let (defaults, warnings) = connected("", &[]);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(defaults.base_url, "https://api.otari.ai/api/v1");
    assert_eq!(defaults.resolve_timeout, Duration::from_secs(5));
    assert_eq!((defaults.usage_max_retries, defaults.report_disconnects), (3, false));
    let text = include_str!("../../../conf/otari.yml");
    let section = text.split("\nplatform: {}\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let keys: Vec<&str> = section
        .expect("the section")
        .lines()
        .filter_map(|line| line.strip_prefix("#  "))
        .filter(|line| !line.starts_with(' '))
        .collect();
    assert_eq!(keys.len(), 11, "{keys:?}");
    let (written, warnings) = connected(&format!("platform:\n  {}\n", keys.join("\n  ")), &[]);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(written, defaults);
}

#[test]
fn the_platforms_variables_outrank_the_file_and_empty_ones_do_not() {
    let yaml = "platform: {base_url: 'https://yaml/v1//', resolve_timeout_ms: 1, usage_timeout_ms: 2, \
                usage_max_retries: 4, usage_inline_timeout_ms: '5', streaming_first_chunk_timeout_ms: 6, \
                streaming_first_chunk_timeout_ms_tool_loop: 7, \
                streaming_final_attempt_extra_first_chunk_timeout_ms: 0, health_path: up, \
                management_url: 'http://yaml', report_disconnects: yes}";
    let env = [
        ("PLATFORM_BASE_URL", "https://env:8443/api/v1/"),
        ("PLATFORM_RESOLVE_TIMEOUT_MS", "11"),
        ("PLATFORM_USAGE_TIMEOUT_MS", " 12 "),
        ("PLATFORM_USAGE_MAX_RETRIES", "1"),
        ("PLATFORM_USAGE_INLINE_TIMEOUT_MS", "15"),
        ("STREAMING_FALLBACK_FIRST_CHUNK_TIMEOUT_MS", "16"),
        ("STREAMING_FALLBACK_FINAL_ATTEMPT_EXTRA_FIRST_CHUNK_TIMEOUT_MS", "18"),
        ("PLATFORM_MANAGEMENT_URL", "https://env"),
    ];
    let ms = Duration::from_millis;
    let from_file = PlatformConfig {
        token: Secret::new("gw_secret"),
        base_url: "https://yaml/v1".into(),
        resolve_timeout: ms(1),
        usage_timeout: ms(2),
        usage_max_retries: 4,
        usage_inline_timeout: ms(5),
        first_event_timeout: ms(6),
        tool_loop_first_event_timeout: ms(7),
        final_attempt_extra: ms(0),
        health_path: "/up".into(),
        management_url: "http://yaml".into(),
        report_disconnects: true,
    };
    assert_eq!(connected(yaml, &[]), (from_file.clone(), vec![]));
    let empty = env.map(|(name, _)| (name, " "));
    assert_eq!(connected(yaml, &empty).0, from_file, "an empty variable is ignored");
    let (platform, _) = connected(yaml, &env);
    assert_eq!(
        platform,
        PlatformConfig {
            base_url: "https://env:8443/api/v1".into(),
            resolve_timeout: ms(11),
            usage_timeout: ms(12),
            usage_max_retries: 1,
            usage_inline_timeout: ms(15),
            first_event_timeout: ms(16),
            final_attempt_extra: ms(18),
            management_url: "https://env".into(),
            ..from_file
        }
    );
    let legacy = connected("", &[("GATEWAY_PLATFORM", r#"{"health_path": "/h"}"#)]);
    assert_eq!(legacy.0.health_path, "/h");
}

#[test]
fn values_that_cannot_work_are_refused() {
    for (value, found) in
        [("0", "0"), ("-1", "-1"), ("bad", "\"bad\""), ("1.5", "1.5"), ("true", "true")]
    {
        let yaml = format!("platform: {{usage_inline_timeout_ms: {value}}}");
        let want = format!("1:37 usage_inline_timeout_ms must be a positive integer, got {found}.");
        let problems = refused(&yaml, &[]);
        assert!(problems.len() == 1 && problems[0].starts_with(&want), "{want}: {problems:?}");
    }
    let problems = refused("", &[("PLATFORM_USAGE_INLINE_TIMEOUT_MS", "0")]);
    assert!(problems[0].starts_with("environment usage_inline_timeout_ms must be a positive"));
    let yaml = "\
platform:
  base_url: ''
  resolve_timeout_ms: 0
  usage_timeout_ms: 86400001
  usage_max_retries: 0
  streaming_first_chunk_timeout_ms: 0
  streaming_first_chunk_timeout_ms_tool_loop: -5
  streaming_final_attempt_extra_first_chunk_timeout_ms: -1
  health_path: https://elsewhere/health
  management_url: otari.ai
  report_disconnects: maybe
";
    let problems = refused(yaml, &[]);
    assert_eq!(problems.len(), 10, "{problems:#?}");
    for (problem, want) in problems.iter().zip([
        "2:13 platform.base_url is required when hybrid mode is active",
        "3:23 platform.resolve_timeout_ms: expected a whole number from 1 to 86400000, found 0.",
        "4:21 platform.usage_timeout_ms: expected a whole number from 1 to 86400000",
        "5:22 platform.usage_max_retries: expected a whole number from 1 to 100, found 0.",
        "6:37 platform.streaming_first_chunk_timeout_ms: expected a whole number from 1",
        "7:47 platform.streaming_first_chunk_timeout_ms_tool_loop: expected a whole number from 1",
        "8:57 platform.streaming_final_attempt_extra_first_chunk_timeout_ms: expected a whole number from 0",
        "9:16 platform.health_path: not a path.",
        "10:19 platform.management_url must be an absolute http(s) URL",
        "11:23 platform.report_disconnects: expected true or false",
    ]) {
        assert!(problem.starts_with(want), "{want}\n{problem}");
    }
    for (url, part) in [
        ("api.otari.ai", "absolute http:// or https:// URL"),
        ("https://u:hunter2@h/v1", "The token belongs into OTARI_AI_TOKEN."),
        ("https://h/v1?x=hunter2", "query"),
    ] {
        let problems = refused("", &[("PLATFORM_BASE_URL", url)]);
        let problem = problems.concat();
        assert!(problem.starts_with("environment PLATFORM_BASE_URL: "), "{problem}");
        assert!(problem.contains(part) && !problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn providers_of_the_file_are_refused_and_those_of_the_environment_do_not_count() {
    let problems = refused("drain_s: 1\nproviders: {openai: {api_key: a}, opnai: {}}", &[]);
    let want = "2:1 Local provider credentials are not supported in hybrid mode. Remove configured providers";
    assert!(problems.len() == 1 && problems[0].starts_with(want), "{problems:?}");
    let without = bad("mode: hybrid\nproviders: {openai: }", &[]);
    assert_eq!(without.len(), 2, "both at once: {without:?}");
    let env = [TOKEN, ("OPENAI_API_KEY", "sk-1"), ("OLLAMA_HOST", "x:99999")];
    let config = good("providers: {}", &env);
    assert!(config.providers.is_empty() && config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn what_only_standalone_mode_reads_is_named_once_and_not_looked_at() {
    let yaml = "\
database_url: nonsense
db_pool_size: 0
master_key: 123
aliases: {a: b}
pricing: {x: y}
rate_limit_rpm: -1
usage_retention_days: null
budget_strategy: ''
routing: {policies: {fast: {select: [{when: {}, target: a}]}, a:b: }}
journal_dir: /var/lib/otari
drain_s: 1
";
    let config = good(yaml, &[TOKEN, ("DATABASE_URL", "postgresql://u:hunter2@h:x/db")]);
    assert_eq!(
        config.warnings,
        [
            "configuration  no effect in connected mode, where the platform decides: DATABASE_URL, db_pool_size, \
           master_key, rate_limit_rpm, pricing, aliases, routing"
        ]
    );
    assert!(config.aliases.is_empty() && config.pricing.is_empty() && config.master_key.is_none());
    assert_eq!((config.rate_limit_rpm, config.limits.drain), (None, Duration::from_secs(1)));
    assert_eq!(config.journal_dir, Path::new("/var/lib/otari"));
    let names: Vec<&str> = config.policies.iter().map(|policy| &*policy.name).collect();
    assert_eq!(names, ["fast", "a:b"], "names alone");
    let off = good("routing: {enabled: false, policies: {fast: }}", &[TOKEN]);
    assert!(off.policies.is_empty() && off.warnings.is_empty(), "{:?}", off.warnings);
    let one = good("drain_s: 1\nmaster_key: mk", &[TOKEN]).warnings;
    assert!(one[0].starts_with("OTARI_CONFIG_YAML:2:1  no effect in connected mode"), "{one:?}");
    assert_eq!(good("", &[TOKEN]).journal_dir, Path::new("./otari-journal"));
    let beside = good("database_url: sqlite:////var/lib/otari/o.db", &[TOKEN]);
    assert_eq!(beside.journal_dir, Path::new("./otari-journal"));
}

#[test]
fn warnings_say_what_travels_in_clear_and_where_the_token_belongs() {
    let (_, warnings) = connected("platform: {base_url: http://platform.internal/v1}", &[]);
    assert!(warnings.len() == 1 && warnings[0].contains("travel in clear"), "{warnings:?}");
    let (_, warnings) = connected("", &[("PLATFORM_BASE_URL", "http://localhost:9/v1")]);
    assert!(warnings.is_empty(), "{warnings:?}");
    let (platform, warnings) = connected("platform: {token: hunter2, base_urll: x}", &[]);
    assert_eq!(platform.token.expose(), "gw_secret");
    let text = warnings.join("\n");
    for part in [
        "platform.token: unknown key, ignored. The platform's token is read from the variable OTARI_AI_TOKEN alone",
        "platform.base_urll: unknown key, ignored. Did you mean \"base_url\"?",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let standalone = good("platform: {token: hunter2}", &[]).warnings.join("\n");
    assert!(standalone.contains("OTARI_AI_TOKEN alone"), "{standalone}");
    assert!(standalone.contains("no effect in standalone mode"), "{standalone}");
    assert!(!standalone.contains("hunter2") && !text.contains("hunter2"));
}
