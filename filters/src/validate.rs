//! Request fields, checked as the reference checks them: all faults at once, in its shape and words.
//!
//! Source: the reference gateway's own validation answers (pydantic 2).

mod field;

use serde_json::{Map, Value, json};

use crate::rejection::{Code, Rejection};

pub use field::{Field, Kind};

/// The faults of one request, in the order in which fields are declared.
#[derive(Debug, Default)]
pub struct Faults(Vec<Value>);

/// Where a value stands: `body`, `query` or `path`, then names and indexes.
pub type Loc<'a> = &'a [Value];

impl Faults {
    /// Adds a fault. `context` is left out when null.
    pub fn add(&mut self, kind: &str, loc: Loc<'_>, message: &str, input: Value, context: Value) {
        let mut fault = Map::new();
        fault.insert("type".into(), kind.into());
        fault.insert("loc".into(), Value::Array(loc.to_vec()));
        fault.insert("msg".into(), message.into());
        fault.insert("input".into(), input);
        if !context.is_null() {
            fault.insert("ctx".into(), context);
        }
        self.0.push(Value::Object(fault));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// `invalid_fields` when there is any fault.
    pub fn check(self) -> Result<(), Rejection> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into_rejection(Code::InvalidFields)) }
    }

    /// The refusal that lists the faults; its sentence names the first.
    pub fn into_rejection(self, code: Code) -> Rejection {
        let sentence = match self.0.first() {
            None => "Invalid request".to_owned(),
            Some(first) => {
                let place: Vec<String> = first["loc"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
                    .collect();
                let more = match self.0.len() {
                    1 => String::new(),
                    n => format!(" (and {} more: see detail)", n - 1),
                };
                format!("{}: {}{more}", place.join("."), first["msg"].as_str().unwrap_or_default())
            }
        };
        Rejection { detail: Some(Value::Array(self.0)), ..Rejection::new(code, sentence) }
    }
}

/// The fields of one object (a body, or a query string), read by type.
///
/// What is read must be declared. Only builds with debug assertions, as tests are, look after it.
#[derive(Debug)]
pub struct Fields<'a> {
    root: &'static str,
    object: &'a Map<String, Value>,
    declared: &'a [Field],
    /// What was wrong so far.
    pub faults: Faults,
}

impl<'a> Fields<'a> {
    /// `root` is `body`, `query` or `path`.
    pub fn new(root: &'static str, object: &'a Map<String, Value>, declared: &'a [Field]) -> Self {
        Self { root, object, declared, faults: Faults::default() }
    }

    /// Whether a field of this name is declared, and fits.
    pub fn is_declared(&self, name: &str, fits: impl Fn(&Field) -> bool) -> bool {
        self.declared.iter().any(|field| field.name == name && fits(field))
    }

