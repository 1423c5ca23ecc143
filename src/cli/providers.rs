//! `otari providers`: what a configuration can call, with which credential, and whether it answers.

use std::path::PathBuf;

use clap::Args;
use otari_filters::protocol::Protocol;
use otari_filters::providers::{Family, Operation, PROVIDERS, Provider};
use serde_json::{Value, json};

use super::client::Failure;
use super::manage::{remark, result};
use super::table::{self, Column};
use super::{EXIT_FAILED, EXIT_OK};
use crate::config::{Config, CredentialSource, ProviderConfig};

mod reach;

use reach::Reach;

/// `otari providers`.
#[derive(Clone, Debug, Args)]
pub struct Providers {
    /// Configuration file [default: none, only variables and defaults]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// List every provider there is, with the variables that configure it, and ask none
    #[arg(long)]
    pub all: bool,
    /// Ask nobody: say only what is configured
    #[arg(long)]
    pub offline: bool,
    /// End with 1 when a provider cannot be used
    #[arg(long, conflicts_with = "all")]
    pub check: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Does it; the exit code tells how it went. `load` reads the configuration, or says what is wrong with it and gives
/// the exit code for that.
pub(super) fn run(options: &Providers, load: impl FnOnce() -> Result<Config, u8>) -> u8 {
    let done = if options.all {
        every(options)
    } else {
        match load() {
            Ok(config) => configured(options, &config),
            Err(code) => return code,
        }
    };
    done.unwrap_or_else(|failure| {
        remark(&format!("Error: {failure}"));
        failure.exit_code()
    })
}

/// The whole table.
fn every(options: &Providers) -> Result<u8, Failure> {
    if options.json {
        let rows: Vec<Value> = PROVIDERS.iter().map(described).collect();
        print(&json!(rows))?;
        return Ok(EXIT_OK);
    }
    let columns = [
        Column::text("PROVIDER"),
        Column::text("NAME"),
        Column::text("FORMATS"),
        Column::text("CREDENTIAL"),
        Column::text("BASE URL"),
    ];
    let rows: Vec<Vec<String>> = PROVIDERS
        .iter()
        .map(|provider| {
            vec![
                provider.name.to_owned(),
                provider.display_name.to_owned(),
                formats(provider).join(", "),
                variables(provider).join(", "),
                base_and_variable(provider),
            ]
        })
        .collect();
    result(&table::render(&columns, &rows))?;
    Ok(EXIT_OK)
}

fn described(provider: &Provider) -> Value {
    let settings = provider.settings.iter().map(|setting| {
        let variables: Vec<&str> = setting.env.to_vec();
        json!({"name": setting.name, "variables": variables})
    });
    json!({
        "name": provider.name,
        "aliases": provider.aliases,
        "display_name": provider.display_name,
        "formats": formats(provider),
        "operations": provider.operations.iter().map(Operation::as_str).collect::<Vec<_>>(),
        "keyless": provider.keyless,
        "credential_variables": provider.credential_env,
        "base_url": provider.base_url,
        "base_variables": provider.base_env,
        "settings": settings.collect::<Vec<_>>(),
    })
}

/// The variables that make it callable, a key's first.
fn variables(provider: &Provider) -> Vec<&'static str> {
    let settings = provider.settings.iter().flat_map(|setting| setting.env).copied();
    provider.credential_env.iter().copied().chain(settings).collect()
}

fn base_and_variable(provider: &Provider) -> String {
    let variables = provider.base_env.join(" or ");
    match (provider.base_url, variables.as_str()) {
        (Some(base), "") => base.to_owned(),
        (Some(base), variables) => format!("{base} ({variables})"),
        (None, variables) => variables.to_owned(),
    }
}

/// What it speaks itself; everything else is translated.
fn formats(provider: &Provider) -> Vec<&'static str> {
    let own: Vec<&str> = [
        (Protocol::Chat, "chat"),
        (Protocol::Messages, "messages"),
        (Protocol::Responses, "responses"),
    ]
    .into_iter()
    .filter(|(protocol, _)| provider.has_native(*protocol))
    .map(|(_, name)| name)
    .collect();
    if !own.is_empty() {
        return own;
    }
    match provider.family {
        Family::Gemini | Family::Vertex => vec!["generateContent"],
        Family::Bedrock => vec!["converse"],
        Family::SageMaker => vec!["sagemaker"],
        Family::Cohere => vec!["cohere"],
        Family::Mistral => vec!["mistral"],
        Family::Ollama => vec!["ollama"],
        Family::Watsonx => vec!["watsonx"],
        Family::Voyage => vec!["embeddings"],
        _ => Vec::new(),
    }
}

