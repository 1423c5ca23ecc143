//! Runs the items of batches whose providers have no such API, a few at a time and behind callers.
//!
//! An item is leased by one gateway, which renews its leases while it lives: what a dead one leaves behind is taken over
//! by the others when the lease has ended, or by the next process. An item whose call was not answered with success or a
//! refusal for good is begun again later, until its batch's time is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::RETRY_AFTER;
use jiff::{SignedDuration, Timestamp};
use otari_filters::batches::{ItemError, error_of};
use otari_filters::control::Caller;
use tokio::sync::watch;
use uuid::Uuid;

use super::{Inner, InnerAnswer, KEEP};
use crate::app::Standalone;
use crate::clock;
use crate::store::{BatchItemRow, ItemLease, ItemOutcome, StoreError};

/// How long a gateway that says nothing more keeps its items.
const LEASE: SignedDuration = SignedDuration::from_secs(60);
/// How often it says something.
const RENEW_EVERY: Duration = Duration::from_secs(15);
/// Between two looks for work that nobody told us of.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two looks whether callers still keep the gateway busy.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Callers come first for so long; then one more item is begun all the same.
const MAX_BUSY: Duration = Duration::from_secs(5);
/// How often an item is begun that ends with an error of the server's.
const MAX_ATTEMPTS: i64 = 5;
/// The first pause of a provider that says it has too much to do, and the longest.
const FIRST_PAUSE_S: u64 = 2;
const MAX_PAUSE_S: u64 = 300;
/// How many at once.
const EXPIRE: i64 = 100;
/// Between two looks for those.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);
/// Items under way get so long when the gateway leaves; what is not done then is given back.
const LEAVE_WITHIN: Duration = Duration::from_secs(20);

/// Runs items.
pub struct Runner {
    app: Arc<Standalone>,
    inner: Arc<dyn Inner>,
    /// Who leases.
    owner: String,
}

/// What became of one call.
enum End {
    Done(ItemOutcome),
    /// Again, in so many seconds; `pause`: its provider is to be left alone so long.
    Later {
        seconds: u64,
        pause: bool,
    },
}

/// An item that was run.
struct Ran {
    item: BatchItemRow,
    provider: String,
    end: End,
}

impl Runner {
    /// A runner with a name of its own.
    pub fn new(app: Arc<Standalone>, inner: Arc<dyn Inner>) -> Self {
        Self { app, inner, owner: Uuid::new_v4().to_string() }
    }

    /// Works until told to leave.
    pub async fn run(&self, mut leave: watch::Receiver<bool>) {
        let limit = self.app.live().batches.concurrency;
        if limit == 0 {
            return;
        }
        let mut running = FuturesUnordered::new();
        let mut pauses: HashMap<String, Instant> = HashMap::new();
        let (mut renewed, mut expired) = (Instant::now(), None::<Instant>);
        loop {
            if expired.is_none_or(|at| at.elapsed() >= EXPIRE_EVERY) {
                expired = Some(Instant::now());
                self.said(self.expire().await);
            }
            if renewed.elapsed() >= RENEW_EVERY {
                renewed = Instant::now();
                self.said(self.app.store.batch_renew(&self.owner, lease_end()).await);
            }
            pauses.retain(|_, until| *until > Instant::now());
            if running.len() < limit && !self.is_busy(running.len()).await {
                let free = limit - running.len();
                match self.take(free, &pauses).await {
                    Ok(items) => running.extend(items.into_iter().map(|item| self.one(item))),
                    Err(error) => self.said(Err(error)),
                }
            }
            tokio::select! {
                Some(ran) = running.next(), if !running.is_empty() => {
                    self.ended(ran, &mut pauses).await;
                }
                () = self.app.batch_work.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {
                    self.said(self.app.store.batch_sweep(clock::now()).await.map(drop));
                }
                _ = leave.changed() => break,
            }
        }
        let rest = async {
            while let Some(ran) = running.next().await {
                self.ended(ran, &mut pauses).await;
            }
        };
        if tokio::time::timeout(LEAVE_WITHIN, rest).await.is_err() {
            drop(running);
            // As good as over: others need not wait.
            self.said(self.app.store.batch_renew(&self.owner, clock::now()).await);
        }
    }