    /// The value of a field, absent and null alike left out.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.raw(name, |_| true).filter(|value| !value.is_null())
    }

    /// The value of a field as sent.
    fn raw(&self, name: &str, fits: impl Fn(&Field) -> bool) -> Option<&'a Value> {
        debug_assert!(self.is_declared(name, fits), "{} `{name}` is not declared so", self.root);
        self.object.get(name)
    }

    /// Whether the field was sent, null included.
    pub fn has(&self, name: &str) -> bool {
        self.raw(name, |_| true).is_some()
    }

    /// The field's place.
    pub fn loc(&self, name: &str) -> [Value; 2] {
        [self.root.into(), name.into()]
    }

    /// Notes that a required field is missing.
    pub fn missing(&mut self, name: &str) {
        let input =
            if self.root == "body" { Value::Object(self.object.clone()) } else { Value::Null };
        let loc = self.loc(name);
        self.faults.add("missing", &loc, "Field required", input, Value::Null);
    }

    /// Notes a fault of a field that is there.
    pub fn wrong(&mut self, name: &str, kind: &str, message: &str, context: Value) {
        let input = self.object.get(name).cloned().unwrap_or_default();
        let loc = self.loc(name);
        self.faults.add(kind, &loc, message, input, context);
    }

    /// A string that must be there; empty when it is not, with the fault noted.
    pub fn required_string(&mut self, name: &str) -> String {
        match self.raw(name, |field| field.is_required && field.is_text()) {
            None => {
                self.missing(name);
                String::new()
            }
            Some(Value::String(text)) => text.clone(),
            Some(_) => {
                self.wrong(name, "string_type", "Input should be a valid string", Value::Null);
                String::new()
            }
        }
    }

    /// A string, or nothing.
    pub fn string(&mut self, name: &str) -> Option<String> {
        match self.raw(name, |field| !field.is_required && field.is_text())? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            _ => {
                self.wrong(name, "string_type", "Input should be a valid string", Value::Null);
                None
            }
        }
    }

    /// An object, or nothing. Null is a fault where `nullable` is false.
    pub fn object(&mut self, name: &str, nullable: bool) -> Option<Map<String, Value>> {
        let fits =
            |field: &Field| matches!(field.kind, Kind::Object) && field.is_nullable == nullable;
        match self.raw(name, fits)? {
            Value::Object(map) => Some(map.clone()),
            Value::Null if nullable => None,
            _ => {
                self.wrong(name, "dict_type", "Input should be a valid dictionary", Value::Null);
                None
            }
        }
    }

    /// A boolean, or nothing; texts and 0/1 are understood.
    pub fn boolean(&mut self, name: &str, nullable: bool) -> Option<bool> {
        let fits =
            |field: &Field| matches!(field.kind, Kind::Flag) && field.is_nullable == nullable;
        let value = self.raw(name, fits)?;
        if value.is_null() && nullable {
            return None;
        }
        match lax_bool(value) {
            Ok(read) => Some(read),
            Err((kind, message)) => {
                self.wrong(name, kind, message, Value::Null);
                None
            }
        }
    }

    /// An integer within bounds, or nothing.
    pub fn integer(&mut self, name: &str, bounds: Bounds<i64>) -> Option<i64> {
        let fits = |field: &Field| matches!(field.kind, Kind::Whole(known) if known == bounds);
        let value = self.raw(name, fits)?;
        if value.is_null() {
            return None;
        }
        match lax_int(value) {
            Ok(read) => bounds.check(read).map_or_else(
                |(kind, message, context)| {
                    self.wrong(name, kind, &message, context);
                    None
                },
                Some,
            ),
            Err((kind, message)) => {
                self.wrong(name, kind, message, Value::Null);
                None
            }
        }
    }

    /// A number that is at least 0, or nothing.
    pub fn amount(&mut self, name: &str) -> Option<f64> {
        let value = self.raw(name, |field| matches!(field.kind, Kind::Amount(_)))?;
        if value.is_null() {
            return None;
        }
        match lax_float(value) {
            Ok(read) if read >= 0.0 => Some(read),
            Ok(_) => {
                self.wrong(
                    name,
                    "greater_than_equal",
                    "Input should be greater than or equal to 0",
                    json!({"ge": 0.0}),
                );
                None
            }
            Err((kind, message)) => {
                self.wrong(name, kind, message, Value::Null);
                None
            }
        }
    }

    /// An amount that must be there.
    pub fn required_amount(&mut self, name: &str) -> f64 {
        match self.raw(name, |field| matches!(field.kind, Kind::Amount(_))) {
            None => {
                self.missing(name);
                0.0
            }
            Some(Value::Null) => {
                self.wrong(name, "float_type", "Input should be a valid number", Value::Null);
                0.0
            }
            Some(_) => self.amount(name).unwrap_or_default(),
        }
    }
}

/// Inclusive bounds, or a strict lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds<T> {
    /// `>=`.
    pub at_least: Option<T>,
    /// `>`.
    pub above: Option<T>,
    /// `<=`.
    pub at_most: Option<T>,
}

impl Bounds<i64> {
    fn check(self, value: i64) -> Result<i64, (&'static str, String, Value)> {
        if let Some(least) = self.at_least.filter(|least| value < *least) {
            let message = format!("Input should be greater than or equal to {least}");
            return Err(("greater_than_equal", message, json!({"ge": least})));
        }
        if let Some(above) = self.above.filter(|above| value <= *above) {
            let message = format!("Input should be greater than {above}");
            return Err(("greater_than", message, json!({"gt": above})));
        }
        if let Some(most) = self.at_most.filter(|most| value > *most) {
            let message = format!("Input should be less than or equal to {most}");
            return Err(("less_than_equal", message, json!({"le": most})));
        }
        Ok(value)
    }
}

