//! Credentials, settings and addresses of providers.

use std::fs;

use super::*;

fn provider(yaml: &str, env: &[(&str, &str)]) -> ProviderConfig {
    let config = good(yaml, env);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    config.providers.into_iter().next().unwrap()
}

/// `name=value` of every setting.
fn settings(provider: &ProviderConfig) -> Vec<String> {
    provider.settings.iter().map(|(name, text)| format!("{name}={}", text.expose())).collect()
}

fn key(provider: &ProviderConfig) -> Option<&str> {
    provider.api_key.as_ref().map(Secret::expose)
}

/// Instances of an empty file.
fn found(env: &[(&str, &str)]) -> Vec<String> {
    good("", env).providers.into_iter().map(|provider| provider.instance).collect()
}

#[test]
fn settings_come_from_the_entry_then_client_args_then_the_environment() {
    let yaml = "providers:\n  bedrock:\n    region_name: eu-west-1\n    client_args:\n      region_name: no\n      \
                aws_access_key_id: AK\n      aws_secret_access_key: SK\n      timeout: 5";
    let env =
        [("AWS_REGION", "us-east-1"), ("AWS_SESSION_TOKEN", "of-other-keys"), ("AWS_PROFILE", "p")];
    let bedrock = provider(yaml, &env);
    assert_eq!(
        settings(&bedrock),
        [
            "region_name=eu-west-1",
            "aws_access_key_id=AK",
            "aws_secret_access_key=SK",
            "profile_name=p"
        ]
    );
    let base = "https://bedrock-runtime.eu-west-1.amazonaws.com";
    assert_eq!(bedrock.base_url.as_deref(), Some(base));
    assert_eq!(bedrock.timeout, Some(Duration::from_secs(5)));
    assert_eq!(bedrock.credential, CredentialSource::Entry);
}

#[test]
fn a_key_is_not_mixed_with_credentials_of_the_environment() {
    let env = [
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", "SK"),
    ];
    let bedrock = provider("providers: {bedrock: {api_key: bearer}}", &env);
    assert_eq!(
        (key(&bedrock), settings(&bedrock)),
        (Some("bearer"), vec!["region_name=us-east-1".into()])
    );
    let signed = provider("providers: {bedrock: }", &env);
    assert_eq!((key(&signed), settings(&signed).len()), (None, 3));
    assert_eq!(signed.credential, CredentialSource::Variable("AWS_ACCESS_KEY_ID"));
    let machine = provider("providers: {bedrock: {region_name: eu-west-1}}", &[]);
    assert_eq!(machine.credential, CredentialSource::Machine);
    let half = good("providers: {bedrock: {region_name: eu-west-1, aws_access_key_id: AK}}", &[]);
    let cure = "set providers.bedrock.aws_secret_access_key or AWS_SECRET_ACCESS_KEY";
    assert!(half.warnings.concat().contains(cure), "{:?}", half.warnings);
}

#[test]
fn azure_takes_a_key_or_a_token() {
    let yaml = "providers: {azureopenai: {api_base: https://r.openai.azure.com/, api_version: 2024-10-21}}";
    let azure = provider(yaml, &[("AZURE_OPENAI_AD_TOKEN", "ad")]);
    assert_eq!(settings(&azure), ["api_version=2024-10-21", "azure_ad_token=ad"]);
    assert_eq!(azure.credential, CredentialSource::Variable("AZURE_OPENAI_AD_TOKEN"));
    let azure = provider(yaml, &[("AZURE_OPENAI_AD_TOKEN", "ad"), ("AZURE_OPENAI_API_KEY", "k")]);
    assert_eq!((key(&azure), settings(&azure).len()), (Some("k"), 1));
    let claude = provider("providers: {azureanthropic: {resource: my-res, api_key: k}}", &[]);
    assert_eq!(claude.base_url.as_deref(), Some("https://my-res.services.ai.azure.com/anthropic"));
}

#[test]
fn a_setting_that_is_no_part_of_a_host_name_is_refused() {
    assert_eq!(
        bad("providers:\n  bedrock: {region_name: evil.example/}\n  sagemaker: {}", &[]),
        [
            "2:3 providers.bedrock: region_name may hold letters, digits and '-' only.",
            "3:3 providers.sagemaker: has no address. Set providers.sagemaker.region_name or AWS_REGION or \
             AWS_DEFAULT_REGION.",
        ]
    );
}

