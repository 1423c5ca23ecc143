//! The usage of a loop: the sum of what its rounds report, field by field, whatever the fields are called.

use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::doc::Edits;

/// The sum of the rounds' usage, in the caller's format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    rounds: u32,
    sum: Option<Value>,
}

impl Tally {
    /// Adds a round and what its answer reported.
    pub fn add(&mut self, usage: Option<&Value>) {
        self.rounds = self.rounds.saturating_add(1);
        let Some(usage) = usage.filter(|usage| usage.is_object()) else { return };
        self.sum = Some(match self.sum.take() {
            None => usage.clone(),
            Some(sum) => plus(&sum, usage),
        });
    }

    /// The sum; `None` while no round has reported any.
    pub fn sum(&self) -> Option<&Value> {
        self.sum.as_ref()
    }

    /// How many rounds were added.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// The sum, where it is not what the last round reported itself.
    pub(super) fn folded(&self) -> Option<&Value> {
        self.sum().filter(|_| self.rounds > 1)
    }

    /// Puts the sum in the place of what an answer reports.
    pub(super) fn write(&self, edits: &mut Edits<'_>, usage: Option<&RawValue>) {
        if let (Some(sum), Some(usage)) = (self.folded(), usage) {
            edits.replace(usage, sum.to_string());
        }
    }
}

/// Counts are added, objects field by field, lists one behind the other; of anything else the later holds.
fn plus(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Value::Number(add(a, b)),
        (Value::Object(a), Value::Object(b)) => Value::Object(add_fields(a, b)),
        (Value::Array(a), Value::Array(b)) => a.iter().chain(b).cloned().collect(),
        (a, Value::Null) => a.clone(),
        (_, b) => b.clone(),
    }
}

fn add_fields(a: &Map<String, Value>, b: &Map<String, Value>) -> Map<String, Value> {
    let mut sum = a.clone();
    // Calls that a provider made within its own: where one round has none, their sum would not be all.
    sum.retain(|name, value| !value.is_array() || b.contains_key(name));
    for (name, value) in b {
        match a.get(name) {
            Some(before) => {
                sum.insert(name.clone(), plus(before, value));
            }
            None if value.is_array() => {}
            None => {
                sum.insert(name.clone(), value.clone());
            }
        }
    }
    if let Some(total) = total(a).zip(total(b)).filter(|_| sum.contains_key(TOTAL)) {
        sum.insert(TOTAL.to_owned(), total.0.saturating_add(total.1).into());
    }
    sum
}

const TOTAL: &str = "total_tokens";

/// The total of one report: as it says, else of input and output.
fn total(usage: &Map<String, Value>) -> Option<u64> {
    let count = |name: &str| usage.get(name).and_then(Value::as_u64);
    let parts = |a: &str, b: &str| Some(count(a)?.saturating_add(count(b)?));
    count(TOTAL)
        .or_else(|| parts("prompt_tokens", "completion_tokens"))
        .or_else(|| parts("input_tokens", "output_tokens"))
}

fn add(a: &Number, b: &Number) -> Number {
    if let (Some(a), Some(b)) = (a.as_u64(), b.as_u64()) {
        return a.saturating_add(b).into();
    }
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        return a.saturating_add(b).into();
    }
    // Seconds, or what a provider says a call cost it: shown, and never billed.
    let sum = a.as_f64().unwrap_or_default() + b.as_f64().unwrap_or_default();
    let rounded = format!("{sum:.12}").parse().unwrap_or(sum);
    Number::from_f64(rounded).unwrap_or_else(|| 0.into())
}

/// What a later report of the same round says, over the earlier one; a zero keeps what is known.
pub(super) fn overlay(usage: &mut Option<Value>, later: Value) {
    match (usage, later) {
        (Some(Value::Object(known)), Value::Object(later)) => {
            for (name, value) in later {
                let mut slot = known.get(&name).cloned();
                if is_news(&value) || slot.is_none() {
                    overlay(&mut slot, value);
                }
                known.insert(name, slot.unwrap_or_default());
            }
        }
        (_, Value::Null) => {}
        (slot, later) => *slot = Some(later),
    }
}

fn is_news(value: &Value) -> bool {
    !value.is_null() && value.as_u64() != Some(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sum(rounds: &[Value]) -> Value {
        let mut tally = Tally::default();
        rounds.iter().for_each(|usage| tally.add(Some(usage)));
        tally.sum().cloned().unwrap_or_default()
    }

    #[test]
    fn every_count_is_added_to_the_token() {
        let chat = |p: u64, c: u64, cached: u64, thought: u64| {
            json!({"prompt_tokens": p, "completion_tokens": c, "total_tokens": p + c,
                "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": null},
                "completion_tokens_details": {"reasoning_tokens": thought}, "service_tier": "x"})
        };
        let rounds = [chat(10, 2, 4, 1), chat(30, 5, 8, 0), chat(77, 11, 64, 9)];
        assert_eq!(sum(&rounds), chat(117, 18, 76, 10));
        let messages = |i: u64, o: u64, read: u64, write: u64| {
            json!({"input_tokens": i, "output_tokens": o, "cache_read_input_tokens": read,
                "cache_creation_input_tokens": write,
                "cache_creation": {"ephemeral_5m_input_tokens": write, "ephemeral_1h_input_tokens": 0}})
        };
        let rounds = [messages(7, 4, 3, 2), messages(1, 9, 0, 5)];
        assert_eq!(sum(&rounds), messages(8, 13, 3, 7));
    }

    #[test]
    fn a_total_that_one_round_lacks_is_made_up() {
        let rounds = [
            json!({"prompt_tokens": 10, "completion_tokens": 2}),
            json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 5}),
        ];
        assert_eq!(sum(&rounds)["total_tokens"], 17);
        let without = json!({"input_tokens": 1, "output_tokens": 2});
        assert_eq!(sum(&[without.clone(), without])["total_tokens"], Value::Null);
    }

    #[test]
    fn what_is_no_count_is_the_last_and_lists_are_whole_or_gone() {
        let rounds = [
            json!({"cost": 0.1, "iterations": [{"input_tokens": 1}], "tier": "a", "other": [1]}),
            json!({"cost": 0.2, "iterations": [{"input_tokens": 2}], "tier": null}),
        ];
        assert_eq!(
            sum(&rounds),
            json!({"cost": 0.3, "iterations": [{"input_tokens": 1}, {"input_tokens": 2}], "tier": "a"})
        );
    }

    #[test]
    fn a_later_report_of_a_round_stands_over_the_earlier() {
        let mut usage = None;
        overlay(&mut usage, json!({"input_tokens": 7, "output_tokens": 1, "a": {"b": 1, "c": 2}}));
        overlay(&mut usage, json!({"input_tokens": 0, "output_tokens": 4, "a": {"b": 3}, "d": 0}));
        overlay(&mut usage, Value::Null);
        assert_eq!(
            usage.unwrap(),
            json!({"input_tokens": 7, "output_tokens": 4, "a": {"b": 3, "c": 2}, "d": 0})
        );
    }
}