type Fault = (&'static str, &'static str);

const INT_TYPE: Fault = ("int_type", "Input should be a valid integer");
const INT_PARSING: Fault =
    ("int_parsing", "Input should be a valid integer, unable to parse string as an integer");
const INT_FRACTION: Fault =
    ("int_from_float", "Input should be a valid integer, got a number with a fractional part");
const FLOAT_TYPE: Fault = ("float_type", "Input should be a valid number");
const FLOAT_PARSING: Fault =
    ("float_parsing", "Input should be a valid number, unable to parse string as a number");
const BOOL_TYPE: Fault = ("bool_type", "Input should be a valid boolean");
const BOOL_PARSING: Fault =
    ("bool_parsing", "Input should be a valid boolean, unable to interpret input");

/// An integer, read as leniently as the reference does.
///
/// # Errors
/// Kind and message of the fault.
pub fn lax_int(value: &Value) -> Result<i64, Fault> {
    match value {
        Value::Bool(flag) => Ok(i64::from(*flag)),
        Value::Number(number) => match number.as_i64() {
            Some(int) => Ok(int),
            None => whole(number.as_f64().unwrap_or(f64::NAN)).ok_or(INT_FRACTION),
        },
        Value::String(text) => {
            let digits = text.trim().replace('_', "");
            let digits = digits.strip_suffix(".0").unwrap_or(&digits);
            digits.parse().map_err(|_| INT_PARSING)
        }
        _ => Err(INT_TYPE),
    }
}

/// The integer a float stands for; `None` for fractions and what 64 bits do not hold.
fn whole(float: f64) -> Option<i64> {
    // The text of a whole float below 2^63 is its digits: no cast, no rounding.
    (float.fract() == 0.0).then(|| format!("{float:.0}").parse().ok()).flatten()
}

/// A number, read as leniently as the reference does.
///
/// # Errors
/// Kind and message of the fault.
pub fn lax_float(value: &Value) -> Result<f64, Fault> {
    match value {
        Value::Bool(flag) => Ok(f64::from(u8::from(*flag))),
        Value::Number(number) => number.as_f64().ok_or(FLOAT_TYPE),
        Value::String(text) => text.trim().parse().map_err(|_| FLOAT_PARSING),
        _ => Err(FLOAT_TYPE),
    }
}

/// A boolean, read as leniently as the reference does.
///
/// # Errors
/// Kind and message of the fault.
pub fn lax_bool(value: &Value) -> Result<bool, Fault> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::Number(number) => match number.as_f64() {
            Some(0.0) => Ok(false),
            Some(1.0) => Ok(true),
            _ => Err(BOOL_PARSING),
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
            "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
            _ => Err(BOOL_PARSING),
        },
        _ => Err(BOOL_TYPE),
    }
}

/// The refusal of a body that is not one JSON document.
pub fn not_json(body: &[u8], error: &serde_json::Error) -> Rejection {
    if body.iter().all(u8::is_ascii_whitespace) {
        let mut faults = Faults::default();
        faults.add("missing", &["body".into()], "Field required", Value::Null, Value::Null);
        return faults.into_rejection(Code::InvalidFields);
    }
    let offset =
        if error.is_eof() { body.len() } else { offset_of(body, error.line(), error.column()) };
    json_invalid(offset, decoder_text(&error.to_string()))
}

/// The refusal of a body that is no text: its first wrong byte is at `offset`.
pub fn not_utf8(offset: usize) -> Rejection {
    json_invalid(offset, "Invalid UTF-8")
}

fn json_invalid(offset: usize, error: &str) -> Rejection {
    let mut faults = Faults::default();
    let loc = ["body".into(), offset.into()];
    faults.add("json_invalid", &loc, "JSON decode error", json!({}), json!({"error": error}));
    faults.into_rejection(Code::InvalidJson)
}

/// Whether the content type is JSON: `application/json` or `application/*+json`, whatever the parameters.
pub fn is_json_type(content_type: Option<&[u8]>) -> bool {
    let Some(text) = content_type.and_then(|value| std::str::from_utf8(value).ok()) else {
        return false;
    };
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.strip_prefix("application/").is_some_and(|rest| rest == "json" || rest.ends_with("+json"))
}

