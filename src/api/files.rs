//! `/v1/files`: what is known of uploaded files. Their bytes come and go through `proxy/files.rs`.

use std::sync::Arc;
use std::time::Duration;

use otari_filters::control::{Caller, ControlPlane as _};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Bounds, Field, Kind};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::openapi::Operation;
use super::{Answer, Request, fields};
use crate::app::Standalone;
use crate::store::{FileFilter, FileRow};

const ORDERS: [&str; 2] = ["asc", "desc"];
const USER: Field =
    Field::new("user", Kind::Text, "Whose; the master key must say, other keys need not");
/// OpenAI's.
const LIMIT: Bounds<i64> = Bounds { at_least: Some(1), above: None, at_most: Some(10_000) };
/// OpenAI's: an hour to thirty days.
const LIFE: Bounds<i64> = Bounds { at_least: Some(3600), above: None, at_most: Some(2_592_000) };
const ANCHOR: &str = "created_at";

pub(super) static CREATE: Operation = Operation::new("create_file", "Upload a file")
    .with_form(&[
        Field::new("file", Kind::File, "The file; at most files_max_bytes").required(),
        Field::new("purpose", Kind::Text, "What it is for; absent: user_data").not_null(),
        USER.not_null(),
        Field::new("expires_after[anchor]", Kind::Choice(&[ANCHOR]), "From when on").not_null(),
        Field::new("expires_after[seconds]", Kind::Whole(LIFE), "How long it is kept at most")
            .not_null(),
    ])
    .answering::<FileObject>()
    .refusing(&[400, 403, 404, 413]);

pub(super) static LIST: Operation = Operation::new("list_files", "List files, newest first")
    .with_query(&[
        USER,
        Field::new("purpose", Kind::Text, "Only files for this"),
        Field::new("limit", Kind::Whole(LIMIT), "Return so many at most; absent: 10000"),
        Field::new("after", Kind::Text, "Only files behind this one, by its id"),
        Field::new("order", Kind::Choice(&ORDERS), "By creation; absent: desc"),
    ])
    .answering::<FileList>()
    .refusing(&[400, 403]);

pub(super) static GET: Operation = Operation::new("get_file", "Show a file")
    .with_query(&[USER])
    .answering::<FileObject>()
    .refusing(&[400, 403, 404]);

pub(super) static DELETE: Operation = Operation::new("delete_file", "Delete a file")
    .with_query(&[USER])
    .answering::<Deleted>()
    .refusing(&[400, 403, 404]);

pub(super) static CONTENT: Operation =
    Operation::new("get_file_content", "Download a file, or the range of it that is asked for")
        .with_query(&[USER])
        .answering_page("*/*")
        .refusing(&[400, 403, 404, 416]);

/// A file, as OpenAI shows it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct FileObject {
    id: String,
    object: &'static str,
    bytes: i64,
    /// Seconds since 1970.
    created_at: i64,
    /// Seconds since 1970.
    expires_at: Option<i64>,
    filename: String,
    purpose: String,
}

impl From<FileRow> for FileObject {
    fn from(file: FileRow) -> Self {
        Self {
            id: file.id,
            object: "file",
            bytes: file.bytes,
            created_at: file.created_at.as_second(),
            expires_at: file.expires_at.map(|end| end.as_second()),
            filename: file.filename,
            purpose: file.purpose,
        }
    }
}

#[derive(Serialize, JsonSchema)]
struct FileList {
    object: &'static str,
    data: Vec<FileObject>,
    has_more: bool,
    first_id: Option<String>,
    last_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// What a form says beside the file itself.
#[derive(Debug)]
pub(crate) struct Form {
    /// Whose it is to be.
    pub(crate) user: Option<String>,
    /// `user_data` when it does not say.
    pub(crate) purpose: String,
    /// How long it is kept at most.
    pub(crate) expires_after: Option<Duration>,
}

/// The names of the form's fields that hold text.
pub(crate) const FORM_FIELDS: [&str; 4] =
    ["purpose", "user", "expires_after[anchor]", "expires_after[seconds]"];

/// Reads the fields of an upload. `has_file`: whether a file came with them.
///
/// # Errors
/// `invalid_fields`.
pub(crate) fn read_form(sent: &Map<String, Value>, has_file: bool) -> Result<Form, Rejection> {
    let mut read = CREATE.read_body(sent);
    if !has_file {
        let loc = read.loc("file");
        read.faults.add("missing", &loc, "Field required", Value::Null, Value::Null);
    }
    let purpose = fields::string(&mut read, "purpose").filter(|purpose| !purpose.is_empty());
    let user = fields::string(&mut read, "user");
    let anchor = fields::string(&mut read, "expires_after[anchor]");
    if anchor.is_some_and(|anchor| anchor != ANCHOR) {
        let expected = format!("'{ANCHOR}'");
        let message = format!("Input should be {expected}");
        let context = json!({"expected": expected});
        read.wrong("expires_after[anchor]", "literal_error", &message, context);
    }
    let seconds = read.integer("expires_after[seconds]", LIFE);
    read.faults.check()?;
    Ok(Form {
        user,
        purpose: purpose.unwrap_or_else(|| "user_data".to_owned()),
        expires_after: seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs),
    })
}

