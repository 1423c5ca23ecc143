//! What a [`Platform`](super::Platform) answers, as plain data: the same in Rust and in JSON. Which rule applies to a
//! request is decided in `playbook`, what it then says in `answer`.

use std::collections::BTreeMap;
use std::fmt;

use otari_filters::money::Rate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::endpoint::Endpoint;
use super::record::masked_json;

/// Longest pause before an answer: ten minutes, as long as the most patient client waits.
pub(super) const MAX_DELAY_MS: u64 = 600_000;

/// Most rules of one endpoint: each request looks at them one by one.
const MAX_RULES: usize = 1000;

/// Headers that the server itself writes.
const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "connection"];

/// How a platform answers: a list of rules per endpoint, the first that matches wins, and a default without any.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Remember requests, not only how many there were; switched off for load tests. Default `true`.
    pub keep: bool,
    /// The only `X-Gateway-Token` that is accepted; unset: any.
    pub gateway_token: Option<String>,
    /// Starts the generator behind [`When::chance`]: the same seed, the same choices.
    pub seed: u64,
    /// Where attempts lead that say nothing else.
    pub default_provider: DefaultProvider,
    /// What a settlement is computed from.
    pub price: Price,
    /// `POST gateway/provider-keys/resolve`. Default: one attempt at `default_provider`.
    pub resolve: Vec<Rule>,
    /// `POST gateway/usage`. Default: 200 with a settlement for a success, 204 for an error.
    pub usage: Vec<Rule>,
    /// `GET utils/health-check/`. Default: 200.
    pub health: Vec<Rule>,
    /// `POST gateway/mcp-servers/resolve`. Default: `{"servers":[]}`.
    pub mcp: Vec<Rule>,
    /// `POST gateway/web-search/resolve`. Default: `{"enabled":false}`.
    pub web_search: Vec<Rule>,
    /// `POST gateway/code-execution/resolve`. Default: `{"enabled":false}`.
    pub code_execution: Vec<Rule>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            keep: true,
            gateway_token: None,
            seed: 0,
            default_provider: DefaultProvider::default(),
            price: Price::default(),
            resolve: Vec::new(),
            usage: Vec::new(),
            health: Vec::new(),
            mcp: Vec::new(),
            web_search: Vec::new(),
            code_execution: Vec::new(),
        }
    }
}

impl fmt::Debug for Script {
    /// As JSON, credentials masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        masked(self, f)
    }
}

/// Writes `data` as JSON, credentials masked.
fn masked(data: &impl Serialize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut shown = json!(data);
    masked_json(&mut shown);
    write!(f, "{shown}")
}

/// The provider of attempts that name none.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultProvider {
    /// Its name when the request asks for none. Default `openai`.
    pub provider: String,
    /// Its address; `null`: the provider's own. Default: where `otari mock --port 9100` listens.
    pub api_base: Option<String>,
    /// Its key. Default `sk-mock`.
    pub api_key: String,
}

impl Default for DefaultProvider {
    fn default() -> Self {
        Self {
            provider: "openai".into(),
            api_base: Some("http://127.0.0.1:9100/v1".into()),
            api_key: "sk-mock".into(),
        }
    }
}

impl fmt::Debug for DefaultProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}", self.provider, self.api_base)
    }
}

/// A flat price, in JSON as USD per million tokens. Default: 1 in, 2 out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// Of `prompt_tokens`.
    #[serde(with = "usd")]
    pub input: Rate,
    /// Of `completion_tokens`.
    #[serde(with = "usd")]
    pub output: Rate,
}

impl Default for Price {
    fn default() -> Self {
        Self { input: Rate(100_000_000), output: Rate(200_000_000) }
    }
}

/// A rate as the decimal number that people write.
mod usd {
    use otari_filters::money::Rate;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(rate: &Rate, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(rate.to_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Rate, D::Error> {
        let rate = Rate::from_f64(f64::deserialize(from)?).filter(|rate| rate.0 >= 0);
        rate.ok_or_else(|| D::Error::custom("a price is USD per million tokens, 0 or more"))
    }
}

/// To which requests a rule applies, and what then happens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// To which requests it applies; empty: to all.
    pub when: When,
    /// What happens.
    pub then: Then,
}

impl Rule {
    /// Applies to every request.
    pub fn always(then: Then) -> Self {
        Self { when: When::default(), then }
    }

