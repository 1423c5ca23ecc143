//! Where a request may go, as the platform writes it: several attempts, or the older form of one.
//!
//! Values are taken as the reference gateway takes them: names of attempts may be numbers, positions may be text.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Malformed;
use super::value::Value;
use crate::secret::Secret;

/// The platform's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offers {
    /// The platform's name for the request.
    pub request_id: String,
    /// What to try, in this order. Empty when the platform knows no provider.
    pub attempts: Vec<Offer>,
}

/// One provider with the credential to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The platform's name for the attempt.
    pub id: String,
    /// The platform's number for it.
    pub position: u32,
    /// Name in the provider table, perhaps one that is not there.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// `None`: the provider wants none.
    pub api_key: Option<Secret>,
    /// Instead of the provider's own base URL.
    pub api_base: Option<String>,
    /// Further settings of the provider's client.
    pub client_settings: Vec<(String, Secret)>,
}

/// Reads the body of an answer with status 200.
///
/// # Errors
/// Which part is missing or wrong.
pub fn read(body: &[u8]) -> Result<Offers, Malformed> {
    // What the parser says may hold a part of the body, and so of a credential.
    let answer = Value::read(body).ok_or(Malformed("no JSON"))?;
    let Value::Object(_) = answer else { return Err(Malformed("not an object")) };
    match answer.get("attempts") {
        Some(Value::List(attempts)) => Ok(Offers {
            request_id: text(&answer, "request_id").ok_or(Malformed("request_id"))?,
            attempts: attempts.iter().map(attempt).collect::<Result<_, _>>()?,
        }),
        None | Some(Value::Null) => {
            let id = text(&answer, "correlation_id").ok_or(Malformed("correlation_id"))?;
            let one = offer(&answer, id.clone(), 0)?;
            Ok(Offers { request_id: id, attempts: vec![one] })
        }
        Some(_) => Err(Malformed("attempts")),
    }
}

fn attempt(fields: &Value<'_>) -> Result<Offer, Malformed> {
    let Value::Object(_) = fields else { return Err(Malformed("attempts[]")) };
    let id = text(fields, "attempt_id").ok_or(Malformed("attempt_id"))?;
    let position = fields.get("position").and_then(integer).ok_or(Malformed("position"))?;
    offer(fields, id, u32::try_from(position.max(0)).unwrap_or(u32::MAX))
}

fn offer(fields: &Value<'_>, id: String, position: u32) -> Result<Offer, Malformed> {
    let name = |key: &'static str| {
        fields.get(key).and_then(Value::as_str).map(str::to_owned).ok_or(Malformed(key))
    };
    let filled = |key: &'static str| match fields.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(&**text).filter(|text| !text.is_empty())),
        Some(_) => Err(Malformed(key)),
    };
    if fields.get("api_key").is_none() {
        return Err(Malformed("api_key"));
    }
    Ok(Offer {
        id,
        position,
        provider: name("provider")?,
        model: name("model")?,
        api_key: filled("api_key")?.map(Secret::new),
        api_base: filled("api_base")?.map(str::to_owned),
        client_settings: settings(fields.get("extra_params"))?,
    })
}

fn settings(value: Option<&Value<'_>>) -> Result<Vec<(String, Secret)>, Malformed> {
    let wrong = Malformed("extra_params");
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(fields)) => {
            // Of several with one name the last holds, where the first stood.
            let mut places: HashMap<&str, usize> = HashMap::new();
            let mut values: Vec<(&str, &Value<'_>)> = Vec::with_capacity(fields.len());
            for (key, value) in fields {
                let place = *places.entry(key).or_insert(values.len());
                match values.get_mut(place) {
                    Some(known) => known.1 = value,
                    None => values.push((key, value)),
                }
            }
            values.retain(|(_, value)| !matches!(value, Value::Null));
            let text = |value| Ok(Secret::new(as_text(value).ok_or(wrong)?));
            values.into_iter().map(|(key, value)| Ok((key.to_owned(), text(value)?))).collect()
        }
        Some(_) => Err(wrong),
    }
}

fn text(fields: &Value<'_>, key: &str) -> Option<String> {
    fields.get(key).and_then(as_text).map(Cow::into_owned)
}

