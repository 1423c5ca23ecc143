//! A running gateway's management API as the command line calls it: one request, one answer, every wait bounded.

use std::time::Duration;

use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method};
use reqwest::{Response, Url, redirect};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::table;
use super::{EXIT_CONFIG, EXIT_FAILED, EXIT_NOT_ALLOWED, EXIT_UNREACHABLE, EXIT_USAGE};
use crate::config::{Env, Secret};

/// For the connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// From the first byte sent to the last one received.
const WHOLE: Duration = Duration::from_secs(60);
/// Far beyond a page of a thousand rows; what is longer is not from a gateway.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Which gateway, and how its answers are printed.
#[derive(Clone, Debug, Args)]
pub struct Gateway {
    /// Address of the running gateway [variable: OTARI_URL]
    #[arg(
        long, global = true, value_name = "URL", env = "OTARI_URL", hide_env = true,
        default_value = "http://127.0.0.1:8000", value_parser = address, help_heading = "Gateway"
    )]
    pub url: Url,
    /// Its master key; better given by its variable [variable: OTARI_MASTER_KEY]
    #[arg(
        long, global = true, value_name = "KEY", value_parser = super::secret,
        help_heading = "Gateway"
    )]
    pub master_key: Option<Secret>,
    /// Print the gateway's JSON instead of a table
    #[arg(long, global = true, help_heading = "Gateway")]
    pub json: bool,
}

/// `http://` or `https://`, with or without the API's `/v1` at the end.
fn address(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text.trim()).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("expected http://HOST:PORT or https://HOST".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a password in the address is not used; give --master-key".to_owned());
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The arguments contradict each other.
    #[error("{0}")]
    Usage(String),
    /// There is no key, or a file is wrong.
    #[error("{0}")]
    Setup(String),
    /// No answer.
    #[error("{0}")]
    Unreachable(String),
    /// The gateway said no.
    #[error("{message}")]
    Refused {
        /// From 300 on.
        status: u16,
        /// Its words.
        message: String,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// What the process ends with.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Setup(_) => EXIT_CONFIG,
            Self::Unreachable(_) => EXIT_UNREACHABLE,
            Self::Refused { status: 401 | 403, .. } => EXIT_NOT_ALLOWED,
            Self::Refused { .. } | Self::Failed(_) => EXIT_FAILED,
        }
    }

    /// Whether the gateway found fault with what was sent, and would not with something else.
    pub(super) fn is_about_the_request(&self) -> bool {
        matches!(self, Self::Refused { status: 400..=499, .. }) && self.exit_code() == EXIT_FAILED
    }
}

/// An answer with a status of success.
#[derive(Debug)]
pub(super) struct Answer {
    /// As it came; empty for 204.
    pub(super) text: String,
}

impl Answer {
    /// # Errors
    /// When it is not JSON.
    pub(super) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.text).map_err(|_| {
            Failure::Failed(
                "The answer is not JSON. Is there an otari gateway at --url?".to_owned(),
            )
        })
    }
}

/// A connection to one gateway.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    key: HeaderValue,
    runtime: Runtime,
}

impl Client {
    /// Connects with the first call only.
    ///
    /// # Errors
    /// No master key, or one that cannot be sent.
    pub(super) fn new(gateway: &Gateway) -> Result<Self, Failure> {
        let env = Env::from_process(None);
        let key = gateway.master_key.as_ref().map(Secret::expose);
        let key = key.or_else(|| env.get("OTARI_MASTER_KEY")).map(str::trim).unwrap_or_default();
        if key.is_empty() {
            let message = "No master key: set OTARI_MASTER_KEY, or give --master-key.";
            return Err(Failure::Setup(message.to_owned()));
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| {
            Failure::Setup("The master key holds characters that no header can carry.".to_owned())
        })?;
        header.set_sensitive(true);
        let failed = |error: &dyn std::error::Error| Failure::Failed(sentence(error));
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            // The key goes to the address that was given, and nowhere else.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("otari/", env!("CARGO_PKG_VERSION")));
        if gateway.url.scheme() == "http" {
            // A machine without any root certificate can still reach its own gateway.
            http = http.tls_certs_only([]);
        }
        if is_local(&gateway.url) {
            http = http.no_proxy();
        }
        Ok(Self {
            http: http.build().map_err(|error| failed(&error))?,
            base: gateway.url.clone(),
            key: header,
            runtime: Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| failed(&error))?,
        })
    }

    /// Calls `/v1/` and the parts of `path`, each of them escaped.
    ///
    /// # Errors
    /// Everything but an answer of success.
    pub(super) fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(String, String)],
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Failure::Usage("--url has no path to add to".to_owned()))?
            .pop_if_empty()
            .push("v1")
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url).header(AUTHORIZATION, self.key.clone());
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        self.runtime.block_on(async {
            let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
            let (status, location) = (answer.status(), answer.headers().get(LOCATION).cloned());
            let text = self.text(answer).await?;
            if status.is_success() {
                return Ok(Answer { text });
            }
            let message = match location {
                Some(location) if status.is_redirection() => {
                    let to = table::plain(&String::from_utf8_lossy(location.as_bytes()));
                    format!("The address leads elsewhere: give its own address as --url ({to}).")
                }
                _ => refusal(status.as_u16(), &text),
            };
            Err(Failure::Refused { status: status.as_u16(), message })
        })
    }

    /// The whole body, within its limit.
    async fn text(&self, mut answer: Response) -> Result<String, Failure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(&error))? {
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                let message = "The answer is larger than any of a gateway: is --url right?";
                return Err(Failure::Failed(message.to_owned()));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let base = self.base.as_str().trim_end_matches('/');
        Failure::Unreachable(if error.is_connect() {
            format!("No gateway answers at {base}: {}. Set OTARI_URL or --url.", sentence(error))
        } else if error.is_timeout() {
            let seconds = WHOLE.as_secs();
            format!("{base} has not answered within {seconds} s. What was asked may still be done.")
        } else {
            format!("The connection to {base} broke: {}.", sentence(error))
        })
    }
}

