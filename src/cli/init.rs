//! `otari init`: a first configuration, written from what is there. It asks nothing.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use otari_filters::providers::{PROVIDERS, Provider};

use super::client::Failure;
use super::manage::{code, result};
use crate::config::{Env, Secret, token_variable};

/// `otari init`.
#[derive(Clone, Debug, Args)]
pub struct Init {
    /// Where to write it
    #[arg(value_name = "FILE", default_value = "config.yml")]
    pub file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

/// Does it; the exit code tells how it went.
pub(super) fn run(init: &Init) -> u8 {
    code(write(init, &Env::from_process(Some(&init.file))).and_then(|done| result(&done)))
}

/// Writes the file; what was written and what comes next.
fn write(init: &Init, env: &Env) -> Result<String, Failure> {
    let shown = init.file.display();
    let token = token_variable(env);
    let providers = if token.is_some() { Vec::new() } else { found(env) };
    let text = match token {
        Some(token) => connected(token),
        None => standalone(&providers, is_set(env, "OTARI_MASTER_KEY")),
    };
    put(init, &text).map_err(|error| {
        Failure::Failed(match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{shown} is there already. Name another file, or give --force.")
            }
            _ => format!("{shown} cannot be written: {error}."),
        })
    })?;
    let names: Vec<&str> = providers.iter().map(|(provider, _)| provider.name).collect();
    let names = if let Some(token) = token {
        format!("connected mode: {token} is set")
    } else if names.is_empty() {
        "no provider was found: set a variable such as OPENAI_API_KEY, or add one to the file"
            .to_owned()
    } else {
        format!("providers found: {}", names.join(", "))
    };
    Ok(format!(
        "Wrote {shown} ({names}).\n\nNext:\n  otari check {shown}\n  otari serve --config {shown}\n"
    ))
}

fn put(init: &Init, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    if init.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(&init.file)?.write_all(text.as_bytes())
}

fn is_set(env: &Env, name: &str) -> bool {
    env.get(name).is_some_and(|value| !value.trim().is_empty())
}

/// The providers that can be called with what the environment holds, and the variable of each one's key.
fn found(env: &Env) -> Vec<(&'static Provider, &'static str)> {
    let variable = |provider: &'static Provider| {
        let settings: Vec<(String, Secret)> = provider
            .settings
            .iter()
            .filter_map(|setting| {
                let value = setting.env.iter().find(|name| is_set(env, name))?;
                Some((setting.name.to_owned(), Secret::new(env.get(value)?)))
            })
            .collect();
        let is_known = provider.base(&settings).is_ok()
            || provider.base_env.iter().any(|name| is_set(env, name));
        let name = provider.credential_env.iter().copied().find(|name| is_set(env, name))?;
        (provider.generates() && is_known).then_some((provider, name))
    };
    PROVIDERS.iter().filter_map(variable).collect()
}

/// The file of a gateway whose platform knows providers, keys and prices.
fn connected(token: &str) -> String {
    format!(
        "\
# Written by `otari init`. `otari check` prints every mistake in it with its line; conf/otari.yml names every key.

# Connected mode, because {token} is set: the platform knows callers, provider keys, prices and budgets.
# The token stays in the environment, or in a `.env` beside this file.

# Calls from this machine only. 0.0.0.0 serves others too: put TLS in front of it.
host: 127.0.0.1
port: 8000

# Another platform than the usual one:
# platform:
#   base_url: https://api.otari.ai/api/v1
"
    )
}

