//! The files that a batch run here comes to, as OpenAI's clients read it: its answers in one, its errors in another. They
//! are made when somebody first looks at the batch after its end, and are files of its maker's like any other: they can be
//! listed and deleted, and go after their time.

use bytes::Bytes;
use jiff::Timestamp;
use otari_filters::batches::{Document, has_ended};
use otari_filters::files;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::KEEP;
use crate::app::Standalone;
use crate::clock;
use crate::files::{FilesError, NewFile, began_long_ago};
use crate::store::{BatchItemRow, BatchRow, FileRow};

/// What they are for, in the list of files.
const PURPOSE: &str = "batch_output";
/// Items that are read from the store at once.
const PAGE: i64 = 50;
/// Lines are joined to pieces of this size.
const PIECE_BYTES: usize = 256 << 10;
/// A file whose making was cut short is made anew, under another name, so often.
const NAMES: u8 = 4;

/// The two files: the batch's field that names them, and a word of their own.
const FILES: [(&str, &str); 2] = [("output_file_id", "output"), ("error_file_id", "error")];

/// How it stands with a file.
enum State {
    /// It can be read.
    There(String),
    /// Somebody else is about to make it.
    Soon,
    /// It was deleted, its time is over, or its owner is gone.
    Never,
}

/// Names the files of a batch that has ended in what its asker sees. `makes`: those that are missing are made. While
/// somebody else makes them the batch is `finalizing`; what cannot be made is not named, and tried again by the next who
/// asks.
pub(super) async fn name(app: &Standalone, row: &BatchRow, makes: bool, document: &mut Document) {
    let is_own = row.upstream_id.is_none();
    if !is_own || !has_ended(&row.status) || app.files.max_bytes().is_err() {
        return;
    }
    for (field, word) in FILES {
        let is_due = if word == "error" { row.failed > 0 } else { row.completed > 0 };
        if !is_due {
            continue;
        }
        match file(app, row, word, makes).await {
            Ok(State::There(id)) => drop(document.0.insert(field.to_owned(), id.into())),
            Ok(State::Soon) => {
                document.0.insert("status".to_owned(), "finalizing".into());
                document.0.insert("completed_at".to_owned(), Value::Null);
            }
            Ok(State::Never) => {}
            Err(error) => {
                tracing::warn!(id = row.id, %error, "the {word} file of a batch could not be made; its results can be read");
            }
        }
    }
}

/// Finds a file, or makes it.
async fn file(
    app: &Standalone,
    row: &BatchRow,
    word: &str,
    makes: bool,
) -> Result<State, FilesError> {
    let Some(owner) = &row.user_id else { return Ok(State::Never) };
    for attempt in 0..NAMES {
        let id = id(&row.id, word, attempt);
        let Some(found) = app.files.known(&id).await? else {
            if !makes {
                return Ok(State::Never);
            }
            return match make(app, row, owner, word, &id).await {
                Ok(made) => Ok(State::There(made.id)),
                Err(FilesError::UserNotFound(_) | FilesError::Empty) => Ok(State::Never),
                // Two may have begun at once.
                Err(error) => match app.files.known(&id).await? {
                    Some(other) => Ok(state(&other).unwrap_or(State::Soon)),
                    None => Err(error),
                },
            };
        };
        if let Some(state) = state(&found) {
            return Ok(state);
        }
    }
    Ok(State::Never)
}

/// What a row says of its file; `None`: whoever began it has not ended it.
fn state(file: &FileRow) -> Option<State> {
    let now = clock::now();
    match file.deleted_at {
        None if file.expires_at.is_none_or(|end| end > now) => Some(State::There(file.id.clone())),
        // As it begins.
        Some(at) if at == file.created_at => {
            if began_long_ago(file, now) {
                None
            } else {
                Some(State::Soon)
            }
        }
        _ => Some(State::Never),
    }
}

/// The name of a file: the same whoever makes it.
fn id(batch: &str, word: &str, attempt: u8) -> String {
    let digest = Sha256::new()
        .chain_update(batch.as_bytes())
        .chain_update([0])
        .chain_update(word.as_bytes())
        .chain_update([0, attempt])
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    files::id(bytes)
}

