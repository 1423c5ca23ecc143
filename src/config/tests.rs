//! The whole way: sources in, a configuration or its problems out.

use std::path::Path;

use otari_filters::money::Rate;
use otari_filters::prices::{Prices, Tier};

use super::*;

mod files;
mod connected;
mod providers;
mod routing;

fn sources(yaml: &str, env: &[(&str, &str)]) -> Sources {
    let mut pairs: Vec<(&str, &str)> = env.to_vec();
    if !yaml.is_empty() {
        pairs.push(("OTARI_CONFIG_YAML", yaml));
    }
    Sources { env: Env::from_pairs(pairs), ..Sources::default() }
}

fn good(yaml: &str, env: &[(&str, &str)]) -> Config {
    load(&sources(yaml, env)).unwrap_or_else(|error| panic!("{error}"))
}

/// The problems' texts with `line:column`.
fn bad(yaml: &str, env: &[(&str, &str)]) -> Vec<String> {
    let error = load(&sources(yaml, env)).expect_err("must not load");
    let line = |p: &Problem| format!("{} {}", p.place, p.text).replace("OTARI_CONFIG_YAML:", "");
    error.problems.iter().map(line).collect()
}

fn from_file(name: &str, env: &[(&str, &str)]) -> Config {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
    let sources = Sources { file: Some(file), ..sources("", env) };
    load(&sources).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_reference_file_equals_the_defaults_and_shows_every_key() {
    let mut file = from_file("otari.yml", &[]);
    assert!(file.warnings.is_empty(), "{:?}", file.warnings);
    file.file = None;
    assert_eq!(format!("{file:#?}"), format!("{:#?}", good("", &[])));
    let text = include_str!("../../conf/otari.yml");
    for (key, _) in layers::KEYS {
        assert!(text.contains(&format!("\n{key}:")), "{key} is not in conf/otari.yml");
    }
}

#[test]
fn the_other_examples_load() {
    let env = [("OTARI_MASTER_KEY", "mk"), ("OPENAI_API_KEY", "sk"), ("PGPASSWORD", "p%w")];
    for name in ["minimal.yml", "postgres.yml"] {
        let config = from_file(name, &env);
        assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
        assert_eq!((config.providers.len(), config.pricing.len()), (1, 1), "{name}");
    }
    let postgres = from_file("postgres.yml", &env);
    assert!(matches!(&postgres.database,
        Database::Postgres { label, tls: PostgresTls::VerifyFull, max_connections: 30, .. }
            if label == "db.internal/otari"));
}

#[test]
fn the_defaults_are_those_of_the_reference() {
    let config = good("", &[]);
    assert_eq!(config.listen, Listen { host: "0.0.0.0".into(), port: 8000 });
    assert!(
        matches!(&config.database, Database::Sqlite { path } if path == Path::new("./otari-gateway.db"))
    );
    assert_eq!(config.journal_dir, Path::new("./otari-journal"));
    assert!(config.auto_migrate && config.require_pricing && config.budgets_enabled);
    assert!(config.master_key.is_none() && config.providers.is_empty());
    assert!(config.platform.is_none() && config.policies.is_empty());
    let breaker = CircuitBreaker { failures: 5, cooldown: Duration::from_secs(10) };
    assert_eq!(config.circuit_breaker, Some(breaker));
    assert_eq!(config.limits.max_request_bytes, 104_857_600);
    let beside = good("database_url: sqlite:////var/lib/otari/o.db", &[]);
    assert_eq!(beside.journal_dir, Path::new("/var/lib/otari/otari-journal"));
}

#[test]
fn a_higher_source_wins() {
    let flags = Flags { port: Some(1), ..Flags::default() };
    let yaml = ("OTARI_CONFIG_YAML", "port: 3");
    let all = [("OTARI_PORT", "2"), yaml, ("gateway_port", "4")];
    for (flags, env, want) in [
        (flags.clone(), &all[..], 1),
        (Flags::default(), &all[..], 2),
        (Flags::default(), &all[1..], 3),
        (Flags::default(), &all[2..], 4),
        (Flags::default(), &[("OTARI_PORT", ""), yaml][..], 3),
        (Flags::default(), &[("GATEWAY_PORT", "")][..], 8000),
        // `port: 5` in base64; the plain text outranks it.
        (Flags::default(), &[("OTARI_CONFIG_B64", "cG9ydDog\nNQo=")][..], 5),
        (Flags::default(), &[("OTARI_CONFIG_B64", "cG9ydDogNQo="), yaml][..], 3),
    ] {
        let env = Env::from_pairs(env.to_vec());
        let config = load(&Sources { flags, env, file: None }).unwrap();
        assert_eq!(config.listen.port, want);
    }
}

#[test]
fn yaml_in_a_variable_replaces_the_files_keys() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "port: 1\nhost: a\nproviders: {vllm: }\n").unwrap();
    let over = sources("host: b\nproviders: {llamafile: }\n", &[]);
    let config = load(&Sources { file: Some(file.path().into()), ..over }).unwrap();
    assert_eq!(config.listen, Listen { host: "b".into(), port: 1 });
    assert_eq!(config.providers[0].instance, "llamafile");
    assert_eq!(config.providers.len(), 1, "by top-level key, not deeper");
}

