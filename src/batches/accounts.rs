//! What a batch used, added up from its results and charged once.

use std::sync::Arc;
use std::time::Instant;

use otari_filters::batches::Line;
use otari_filters::control::{Caller, Claim, ControlPlane as _, Reservation};
use otari_filters::meter::Usage;
use otari_filters::money::MicroUsd;
use otari_filters::prices::Prices;
use otari_filters::rejection::Rejection;
use otari_filters::settle::{Finished, Status, UsageRecord};
use otari_filters::upstream::Upstream;
use sha2::{Digest as _, Sha256};

use super::{Asker, Results};
use crate::app::Standalone;
use crate::clock;
use crate::store::{Accounted, BatchRow};

/// The endpoint of the row of a batch that was made.
pub const CREATED: &str = "/v1/batches";
/// The endpoint of the rows of results.
pub const FETCHED: &str = "/v1/batches/results";

/// The model of results in which no answer names one.
const NO_MODEL: &str = "batch";

/// What results add up to.
#[derive(Default)]
pub struct Tally {
    prices: Option<Arc<Prices>>,
    usage: Usage,
    cost: MicroUsd,
    model: Option<String>,
}

impl Tally {
    /// Nothing yet; to be priced as of now.
    pub fn new(app: &Standalone, results: &Results) -> Self {
        let prices = results.row.as_ref().and_then(|row| prices(app, row, &results.upstream));
        Self { prices, ..Self::default() }
    }

