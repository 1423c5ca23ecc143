//! Connected mode's control plane: the platform says who may call what and with which credentials, and is told what
//! became of every attempt.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderMap;
use otari_filters::control::{
    Billed, Caller, Claim, ControlPlane, Plan, Reservation, Settling, Wanted,
};
use otari_filters::money::MicroUsd;
use otari_filters::rejection::Rejection;
use otari_filters::settle::Finished;

use crate::config::{Limits, PlatformConfig};
use crate::control::journal::Journal;
use crate::telemetry::metrics::Metrics;

/// Connected mode.
pub struct Connected {
    /// What the operator said of the platform.
    pub config: PlatformConfig,
}

impl Connected {
    /// A client of the platform and a reporter over the journal.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn new(
        config: PlatformConfig,
        _limits: &Limits,
        _journal: Arc<Journal>,
        _metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        Ok(Self { config })
    }

    /// Whether the platform answers its health probe with less than 500.
    pub async fn is_reachable(&self) -> bool {
        false
    }

    /// Reports what is journalled, for as long as the process lives.
    pub async fn run(&self) {
        std::future::pending().await
    }

    /// Waits until the platform has everything that is journalled now, at most so long. Says whether it has.
    pub async fn flush(&self, _at_most: Duration) -> bool {
        true
    }
}

#[async_trait]
impl ControlPlane for Connected {
    async fn authenticate(&self, _: &HeaderMap) -> Result<Caller, Rejection> {
        Err(Rejection::internal("not yet"))
    }

    fn bill(&self, _: &Caller, _: Option<&str>) -> Result<Billed, Rejection> {
        Ok(Billed { user_id: None, keeps_label: false })
    }

    async fn resolve(&self, _: &Caller, _: Option<&str>, _: Wanted<'_>) -> Result<Plan, Rejection> {
        Err(Rejection::internal("not yet"))
    }

    async fn reserve(&self, _: Claim<'_>) -> Result<Reservation, Rejection> {
        Err(Rejection::internal("nobody here has a budget"))
    }

    async fn top_up(&self, _: &mut Reservation, _: MicroUsd) -> Result<(), Rejection> {
        Ok(())
    }

    fn release(&self, _: Reservation) {}

    fn settle(&self, _: Finished) -> Option<Settling> {
        None
    }
}
