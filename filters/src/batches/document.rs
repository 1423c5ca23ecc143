//! A provider's batch as OpenAI's API would show it.

use serde_json::{Map, Value, json};

use super::Api;

/// The key in a batch's metadata that says whose it is. Callers never see it, unless they sent it themselves.
pub const OWNER: &str = "otari_user_id";

/// The fields of a batch, in the order in which they are shown; all of them always are.
const FIELDS: [&str; 22] = [
    "id",
    "completion_window",
    "created_at",
    "endpoint",
    "input_file_id",
    "object",
    "status",
    "cancelled_at",
    "cancelling_at",
    "completed_at",
    "error_file_id",
    "errors",
    "expired_at",
    "expires_at",
    "failed_at",
    "finalizing_at",
    "in_progress_at",
    "metadata",
    "model",
    "output_file_id",
    "request_counts",
    "usage",
];

/// Whether nothing more will happen to a batch of this status.
pub fn has_ended(status: &str) -> bool {
    matches!(status, "completed" | "failed" | "expired" | "cancelled")
}

/// Items of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub total: i64,
    /// Answered.
    pub completed: i64,
    /// Failed.
    pub failed: i64,
}

/// A batch in OpenAI's terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document(pub Map<String, Value>);

/// A page of batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    /// Newest first, as the provider has them.
    pub batches: Vec<Document>,
    /// There are older ones.
    pub has_more: bool,
}

impl Document {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The provider's name for it.
    pub fn id(&self) -> &str {
        self.text("id").unwrap_or_default()
    }

    /// `validating`, `in_progress` and so on; empty when it does not say.
    pub fn status(&self) -> &str {
        self.text("status").unwrap_or_default()
    }

    /// Whose it says it is.
    pub fn owner(&self) -> Option<&str> {
        self.0.get("metadata")?.get(OWNER)?.as_str()
    }

    /// Its items.
    pub fn counts(&self) -> Counts {
        let counts = self.0.get("request_counts");
        let count = |name: &str| counts.and_then(|it| it.get(name)?.as_i64()).unwrap_or(0);
        Counts { total: count("total"), completed: count("completed"), failed: count("failed") }
    }

    /// The files with its results: answers, then errors.
    pub fn result_files(&self) -> impl Iterator<Item = &str> {
        ["output_file_id", "error_file_id"]
            .into_iter()
            .filter_map(|name| self.text(name))
            .filter(|id| !id.is_empty())
    }

    /// As callers see it: every field, nulls included, then what else the provider says, then `provider`. `sent`: the
    /// metadata as its owner sent it.
    #[must_use]
    pub fn shown(
        mut self,
        provider: &str,
        sent: Option<&Map<String, Value>>,
    ) -> Map<String, Value> {
        let mut shown = Map::with_capacity(FIELDS.len() + 1);
        if let Some(metadata) = self.0.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove(OWNER);
            if let Some(own) = sent.and_then(|sent| sent.get(OWNER)) {
                metadata.insert(OWNER.into(), own.clone());
            }
        }
        for name in FIELDS {
            shown.insert(name.into(), self.0.shift_remove(name).unwrap_or_default());
        }
        self.0.shift_remove("provider");
        shown.append(&mut self.0);
        shown.insert("provider".into(), provider.into());
        shown
    }
}

impl Api {
    /// Reads a batch; `None` when it is none.
    pub fn read_batch(self, body: &[u8]) -> Option<Document> {
        self.document(serde_json::from_slice(body).ok()?)
    }

    /// Reads a page of batches; `None` when it is none.
    pub fn read_list(self, body: &[u8]) -> Option<List> {
        let mut page: Value = serde_json::from_slice(body).ok()?;
        let has_more = page["has_more"] == true;
        let all = page.get_mut("data")?.as_array_mut()?;
        let batches = all.drain(..).filter_map(|it| self.document(it)).collect();
        Some(List { batches, has_more })
    }