    /// Waits a little while callers keep the gateway busy; says whether they still do.
    async fn is_busy(&self, own: usize) -> bool {
        // With something of ours under way there is time: its end comes back here.
        if own > 0 {
            return self.inner.is_busy(own);
        }
        let begun = Instant::now();
        while self.inner.is_busy(own) && begun.elapsed() < MAX_BUSY {
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        false
    }

    async fn take(
        &self,
        free: usize,
        pauses: &HashMap<String, Instant>,
    ) -> Result<Vec<BatchItemRow>, StoreError> {
        let lease = ItemLease {
            owner: self.owner.clone(),
            now: clock::now(),
            until: lease_end(),
            limit: i64::try_from(free).unwrap_or(i64::MAX),
            avoid: pauses.keys().cloned().collect(),
        };
        self.app.store.batch_take(&lease).await
    }

    /// Runs one item to whatever end.
    async fn one(&self, item: BatchItemRow) -> Ran {
        let batch = self.app.store.batch_find(&item.batch_id, None).await;
        let batch = batch.ok().and_then(|mut rows| {
            rows.retain(|row| row.upstream_id.is_none());
            rows.pop()
        });
        let Some(batch) = batch else {
            let end = End::Later { seconds: FIRST_PAUSE_S, pause: false };
            return Ran { item, provider: String::new(), end };
        };
        let caller = match batch.api_key_id.as_deref() {
            None => Ok(Caller::Master),
            Some(key) => self.app.local.caller(key),
        };
        let end = match caller {
            Ok(caller) => {
                let answer = self.inner.complete(caller, item.body.clone().into()).await;
                judge(&answer, item.attempts)
            }
            Err(refused) => {
                let (code, message) = (refused.code.as_str().into(), refused.message.into());
                End::Done(failed(refused.code.status().as_u16(), ItemError { code, message }))
            }
        };
        Ran { item, provider: batch.provider, end }
    }

    async fn ended(&self, ran: Ran, pauses: &mut HashMap<String, Instant>) {
        let Ran { item, provider, end } = ran;
        let (batch, position) = (&item.batch_id, item.position);
        let stored = match &end {
            End::Done(outcome) => {
                let done =
                    self.app.store.batch_item_end(&self.owner, batch, position, outcome).await;
                done.map(drop)
            }
            End::Later { seconds, pause } => {
                if *pause && !provider.is_empty() {
                    let until = Instant::now() + Duration::from_secs(*seconds);
                    pauses.insert(provider, until);
                }
                let at = later(*seconds);
                self.app.store.batch_item_later(&self.owner, batch, position, at).await
            }
        };
        // What could not be stored is run again when its lease has ended: an answer that nobody kept is none.
        self.said(stored);
        if matches!(end, End::Done(_)) {
            self.said(self.app.store.batch_sweep(clock::now()).await.map(drop));
        }
    }

    async fn expire(&self) -> Result<(), StoreError> {
        let before = clock::now().checked_sub(KEEP).unwrap_or(Timestamp::UNIX_EPOCH);
        self.app.store.batch_expire(before, EXPIRE).await.map(drop)
    }

    fn said(&self, done: Result<(), StoreError>) {
        if let Err(error) = done {
            tracing::warn!(%error, "the store did not take what became of a batch; it is tried again");
        }
    }
}

fn lease_end() -> Timestamp {
    clock::now().checked_add(LEASE).unwrap_or(Timestamp::MAX)
}

fn later(seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    clock::now().checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

fn failed(status: u16, error: ItemError) -> ItemOutcome {
    let error = serde_json::to_string(&error).unwrap_or_default();
    ItemOutcome { status_code: i32::from(status), result: None, error: Some(error) }
}

/// What an answer means for its item, which was begun so many times.
fn judge(answer: &InnerAnswer, attempts: i64) -> End {
    let status = answer.status;
    let text = || String::from_utf8(answer.body.to_vec()).ok();
    if (200..300).contains(&status) {
        return match text() {
            Some(result) => End::Done(ItemOutcome {
                status_code: i32::from(status),
                result: Some(result),
                error: None,
            }),
            None => End::Done(failed(status, error_of(status, b""))),
        };
    }
    let doubled = FIRST_PAUSE_S << attempts.clamp(0, 7);
    let asked = answer.headers.get(RETRY_AFTER);
    let asked = asked.and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    let seconds = asked.unwrap_or(doubled).clamp(1, MAX_PAUSE_S);
    let is_provider = answer.headers.get("otari-error-source").is_some_and(|it| it == "provider");
    match status {
        429 => End::Later { seconds, pause: is_provider },
        // The provider's 503 comes as a 502 with its `Retry-After`.
        502 if asked.is_some() => End::Later { seconds, pause: is_provider },
        503 => End::Later { seconds, pause: is_provider },
        // 0: there was no answer.
        0 | 408 | 500.. if attempts < MAX_ATTEMPTS => End::Later { seconds, pause: false },
        _ => End::Done(failed(status, error_of(status, &answer.body))),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> InnerAnswer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let body = Bytes::from_static(b"{\"error\":{\"code\":\"c\",\"message\":\"m\"}}");
        InnerAnswer { status, headers: map, body }
    }

    fn wait(end: End) -> Option<(u64, bool)> {
        match end {
            End::Done(_) => None,
            End::Later { seconds, pause } => Some((seconds, pause)),
        }
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_will_not_is_an_error() {
        let provider = ("otari-error-source", "provider");
        let after = ("retry-after", "7");
        assert_eq!(wait(judge(&answer(429, &[provider, after]), 1)), Some((7, true)));
        assert_eq!(wait(judge(&answer(429, &[after]), 99)), Some((7, false)), "its own limit");
        assert_eq!(wait(judge(&answer(502, &[provider, after]), 99)), Some((7, true)));
        assert_eq!(wait(judge(&answer(502, &[provider]), 1)), Some((4, false)));
        assert_eq!(wait(judge(&answer(502, &[provider]), 5)), None, "often enough");
        assert_eq!(wait(judge(&answer(0, &[]), 2)), Some((8, false)));
        assert_eq!(wait(judge(&answer(503, &[("retry-after", "9999")]), 1)), Some((300, false)));
        for status in [400, 401, 402, 403, 404, 413, 422] {
            let End::Done(outcome) = judge(&answer(status, &[after]), 1) else {
                panic!("{status}")
            };
            assert_eq!(outcome.error.as_deref(), Some(r#"{"code":"c","message":"m"}"#));
            assert_eq!((outcome.status_code, outcome.result), (i32::from(status), None));
        }
        let End::Done(outcome) = judge(&answer(200, &[]), 1) else { panic!() };
        assert!(outcome.error.is_none() && outcome.result.is_some());
    }
}