    /// Counts one result in.
    pub fn add(&mut self, line: &Line) {
        if self.model.is_none() && line.result.is_some() {
            self.model.clone_from(&line.model);
        }
        let Some(usage) = line.usage else { return };
        if let Some(prices) = &self.prices {
            self.cost += prices.cost(&usage.tokens(), usage.counting);
        }
        let (sum, told) = (&mut self.usage, usage.inclusive());
        for (sum, more) in [
            (&mut sum.prompt_tokens, told.prompt_tokens),
            (&mut sum.completion_tokens, told.completion_tokens),
            (&mut sum.total_tokens, told.total_tokens),
            (&mut sum.cache_read_tokens, told.cache_read_tokens),
            (&mut sum.cache_write_tokens, told.cache_write_tokens),
            (&mut sum.cache_write_1h_tokens, told.cache_write_1h_tokens),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// All results have been read: charges the batch if that is still to be done, else leaves a row without cost, if
    /// somebody asked (`asker`).
    ///
    /// # Errors
    /// When the store does not answer: nothing was charged then.
    pub async fn finish(
        self,
        app: &Standalone,
        results: &Results,
        asker: Option<(&Asker, Option<&Arc<str>>)>,
        started: Instant,
    ) -> Result<bool, Rejection> {
        if let Some(row) = &results.row
            && self.charge(app, row, &results.upstream, started).await?
        {
            return Ok(true);
        }
        let Some((asker, key_id)) = asker else { return Ok(false) };
        let owner = results.row.as_ref().and_then(|row| row.user_id.as_deref()).map(Arc::from);
        let model = self.model.as_deref().unwrap_or(NO_MODEL);
        let mut record = record(FETCHED, model, Some(&results.upstream.instance), started);
        record.user_id = asker.user().cloned().or(owner);
        record.api_key_id = key_id.cloned();
        app.local.settle(Finished { record, reservation: None, report: None });
        Ok(false)
    }

    /// Charges the batch, unless it was, or has no price, or its items were charged one by one.
    async fn charge(
        &self,
        app: &Standalone,
        row: &BatchRow,
        upstream: &Upstream,
        started: Instant,
    ) -> Result<bool, Rejection> {
        if row.upstream_id.is_none() || row.accounted_at.is_some() || self.prices.is_none() {
            return Ok(false);
        }
        let model = self.model.as_deref().unwrap_or(&row.model);
        let mut record = record(FETCHED, model, Some(&upstream.instance), started);
        record.id = charge_id(row);
        record.request_group_id = record.id.clone();
        record.user_id = row.user_id.as_deref().map(Arc::from);
        record.api_key_id = row.api_key_id.as_deref().map(Arc::from);
        record.prompt_tokens = Some(self.usage.prompt_tokens);
        record.completion_tokens = Some(self.usage.completion_tokens);
        record.total_tokens = Some(self.usage.total_tokens);
        record.cache_read_tokens = Some(self.usage.cache_read_tokens);
        record.cache_write_tokens = Some(self.usage.cache_write_tokens);
        record.cache_write_1h_tokens = Some(self.usage.cache_write_1h_tokens);
        record.cost = Some(self.cost);
        let reservation = whose(app, row).await;
        if let Some(reservation) = &reservation {
            app.local.ledger.charge(&mut record, reservation);
        }
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let accounted = Accounted {
            prompt_tokens: count(self.usage.prompt_tokens),
            completion_tokens: count(self.usage.completion_tokens),
            cost: self.cost,
        };
        let charged = app.store.batch_account(&row.provider, &row.id, &accounted, &record).await;
        let Ok(Some(held)) = charged else {
            if let Some(reservation) = reservation {
                app.local.release(reservation);
            }
            return Ok(charged?.is_some());
        };
        // The store knows; what it said of spend so far is in memory by itself. Between the two the hold still counts.
        app.local.ledger.settle(&record, reservation.as_ref());
        app.local.ledger.let_go(&held);
        let is_listed = app.local.directory.has_price(&format!("{}:{}", row.provider, row.model));
        app.local.metrics.usage(
            &row.provider,
            if is_listed { &row.model } else { "other" },
            self.usage.prompt_tokens,
            self.usage.completion_tokens,
            Some(self.cost.to_f64()),
        );
        Ok(true)
    }
}

/// What the batch's model costs now.
pub(super) fn prices(app: &Standalone, row: &BatchRow, upstream: &Upstream) -> Option<Arc<Prices>> {
    let listed =
        app.local.directory.price(&row.provider, upstream.kind, &row.model, clock::now_us());
    listed.map(|listed| listed.prices)
}

/// The budgets that a batch counts against, nothing held in any of them. Where gateways share budgets, what it cost comes
/// out of this one's part while there is some: else that part could be spent a second time.
async fn whose(app: &Standalone, row: &BatchRow) -> Option<Reservation> {
    let user_id: Arc<str> = row.user_id.as_deref()?.into();
    let key = row.api_key_id.as_deref().and_then(|id| app.local.directory.key_of(id));
    let caller = key.map_or(Caller::Master, |key| key.caller());
    let claim = Claim {
        caller: &caller,
        user_id: &user_id,
        attempts: &[],
        estimate: MicroUsd::ZERO,
        free: false,
    };
    // A budget that is used up has no part left here, and pays all the same: the provider has done the work.
    if let Ok(reservation) = app.local.reserve(claim).await {
        return Some(reservation);
    }
    let mut holds = app.local.ledger.scopes(&caller, &user_id, &[]);
    holds.retain(|hold| hold.provider.as_deref().is_none_or(|only| *only == *row.provider));
    let counts = !caller.is_excluded();
    Some(Reservation { user_id, held: MicroUsd::ZERO, holds, later: Vec::new(), counts })
}

/// The id of the row that charges a batch: the same whoever does it.
fn charge_id(row: &BatchRow) -> Box<str> {
    let digest = Sha256::new()
        .chain_update(row.provider.as_bytes())
        .chain_update([0])
        .chain_update(row.id.as_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string().into()
}

/// A row without tokens and cost.
pub fn record(
    endpoint: &'static str,
    model: &str,
    provider: Option<&str>,
    started: Instant,
) -> UsageRecord {
    let id = uuid::Uuid::now_v7().to_string().into();
    let model = model.chars().take(200).collect::<String>().into();
    let bare = UsageRecord::new(id, clock::now_us(), endpoint, model, Status::Success);
    UsageRecord {
        provider: provider.map(Into::into),
        status_code: Some(200),
        ..bare.after(started.elapsed())
    }
}