/// Whether the address is this machine: then no proxy stands between.
fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    loopback || host == "localhost"
}

/// The innermost reason: what is around it names the request, which the reader knows.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    table::plain(&inner.to_string())
}

/// What the gateway says, with every fault that it found, on one line.
fn refusal(status: u16, text: &str) -> String {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let faults: Vec<String> = body["detail"].as_array().into_iter().flatten().map(fault).collect();
    let words = [&body["error"]["message"], &body["detail"]].into_iter().find_map(Value::as_str);
    let said = match (faults.is_empty(), words) {
        (false, _) => faults.join("; "),
        (true, Some(words)) => table::plain(words),
        (true, None) => "no reason given. Is there an otari gateway at --url?".to_owned(),
    };
    match status {
        401 | 403 => {
            format!("Not allowed ({status}): {said}. Is OTARI_MASTER_KEY that of this gateway?")
        }
        _ => format!("The gateway refused it ({status}): {said}"),
    }
}

/// `field: what is wrong with it`; `body` and `query` are left out, there is only one of them.
fn fault(fault: &Value) -> String {
    let parts: Vec<String> = fault["loc"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
        .collect();
    let place = match parts.as_slice() {
        [root, rest @ ..]
            if !rest.is_empty() && matches!(root.as_str(), "body" | "query" | "path") =>
        {
            rest
        }
        all => all,
    };
    let message = fault["msg"].as_str().unwrap_or("is wrong");
    table::plain(&format!("{}: {message}", place.join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_brought_into_one_form() {
        let read = |text| address(text).map(|url| url.to_string());
        assert_eq!(read("http://127.0.0.1:8000").as_deref(), Ok("http://127.0.0.1:8000/"));
        assert_eq!(read("https://a.example/llm/v1/").as_deref(), Ok("https://a.example/llm"));
        for wrong in ["", "localhost:8000", "ftp://a", "http://u:p@a", "http://"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn this_machine_needs_no_proxy() {
        let local = |text: &str| is_local(&address(text).unwrap());
        assert!(
            local("http://127.0.0.2:1") && local("http://[::1]:1") && local("http://localhost")
        );
        assert!(!local("https://gateway.example") && !local("http://10.0.0.1"));
    }

    #[test]
    fn every_fault_of_a_refusal_is_named() {
        let body = r#"{"detail":[{"loc":["body","max_budget"],"msg":"Input should be greater"},
            {"loc":["body","tiers",0],"msg":"Field required"},{"loc":["body"],"msg":"odd"}],
            "error":{"message":"max_budget: ... (and 2 more: see detail)"}}"#;
        assert_eq!(
            refusal(422, body),
            "The gateway refused it (422): max_budget: Input should be greater; tiers.0: Field required; body: odd"
        );
        let body = r#"{"detail":"Key with id 'a' not found","error":{"message":"Key with id 'a' not found"}}"#;
        assert_eq!(refusal(404, body), "The gateway refused it (404): Key with id 'a' not found");
        assert_eq!(
            refusal(401, r#"{"error":{"message":"Invalid"}}"#),
            "Not allowed (401): Invalid. Is OTARI_MASTER_KEY that of this gateway?"
        );
        assert!(refusal(502, "<html>").contains("no reason given"));
    }

    #[test]
    fn exit_codes_tell_what_to_repair() {
        let refused = |status| Failure::Refused { status, message: String::new() };
        assert_eq!(refused(401).exit_code(), 77);
        assert_eq!(refused(422).exit_code(), 1);
        assert_eq!(Failure::Unreachable(String::new()).exit_code(), 69);
        assert_eq!(Failure::Setup(String::new()).exit_code(), 78);
        assert!(refused(422).is_about_the_request() && !refused(403).is_about_the_request());
        assert!(!refused(503).is_about_the_request());
    }
}
