//! The built-in provider in a process of its own, as `otari mock` runs it, and what it has seen.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::gateway::{Builder, Gateway};

/// AWS's own example of a key: the built-in provider checks signatures that are made with it.
const AWS: &str = ", region_name: us-east-1, aws_access_key_id: AKIDEXAMPLE, \
                   aws_secret_access_key: wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A service account of Google's, whose tokens the built-in provider issues.
const GOOGLE: &str = r#", project: p-1, location: europe-west4, credentials: '{"type": "service_account",
"client_email": "a@p-1.example", "private_key_id": "k1", "private_key": "{key}", "token_uri": "{root}/token"}'"#;

/// A key of IBM's, which it exchanges for a token.
const IBM: &str = ", api_key: ibm-key, iam_url: \"{root}\", project_id: p-1";

/// The private key of the service account, made for tests.
const PRIVATE_KEY: &str = include_str!("../../../src/credentials/tests/key.pem");

/// Families of providers whose APIs the built-in provider speaks.
pub(crate) const FAMILIES: [Family; 15] = [
    Family::of("openai", "/v1", ""),
    // Chat completions and nothing else.
    Family::of("deepinfra", "/v1", "strict"),
    Family::of("anthropic", "/v1", ""),
    Family::of("gemini", "", ""),
    Family { more: AWS, ..Family::of("bedrock", "", "") },
    // The next ones tell usage without being asked, in the last piece.
    Family { more: AWS, ..Family::of("sagemaker", "", "usage=last") },
    Family::of("azure", "", "usage=last"),
    Family::of("mistral", "/v1", "usage=last&strict=mistral"),
    Family::of("azureopenai", "", ""),
    Family::of("azureanthropic", "/anthropic", ""),
    Family { more: GOOGLE, ..Family::of("vertexai", "", "") },
    Family { more: GOOGLE, ..Family::of("vertexaianthropic", "", "") },
    Family { more: IBM, ..Family::of("watsonx", "", "usage=last") },
    Family::of("cohere", "", ""),
    Family::of("ollama", "", ""),
];

/// A provider as the gateway is told of it; its instance has the name of its type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    /// `provider_type`.
    pub(crate) kind: &'static str,
    /// Its `api_base`, below the address of the built-in provider.
    base: &'static str,
    /// Options in the names of its models.
    options: &'static str,
    /// Further keys of its entry; with some, it has no API key.
    more: &'static str,
}

impl Family {
    const fn of(kind: &'static str, base: &'static str, options: &'static str) -> Self {
        Self { kind, base, options, more: "" }
    }

    pub(crate) fn named(kind: &str) -> Self {
        let found = FAMILIES.into_iter().find(|family| family.kind == kind);
        found.unwrap_or_else(|| panic!("no family of providers is called {kind}"))
    }

    /// The selector of its model with these options.
    pub(crate) fn model(self, options: &str) -> String {
        let all = [self.options, options].join("&");
        format!("{}:m?{}", self.kind, all.trim_matches('&')).trim_end_matches('?').to_owned()
    }

    /// A gateway that knows it, at `mock`.
    pub(crate) fn before(self, start: Builder, mock: &Mock) -> Builder {
        if self.more.is_empty() {
            return start.provider_of(self.kind, self.kind, &mock.url(self.base), "");
        }
        let key = PRIVATE_KEY.trim_end().replace('\n', "\\n");
        let more =
            self.more.replace('\n', " ").replace("{root}", &mock.root).replace("{key}", &key);
        start.provider_without_key(self.kind, &mock.url(self.base), &more)
    }
}

/// A running `otari mock`; killed when dropped.
pub(crate) struct Mock {
    child: Child,
    /// `http://<address>`, without a path.
    root: String,
}

impl Mock {
    pub(crate) fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_otari"));
        command.args(["mock", "--port", "0"]).env_clear().stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the built binary runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("it says where it listens");
        let from = line.find("http://").expect("the line holds its address");
        let root = line[from..].trim_end().trim_end_matches("/v1").to_owned();
        Self { child, root }
    }

    /// The address of `path`, which starts with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.root)
    }

    /// The last 64 requests, oldest first: `method`, `path`, `headers`, `body_bytes`, `body`.
    pub(crate) async fn requests(&self, gateway: &Gateway) -> Vec<Value> {
        let answer = gateway.http().get(self.url("/__mock/requests")).send().await;
        let seen = answer.expect("the mock answers").bytes().await.expect("a whole answer");
        let seen: Value = serde_json::from_slice(&seen).expect("JSON");
        seen["requests"].as_array().expect("a list").clone()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
