//! What each provider lists, for the operator: with the reason where one does not, and what the lists say of models.

use std::collections::BTreeMap;

use otari_filters::providers::list::Listed;
use otari_filters::rejection::Rejection;
use schemars::JsonSchema;
use serde::Serialize;

use super::super::openapi::Operation;
use super::super::{Answer, fields};
use crate::app::Standalone;
use crate::clock;
use crate::control::discovery::Status;
use crate::outbound::ListError;

pub(crate) static LIST: Operation = Operation::new(
    "list_discoverable_models",
    "List what each configured provider says it has, and why one says nothing",
)
.answering::<Sources>();

pub(crate) static METADATA: Operation = Operation::new(
    "get_models_metadata",
    "Show what the providers' lists say of their models: limits, kinds of content, abilities",
)
.answering::<Metadata>();

#[derive(Serialize, JsonSchema)]
struct Sources {
    providers: Vec<Source>,
}

#[derive(Serialize, JsonSchema)]
struct Source {
    provider: String,
    /// Whether there is a list.
    ok: bool,
    /// Why there is none, or no newer one.
    error: Option<String>,
    /// Its API has no list.
    discovery_unsupported: bool,
    #[schemars(extend("format" = "date-time"))]
    checked_at: Option<String>,
    models: Vec<SourceModel>,
}

#[derive(Serialize, JsonSchema)]
struct SourceModel {
    /// Its name there.
    id: String,
    /// Its name here: in requests and prices.
    key: String,
}

pub(crate) async fn list(app: &Standalone) -> Result<Answer, Rejection> {
    app.local.discovery.refresh(None).await;
    let providers = app.local.discovery.statuses().into_iter().map(Source::from).collect();
    Answer::json(&Sources { providers })
}

impl From<Status> for Source {
    fn from(status: Status) -> Self {
        let provider = status.instance.into_string();
        let known = status.known.iter().flat_map(|known| known.models());
        let model = |listed: &Listed| SourceModel {
            id: listed.id.to_string(),
            key: format!("{provider}:{}", listed.id),
        };
        let models = known.map(|listed| model(listed)).collect();
        let asked_at = (status.checked_at_us > 0).then(|| clock::timestamp(status.checked_at_us));
        Self {
            ok: status.known.is_some() && status.failed.is_none(),
            discovery_unsupported: status.is_unsupported,
            error: match &status.failed {
                _ if status.is_unsupported => Some(ListError::Unsupported.to_string()),
                Some(failed) => Some(failed.error.to_string()),
                None if !status.has_credential => Some("not asked: no credential".to_owned()),
                None if status.known.is_none() => Some("it has not answered yet".to_owned()),
                None => None,
            },
            checked_at: asked_at.map(fields::iso),
            models,
            provider,
        }
    }
}

#[derive(Serialize, JsonSchema)]
struct Metadata {
    /// `providers`: their own lists.
    source: &'static str,
    /// Whether `models_dev_metadata` is on and anything is known.
    available: bool,
    /// By their names here.
    models: BTreeMap<String, About>,
}

#[derive(Serialize, JsonSchema)]
struct About {
    name: Option<String>,
    modalities: Modalities,
    capabilities: Capabilities,
    limits: Limits,
}

/// Kinds of content; empty when the list does not say.
#[derive(Serialize, JsonSchema)]
struct Modalities {
    input: Vec<String>,
    output: Vec<String>,
}

/// Null when the list does not say.
#[derive(Serialize, JsonSchema)]
struct Capabilities {
    tool_call: Option<bool>,
    reasoning: Option<bool>,
}

/// Tokens; null when the list does not say.
#[derive(Serialize, JsonSchema)]
struct Limits {
    context: Option<u64>,
    output: Option<u64>,
}

pub(crate) async fn metadata(app: &Standalone) -> Result<Answer, Rejection> {
    let mut models = BTreeMap::new();
    if app.settings.load().models_dev_metadata {
        app.local.discovery.refresh(None).await;
        for status in app.local.discovery.statuses() {
            for listed in status.known.iter().flat_map(|known| known.models()) {
                models.insert(format!("{}:{}", status.instance, listed.id), About::from(&**listed));
            }
        }
    }
    Answer::json(&Metadata { source: "providers", available: !models.is_empty(), models })
}

impl From<&Listed> for About {
    fn from(listed: &Listed) -> Self {
        let texts = |kinds: &[Box<str>]| kinds.iter().map(|kind| kind.to_string()).collect();
        Self {
            name: listed.name.as_ref().map(|name| name.to_string()),
            modalities: Modalities { input: texts(&listed.input), output: texts(&listed.output) },
            capabilities: Capabilities { tool_call: listed.tools, reasoning: listed.reasoning },
            limits: Limits { context: listed.context_window, output: listed.max_output },
        }
    }
}