async fn make(
    app: &Standalone,
    row: &BatchRow,
    owner: &str,
    word: &str,
    id: &str,
) -> Result<FileRow, FilesError> {
    let mut upload = app.files.begin_as(id).await?;
    let (mut after, mut lines) = (-1, Vec::new());
    loop {
        let page = app.store.batch_items(&row.id, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.position;
        for item in &page {
            append(item, word == "error", &mut lines);
            if lines.len() >= PIECE_BYTES {
                upload.write(Bytes::from(std::mem::take(&mut lines))).await?;
            }
        }
    }
    upload.write(lines.into()).await?;
    let new = NewFile {
        user_id: owner,
        filename: Some(&format!("{}_{word}.jsonl", row.id)),
        mime_type: Some("application/jsonl"),
        purpose: PURPOSE,
        // As long as the batch itself is kept.
        expires_after: Some(life(row, clock::now())),
    };
    upload.finish(new).await
}

fn life(row: &BatchRow, now: Timestamp) -> std::time::Duration {
    let ended = row.ended_at.unwrap_or(now);
    let end = ended.checked_add(KEEP).unwrap_or(Timestamp::MAX);
    end.duration_since(now).try_into().unwrap_or_default()
}

/// Writes the line of an item that ended so, as OpenAI does.
///
/// Source: <https://platform.openai.com/docs/api-reference/batch/request-output> (2026-11-23).
fn append(item: &BatchItemRow, failed: bool, lines: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Line<'a> {
        id: String,
        custom_id: &'a str,
        response: Option<Response<'a>>,
        error: Option<Failure>,
    }
    #[derive(Serialize)]
    struct Response<'a> {
        status_code: i32,
        request_id: &'a str,
        body: Body<'a>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Body<'a> {
        Answer(&'a RawValue),
        Error(Value),
    }
    #[derive(Serialize, Deserialize)]
    struct Failure {
        code: String,
        message: String,
    }
    let Some(outcome) = item.outcome.as_ref().filter(|it| it.error.is_some() == failed) else {
        return;
    };
    let answer = outcome.result.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let failure =
        outcome.error.as_deref().and_then(|text| serde_json::from_str::<Failure>(text).ok());
    let (body, error) = match (answer, failure) {
        (Some(answer), _) => (Some(Body::Answer(answer)), None),
        // An answer of another status is a response; what got none is an error.
        (None, Some(failure)) if outcome.status_code > 0 => {
            let error = json!({"message": failure.message, "type": "batch_error", "param": null,
                "code": failure.code});
            (Some(Body::Error(json!({ "error": error }))), None)
        }
        (None, failure) => (None, failure),
    };
    let id = format!("batch_req_{}_{}", item.batch_id.trim_start_matches("batch_"), item.position);
    let status_code = outcome.status_code;
    let response = body.map(|body| Response { status_code, request_id: &id, body });
    let line = Line { id: id.clone(), custom_id: &item.custom_id, response, error };
    // Nothing here can fail to be written: texts, numbers, and JSON that was read.
    if serde_json::to_writer(&mut *lines, &line).is_ok() {
        lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ItemOutcome;

    fn line(outcome: Option<ItemOutcome>, failed: bool) -> Value {
        let item = BatchItemRow {
            batch_id: "batch_7".into(),
            position: 3,
            custom_id: "a\"b".into(),
            body: "{}".into(),
            attempts: 1,
            outcome,
        };
        let mut lines = Vec::new();
        append(&item, failed, &mut lines);
        serde_json::from_slice(&lines).unwrap_or_default()
    }

    #[test]
    fn a_line_is_as_openai_has_it() {
        let answered =
            ItemOutcome { status_code: 200, result: Some("{\"big\":1e400}".into()), error: None };
        let mut lines = Vec::new();
        let item = BatchItemRow {
            batch_id: "batch_7".into(),
            position: 3,
            custom_id: "a".into(),
            body: "{}".into(),
            attempts: 1,
            outcome: Some(answered.clone()),
        };
        append(&item, false, &mut lines);
        let expected = "{\"id\":\"batch_req_7_3\",\"custom_id\":\"a\",\"response\":{\"status_code\":200,\
                        \"request_id\":\"batch_req_7_3\",\"body\":{\"big\":1e400}},\"error\":null}\n";
        assert_eq!(String::from_utf8(lines).unwrap(), expected, "the answer byte for byte");
        assert_eq!(line(Some(answered), true), Value::Null, "it is no error");
        assert_eq!(line(None, false), Value::Null, "what has not ended has no line");
        let error = Some("{\"code\":\"c\",\"message\":\"m\"}".to_owned());
        let refused = |status_code| ItemOutcome { status_code, result: None, error: error.clone() };
        let told = line(Some(refused(429)), true);
        assert_eq!(told["custom_id"], "a\"b");
        assert_eq!(
            (&told["response"]["status_code"], &told["response"]["body"]["error"]["message"]),
            (&json!(429), &json!("m"))
        );
        let lost = line(Some(refused(0)), true);
        assert_eq!((&lost["response"], &lost["error"]["code"]), (&Value::Null, &json!("c")));
    }

    #[test]
    fn names_are_the_same_whoever_makes_them() {
        assert_eq!(id("b", "output", 0), id("b", "output", 0));
        let names =
            [id("b", "output", 0), id("b", "error", 0), id("b", "output", 1), id("c", "output", 0)];
        let unlike: std::collections::HashSet<&String> = names.iter().collect();
        assert_eq!(unlike.len(), 4);
        assert!(names.iter().all(|id| files::is_id(id)), "{names:?}");
    }
}
