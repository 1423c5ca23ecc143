//! The record that a call leaves: what it used, what that costs, how it ended.

use std::borrow::Cow;

use otari_filters::meter::Usage;
use otari_filters::money::MicroUsd;
use otari_filters::prices::Prices;
use otari_filters::reserve::Measure;
use otari_filters::settle::{Status, UsageRecord};

use super::Open;
use crate::clock;
use crate::config::MissingUsage;

/// Longest reason kept in a row.
const MAX_REASON_CHARS: usize = 500;

impl Open {
    /// A complete answer: its usage, or what the configuration says of a stream without one.
    pub(super) fn complete(
        &self,
        record: &mut UsageRecord,
        streamed: bool,
        is_held: bool,
    ) -> &'static str {
        record.status = Status::Success;
        if self.estimate.measure != Measure::Tokens {
            self.fill_tokens(record);
            record.cost = self.estimate.measure.cost(self.prices());
            return "success";
        }
        if let Some(usage) = self.usage {
            self.fill_tokens(record);
            record.cost = self.rounds.cost(self.price(usage));
            return "success";
        }
        self.fill_rounds(record);
        if streamed {
            record.cost = self.rounds.cost(self.unreported(is_held));
            if self.app.settings.load().stream_missing_usage_policy == MissingUsage::Fail {
                record.status = Status::Error;
                record.error_message = Some("stream completed without usage data".into());
            }
        }
        "success"
    }

    /// What a stream costs whose provider did not say what it used, as the configuration has it.
    pub(super) fn unreported(&self, is_held: bool) -> Option<MicroUsd> {
        // What this attempt had a part of; one before it may have held more.
        let bound = self.prices().filter(|_| is_held);
        let bound = bound.map(|prices| self.estimate.with_output(self.covered, prices));
        match self.app.settings.load().stream_missing_usage_policy {
            MissingUsage::Estimate | MissingUsage::Fail => Some(bound.unwrap_or_default()),
            MissingUsage::AllowFree => None,
        }
    }

    /// What a stream costs that was ended because its hold could not grow: the piece that passed the hold is given away,
    /// or the cap would be passed by it. Rounds that were answered before it are paid whole.
    pub(super) fn within_hold(&self, cost: Option<MicroUsd>, held: MicroUsd) -> Option<MicroUsd> {
        let most = held.max(self.rounds.cost(None).unwrap_or_default());
        cost.map(|cost| cost.min(most))
    }

    /// Somebody ended it: what was produced up to there. Half a request produces nothing.
    pub(super) fn cut(&self, record: &mut UsageRecord, is_over_hold: bool, held: MicroUsd) {
        if self.current.as_ref().is_some_and(|current| current.begun && !current.sent) {
            self.fill_rounds(record);
            return;
        }
        let produced = self.fill_tokens(record);
        record.cost = match self.estimate.measure {
            Measure::Tokens => self.rounds.cost(self.price(produced)),
            measure => measure.cost(self.prices()),
        };
        if is_over_hold {
            record.cost = self.within_hold(record.cost, held);
        }
    }

    /// Puts the tokens into the record: the provider's, else prompt estimate and output seen. Returns them.
    pub(super) fn fill_tokens(&self, record: &mut UsageRecord) -> Usage {
        let produced = self.usage.unwrap_or_else(|| Usage {
            prompt_tokens: self.estimate.prompt_tokens,
            completion_tokens: self.output_tokens,
            total_tokens: self.estimate.prompt_tokens + self.output_tokens,
            ..Usage::default()
        });
        if self.estimate.measure != Measure::Tokens {
            (record.prompt_tokens, record.completion_tokens, record.total_tokens) =
                self.estimate.measure.row_tokens();
            return produced;
        }
        write_tokens(record, self.rounds.plus(Some(produced)).unwrap_or(produced));
        produced
    }

    /// Puts what the rounds that were answered used and cost into the record; nothing where there were none.
    pub(super) fn fill_rounds(&self, record: &mut UsageRecord) {
        if let Some(usage) = self.rounds.plus(None) {
            write_tokens(record, usage);
        }
        record.cost = self.rounds.cost(None);
    }

    pub(super) fn prices(&self) -> Option<&Prices> {
        self.current.as_ref()?.prices.as_deref()
    }

    /// What was used costs this; nothing when the model has no price.
    pub(super) fn price(&self, usage: Usage) -> Option<MicroUsd> {
        Some(self.prices()?.cost(&usage.tokens(), usage.counting))
    }

    pub(super) fn record(&self, status: Status) -> UsageRecord {
        let current = self.current.as_ref();
        // The first attempt's row carries the request's own id: one random number less per request.
        let id = match self.position {
            0 | 1 => self.origin.request_id.clone(),
            _ => uuid::Uuid::now_v7().to_string().into(),
        };
        let model = current.map(|current| current.model.clone()).unwrap_or_default();
        let now = clock::now_us();
        let bare = UsageRecord::new(id, now, self.origin.endpoint, model, status);
        UsageRecord {
            request_group_id: self.origin.request_id.clone(),
            api_key_id: self.origin.key_id.clone(),
            user_id: self.origin.user_id.clone(),
            provider: current.map(|current| current.provider.clone()),
            attempt_position: self.position,
            attempt_count: self.candidates.max(self.position),
            policy_name: self.policy.clone(),
            selection_reason: current.and_then(|current| current.reason).map(Cow::Borrowed),
            ..bare.after(self.origin.started.elapsed())
        }
    }

    /// Metrics, and what the log line will say.
    pub(super) fn note(&mut self, record: &UsageRecord, outcome: &str) {
        self.cost = record.cost;
        let Some(current) = &self.current else { return };
        let metrics = &self.app.metrics;
        metrics.attempt(&current.provider, outcome);
        // A name becomes a label only when a price list has it: others are whatever a caller typed.
        let model = if current.is_listed { &*current.model } else { "other" };
        metrics.usage(
            &current.provider,
            model,
            record.prompt_tokens.unwrap_or(0),
            record.completion_tokens.unwrap_or(0),
            record.cost.map(MicroUsd::to_f64),
        );
    }
}

/// Rows count cached tokens as a part of the prompt, whatever the provider's way.
fn write_tokens(record: &mut UsageRecord, usage: Usage) {
    let told = usage.inclusive();
    record.prompt_tokens = Some(told.prompt_tokens);
    record.completion_tokens = Some(told.completion_tokens);
    record.total_tokens = Some(told.total_tokens);
    record.cache_read_tokens = Some(usage.cache_read_tokens);
    record.cache_write_tokens = Some(usage.cache_write_tokens);
    record.cache_write_1h_tokens = Some(usage.cache_write_1h_tokens);
}

pub(super) fn shorten(reason: &str) -> Box<str> {
    reason.chars().take(MAX_REASON_CHARS).collect::<String>().into()
}