/// The refusal of a body that is not declared to be JSON.
pub fn not_declared_json(body: &[u8]) -> Rejection {
    let mut faults = Faults::default();
    // The text is echoed as the reference does, but never a large one.
    let text = String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned();
    let message = "Input should be a valid dictionary or object to extract fields from";
    faults.add("model_attributes_type", &["body".into()], message, text.into(), Value::Null);
    let refused = faults.into_rejection(Code::InvalidFields);
    Rejection {
        message: format!("{message}: send the header 'Content-Type: application/json'").into(),
        ..refused
    }
}

/// The refusal of a body that is JSON, but no object.
pub fn not_an_object(body: &[u8]) -> Rejection {
    let mut faults = Faults::default();
    faults.add(
        "model_attributes_type",
        &["body".into()],
        "Input should be a valid dictionary or object to extract fields from",
        serde_json::from_slice(body).unwrap_or_default(),
        Value::Null,
    );
    faults.into_rejection(Code::InvalidFields)
}

/// Byte offset of a one-based line and column.
fn offset_of(body: &[u8], line: usize, column: usize) -> usize {
    let before: usize = body
        .split_inclusive(|byte| *byte == b'\n')
        .take(line.saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    (before + column.saturating_sub(1)).min(body.len())
}

/// What the reference's decoder says where ours says `message`.
fn decoder_text(message: &str) -> &'static str {
    const TEXTS: [(&str, &str); 9] = [
        ("EOF while parsing an object", "Expecting property name enclosed in double quotes"),
        ("key must be a string", "Expecting property name enclosed in double quotes"),
        ("trailing comma", "Expecting property name enclosed in double quotes"),
        ("expected `:`", "Expecting ':' delimiter"),
        ("expected `,`", "Expecting ',' delimiter"),
        ("trailing characters", "Extra data"),
        ("EOF while parsing a string", "Unterminated string starting at"),
        ("control character", "Invalid control character at"),
        ("invalid escape", "Invalid \\escape"),
    ];
    TEXTS
        .iter()
        .find(|(ours, _)| message.starts_with(ours))
        .map_or("Expecting value", |(_, theirs)| theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_leniently() {
        for (text, want) in [("60", 60), (" 1 ", 1), ("1_000", 1000), ("1.0", 1)] {
            assert_eq!(lax_int(&json!(text)), Ok(want), "{text}");
        }
        assert_eq!(lax_int(&json!(2.0)), Ok(2));
        assert_eq!(lax_int(&json!(true)), Ok(1));
        assert_eq!(lax_int(&json!("1e3")).unwrap_err().0, "int_parsing");
        assert_eq!(lax_int(&json!(1.5)).unwrap_err().0, "int_from_float");
        assert_eq!(lax_int(&json!(1e300)).unwrap_err().0, "int_from_float");
    }

    #[test]
    fn all_faults_come_at_once_and_in_order() {
        let body = json!({"blocked": "maybe", "alias": 5});
        let declared = [
            Field::new("user_id", Kind::Text, "").required(),
            Field::new("alias", Kind::Text, ""),
            Field::new("blocked", Kind::Flag, "").not_null(),
        ];
        let mut fields = Fields::new("body", body.as_object().unwrap(), &declared);
        fields.required_string("user_id");
        fields.string("alias");
        fields.boolean("blocked", false);
        let refused = fields.faults.check().unwrap_err();
        let detail = refused.detail.unwrap();
        let kinds: Vec<_> = detail.as_array().unwrap().iter().map(|f| f["type"].clone()).collect();
        assert_eq!(kinds, ["missing", "string_type", "bool_parsing"]);
        assert_eq!(detail[0]["input"], body, "a missing field shows the object it is missing from");
    }

    #[test]
    #[should_panic(expected = "body `alias` is not declared so")]
    fn what_is_not_declared_is_not_read() {
        let body = Map::new();
        let declared = [Field::new("alias", Kind::Flag, "")];
        Fields::new("body", &body, &declared).string("alias");
    }

    #[test]
    fn broken_json_says_where() {
        let body = b"{\"a\":1,\n}";
        let error = serde_json::from_slice::<Value>(body).unwrap_err();
        let refused = not_json(body, &error);
        let detail = refused.detail.unwrap();
        assert_eq!(detail[0]["type"], "json_invalid");
        assert_eq!(detail[0]["loc"], json!(["body", 8]));
    }
}