    /// Applies to the first `count` requests.
    pub fn first(count: u32, then: Then) -> Self {
        Self { when: When { first: Some(count), ..When::default() }, then }
    }

    /// Applies to requests for this model.
    pub fn model(model: &str, then: Then) -> Self {
        Self { when: When { model: Some(model.into()), ..When::default() }, then }
    }
}

/// Conditions of a rule; all that are set must hold.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// The `model` asked for, without its provider; a `*` at the end stands for anything. Resolve only.
    pub model: Option<String>,
    /// The `provider` asked for. Resolve only.
    pub provider: Option<String>,
    /// The caller's token. Not on reports and health probes.
    pub user_token: Option<String>,
    /// The report's `status`: `success` or `error`. Reports only.
    pub status: Option<String>,
    /// How the report's `correlation_id` begins. Reports only.
    pub correlation_id: Option<String>,
    /// Only the first so many of the requests that the conditions above let through.
    pub first: Option<u32>,
    /// Only so many of a hundred of these, at random from [`Script::seed`].
    pub chance: Option<u8>,
}

impl fmt::Debug for When {
    /// As JSON, credentials masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        masked(self, f)
    }
}

/// What happens to a request.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Then {
    /// Status of the answer. Unset: the endpoint's default. Another than 200 without `body` or `text` has no body.
    pub status: Option<u16>,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// The whole body, as JSON.
    pub body: Option<Value>,
    /// The whole body, as bare text: for JSON that is none.
    pub text: Option<String>,
    /// Laid over the top level of the default body, such as `user_id` of a plan or `pricing` of a settlement.
    pub fields: Map<String, Value>,
    /// The plan, in its order; unknown fields go out as given. What an attempt leaves out is filled in: `attempt_id`,
    /// `position`, `provider`, `model`, `api_key`, `api_base`, `managed`. In every text of `attempts` and `fields`,
    /// `{n}` becomes the number of the resolve call. Resolve only.
    pub attempts: Option<Vec<Map<String, Value>>>,
    /// Answers in the older flat shape, made of the only attempt. Resolve only.
    pub legacy: bool,
    /// Pause before the answer, or before the fault.
    pub delay_ms: u64,
    /// What goes wrong on the connection.
    pub fault: Option<Fault>,
}

impl fmt::Debug for Then {
    /// As JSON, credentials masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        masked(self, f)
    }
}

impl Then {
    /// Answers this status without a body (200: with the default one).
    pub fn status(status: u16) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// Answers this status and JSON.
    pub fn json(status: u16, body: Value) -> Self {
        Self { status: Some(status), body: Some(body), ..Self::default() }
    }

    /// Answers this plan; see [`Then::attempts`]. What is no object counts as `{}`.
    pub fn plan(attempts: impl IntoIterator<Item = Value>) -> Self {
        let objects = attempts.into_iter().map(|attempt| match attempt {
            Value::Object(fields) => fields,
            _ => Map::new(),
        });
        Self { attempts: Some(objects.collect()), ..Self::default() }
    }

    /// Breaks the connection.
    pub fn fault(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    /// Lays a field over the default body.
    #[must_use]
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.fields.insert(name.into(), value);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Waits so many milliseconds first.
    #[must_use]
    pub fn delayed(mut self, ms: u64) -> Self {
        self.delay_ms = ms;
        self
    }
}

/// What goes wrong on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Closes without an answer.
    Close,
    /// Resets without an answer.
    Reset,
    /// Never answers, and keeps the connection.
    Hang,
    /// Promises the whole body, sends half of it, and closes.
    Half,
    /// Sends the caller to another address of this server; following is a violation.
    Redirect,
}

