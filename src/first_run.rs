//! What happens once: the master key, the first API key, and prices of the configuration for models that have none.

use std::collections::HashSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::clock;
use crate::config::Config;
use crate::control::directory;
use crate::control::journal::JournalError;
use crate::control::settings::{MASTER_KEY_HASH, MasterKey};
use crate::store::{Everything, KeyRow, PriceRow, SettingRow, Store, StoreError, UserRow};

/// Makes a new API key: `gw-` and 48 random bytes, 67 characters.
///
/// # Errors
/// When the system has no randomness to give.
pub fn new_key() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 48];
    getrandom::fill(&mut bytes)?;
    Ok(format!("gw-{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Makes a new master key: `otari-mk-` and 32 random bytes.
///
/// # Errors
/// When the system has no randomness to give.
pub fn new_master_key() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(format!("otari-mk-{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// What is shown of a key for ever: enough to tell it from others, far too little to guess the rest.
pub fn key_prefix(token: &str) -> String {
    token.chars().take(10).collect()
}

/// A user that exists only because a key needs one.
pub fn virtual_user(key_id: &str, key_name: Option<&str>) -> UserRow {
    let name = key_name.filter(|name| !name.is_empty()).unwrap_or("unnamed");
    user(&format!("apikey-{key_id}"), Some(format!("Virtual user for API key: {name}")))
}

/// A user without budget.
pub fn user(user_id: &str, alias: Option<String>) -> UserRow {
    let now = clock::now();
    UserRow {
        user_id: user_id.to_owned(),
        alias,
        spend: otari_filters::money::MicroUsd::ZERO,
        reserved: otari_filters::money::MicroUsd::ZERO,
        budget_id: None,
        allowed_models: None,
        blocked: false,
        created_at: now,
        updated_at: now,
        metadata: serde_json::Map::new(),
        budget_started_at: None,
        next_budget_reset_at: None,
        deleted_at: None,
        spend_since: None,
    }
}

/// Who this gateway is to others on its database: kept beside the journal, because what is in the journal was spent under
/// that name.
///
/// # Errors
/// When the folder cannot be read or written.
pub fn gateway_id(journal_dir: &Path) -> Result<String, JournalError> {
    let file = journal_dir.join("gateway-id");
    let failed = |source| JournalError::Io { folder: journal_dir.to_owned(), source };
    match std::fs::read_to_string(&file) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => {
            let id = Uuid::new_v4().to_string();
            std::fs::write(&file, &id).map_err(failed)?;
            Ok(id)
        }
    }
}

/// The master key: the configuration's, else the one that was made earlier, else a new one, which is returned too. Of a
/// generated key the store keeps the digest alone.
///
/// # Errors
/// When the store does not answer.
pub async fn master_key(
    config: &Config,
    store: &dyn Store,
    settings: &[SettingRow],
) -> Result<(MasterKey, Option<String>), StoreError> {
    if let Some(key) = &config.master_key {
        return Ok((MasterKey::Configured(directory::digest(key.expose())), None));
    }
    let stored = |settings: &[SettingRow]| {
        let row = settings.iter().find(|row| row.key == MASTER_KEY_HASH);
        row.map(|row| MasterKey::stored(&row.value))
    };
    if let Some(key) = stored(settings) {
        return Ok((key, None));
    }
    let token =
        new_master_key().map_err(|error| StoreError::Unavailable { message: error.to_string() })?;
    let digest = directory::digest(&token);
    let value = directory::hex(&digest);
    let row = SettingRow { key: MASTER_KEY_HASH.into(), value, updated_at: clock::now() };
    if store.setting_add(&row).await? {
        return Ok((MasterKey::Generated(digest), Some(token)));
    }
    // Another gateway that starts on this database was faster, and has shown its own.
    Ok((stored(&store.setting_all().await?).unwrap_or(MasterKey::Unknown), None))
}

/// Seeds prices and makes the bootstrap key, in the store and in `everything` that was read from it. Returns the key
/// when it is new.
///
/// # Errors
/// When the store does not answer.
pub async fn prepare(
    config: &Config,
    store: &dyn Store,
    everything: &mut Everything,
) -> Result<Option<String>, StoreError> {
    let known: HashSet<String> =
        everything.prices.iter().map(|price| price.model_key.clone()).collect();
    // A row under the older spelling, `provider/model`, is a price of the model too.
    let is_known = |key: &str| known.contains(key) || known.contains(&key.replacen(':', "/", 1));
    everything.prices.extend(seed_prices(config, store, is_known).await?);
    if !config.bootstrap_api_key || !everything.keys.is_empty() {
        return Ok(None);
    }
    let token =
        new_key().map_err(|error| StoreError::Unavailable { message: error.to_string() })?;
    let id = Uuid::new_v4().to_string();
    let owner = virtual_user(&id, Some("bootstrap"));
    let mut metadata = serde_json::Map::new();
    metadata.insert("bootstrap".into(), true.into());
    let key = KeyRow {
        key_hash: directory::hex(&directory::digest(&token)),
        key_prefix: Some(key_prefix(&token)),
        key_name: Some("bootstrap".into()),
        user_id: Some(owner.user_id.clone()),
        created_at: clock::now(),
        last_used_at: None,
        expires_at: None,
        is_active: true,
        allowed_models: None,
        exclude_from_budget: false,
        reject_user_mismatch: None,
        metadata,
        id,
    };
    store.key_create(&key, Some(&owner)).await?;
    everything.keys.push(key);
    everything.users.push(owner);
    Ok(Some(token))
}

/// Writes a configured price only when the model has none: prices set through the API must survive a restart. Returns
/// what was written.
///
/// # Errors
/// When the store does not answer.
pub async fn seed_prices(
    config: &Config,
    store: &dyn Store,
    is_known: impl Fn(&str) -> bool,
) -> Result<Vec<PriceRow>, StoreError> {
    let now = clock::now();
    let mut seeded = Vec::new();
    for seed in config.pricing.iter().filter(|seed| !is_known(&seed.model_key)) {
        let row = PriceRow {
            model_key: seed.model_key.clone(),
            effective_at: seed.effective_at.unwrap_or(now),
            prices: seed.prices.clone(),
            created_at: now,
            updated_at: now,
        };
        seeded.push(store.price_put(&row).await?);
    }
    Ok(seeded)
}