    fn document(self, batch: Value) -> Option<Document> {
        let Value::Object(batch) = batch else { return None };
        batch.get("id")?.as_str()?;
        Some(Document(match self {
            Self::OpenAi | Self::Otari => batch,
            Self::Mistral => mistral(batch),
            Self::Anthropic => anthropic(&batch),
        }))
    }
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn mistral(job: Map<String, Value>) -> Map<String, Value> {
    let at = |name: &str| job.get(name).cloned().unwrap_or_default();
    let status = match at("status").as_str().unwrap_or_default() {
        "QUEUED" => "validating",
        "SUCCESS" => "completed",
        "FAILED" => "failed",
        "TIMEOUT_EXCEEDED" => "expired",
        "CANCELLATION_REQUESTED" => "cancelling",
        "CANCELLED" => "cancelled",
        _ => "in_progress",
    };
    let ended = at("completed_at");
    let ended_as = |wanted: &str| if status == wanted { ended.clone() } else { Value::Null };
    let errors = match at("errors") {
        Value::Array(errors) if !errors.is_empty() => json!({"object": "list", "data": errors}),
        _ => Value::Null,
    };
    map(json!({
        "id": at("id"),
        "completion_window": "24h",
        "created_at": at("created_at"),
        "endpoint": at("endpoint"),
        "input_file_id": at("input_files").get(0).cloned().unwrap_or_else(|| "".into()),
        "object": "batch",
        "status": status,
        "cancelled_at": ended_as("cancelled"),
        "completed_at": ended_as("completed"),
        "expired_at": ended_as("expired"),
        "failed_at": ended_as("failed"),
        "in_progress_at": at("started_at"),
        "error_file_id": at("error_file"),
        "errors": errors,
        "metadata": at("metadata"),
        "model": at("model"),
        "output_file_id": at("output_file"),
        "request_counts": {
            "completed": at("succeeded_requests").as_i64().unwrap_or(0),
            "failed": at("failed_requests").as_i64().unwrap_or(0),
            "total": at("total_requests").as_i64().unwrap_or(0),
        },
    }))
}

fn anthropic(batch: &Map<String, Value>) -> Map<String, Value> {
    let status = match batch.get("processing_status").and_then(Value::as_str).unwrap_or_default() {
        "ended" => "completed",
        "canceling" => "cancelling",
        "canceled" => "cancelled",
        "expired" => "expired",
        _ => "in_progress",
    };
    let count = |name: &str| {
        batch.get("request_counts").and_then(|counts| counts.get(name)?.as_i64()).unwrap_or(0)
    };
    let succeeded = count("succeeded");
    let failed = count("errored") + count("canceled") + count("expired");
    let epoch = |name: &str| batch.get(name).and_then(Value::as_str).and_then(epoch);
    let ended_as = |wanted: &str| epoch("ended_at").filter(|_| status == wanted);
    map(json!({
        "id": batch.get("id"),
        "completion_window": "24h",
        "created_at": epoch("created_at").unwrap_or(0),
        "endpoint": super::ENDPOINT,
        "input_file_id": "",
        "object": "batch",
        "status": status,
        "cancelled_at": ended_as("cancelled"),
        "cancelling_at": epoch("cancel_initiated_at"),
        "completed_at": ended_as("completed"),
        "expired_at": ended_as("expired"),
        "expires_at": epoch("expires_at"),
        "request_counts": {
            "completed": succeeded,
            "failed": failed,
            "total": count("processing") + succeeded + failed,
        },
    }))
}

/// Seconds since 1970 of an instant such as `2026-01-31T23:59:59.5Z` or with `+00:00`; `None` when it is none.
fn epoch(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let seconds = number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let tail = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match tail.as_bytes().first() {
        None | Some(b'Z' | b'z') => 0,
        Some(sign @ (b'+' | b'-')) => {
            let minutes =
                tail.get(1..3)?.parse::<i64>().ok()? * 60 + tail.get(4..6)?.parse::<i64>().ok()?;
            if *sign == b'-' { -minutes * 60 } else { minutes * 60 }
        }
        Some(_) => return None,
    };
    // Years that begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468;
    Some(days * 86_400 + seconds - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_become_epochs() {
        assert_eq!(epoch("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(epoch("2024-02-29T12:00:00.123456+00:00"), Some(1_709_208_000));
        assert_eq!(epoch("2024-09-24T18:37:24.100435Z"), Some(1_727_203_044));
        assert_eq!(epoch("2026-01-01T01:00:00+01:00"), Some(1_767_225_600));
        for bad in ["", "soon", "2024-13-01T00:00:00Z", "2024-01-01"] {
            assert_eq!(epoch(bad), None, "{bad}");
        }
    }
}