impl Script {
    /// Reads a script and checks it.
    ///
    /// # Errors
    /// A sentence that names the place and what is possible there.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let script: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        script.check()?;
        Ok(script)
    }

    /// Finds the first mistake. Scripts made in Rust are not checked unless asked; they are followed as far as possible.
    ///
    /// # Errors
    /// A sentence that names the place and what is possible there.
    pub fn check(&self) -> Result<(), String> {
        for endpoint in Endpoint::ALL {
            let rules = self.rules(endpoint);
            let name = endpoint.name();
            if rules.len() > MAX_RULES {
                return Err(format!("{name}: at most {MAX_RULES} rules"));
            }
            for (at, rule) in rules.iter().enumerate() {
                let place = |text| format!("{name}[{at}].{text}");
                rule.when.check(endpoint).map_err(|text| place(format!("when.{text}")))?;
                rule.then.check(endpoint).map_err(|text| place(format!("then.{text}")))?;
            }
        }
        Ok(())
    }

    /// The rules of an endpoint.
    pub(super) fn rules(&self, endpoint: Endpoint) -> &[Rule] {
        match endpoint {
            Endpoint::Resolve => &self.resolve,
            Endpoint::Usage => &self.usage,
            Endpoint::Health => &self.health,
            Endpoint::Mcp => &self.mcp,
            Endpoint::WebSearch => &self.web_search,
            Endpoint::CodeExecution => &self.code_execution,
        }
    }
}

impl When {
    fn check(&self, endpoint: Endpoint) -> Result<(), String> {
        let name = endpoint.name();
        let never = |field: &str| Err(format!("{field}: a request to {name} has none"));
        if endpoint != Endpoint::Resolve {
            if self.model.is_some() {
                return never("model");
            }
            if self.provider.is_some() {
                return never("provider");
            }
        }
        if endpoint != Endpoint::Usage {
            if self.status.is_some() {
                return never("status");
            }
            if self.correlation_id.is_some() {
                return never("correlation_id");
            }
        }
        if self.user_token.is_some() && !endpoint.takes_user_token() {
            return never("user_token");
        }
        if self.status.as_deref().is_some_and(|status| !["success", "error"].contains(&status)) {
            return Err("status: `success` or `error`".into());
        }
        if self.chance.is_some_and(|chance| chance > 100) {
            return Err("chance: 0 to 100".into());
        }
        Ok(())
    }
}

impl Then {
    fn check(&self, endpoint: Endpoint) -> Result<(), String> {
        let status = self.status.unwrap_or(200);
        let whole = self.body.is_some() || self.text.is_some();
        let made = self.attempts.is_some() || self.legacy || !self.fields.is_empty();
        if !(200..=599).contains(&status) {
            return Err("status: 200 to 599".into());
        }
        if self.body.is_some() && self.text.is_some() {
            return Err("body: leave it out, or leave out `text`".into());
        }
        if whole && made {
            return Err("body: leave it out, or leave out `attempts`, `legacy` and `fields`".into());
        }
        if whole && bodyless(status) {
            return Err(format!("body: an answer with status {status} has none"));
        }
        if made && status != 200 {
            return Err("status: only 200 goes with `attempts`, `legacy` and `fields`".into());
        }
        if (self.attempts.is_some() || self.legacy) && endpoint != Endpoint::Resolve {
            return Err("attempts: only `resolve` answers them".into());
        }
        if self.legacy && self.attempts.as_ref().is_some_and(|attempts| attempts.len() != 1) {
            return Err("legacy: the flat shape holds exactly one attempt".into());
        }
        if self.delay_ms > MAX_DELAY_MS {
            return Err(format!("delay_ms: 0 to {MAX_DELAY_MS}"));
        }
        if self.fault == Some(Fault::Redirect)
            && self.status.is_some_and(|status| !(300..400).contains(&status))
        {
            return Err("status: a redirect has one from 300 to 399".into());
        }
        self.headers.iter().try_for_each(|(name, value)| header(name, value))
    }
}

/// Whether an answer with this status has no body, by the rules of HTTP.
pub(super) fn bodyless(status: u16) -> bool {
    matches!(status, 204 | 304)
}

fn header(name: &str, value: &str) -> Result<(), String> {
    let valid = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
        && http::HeaderValue::from_str(value).is_ok();
    if !valid {
        return Err(format!("headers: `{name}` is no header"));
    }
    // The type of the content may be chosen, the framing may not.
    if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
        return Err(format!("headers: `{name}` is written by the server"));
    }
    Ok(())
}