/// Whose files a call is about: the key's user, or whom the master key names.
///
/// # Errors
/// `user_required`, `user_mismatch`, `key_without_user`.
pub(crate) fn owner(
    app: &Standalone,
    caller: Option<&Caller>,
    user: Option<&str>,
) -> Result<Arc<str>, Rejection> {
    let caller = caller.ok_or_else(|| Rejection::internal("no caller"))?;
    let user = user.filter(|user| !user.is_empty());
    let billed = app.local.bill(caller, user).map_err(|refused| match refused.code {
        Code::UserRequired => {
            Rejection::new(Code::UserRequired, "When using master key, 'user' field is required")
        }
        _ => refused,
    })?;
    billed.user_id.ok_or_else(|| Rejection::internal("nobody is billed"))
}

/// The same of a request that names the user in its query string.
///
/// # Errors
/// Those of [`owner`], and `invalid_fields`.
pub(crate) fn owner_of(app: &Standalone, request: Request<'_>) -> Result<Arc<str>, Rejection> {
    let query = fields::query(request);
    let mut read = GET.read_query(&query);
    let user = fields::string(&mut read, "user");
    read.faults.check()?;
    owner(app, request.caller, user.as_deref())
}

/// The id in the path of a download.
///
/// # Errors
/// `invalid_fields`.
pub(crate) fn id(sent: &str) -> Result<String, Rejection> {
    fields::path("file_id", sent)
}

/// There is no such file, or it is not the caller's to know.
pub(crate) fn not_found() -> Rejection {
    Rejection::new(Code::NotFound, "File not found")
}

/// The answer that shows a file.
pub(crate) fn shown(file: FileRow) -> Result<Answer, Rejection> {
    Answer::json(&FileObject::from(file))
}

pub(super) async fn list(app: &Standalone, request: Request<'_>) -> Result<Answer, Rejection> {
    // Whether there are files at all comes before whose.
    app.files.max_bytes()?;
    let query = fields::query(request);
    let mut read = LIST.read_query(&query);
    let user = fields::string(&mut read, "user");
    let purpose = fields::string(&mut read, "purpose").filter(|purpose| !purpose.is_empty());
    let limit = read.integer("limit", LIMIT).unwrap_or(10_000);
    let after = fields::string(&mut read, "after").filter(|after| !after.is_empty());
    let order = fields::string(&mut read, "order");
    if order.as_ref().is_some_and(|order| !ORDERS.contains(&order.as_str())) {
        let expected = "'asc' or 'desc'";
        let message = format!("Input should be {expected}");
        read.wrong("order", "literal_error", &message, json!({"expected": expected}));
    }
    read.faults.check()?;
    let user = owner(app, request.caller, user.as_deref())?;
    let filter = FileFilter {
        user_id: user.to_string(),
        purpose,
        after: None,
        oldest_first: order.as_deref() == Some(ORDERS[0]),
        limit,
    };
    let Some(listed) = app.files.list(filter, after.as_deref()).await? else {
        let message = "'after' must be the id of one of the listed files";
        return Err(Rejection::new(Code::InvalidValue, message));
    };
    let data: Vec<FileObject> = listed.files.into_iter().map(Into::into).collect();
    let id = |file: Option<&FileObject>| file.map(|file| file.id.clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    let has_more = listed.has_more;
    Answer::json(&FileList { object: "list", data, has_more, first_id, last_id })
}

pub(super) async fn get(
    app: &Standalone,
    id: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    app.files.max_bytes()?;
    let user = owner_of(app, request)?;
    let file = app.files.find(Some(&user), id).await?.ok_or_else(not_found)?;
    shown(file)
}

pub(super) async fn delete(
    app: &Standalone,
    id: &str,
    request: Request<'_>,
) -> Result<Answer, Rejection> {
    app.files.max_bytes()?;
    let user = owner_of(app, request)?;
    if !app.files.delete(Some(&user), id).await? {
        return Err(not_found());
    }
    Answer::json(&Deleted { id: id.to_owned(), object: "file", deleted: true })
}