/// What the configuration has.
fn configured(options: &Providers, config: &Config) -> Result<u8, Failure> {
    if config.platform.is_some() {
        remark("Connected mode: the platform says for each call which provider it goes to.");
    } else if config.providers.is_empty() {
        remark(
            "No provider is configured. Set a variable such as OPENAI_API_KEY, or add one under providers:; \
             `otari providers --all` lists them.",
        );
    }
    let reaches = if options.offline { Vec::new() } else { reach::all(config)? };
    if options.json {
        let rows = config.providers.iter().enumerate();
        print(&json!(
            rows.map(|(at, provider)| row(provider, reaches.get(at))).collect::<Vec<_>>()
        ))?;
    } else {
        result(&listing(&config.providers, &reaches))?;
    }
    let is_usable = |(at, provider): (usize, &ProviderConfig)| match reaches.get(at) {
        Some(reach) => reach.is_usable(),
        None => provider.credential != CredentialSource::Missing,
    };
    let is_well = config.providers.iter().enumerate().all(is_usable);
    Ok(if options.check && !is_well { EXIT_FAILED } else { EXIT_OK })
}

fn listing(providers: &[ProviderConfig], reaches: &[Reach]) -> String {
    let columns = [
        Column::text("INSTANCE"),
        Column::text("TYPE"),
        Column::text("BASE URL"),
        Column::text("CREDENTIAL"),
        Column::text("FORMATS"),
        Column::text("STATE"),
    ];
    let shown = if reaches.is_empty() { &columns[..5] } else { &columns[..] };
    let rows: Vec<Vec<String>> = providers
        .iter()
        .enumerate()
        .map(|(at, provider)| {
            let mut row = vec![
                provider.instance.clone(),
                provider.kind.name.to_owned(),
                base(provider),
                credential(&provider.credential),
                formats(provider.kind).join(", "),
            ];
            row.extend(reaches.get(at).map(Reach::to_string));
            row
        })
        .collect();
    table::render(shown, &rows)
}

fn row(provider: &ProviderConfig, reach: Option<&Reach>) -> Value {
    let (source, name) = match &provider.credential {
        CredentialSource::Entry => ("config", None),
        CredentialSource::Variable(name) => ("env", Some((*name).to_owned())),
        CredentialSource::File(path) => ("file", Some(path.display().to_string())),
        CredentialSource::Machine => ("machine", None),
        CredentialSource::NotNeeded => ("none", None),
        CredentialSource::Missing => ("missing", None),
    };
    let mut row = json!({
        "instance": provider.instance,
        "type": provider.kind.name,
        "display_name": provider.kind.display_name,
        "base_url": provider.base_url,
        "credential": {"source": source, "name": name},
        "formats": formats(provider.kind),
        "declared_models": provider.models,
    });
    if let Some(reach) = reach {
        row["state"] = json!(reach.to_string());
        row["usable"] = json!(reach.is_usable());
        row["models"] = json!(reach.models());
    }
    row
}

fn base(provider: &ProviderConfig) -> String {
    match (&provider.base_url, provider.kind.family) {
        (Some(base), _) => base.clone(),
        (None, Family::Mock) => "built in".to_owned(),
        (None, _) => String::new(),
    }
}

fn credential(source: &CredentialSource) -> String {
    match source {
        CredentialSource::Entry => "config".to_owned(),
        CredentialSource::Variable(name) => format!("env {name}"),
        CredentialSource::File(path) => format!("file {}", path.display()),
        CredentialSource::Machine => "this machine's".to_owned(),
        CredentialSource::NotNeeded => "none needed".to_owned(),
        CredentialSource::Missing => "MISSING".to_owned(),
    }
}

fn print(value: &Value) -> Result<(), Failure> {
    result(&format!("{value:#}\n"))
}