fn standalone(providers: &[(&Provider, &str)], has_master_key: bool) -> String {
    let master_key = if has_master_key {
        "# The key of the management API.\nmaster_key: ${OTARI_MASTER_KEY}\n"
    } else {
        "# The key of the management API. Without it one is made at the first start and printed once.\n\
         # master_key: ${OTARI_MASTER_KEY}\n"
    };
    let entry = |(provider, variable): &(&Provider, &str)| {
        format!("  {}:\n    api_key: ${{{variable}}}\n", provider.name)
    };
    let entries = match providers {
        [] => "# providers:\n#   openai:\n#     api_key: ${OPENAI_API_KEY}\n".to_owned(),
        some => "providers:\n".to_owned() + &some.iter().map(entry).collect::<String>(),
    };
    format!(
        "\
# Written by `otari init`. `otari check` prints every mistake in it with its line; conf/otari.yml names every key.

# Calls from this machine only. 0.0.0.0 serves others too: put TLS in front of it.
host: 127.0.0.1
port: 8000

# A file in the working directory; the first start makes it. PostgreSQL: postgresql://user:password@host/name
database_url: sqlite:///./otari-gateway.db

{master_key}
# Keys of providers come from the environment, or from a `.env` beside this file. Nothing secret has to stand here.
{entries}
# Another server that speaks the OpenAI API:
#   local:
#     provider_type: openai-compatible
#     api_base: http://127.0.0.1:9000/v1

# Models without a price of their own are billed at public list prices. Off by default; this file turns it on, so that
# calls work and budgets count from the first minute. With false such calls are refused until they have a price.
default_pricing: true

# Prices in USD per million tokens: written for models that have none. Later: `otari import FILE`.
# pricing:
#   openai:gpt-4o-mini:
#     input_price_per_million: 0.15
#     output_price_per_million: 0.60
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Sources, load};

    fn checked(env: Env) -> crate::config::Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yml");
        write(&Init { file: file.clone(), force: false }, &env).unwrap();
        load(&Sources { file: Some(file), flags: Flags::default(), env }).unwrap()
    }

    #[test]
    fn what_is_written_is_a_configuration_without_warnings() {
        let env = [
            ("OPENAI_API_KEY", "sk-1"),
            ("GROQ_API_KEY", "sk-2"),
            ("ANTHROPIC_API_KEY", "sk-3"),
            // Without a region nobody knows where it is.
            ("AWS_BEARER_TOKEN_BEDROCK", "sk-4"),
        ];
        let config = checked(Env::from_pairs(env));
        let names: Vec<&str> = config.providers.iter().map(|p| p.instance.as_str()).collect();
        assert!(names.contains(&"groq") && names.contains(&"openai"), "{names:?}");
        assert!(config.default_pricing && config.master_key.is_none());
        let ours: Vec<&String> =
            config.warnings.iter().filter(|w| w.contains("config.yml")).collect();
        assert!(ours.is_empty(), "{ours:?}");
    }

    #[test]
    fn with_the_platforms_token_the_file_is_of_a_connected_gateway() {
        let env = [("OTARI_AI_TOKEN", "gw_1"), ("OPENAI_API_KEY", "sk-1")];
        let config = checked(Env::from_pairs(env));
        assert!(config.platform.is_some() && config.providers.is_empty());
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn an_empty_environment_is_enough() {
        let config = checked(Env::from_pairs([("OPENAI_API_KEY", " ")]));
        assert!(config.providers.is_empty() && config.warnings.is_empty(), "{:?}", config.warnings);
        let config = checked(Env::from_pairs([("OTARI_MASTER_KEY", "mk-for-a-test-0123456789")]));
        assert!(config.master_key.is_some());
    }

    #[test]
    fn a_file_that_is_there_stays_without_force() {
        let folder = tempfile::tempdir().unwrap();
        let init = |force| Init { file: folder.path().join("c.yml"), force };
        std::fs::write(init(false).file, "mine").unwrap();
        let refused = write(&init(false), &Env::default()).unwrap_err();
        assert!(refused.to_string().contains("--force"), "{refused}");
        assert_eq!(std::fs::read_to_string(init(false).file).unwrap(), "mine");
        write(&init(true), &Env::default()).unwrap();
        assert!(std::fs::read_to_string(init(false).file).unwrap().starts_with("# Written by"));
        let nowhere = Init { file: folder.path().join("no/c.yml"), force: false };
        assert_eq!(write(&nowhere, &Env::default()).unwrap_err().exit_code(), 1);
    }
}