/// A plain value as the reference turns it into text.
fn as_text<'v>(value: &'v Value<'_>) -> Option<Cow<'v, str>> {
    match value {
        Value::Text(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(true) => Some("True".into()),
        Value::Bool(false) => Some("False".into()),
        Value::Null | Value::List(_) | Value::Object(_) => None,
    }
}

/// A plain value as the reference turns it into a whole number: fractions are cut off.
fn integer(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Number(number) => {
            number.as_i64().or_else(|| number.as_f64().map(|float| float.trunc() as i64))
        }
        Value::Text(text) => text.trim().parse().ok(),
        Value::Bool(flag) => Some(i64::from(*flag)),
        Value::Null | Value::List(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(value: &Value) -> Result<Offers, Malformed> {
        read(value.to_string().as_bytes())
    }

    fn attempt() -> Value {
        json!({"attempt_id": "att-1", "position": 0, "provider": "openai", "model": "m", "api_key": "k1"})
    }

    fn with(key: &str, value: Value) -> Value {
        let mut attempt = attempt();
        attempt[key] = value;
        json!({"request_id": "req", "attempts": [attempt]})
    }

    #[test]
    fn several_attempts_keep_their_order_and_settings() {
        let offers = parse(&json!({
            "request_id": "req-7", "fallback_enabled": true, "user_id": "u", "unknown": {"a": 1},
            "attempts": [
                {"attempt_id": "a", "position": 5, "provider": "anthropic", "model": "claude-x",
                 "api_key": "k1", "api_base": null, "managed": false},
                {"attempt_id": "b", "position": 1, "provider": "bedrock", "model": "m", "api_key": "secret",
                 "api_base": "https://h/v1", "managed": "yes",
                 "extra_params": {"region_name": "eu-west-1", "aws_access_key_id": "AKIA", "n": 1, "none": null}}]
        }))
        .unwrap();
        assert_eq!(offers.request_id, "req-7");
        let [first, second] = &offers.attempts[..] else { panic!("two attempts") };
        assert_eq!((first.id.as_str(), first.position, &first.api_base), ("a", 5, &None));
        assert_eq!(second.api_base.as_deref(), Some("https://h/v1"));
        let settings: Vec<_> = second
            .client_settings
            .iter()
            .map(|(key, value)| (key.as_str(), value.expose()))
            .collect();
        assert_eq!(
            settings,
            [("region_name", "eu-west-1"), ("aws_access_key_id", "AKIA"), ("n", "1")]
        );
        let printed = format!("{offers:?}");
        assert!(!printed.contains("secret") && !printed.contains("AKIA"), "{printed}");
    }

    #[test]
    fn the_older_form_is_one_attempt() {
        for attempts in [json!(null), json!(0)] {
            let mut body = json!({"provider": "openai", "model": "gpt-x", "api_key": "k",
                "api_base": "https://h/v1", "managed": true, "correlation_id": "c-1"});
            if attempts.is_null() {
                body["attempts"] = attempts;
            }
            let offers = parse(&body).unwrap();
            assert_eq!(offers.request_id, "c-1");
            let [one] = &offers.attempts[..] else { panic!("one attempt") };
            assert_eq!((one.id.as_str(), one.position, one.model.as_str()), ("c-1", 0, "gpt-x"));
        }
    }

    #[test]
    fn plain_values_are_taken_as_the_reference_takes_them() {
        let id =
            |value| parse(&with("attempt_id", value)).map(|offers| offers.attempts[0].id.clone());
        assert_eq!(id(json!(12)).as_deref(), Ok("12"));
        assert_eq!(id(json!(true)).as_deref(), Ok("True"));
        assert_eq!(id(json!(1.5)).as_deref(), Ok("1.5"));
        let position =
            |value| parse(&with("position", value)).map(|offers| offers.attempts[0].position);
        let table = [
            (json!(3), 3),
            (json!("4"), 4),
            (json!(" 5 "), 5),
            (json!(6.9), 6),
            (json!(true), 1),
            (json!(-2), 0),
            (json!(u64::MAX), u32::MAX),
        ];
        for (value, expected) in table {
            assert_eq!(position(value.clone()), Ok(expected), "{value}");
        }
        for empty in [json!(""), json!(null), json!(false)] {
            let offers = parse(&with("api_base", empty.clone())).unwrap();
            assert_eq!(offers.attempts[0].api_base, None, "{empty}");
        }
        assert_eq!(parse(&with("api_key", json!(""))).unwrap().attempts[0].api_key, None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_without_its_value() {
        let mut wrong: Vec<(Value, &str)> = vec![
            (json!([]), "not an object"),
            (json!({"attempts": []}), "request_id"),
            (json!({"request_id": null, "attempts": []}), "request_id"),
            (json!({"request_id": "r", "attempts": {}}), "attempts"),
            (json!({"request_id": "r", "attempts": [1]}), "attempts[]"),
            (json!({}), "correlation_id"),
            (json!({"correlation_id": "c", "model": "m", "api_key": "k"}), "provider"),
            (with("position", json!("first")), "position"),
            (with("position", json!(null)), "position"),
            (with("attempt_id", json!(["a"])), "attempt_id"),
            (with("extra_params", json!("secret")), "extra_params"),
            (with("extra_params", json!({"a": {}})), "extra_params"),
            (with("api_key", json!(["secret"])), "api_key"),
        ];
        for key in ["attempt_id", "position", "provider", "model", "api_key"] {
            let mut short = attempt();
            short.as_object_mut().unwrap().remove(key);
            wrong.push((json!({"request_id": "r", "attempts": [short]}), key));
        }
        for (body, part) in wrong {
            assert_eq!(parse(&body).unwrap_err().0, part, "{body}");
        }
        assert_eq!(read(b"{").unwrap_err(), Malformed("no JSON"));
        let twice = br#"{"request_id":"r","attempts":1,"attempts":[{"attempt_id":"a","position":0,"provider":"p",
            "model":"m","api_key":"k","extra_params":{"a":{},"b":"x","c":"z","a":"y","c":null}}]}"#;
        let offers = read(twice).unwrap();
        let settings: Vec<_> = offers.attempts[0].client_settings.iter().collect();
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| (&**key, value.expose())).collect();
        assert_eq!(settings, [("a", "y"), ("b", "x")], "the last of several holds");
        assert_eq!(parse(&json!({"request_id": "r", "attempts": []})).unwrap().attempts, []);
    }
}
