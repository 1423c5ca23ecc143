//! A batch is made: at its provider, or here.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use otari_filters::batches::{Api, Document, Draft, ENDPOINT, Item, Made, OWNER, has_ended, hours};
use otari_filters::control::{Attempt, Caller, ControlPlane as _};
use otari_filters::money::MicroUsd;
use otari_filters::rejection::{Code, Rejection};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::remote::{NoUpload, Remote};
use super::{Held, own_document, shown, state_of};
use crate::app::Standalone;
use crate::clock;
use crate::store::{BatchRow, NewItem};

/// Keys that OpenAI lets a batch's metadata have.
const MAX_METADATA: usize = 16;

/// What a caller wants to have done.
pub struct Order<'a> {
    /// Who.
    pub caller: &'a Caller,
    /// Who pays.
    pub user_id: Arc<str>,
    /// The model as asked.
    pub selector: &'a str,
    /// Where it leads.
    pub attempt: &'a Attempt,
    /// Names and bodies.
    pub items: Vec<(String, Map<String, Value>)>,
    /// `24h`.
    pub window: String,
    /// Texts by name.
    pub metadata: Option<Map<String, Value>>,
    /// The caller's file that the items came from.
    pub input_file_id: Option<String>,
}

/// Makes it; returns it as the caller sees it. `held`: what is held for it so far.
///
/// # Errors
/// What the caller is told: faulty items, a budget that has not so much left, a model without a price, what the provider
/// says.
pub async fn make(
    app: &Standalone,
    order: &Order<'_>,
    held: Held,
) -> Result<Map<String, Value>, Rejection> {
    let upstream = &*order.attempt.upstream;
    if let Some(api) = Api::of(upstream.kind) {
        let remote = Remote { outbound: &app.outbound, upstream, api };
        match order.pass_on(app, remote, held).await {
            Ok(shown) => return Ok(shown),
            Err(NoUpload::Refused(refused)) => return Err(*refused),
            // Servers that speak OpenAI's API but for its files: what they cannot do is done here.
            Err(NoUpload::NoApi) => {}
        }
    }
    order.keep(app).await
}

impl Order<'_> {
    /// At its provider.
    async fn pass_on(
        &self,
        app: &Standalone,
        remote: Remote<'_>,
        mut held: Held,
    ) -> Result<Map<String, Value>, NoUpload> {
        let api = remote.api;
        let mut items = Vec::new();
        let default_output = app.settings.load().budget_estimate_default_output_tokens;
        let prices = self.attempt.prices.as_deref();
        let mut estimate = MicroUsd::ZERO;
        for (position, (custom_id, body)) in self.items.iter().enumerate() {
            let item = Item { position, custom_id, body };
            let made = self.write(app, Some(api), item)?;
            estimate += made.estimate(default_output).cost(prices);
            api.append(custom_id, &made.body, &mut items);
        }
        held.cover(self.attempt, estimate).await?;
        if api.has_files() {
            items = remote.upload(items.into()).await?.into();
        }
        let mut metadata = self.metadata.clone().unwrap_or_default();
        // A full one is left as it is: who made the batch is kept here in any case.
        if api.has_metadata() && metadata.len() < MAX_METADATA {
            metadata.insert(OWNER.into(), (*self.user_id).into());
        }
        let body = api.create(&items, &self.attempt.model, &self.window, Some(&metadata));
        let document = remote.create(body).await?;
        let row = self.passed_on(app, &document);
        if let Err(refusal) = held.keep(app, &row).await {
            // Nobody would pay for it.
            if let Err(refused) = remote.cancel(document.id(), Some(&row.model)).await {
                tracing::error!(id = row.id, provider = row.provider, %refused,
                    "a batch runs at its provider that could be neither kept nor cancelled");
            }
            return Err(refusal.into());
        }
        Ok(shown(document, &row.provider, Some(&row)))
    }

    fn passed_on(&self, app: &Standalone, document: &Document) -> BatchRow {
        let state = state_of(document);
        let now = clock::now();
        let total = i64::try_from(self.items.len()).unwrap_or(i64::MAX);
        BatchRow {
            id: document.id().to_owned(),
            upstream_id: Some(document.id().to_owned()),
            ended_at: has_ended(&state.status).then_some(now),
            status: state.status,
            total: total.max(state.total),
            next_poll_at: now.checked_add(app.live().batches.poll_interval).ok(),
            ..self.row(now)
        }
    }

    /// Here.
    async fn keep(&self, app: &Standalone) -> Result<Map<String, Value>, Rejection> {
        if app.settings.load().require_pricing && self.attempt.prices.is_none() {
            let message = format!(
                "No pricing configured for model '{}', and require_pricing is on. Add a price with POST /v1/pricing \
                 or in the pricing section of config.yml, or set require_pricing to false",
                self.selector
            );
            return Err(Rejection::new(Code::NoPrice, message));
        }
        let mut items = Vec::with_capacity(self.items.len());
        for (position, (custom_id, body)) in self.items.iter().enumerate() {
            let mut body = body.clone();
            if matches!(self.caller, Caller::Master) {
                // Who pays is said with each call, as the operator must.
                body.insert("user".into(), (*self.user_id).into());
            }
            let item = Item { position, custom_id, body: &body };
            let body = self.write(app, None, item)?.body;
            let body = String::from_utf8(body.into()).map_err(Rejection::internal)?;
            items.push(NewItem { custom_id: custom_id.clone(), body });
        }
        let now = clock::now();
        let hours = i64::try_from(hours(&self.window)).unwrap_or(24);
        let row = BatchRow {
            id: format!("batch_{}", Uuid::new_v4().simple()),
            expires_at: now.checked_add(SignedDuration::from_hours(hours)).ok(),
            ..self.row(now)
        };
        app.store.batch_create(&row, &items, &[]).await?;
        app.batch_work.notify_one();
        Ok(shown(own_document(&row), &row.provider, Some(&row)))
    }

    /// What every batch has.
    fn row(&self, now: Timestamp) -> BatchRow {
        BatchRow {
            provider: self.attempt.upstream.instance.to_string(),
            id: String::new(),
            upstream_id: None,
            user_id: Some(self.user_id.to_string()),
            api_key_id: self.caller.key_id().map(ToString::to_string),
            selector: self.selector.to_owned(),
            model: self.attempt.billed_model.to_string(),
            endpoint: ENDPOINT.to_owned(),
            completion_window: self.window.clone(),
            metadata: self.metadata.clone(),
            input_file_id: self.input_file_id.clone(),
            status: "validating".to_owned(),
            created_at: now,
            in_progress_at: None,
            cancelling_at: None,
            ended_at: None,
            expires_at: None,
            total: i64::try_from(self.items.len()).unwrap_or(i64::MAX),
            completed: 0,
            failed: 0,
            next_poll_at: None,
            accounted_at: None,
            prompt_tokens: None,
            completion_tokens: None,
            cost: None,
        }
    }

    /// One item's body.
    fn write(&self, app: &Standalone, api: Option<Api>, item: Item<'_>) -> Result<Made, Rejection> {
        let upstream = &self.attempt.upstream;
        let draft = Draft {
            api,
            // A call of the gateway's own finds its way by the name that was asked for.
            model: if api.is_some() { &self.attempt.model } else { self.selector },
            provider: upstream.kind.name,
            settings: &upstream.client_settings,
        };
        let keeps_user = |user: &str| match self.caller {
            Caller::Master => Ok(false),
            caller => app.local.bill(caller, Some(user)).map(|billed| billed.keeps_label),
        };
        draft.write(item, keeps_user)
    }
}
