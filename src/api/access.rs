//! `allowed_models` of keys and users: read, and held against each other.

use otari_filters::allow::AllowList;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Field, Fields, Kind};
use serde_json::Value;

use crate::app::Standalone;

/// The field of keys and users.
pub(super) const ALLOWED_MODELS: Field = Field::new(
    "allowed_models",
    Kind::Texts,
    "`provider:model`, `provider:*` or `provider:prefix*`; null permits everything, [] nothing",
);

/// A list of texts, or nothing.
pub(super) fn texts(fields: &mut Fields<'_>, name: &str) -> Option<Vec<String>> {
    debug_assert!(fields.is_declared(name, |field| matches!(field.kind, Kind::Texts)), "{name}");
    let Value::Array(items) = fields.get(name)? else {
        fields.wrong(name, "list_type", "Input should be a valid list", Value::Null);
        return None;
    };
    let mut texts = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        match item.as_str() {
            Some(text) => texts.push(text.to_owned()),
            None => {
                let [root, name] = fields.loc(name);
                let message = "Input should be a valid string";
                let place = [root, name, at.into()];
                fields.faults.add("string_type", &place, message, item.clone(), Value::Null);
            }
        }
    }
    Some(texts)
}

/// The list, each entry in its one spelling.
///
/// # Errors
/// `invalid_value`, naming every entry that is none.
pub(super) fn list(
    app: &Standalone,
    texts: Option<Vec<String>>,
) -> Result<Option<AllowList>, Rejection> {
    let Some(texts) = texts else { return Ok(None) };
    let aliases = app.local.directory.aliases();
    let is_provider = |name: &str| app.local.is_provider(name);
    let is_alias = |name: &str| aliases.any(name).is_some();
    let is_policy = |name: &str| app.local.has_policy(name);
    AllowList::read(&texts, is_provider, is_alias, is_policy)
        .map(Some)
        .map_err(|faults| Rejection::new(Code::InvalidValue, faults.join("; ")))
}

/// The entries of a key's list, which may not permit what its user's does not. Later changes of the user's are not
/// held against the key.
///
/// # Errors
/// `invalid_value`.
pub(super) fn narrowed(
    app: &Standalone,
    texts: Option<Vec<String>>,
    user_id: Option<&str>,
) -> Result<Option<Vec<String>>, Rejection> {
    let Some(keys) = list(app, texts)? else { return Ok(None) };
    let users = user_id.and_then(|user_id| app.local.directory.allowed(user_id));
    if users.is_some_and(|users| !users.covers(&keys)) {
        let message = "This key's allowed_models exceeds its user's default; a key can only narrow the user's model \
                       access, not broaden it.";
        return Err(Rejection::new(Code::InvalidValue, message));
    }
    Ok(Some(keys.entries()))
}
