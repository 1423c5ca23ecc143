//! `/v1/settings`: what the gateway was told, and the part of it that can be told anew while it runs.

mod table;

use std::sync::Arc;

use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Fields, lax_float};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::table::{Kind, SETTABLE, SETTINGS, Setting};
use super::audit::Managed;
use super::openapi::Operation;
use super::{Answer, Request, fields};
use crate::app::Standalone;
use crate::control::directory;
use crate::control::settings::{MASTER_KEY_HASH, MasterKey, Settings};
use crate::{clock, first_run};

pub(super) static GET: Operation =
    Operation::new("get_settings", "Show what the gateway was told").answering::<All>();

pub(super) static UPDATE: Operation = Operation::new(
    "update_settings",
    "Change settings from the next request on; null lets the configuration hold again",
)
.with_body_of_only(&SETTABLE)
.answering::<All>();

pub(super) static ROTATE: Operation = Operation::new(
    "rotate_master_key",
    "Make a new master key for one that the gateway made; the old one ends at once",
)
.answering::<NewMasterKey<'_>>()
.refusing(&[409]);

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Settings")]
struct All {
    mode: &'static str,
    version: &'static str,
    model_discovery: Value,
    default_pricing: Value,
    require_pricing: bool,
    master_key_source: &'static str,
    /// This version stores no credentials of providers.
    secret_key_configured: bool,
    config: Vec<One>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Setting")]
struct One {
    key: &'static str,
    value: Value,
    r#type: &'static str,
    settable: bool,
    group: &'static str,
    description: &'static str,
    options: Option<&'static [&'static str]>,
    minimum: Option<u32>,
    exclusive_minimum: Option<u32>,
}

#[derive(Serialize, JsonSchema)]
struct NewMasterKey<'a> {
    master_key: &'a str,
}

pub(super) fn get(app: &Standalone) -> Result<Answer, Rejection> {
    let (now, config) = (app.settings.load(), app.live());
    let value = |key: &str| {
        let setting = SETTINGS.iter().find(|setting| setting.key == key);
        setting.map_or(Value::Null, |setting| (setting.value)(&config, &now))
    };
    let one = |setting: &Setting| {
        let (options, minimum, exclusive_minimum) = match setting.kind {
            Kind::Choice(words) => (Some(words), None, None),
            Kind::Whole { least } => (None, Some(least), None),
            Kind::Time { above_zero: true } => (None, None, Some(0)),
            Kind::Time { above_zero: false } => (None, Some(0), None),
            Kind::Flag | Kind::Seconds | Kind::Text => (None, None, None),
        };
        One {
            key: setting.key,
            value: (setting.value)(&config, &now),
            r#type: setting.kind.name(),
            settable: setting.is_settable,
            group: setting.group,
            description: setting.description,
            options,
            minimum,
            exclusive_minimum,
        }
    };
    Answer::json(&All {
        mode: "standalone",
        version: env!("CARGO_PKG_VERSION"),
        model_discovery: value("model_discovery"),
        default_pricing: value("default_pricing"),
        require_pricing: now.require_pricing,
        master_key_source: match **app.local.master.load() {
            MasterKey::Configured(_) => "configured",
            MasterKey::Generated(_) | MasterKey::Unknown => "generated",
        },
        secret_key_configured: false,
        config: SETTINGS.iter().map(one).collect(),
    })
}

/// Changes settings from the next request on. Null forgets a change: the configuration holds again.
pub(super) async fn update(app: &Managed<'_>, request: Request<'_>) -> Result<Answer, Rejection> {
    let body = fields::body(request)?;
    let changes = read(&body)?;
    if !changes.is_empty() {
        app.store.setting_put(&changes, clock::now()).await?;
        let stored = app.store.setting_all().await?;
        app.local.set(Settings::new(&app.live(), &stored));
    }
    get(app)
}

/// The changes as the store keeps them.
fn read(body: &Map<String, Value>) -> Result<Vec<(String, Option<String>)>, Rejection> {
    let mut read = UPDATE.read_body(body);
    let mut changes = Vec::with_capacity(body.len());
    for (key, value) in body {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            read.wrong(key, "extra_forbidden", "Extra inputs are not permitted", Value::Null);
            continue;
        };
        if !setting.is_settable {
            let message = "Value error, this version does not change it while it runs";
            read.wrong(key, "value_error", message, json!({"error": {}}));
            continue;
        }
        let text = if value.is_null() { None } else { text(&mut read, setting) };
        changes.push((key.clone(), text));
    }
    read.faults.check()?;
    Ok(changes)
}

/// A value as the store keeps it; `None` when it is wrong, with the fault noted.
fn text(read: &mut Fields<'_>, setting: &Setting) -> Option<String> {
    match setting.kind {
        // Null was seen to before.
        Kind::Flag => read.boolean(setting.key, true).map(|flag| flag.to_string()),
        Kind::Whole { least } => {
            read.integer(setting.key, table::bounds(least)).map(|whole| whole.to_string())
        }
        Kind::Choice(words) => {
            let word = fields::string(read, setting.key)?;
            if words.contains(&word.as_str()) {
                return Some(word);
            }
            let (last, others) = words.split_last()?;
            let expected = format!("'{}' or '{last}'", others.join("', '"));
            let message = format!("Input should be {expected}");
            read.wrong(setting.key, "literal_error", &message, json!({"expected": expected}));
            None
        }
        Kind::Time { above_zero } => time(read, setting.key, above_zero),
        Kind::Text => fields::string(read, setting.key),
        // None of them can be set.
        Kind::Seconds => None,
    }
}

/// A number of seconds as the store keeps it.
fn time(read: &mut Fields<'_>, key: &'static str, above_zero: bool) -> Option<String> {
    let fault = match lax_float(read.get(key)?) {
        Ok(seconds) if !seconds.is_finite() => ("finite_number", "Input should be a finite number"),
        Ok(seconds) if above_zero && seconds <= 0.0 => {
            ("greater_than", "Input should be greater than 0")
        }
        Ok(seconds) if seconds < 0.0 => {
            ("greater_than_equal", "Input should be greater than or equal to 0")
        }
        Ok(seconds) => return Some(seconds.to_string()),
        Err(fault) => fault,
    };
    let context = match fault.0 {
        "greater_than" => json!({"gt": 0.0}),
        "greater_than_equal" => json!({"ge": 0.0}),
        _ => Value::Null,
    };
    read.wrong(key, fault.0, fault.1, context);
    None
}

/// A new master key; the old one is worth nothing from here on.
pub(super) async fn rotate(app: &Managed<'_>) -> Result<Answer, Rejection> {
    if !matches!(**app.local.master.load(), MasterKey::Generated(_)) {
        let message = "The master key is set in the configuration and is not rotated here: change master_key or \
                       OTARI_MASTER_KEY, and restart";
        return Err(Rejection::new(Code::Conflict, message));
    }
    let token = first_run::new_master_key().map_err(Rejection::internal)?;
    let digest = directory::digest(&token);
    let change = (MASTER_KEY_HASH.to_owned(), Some(directory::hex(&digest)));
    app.store.setting_put(&[change], clock::now()).await?;
    app.local.master.store(Arc::new(MasterKey::Generated(digest)));
    Answer::json(&NewMasterKey { master_key: &token })
}