#[test]
fn legacy_variables_carry_lists_and_mappings_as_json() {
    let env = [
        ("GATEWAY_CORS_ALLOW_ORIGINS", r#"["https://a"]"#),
        ("GATEWAY_PROVIDERS", r#"{"openai": {"api_key": "k"}}"#),
        ("OTARI_ALIASES", "{}"),
    ];
    let config = good("", &env);
    assert_eq!(config.cors_allow_origins, ["https://a"]);
    assert_eq!(config.providers[0].instance, "openai");
    assert!(config.warnings[0].contains("OTARI_ALIASES: not read"), "{:?}", config.warnings);
    let problems = bad("", &[("GATEWAY_CORS_ALLOW_ORIGINS", "https://a")]);
    assert!(problems[0].starts_with("environment GATEWAY_CORS_ALLOW_ORIGINS: not JSON"));
}

#[test]
fn database_url_outranks_all_but_the_flag_and_says_so() {
    let env = [("DATABASE_URL", "sqlite:///env.db"), ("OTARI_DATABASE_URL", "sqlite:///otari.db")];
    let path = |config: &Config| match &config.database {
        Database::Sqlite { path } => path.display().to_string(),
        Database::Postgres { label, .. } => label.clone(),
    };
    let config = good("database_url: sqlite:///file.db", &env);
    assert_eq!(path(&config), "env.db");
    let note = "OTARI_DATABASE_URL: not used: the environment variable DATABASE_URL outranks it.";
    assert_eq!(config.warnings, [format!("environment  {note}")]);
    assert!(good("", &env[..1]).warnings.is_empty(), "nothing was outranked");
    let flags = Flags { database_url: Some(Secret::new("sqlite:///flag.db")), ..Flags::default() };
    let config = load(&Sources { flags, ..sources("", &env) }).unwrap();
    assert_eq!((path(&config).as_str(), config.warnings.len()), ("flag.db", 0));
}

#[test]
fn the_references_configuration_loads_unchanged() {
    let yaml = r#"
database_url: "postgresql+asyncpg://gateway:gate%40way@postgres:5432/gateway?sslmode=disable"
auto_migrate: yes
db_pool_timeout: 30.0
host: "0.0.0.0"
port: ${PORT}
master_key: "${OTARI_MASTER_KEY}"
rate_limit_rpm: 60
cors_allow_origins:
  - "https://app.example.org"
providers:
  openai:
    api_key: ${OPENAI_API_KEY}
    api_base: "https://api.openai.com/v1/"
    client_args:
      timeout: 30
      max_retries: 5
      default_headers: {X-Team: "research ${PORT}"}
  anthropic:
    api_key: ${ANTHROPIC_API_KEY:-}
  vertexai:
    credentials: '{"type": "service_account"}'
    project: my-project
    location: us-central1
  ollama:
  local:
    provider_type: openai-compatible
    api_base: http://127.0.0.1:9000/v1
    models: [a, b]
pricing:
  openai:gpt-4o:
    input_price_per_million: 2.5
    output_price_per_million: "10"
    effective_at: 2025-01-01T02:00:00+02:00
  openai/gpt-4o-mini: {input_price_per_million: 0.15, output_price_per_million: 0.6, effective_at: 2025-01-01}
  mistral:mistral-large: {input_price_per_million: 2, output_price_per_million: 6}
enable_metrics: true
log_writer_strategy: batch
budget_strategy: cas
stream_missing_usage_policy: " Allow_Free "
mode: standalone
files_enabled: false
model_capabilities:
  openai:gpt-4o: {supports_image: true}
"#;
    let env = [("PORT", "9000"), ("OTARI_MASTER_KEY", "mk"), ("OPENAI_API_KEY", " sk-1 \n")];
    let config = good(yaml, &env);
    assert_eq!(config.listen.port, 9000);
    assert_eq!(config.stream_missing_usage_policy, MissingUsage::AllowFree);
    let openai = &config.providers[0];
    assert_eq!(openai.base_url.as_deref(), Some("https://api.openai.com/v1"));
    assert_eq!(openai.api_key.as_ref().map(Secret::expose), Some("sk-1"));
    assert_eq!((openai.timeout, openai.max_retries), (Some(Duration::from_secs(30)), 5));
    assert_eq!(openai.headers[0].1, "research 9000");
    let local = &config.providers[4];
    assert_eq!((local.kind.name, local.models.len()), ("openai", 2));
    assert_eq!(config.pricing.len(), 2, "a price without its provider is skipped");
    assert_eq!(config.pricing[1].model_key, "openai:gpt-4o-mini");
    assert_eq!(config.pricing[0].prices.output, Rate(1_000_000_000));
    assert_eq!(config.pricing[0].effective_at, config.pricing[1].effective_at);
    let warnings = config.warnings.join("\n");
    for part in [
        "provider \"anthropic\" has no credential: set providers.anthropic.api_key or ANTHROPIC_API_KEY",
        "Cannot set pricing for model 'mistral:mistral-large': provider 'mistral' is not configured",
    ] {
        assert!(warnings.contains(part), "{part}\n{warnings}");
    }
    assert!(!warnings.contains("ollama") && !warnings.contains("vertexai"), "{warnings}");
}

#[test]
fn a_price_of_the_file_has_all_rates_and_tiers() {
    let config = good(
        "\
default_pricing: true
providers: {vllm: }
pricing:
  vllm:a:
    input_price_per_million: 3
    output_price_per_million: 15
    cache_read_price_per_million: 0.30
    cache_write_1h_price_per_million: \"6\"
    pricing_tiers:
      - {min_input_tokens: 400_000, output_price_per_million: 0}
      - {min_input_tokens: 200001, input_price_per_million: 6.0, cache_write_price_per_million: 7.5}
",
        &[],
    );
    assert!(config.default_pricing && config.warnings.is_empty(), "{:?}", config.warnings);
    let cents = |n: i64| Rate(n * 1_000_000);
    let tiers = vec![
        Tier {
            min_input_tokens: 200_001,
            input: Some(cents(600)),
            cache_write: Some(cents(750)),
            ..Tier::default()
        },
        Tier { min_input_tokens: 400_000, output: Some(cents(0)), ..Tier::default() },
    ];
    let expected = Prices::new(cents(300), cents(1500))
        .with_cache(Some(cents(30)), None, Some(cents(600)))
        .with_tiers(tiers);
    assert_eq!(config.pricing[0].prices, expected);
}

#[test]
fn what_a_tier_of_the_file_cannot_be_is_shown_with_its_place() {
    let yaml = "\
providers: {vllm: }
pricing:
  vllm:a:
    input_price_per_million: 99999999999
    output_price_per_million: 1
    cache_read_price_per_million: -1
    pricing_tiers:
      - {min_input_tokens: 0}
      - {input_price_per_million: x, min_input_tokens: 5}
      - {min_input_tokens: 5}
      - {output_price_per_million: 1}
      - seven
  vllm:b:
    input_price_per_million: 1
    output_price_per_million: 1
    pricing_tiers: {min_input_tokens: 5}
";
    let found = bad(yaml, &[]).join("\n");
    for part in [
        "4:30 pricing.\"vllm:a\".input_price_per_million: too large for a price.",
        "6:35 pricing.\"vllm:a\".cache_read_price_per_million: expected 0 or more, found -1.",
        "min_input_tokens: expected a whole number from 1",
        "input_price_per_million: expected a number, found \"x\".",
        "a second tier from 5 tokens on. Remove one.",
        "min_input_tokens is missing.",
        "expected a mapping, found \"seven\".",
        "pricing_tiers: expected a list of tiers.",
    ] {
        assert!(found.contains(part), "{part}\n{found}");
    }
    assert_eq!(found.lines().count(), 8, "{found}");
}

#[test]
fn every_problem_is_shown_with_its_place() {
    let yaml = "\
port: ${P}
providers:
  opnai: {api_key: a}
  openai:
    api_base: openai.com/v1
    client_args: {timeout: 0, default_headers: {Host: a}}
pricing:
  openai:gpt-5:
    input_price_per_million: '2,50'
    output_price_per_million: -1
  gpt-5: {}
master_key: 123
cors_allow_origins: https://a
stream_missing_usage_policy: sometimes
files_backend: ftp
db_pool_size: 0
a: {b: \"${NO}\"}
";
    assert_eq!(
        bad(yaml, &[("P", "x")]),
        [
            "1:7 port: expected a whole number from 0 to 65535, found other text.",
            "3:3 providers.opnai: unknown provider. Did you mean \"openai\"? For a name of your own set provider_type.",
            "5:15 providers.openai.api_base: must be an absolute http:// or https:// URL, such as https://host/v1.",
            "6:28 providers.openai.client_args.timeout: expected a number above 0, found 0.",
            "6:55 providers.openai.client_args.default_headers.Host: this header cannot be set here. Remove it.",
            "9:30 pricing.\"openai:gpt-5\".input_price_per_million: expected a number, found \"2,50\".",
            "10:31 pricing.\"openai:gpt-5\".output_price_per_million: expected 0 or more, found -1.",
            "11:3 pricing.gpt-5: Invalid model format. Expected 'provider:model' or 'provider/model', got 'gpt-5'",
            "12:13 master_key: expected text, found a bare value. Put it in quotes.",
            "13:21 cors_allow_origins: expected a list, found \"https://a\". Write it as [\"…\"].",
            "14:30 stream_missing_usage_policy must be one of ['allow_free', 'estimate', 'fail'], got 'sometimes'",
            "15:16 Unsupported files_backend: 'ftp' (supported: 'local', 's3')",
            "16:15 db_pool_size: expected a whole number from 1 to 10000, found 0.",
            "17:8 a.b: ${NO} is not set. Set it, or write ${NO:-} for an empty value.",
        ]
    );
}

#[test]
fn providers_take_what_they_need_from_the_environment() {
    let env = [
        ("OPENAI_API_KEY", "sk-env"),
        ("OPENAI_BASE_URL", "https://proxy.example/v1/"),
        ("GROQ_API_KEY", "gk"),
        ("GATEWAY_API_KEY", "no address, so not callable"),
        ("OLLAMA_HOST", "0.0.0.0:11500"),
    ];
    let config = good(
        "providers: {openai: , ollama: , mock: , mine: {provider_type: openai, api_key: k}}",
        &env,
    );
    let names: Vec<_> =
        config.providers.iter().map(|p| (p.instance.as_str(), p.from_environment)).collect();
    assert_eq!(
        names,
        [("openai", false), ("ollama", false), ("mock", false), ("mine", false), ("groq", true)]
    );
    assert_eq!(config.providers[0].api_key.as_ref().map(Secret::expose), Some("sk-env"));
    assert_eq!(config.providers[0].base_url.as_deref(), Some("https://proxy.example/v1"));
    assert_eq!(config.providers[1].base_url.as_deref(), Some("http://127.0.0.1:11500"));
    assert_eq!(config.providers[2].base_url, None);
    assert_eq!(
        bad("providers:\n  databricks: {api_key: k}\n  a/b: {}", &[]),
        [
            "2:3 providers.databricks: has no address. Set providers.databricks.api_base or DATABRICKS_HOST.",
            "3:3 providers.\"a/b\": a name has no ':' and no '/'. Rename it.",
        ]
    );
}

#[test]
fn unknown_keys_are_warned_about_with_their_place() {
    let yaml = "prot: 1\nproviders:\n  vllm:\n    api_keey: a\n    temperature: 1\nplatform: {base_urll: x}\n\
                pricing: {vllm:a: {input_price_per_million: 0, output_price_per_million: 0, note: x}}";
    let warnings = good(yaml, &[]).warnings.join("\n").replace("OTARI_CONFIG_YAML:", "");
    for part in [
        "1:1  prot: unknown key, ignored. Did you mean \"port\"?",
        "4:5  providers.vllm.api_keey: unknown key, not used. Did you mean \"api_key\"?",
        "5:5  providers.vllm.temperature: unknown key, not used.",
        "6:12  platform.base_urll: unknown key, ignored. Did you mean \"base_url\"?",
        "6:1   platform: no effect in standalone mode; connected mode needs OTARI_AI_TOKEN.",
        "pricing.\"vllm:a\".note: unknown key, ignored.",
    ] {
        let squeezed = part.split_whitespace().collect::<Vec<_>>().join(" ");
        let all = warnings.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
        assert!(all.contains(&squeezed), "{part}\n{warnings}");
    }
}

#[test]
fn secrets_are_never_printed() {
    let yaml = "\
master_key: [hunter2]
database_url: postgresql://u:hunter2@h/db?sslmode=hunter2
port: ${S}
enable_docs: ${S}
secret_key: {a: hunter2}
stream_missing_usage_policy: ${S}
files_backend: ${S}
log_level: ${S}
providers:
  openai:
    api_key: \"hunter2\\n\\u0007\"
    api_base: https://u:hunter2@h
    client_args: {default_headers: {Authorization: hunter2, x-a: \"hunter2\\u0007\"}}
  xai: {api_key: {a: hunter2}, api_token: hunter2}
";
    let sources = sources(yaml, &[("S", "hunter2"), ("OTARI_THREADS", "x")]);
    let error = load(&sources).unwrap_err();
    let text = format!("{error}\n{error:?}\n{}", error.warnings.join("\n"));
    assert!(error.problems.len() >= 12, "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let fine = "master_key: hunter2\ndatabase_url: postgresql://u:hunter2@h/db\nproviders: {openai: {api_key: hunter2, client_args: {default_headers: {x-a: hunter2}}}}";
    let config = good(fine, &[]);
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

#[test]
fn small_things() {
    assert_eq!(good("circuit_breaker_failures: 0", &[]).circuit_breaker, None);
    let env =
        [("OTARI_CIRCUIT_BREAKER_FAILURES", "9"), ("OTARI_CIRCUIT_BREAKER_COOLDOWN_S", "3600")];
    let breaker = CircuitBreaker { failures: 9, cooldown: Duration::from_secs(3600) };
    assert_eq!(good("", &env).circuit_breaker, Some(breaker));
    let found = bad("circuit_breaker_failures: -1\ncircuit_breaker_cooldown_s: 0", &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    let service = good("", &[("OTARI_PORT", "tcp://10.0.0.1:8000")]);
    assert_eq!(service.listen.port, 8000);
    assert!(service.warnings[0].contains("Kubernetes"));
    assert!(!good("budget_strategy: disabled", &[]).budgets_enabled);
    assert_eq!(good("rate_limit_rpm: ${R:-}", &[]).rate_limit_rpm, None, "empty is unset");
    let flags = Flags { workers: Some(4), host: Some(String::new()), ..Flags::default() };
    let config = load(&Sources { flags, ..Sources::default() }).unwrap();
    assert_eq!(config.listen.host, "0.0.0.0", "an empty flag is no flag");
    assert!(config.warnings[0].contains("--workers"));
    let missing = Sources { file: Some("/nowhere/otari.yml".into()), ..Sources::default() };
    let text = load(&missing).unwrap_err().to_string();
    assert!(text.starts_with("/nowhere/otari.yml  cannot be read: "), "{text}");
    assert!(text.ends_with("1 problem. Nothing was started."), "{text}");
}
