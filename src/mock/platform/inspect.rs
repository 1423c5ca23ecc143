//! What a gateway does wrong, in sentences. Knows what each endpoint takes; decides nothing about the answer.

use serde_json::{Map, Value};

use super::super::http::{Request, field, lines};
use super::endpoint::Endpoint;

/// Headers that must not leave a gateway: credentials of its callers.
const FOREIGN: [&str; 8] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "otari-key",
    "anyllm-key",
];

/// Longest `session_label`, in characters.
const MAX_LABEL: usize = 255;

/// The headers that matter here.
#[derive(Clone, Copy, Default)]
pub(super) struct Tokens<'a> {
    pub(super) gateway: Option<&'a str>,
    pub(super) user: Option<&'a str>,
}

/// Reads the headers; what is wrong with them goes to `wrong`.
pub(super) fn headers<'a>(
    endpoint: Endpoint,
    request: &Request<'a>,
    wrong: &mut Vec<String>,
) -> Tokens<'a> {
    let mut tokens = Tokens::default();
    let mut kind = None;
    let name = endpoint.name();
    for (header, value) in lines(request.fields).filter_map(field) {
        let value = std::str::from_utf8(value).unwrap_or_default();
        let (token, label) = match header.len() {
            15 if header.eq_ignore_ascii_case(b"x-gateway-token") => {
                (&mut tokens.gateway, "X-Gateway-Token")
            }
            12 if header.eq_ignore_ascii_case(b"x-user-token") => {
                (&mut tokens.user, "X-User-Token")
            }
            12 if header.eq_ignore_ascii_case(b"content-type") => (&mut kind, "Content-Type"),
            _ => {
                let foreign = FOREIGN.iter().find(|f| header.eq_ignore_ascii_case(f.as_bytes()));
                if let Some(foreign) = foreign {
                    wrong.push(format!("{name}: carries `{foreign}`, which is not for a platform"));
                }
                continue;
            }
        };
        if value.is_empty() {
            wrong.push(format!("{name}: {label} is empty"));
        } else if token.replace(value).is_some() {
            wrong.push(format!("{name}: {label} came twice"));
        }
    }
    let probe = endpoint == Endpoint::Health;
    for (label, token, wanted) in [
        ("X-Gateway-Token", tokens.gateway, !probe),
        ("X-User-Token", tokens.user, endpoint.takes_user_token()),
    ] {
        match (token, wanted) {
            (None, true) => wrong.push(format!("{name}: {label} is missing")),
            (Some(_), false) => wrong.push(format!("{name}: {label} does not belong here")),
            _ => {}
        }
    }
    let essence = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    match essence {
        _ if probe => {}
        Some(kind) if kind.eq_ignore_ascii_case("application/json") => {}
        Some(kind) => wrong.push(format!("{name}: Content-Type is `{kind}`, not application/json")),
        None => wrong.push(format!("{name}: Content-Type is missing")),
    }
    tokens
}

/// Looks at a body; what is wrong with it goes to `wrong`.
pub(super) fn body(endpoint: Endpoint, body: &Value, wrong: &mut Vec<String>) {
    let mut check = Check { name: endpoint.name(), wrong };
    let Value::Object(fields) = body else {
        return check.say("the body is no JSON object");
    };
    match endpoint {
        Endpoint::Resolve => {
            check.only(fields, "", &["model", "provider"]);
            check.text(fields, "model");
            if fields.contains_key("provider") {
                check.text(fields, "provider");
            }
        }
        Endpoint::Mcp => {
            check.only(fields, "", &["mcp_server_ids"]);
            check.server_ids(fields);
        }
        Endpoint::WebSearch | Endpoint::CodeExecution => check.only(fields, "", &[]),
        Endpoint::Usage => check.report(fields),
        Endpoint::Health => {}
    }
}

struct Check<'w> {
    name: &'static str,
    wrong: &'w mut Vec<String>,
}

impl Check<'_> {
    fn say(&mut self, what: &str) {
        self.wrong.push(format!("{}: {what}", self.name));
    }

    fn only(&mut self, fields: &Map<String, Value>, of: &str, known: &[&str]) {
        for unknown in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            self.say(&format!("unknown field `{of}{unknown}`"));
        }
    }

    /// A text that must be there.
    fn text<'f>(&mut self, fields: &'f Map<String, Value>, name: &str) -> Option<&'f str> {
        let found = fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if found.is_none() {
            self.say(&format!("`{name}` must be a text that is not empty"));
        }
        found
    }

    fn server_ids(&mut self, fields: &Map<String, Value>) {
        let ids = fields.get("mcp_server_ids").and_then(Value::as_array);
        let canonical = |id: &Value| {
            let text = id.as_str().unwrap_or_default();
            uuid::Uuid::try_parse(text).is_ok_and(|id| id.to_string() == text)
        };
        if !ids.is_some_and(|ids| !ids.is_empty() && ids.iter().all(canonical)) {
            self.say("`mcp_server_ids` must hold one UUID or more, lower-case with hyphens");
        }
    }

    fn report(&mut self, fields: &Map<String, Value>) {
        let known = [
            "correlation_id",
            "status",
            "is_final_attempt",
            "session_label",
            "usage",
            "error_class",
        ];
        self.only(fields, "", &known);
        self.text(fields, "correlation_id");
        let status = fields.get("status").and_then(Value::as_str).unwrap_or_default();
        let success = status == "success";
        if !success && status != "error" {
            self.say("`status` must be `success` or `error`");
        }
        match fields.get("is_final_attempt").and_then(Value::as_bool) {
            None => self.say("`is_final_attempt` must be true or false"),
            Some(false) if success => {
                self.say("a success is final, and `is_final_attempt` is false")
            }
            Some(_) => {}
        }
        if fields.contains_key("session_label") {
            let label = self.text(fields, "session_label");
            if label.is_some_and(|l| l.trim() != l || l.chars().count() > MAX_LABEL) {
                self.say("`session_label` must be trimmed, of 255 characters at most");
            }
        }
        if fields.contains_key("error_class") {
            self.text(fields, "error_class");
            if success {
                self.say("a success has no `error_class`");
            }
        }
        if let Some(usage) = fields.get("usage") {
            if !success {
                self.say("an error has no `usage`");
            }
            self.usage(usage);
        }
    }

    fn usage(&mut self, usage: &Value) {
        let Value::Object(fields) = usage else { return self.say("`usage` must be an object") };
        let needed = ["prompt_tokens", "completion_tokens", "total_tokens"];
        let known = [&needed[..], &["cache_read_tokens", "cache_write_tokens"]].concat();
        self.only(fields, "usage.", &known);
        for name in known {
            let fits = match fields.get(name) {
                Some(value) => value.is_u64(),
                None => !needed.contains(&name),
            };
            if !fits {
                self.say(&format!("`usage.{name}` must be a whole number, 0 or more"));
            }
        }
    }
}
