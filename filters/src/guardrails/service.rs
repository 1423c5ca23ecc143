//! What a guardrails service is asked, and what its answer means. Its address stays out of every sentence.

use serde_json::{Value, json};

use super::{Guardrail, Verdict};
use crate::rejection::{Code, Rejection};

/// How much of an odd answer a refusal shows, in characters.
const MAX_SHOWN: usize = 200;

/// The body of `POST <service>/validate`.
pub fn service_body(guardrail: &Guardrail, text: &str) -> Vec<u8> {
    let mut body = json!({"profile": guardrail.profile, "input_text": text});
    if !guardrail.validate_kwargs.is_empty() {
        body["validate_kwargs"] = Value::Object(guardrail.validate_kwargs.clone());
    }
    body.to_string().into_bytes()
}

/// Reads an answer with a status of success.
///
/// # Errors
/// `guardrail_unavailable` when it holds no verdict.
pub fn read_service(profile: &str, body: &[u8]) -> Result<Verdict, Rejection> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let result = match &answer["result"] {
        Value::Array(results) => results.first().unwrap_or(&Value::Null),
        result => result,
    };
    let Some(fields) = result.as_object() else {
        return Err(refusal(
            profile,
            &format!("returned an unexpected result shape: {}", shown(result)),
        ));
    };
    let valid = match fields.get("valid") {
        None => {
            return Err(refusal(profile, &format!("returned no 'valid' field: {}", shown(result))));
        }
        Some(Value::Null) => None,
        Some(Value::Bool(valid)) => Some(*valid),
        Some(other) => {
            return Err(refusal(
                profile,
                &format!("returned a non-boolean 'valid': {}", shown(other)),
            ));
        }
    };
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    Ok(Verdict { valid, explanation: field("explanation"), score: field("score") })
}

/// There is no service to ask.
pub fn unconfigured(profile: &str) -> Rejection {
    refusal(
        profile,
        "requested but no guardrails service is configured. Set OTARI_GUARDRAILS_URL on the gateway or pass `url` on \
         the guardrail entry.",
    )
}

/// The service did not answer. `cause` is for the log: it may say where the service is.
pub fn unreachable(
    profile: &str,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Rejection {
    refusal(profile, "could not be evaluated: the guardrails service did not answer").because(cause)
}

fn refusal(profile: &str, what: &str) -> Rejection {
    Rejection::new(Code::GuardrailUnavailable, format!("guardrail profile '{profile}' {what}"))
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_reference_reads_them() {
        let read = |body: &str| read_service("pi", body.as_bytes());
        let verdict =
            read(r#"{"result":{"valid":false,"explanation":{"a":1},"score":0.5}}"#).unwrap();
        let want = Verdict { valid: Some(false), explanation: json!({"a": 1}), score: json!(0.5) };
        assert_eq!(verdict, want);
        assert_eq!(
            read(r#"{"result":[{"valid":null},{"valid":false}]}"#).unwrap(),
            Verdict::default()
        );
        for (body, says) in [
            (r#"{"result":{"score":1}}"#, "returned no 'valid' field: {\"score\":1}"),
            (r#"{"result":{"valid":"yes"}}"#, "returned a non-boolean 'valid': \"yes\""),
            (r#"{"result":"x"}"#, "returned an unexpected result shape: \"x\""),
            ("<html>", "returned an unexpected result shape: null"),
        ] {
            let refused = read(body).unwrap_err();
            assert_eq!(refused.message, format!("guardrail profile 'pi' {says}"));
            assert_eq!(refused.code.status().as_u16(), 502);
        }
    }

    #[test]
    fn an_address_stays_in_the_log() {
        let refused = unreachable("pi", "connect to http://10.0.0.1:99 failed");
        assert!(!refused.message.contains("10.0.0.1") && refused.to_string().contains("10.0.0.1"));
    }
}
