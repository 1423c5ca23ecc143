//! What standalone mode puts into effect: where calls may lead, prices, aliases, settings, the master key.

use std::sync::Arc;

use otari_filters::providers::Family;

use super::{Refused, takeover};
use crate::app::{Standalone, listers, table};
use crate::config::{Config, ProviderConfig};
use crate::control::directory;
use crate::control::settings::{MasterKey, Settings};
use crate::first_run;
use crate::search::Tools;
use crate::store::StoreError;

/// Makes everything ready, then puts it into effect together with `rest`, in one step. Returns what the operator should
/// know.
///
/// # Errors
/// Why it cannot be; then nothing has changed.
pub(super) async fn put(
    mode: &Standalone,
    old: &Config,
    next: &Config,
    rest: impl FnOnce(),
) -> Result<Vec<String>, Refused> {
    own_mock(mode, next)?;
    let local = &mode.local;
    let before = local.table.load_full();
    let has_same_times = old.limits.first_byte_timeout == next.limits.first_byte_timeout
        && old.limits.idle_timeout == next.limits.idle_timeout;
    let known = |provider: &ProviderConfig| {
        let was = old.providers.iter().find(|was| was.instance == provider.instance)?;
        let is_same =
            takeover::is_same(was, provider) && (has_same_times || provider.timeout.is_some());
        let known = before.provider(&provider.instance).filter(|_| is_same)?;
        Some(known.upstream.clone())
    };
    let table = table(next, mode.mock, known).map_err(Refused::Other)?;
    let search = Tools::new(&next.search_tools);
    let failed = |error: StoreError| {
        Refused::Other(format!("the database {} does not answer: {error}", mode.store.label()))
    };
    // Nobody changes aliases, prices or settings meanwhile.
    let _turn = local.ledger.turn().await;
    let aliases = mode.store.alias_all().await.map_err(failed)?;
    let settings = mode.store.setting_all().await.map_err(failed)?;
    // Last of what may fail: a price that is seeded stays, as at a start.
    let is_known = |key: &str| {
        local.directory.has_price(key) || local.directory.has_price(&key.replacen(':', "/", 1))
    };
    let seeded =
        first_run::seed_prices(next, mode.store.as_ref(), is_known).await.map_err(failed)?;
    let notes = unused_prices(old, next, |key| seeded.iter().any(|row| row.model_key == key));
    local.changing.write(|| {
        seeded.iter().for_each(|row| local.directory.put_price(row));
        local.discovery.replace(listers(next, &table));
        local.table.store(Arc::new(table));
        mode.search.store(Arc::new(search));
        local.directory.set_aliases(&next.aliases, &aliases);
        local.set(Settings::new(next, &settings));
        if let Some(key) = next.master_key.as_ref().filter(|_| old.master_key != next.master_key) {
            let digest = directory::digest(key.expose());
            local.master.store(Arc::new(MasterKey::Configured(digest)));
        }
        rest();
    });
    // Lists of providers that are new are asked for, so that a bare name finds them.
    local.discovery.wonder();
    Ok(notes)
}

/// The built-in provider listens from the start on, or not at all.
fn own_mock(mode: &Standalone, next: &Config) -> Result<(), Refused> {
    let own = |provider: &&ProviderConfig| {
        provider.kind.family == Family::Mock && provider.base_url.is_none()
    };
    match next.providers.iter().find(own) {
        Some(provider) if mode.mock.is_none() => Err(Refused::Other(format!(
            "providers.{}: the built-in provider is started with the gateway, which needs a restart",
            provider.instance
        ))),
        _ => Ok(()),
    }
}

/// Prices that the file changed, of models that have one in the database: that one counts, as at a start.
fn unused_prices(old: &Config, next: &Config, is_seeded: impl Fn(&str) -> bool) -> Vec<String> {
    let is_unused = |key: &str, is_changed: bool| is_changed && !is_seeded(key);
    let unused =
        next.pricing.iter().filter(|seed| is_unused(&seed.model_key, !old.pricing.contains(seed)));
    unused
        .map(|seed| {
            format!(
                "pricing.{}: the database has a price of this model, which counts; change it with POST /v1/pricing",
                seed.model_key
            )
        })
        .collect()
}