#[test]
fn google_credentials_are_a_path_a_text_or_a_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("account.json");
    fs::write(&path, r#"{"type": "service_account", "project_id": "of-the-account"}"#).unwrap();
    let path = path.to_str().unwrap();
    let project = |provider: &ProviderConfig| {
        settings(provider).into_iter().find(|setting| setting.starts_with("project=")).unwrap()
    };
    let env = [("GOOGLE_CLOUD_PROJECT", "of-the-machine")];

    let read = provider(&format!("providers: {{vertexai: {{credentials: {path}}}}}"), &env);
    assert_eq!(project(&read), "project=of-the-account");
    assert!(settings(&read)[0].starts_with(r#"credentials={"type""#), "{:?}", settings(&read));
    assert_eq!(read.base_url.as_deref(), Some("https://us-central1-aiplatform.googleapis.com"));

    let yaml = "providers: {v: {provider_type: vertexaianthropic, location: global, project: mine, credentials: \
                {type: authorized_user, refresh_token: t}}}";
    let mapped = provider(yaml, &env);
    assert_eq!(
        settings(&mapped),
        [
            r#"credentials={"type":"authorized_user","refresh_token":"t"}"#,
            "project=mine",
            "location=global"
        ]
    );
    assert_eq!(mapped.base_url.as_deref(), Some("https://aiplatform.googleapis.com"));

    let text = r#"providers: {vertexai: {project: 12345, credentials: '{"project_id": "x"}'}}"#;
    assert_eq!(project(&provider(text, &[])), "project=12345");

    let env = [("GOOGLE_APPLICATION_CREDENTIALS", path)];
    let named = provider("providers: {vertexai: }", &env);
    assert_eq!(project(&named), "project=of-the-account");
    let source = CredentialSource::Variable("GOOGLE_APPLICATION_CREDENTIALS");
    assert_eq!(named.credential, source);
}

#[test]
fn google_credentials_that_cannot_be_loaded_are_named() {
    let told = |entry: &str, env: &[(&str, &str)]| {
        bad(&format!("providers: {{vertexai: {{{entry}}}}}"), env).join("\n")
    };
    let none = told("project: p, credentials: /no/such/file.json", &[]);
    let words = "providers.vertexai.credentials: Unable to load vertex credentials: /no/such/file.json cannot be read";
    assert!(none.contains(words), "{none}");
    let text = told(r#"project: p, credentials: "{hunter2""#, &[]);
    assert!(text.contains("no JSON object") && !text.contains("hunter2"), "{text}");
    let list = told("project: p, credentials: [a]", &[]);
    assert!(list.contains("Invalid credentials type"), "{list}");
    let project = told(r#"credentials: "{}""#, &[]);
    let words = "Could not resolve GCP project ID from credentials or configuration. Set providers.vertexai.project";
    assert!(project.contains(words), "{project}");
    let variable = told("project: p", &[("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file")]);
    assert!(variable.contains("environment GOOGLE_APPLICATION_CREDENTIALS: Unable"), "{variable}");
}

#[test]
fn a_key_can_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("openai");
    fs::write(&path, "sk-file\n").unwrap();
    let path = path.to_str().unwrap();
    let yaml = format!("providers: {{openai: {{api_key_file: {path}}}}}");
    let read = provider(&yaml, &[("OPENAI_API_KEY", "sk-env")]);
    assert_eq!(
        (key(&read), &read.credential),
        (Some("sk-file"), &CredentialSource::File(path.into()))
    );
    let named = good("", &[("OPENAI_API_KEY_FILE", path)]).providers.remove(0);
    assert_eq!((key(&named), named.instance.as_str()), (Some("sk-file"), "openai"));

    fs::write(path, " \n").unwrap();
    let empty = bad(&yaml, &[]).concat();
    assert!(empty.contains(&format!("{path} is empty")), "{empty}");
    fs::write(path, "sk-hunter\u{e9}").unwrap();
    let odd = bad(&yaml, &[]).concat();
    assert!(odd.contains("no header can carry") && !odd.contains("sk-hunter"), "{odd}");
    fs::write(path, "x".repeat(300 * 1024)).unwrap();
    let large = bad(&yaml, &[]).concat();
    assert!(large.contains("larger than"), "{large}");
    let env = [("OPENAI_API_KEY_FILE", "/no/such/file")];
    let gone = bad("providers: {openai: }", &env).concat();
    assert!(gone.contains("OPENAI_API_KEY_FILE: /no/such/file cannot be read"), "{gone}");
    let config = good("", &env);
    assert!(config.providers.is_empty(), "a provider that nobody named only warns");
    assert!(config.warnings.concat().contains("/no/such/file"), "{:?}", config.warnings);
}

#[test]
fn local_servers_need_no_more_than_their_name() {
    for (yaml, base) in [
        ("ollama: ", "http://127.0.0.1:11434"),
        ("ollama: {api_base: 'gpu-1'}", "http://gpu-1:11434"),
        ("ollama: {api_base: '[::1]'}", "http://[::1]:11434"),
        ("ollama: {api_base: '[::1]:99'}", "http://[::1]:99"),
        ("ollama: {api_base: 'https://ollama.example/'}", "https://ollama.example"),
        ("lmstudio: {api_base: 'localhost:1235'}", "http://localhost:1235"),
        ("vllm: ", "http://localhost:8000/v1"),
        ("big: {provider_type: ollama, models: [a]}", "http://127.0.0.1:11434"),
    ] {
        let read = provider(&format!("providers: {{{yaml}}}"), &[]);
        assert_eq!(read.base_url.as_deref(), Some(base), "{yaml}");
        assert_eq!(read.credential, CredentialSource::NotNeeded);
    }
    let refused = bad("providers: {vllm: {api_base: 'localhost:8000'}}", &[]).concat();
    assert!(refused.contains("absolute"), "{refused}");
}

#[test]
fn the_environment_alone_makes_a_provider_only_when_it_says_enough() {
    let keys = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "SK")];
    assert!(found(&keys).is_empty(), "no region");
    let region = ("AWS_REGION", "eu-west-1");
    assert!(found(&[region]).is_empty(), "no keys");
    assert!(found(&[region, keys[0]]).is_empty(), "half a key");
    assert_eq!(found(&[region, keys[0], keys[1]]), ["bedrock", "sagemaker"]);
    assert_eq!(found(&[region, ("AWS_BEARER_TOKEN_BEDROCK", "b")]), ["bedrock"]);
    assert_eq!(found(&[("GOOGLE_CLOUD_PROJECT", "p")]), ["vertexai", "vertexaianthropic"]);
    assert!(found(&[("AZURE_ANTHROPIC_API_KEY", "k")]).is_empty(), "no resource");
    let azure = [("AZURE_ANTHROPIC_API_KEY", "k"), ("AZURE_ANTHROPIC_RESOURCE", "r")];
    assert_eq!(found(&azure), ["azureanthropic"]);
    let token =
        [("AZURE_OPENAI_AD_TOKEN", "t"), ("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com")];
    assert_eq!(found(&token), ["azureopenai"]);
    assert!(found(&[("OLLAMA_HOST", "h")]).is_empty());
    let older = [("GATEWAY_API_KEY", "k"), ("GATEWAY_API_BASE", "https://g.example/v1")];
    assert_eq!(found(&older), ["otari", "gateway"]);
}

#[test]
fn the_providers_of_the_reference_file_are_valid_when_they_are_uncommented() {
    let text = include_str!("../../../conf/otari.yml");
    let (_, after) = text.split_once("\nproviders: {}\n").unwrap();
    let block = after.lines().take_while(|line| line.starts_with('#'));
    let mut yaml = "providers:\n".to_owned();
    block.for_each(|line| yaml += &format!("{}\n", &line[1..]));
    let folder = tempfile::tempdir().unwrap();
    for (path, held) in [("/run/secrets/groq", "gsk"), ("/run/secrets/account.json", "{}")] {
        let file = folder.path().join(path.rsplit('/').next().unwrap());
        fs::write(&file, held).unwrap();
        yaml = yaml.replace(path, file.to_str().unwrap());
    }
    let env = [
        ("OPENAI_API_KEY", "k"),
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", "SK"),
        ("AZURE_OPENAI_AD_TOKEN", "t"),
        ("AZURE_ANTHROPIC_API_KEY", "k"),
        ("WATSONX_API_KEY", "k"),
    ];
    let config = good(&yaml, &env);
    let named: Vec<_> =
        config.providers.iter().filter(|provider| !provider.from_environment).collect();
    assert!(named.len() >= 9, "{named:?}");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}
