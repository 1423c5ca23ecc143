//! What loads are sent to, and the books that must balance afterwards.

use std::net::SocketAddr;

use serde::Serialize;

use crate::Outcome;
use crate::call::Call;
use crate::connected::Connected;
use crate::database::Postgres;
use crate::gateway::{Caller, Gateway, OPENAI, Setup};
use crate::plan::Plan;
use crate::process::Process;

pub(crate) const CONNECTED: &str = "otari, connected";
pub(crate) const DIRECT: &str = "direct";
pub(crate) const BARE: &str = "bare Pingora";
pub(crate) const OTARI: &str = "otari";

/// Usage rows of one measurement, or reports to the platform.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Rows {
    /// Requests that were answered.
    pub(crate) expected: u64,
    /// Requests that failed, and may have left a row.
    pub(crate) unsure: u64,
    pub(crate) found: u64,
}

impl Rows {
    pub(crate) fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.found)
    }

    pub(crate) fn invented(&self) -> u64 {
        self.found.saturating_sub(self.expected + self.unsure)
    }
}

/// Who has to account for the calls.
#[derive(Clone, Copy)]
enum Books<'a> {
    /// Nobody.
    None,
    /// A user of its own for each measurement.
    Rows(&'a Gateway),
    Reports(&'a Connected),
}

/// What a load is sent to.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) name: &'static str,
    pub(crate) process: &'a Process,
    books: Books<'a>,
    /// Names the provider, before a model's name.
    prefix: &'static str,
    pub(crate) database: Option<&'a Postgres>,
}

impl<'a> Target<'a> {
    /// What has no books: the mock, or the pass-through.
    pub(crate) fn plain(name: &'static str, process: &'a Process) -> Self {
        Self { name, process, books: Books::None, prefix: "", database: None }
    }

    pub(crate) fn otari(gateway: &'a Gateway) -> Self {
        Self::named(OTARI, gateway, OPENAI)
    }

    pub(crate) fn named(name: &'static str, gateway: &'a Gateway, prefix: &'static str) -> Self {
        let (process, books) = (&gateway.process, Books::Rows(gateway));
        Self { name, process, books, prefix, database: None }
    }

    pub(crate) fn connected(name: &'static str, gateway: &'a Connected) -> Self {
        let (process, books) = (&gateway.process, Books::Reports(gateway));
        Self { name, process, books, prefix: "openai:", database: None }
    }

    /// The same, with the server of its database.
    pub(crate) fn on(self, database: &'a Postgres) -> Self {
        Self { database: Some(database), ..self }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Opens the books for one measurement.
    pub(crate) async fn open(&self) -> Outcome<Account<'a>> {
        let (caller, before) = match self.books {
            Books::None => (None, 0),
            Books::Rows(gateway) => (Some(gateway.caller().await?), 0),
            Books::Reports(gateway) => (None, gateway.reports().await?),
        };
        Ok(Account { books: self.books, prefix: self.prefix, caller, before })
    }
}

/// Open books.
pub(crate) struct Account<'a> {
    books: Books<'a>,
    prefix: &'static str,
    caller: Option<Caller>,
    before: u64,
}

impl Account<'_> {
    /// The call as this caller makes it.
    pub(crate) fn request(&self, call: &Call) -> Vec<u8> {
        self.request_to(call, self.prefix)
    }

    /// The same to another provider, where there is a choice.
    pub(crate) fn request_to(&self, call: &Call, prefix: &str) -> Vec<u8> {
        match (&self.caller, self.books) {
            (Some(caller), _) => call.request(&caller.key, prefix),
            (None, Books::Reports(_)) => call.request("tk_bench", prefix),
            (None, _) => call.request("none", ""),
        }
    }

    /// Waits for the last row; `None` where there are no books.
    pub(crate) async fn close(self, expected: u64, unsure: u64) -> Outcome<Option<Rows>> {
        let found = match self.books {
            Books::None => return Ok(None),
            Books::Rows(gateway) => gateway.rows_beyond(self.caller.as_ref(), 0, expected).await?,
            Books::Reports(gateway) => gateway.reports_beyond(self.before, expected).await?,
        };
        Ok(Some(Rows { expected, unsure, found }))
    }
}

/// The three that are in nearly every row.
pub(crate) struct Scene {
    // Dropped in this order: the proxies, then what they talk to.
    pub(crate) gateway: Gateway,
    pub(crate) bare: Process,
    pub(crate) mock: Process,
    /// A second mock, for what must not keep the first one from answering.
    _bulk: Option<Process>,
}

impl Scene {
    pub(crate) async fn start(plan: &Plan) -> Outcome<Self> {
        Self::with(plan, None).await
    }

    pub(crate) async fn start_with_bulk(plan: &Plan) -> Outcome<Self> {
        Self::with(plan, Some(Process::mock().await?)).await
    }

    async fn with(plan: &Plan, bulk: Option<Process>) -> Outcome<Self> {
        let mock = Process::mock().await?;
        let to_bulk = bulk.as_ref().map(|bulk| bulk.address);
        let bare = Process::bare(mock.address, to_bulk, plan.threads).await?;
        let setup =
            Setup { mock: mock.address, bulk: to_bulk, database: None, threads: plan.threads };
        Ok(Self { gateway: Gateway::start(&setup).await?, bare, mock, _bulk: bulk })
    }

    pub(crate) fn direct(&self) -> Target<'_> {
        Target::plain(DIRECT, &self.mock)
    }

    pub(crate) fn bare(&self) -> Target<'_> {
        Target::plain(BARE, &self.bare)
    }

    pub(crate) fn otari(&self) -> Target<'_> {
        Target::otari(&self.gateway)
    }
}
