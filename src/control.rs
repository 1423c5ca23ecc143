//! The control plane of standalone mode: answers from memory, decides budgets in memory, and journals what happened.
//!
//! Nothing here is asked of a database while a request waits: `directory` and `ledger` are read from the store at
//! start and changed by the management API; `journal` is the way back to the store. Only where several gateways share a
//! database, and a budget is new here or nearly spent, `leases` asks. `follow` hears what the others change.

pub mod catalog;
pub mod discovery;
pub mod default_prices;
pub mod settings;
pub mod directory;
pub mod follow;
pub mod heir;
pub mod journal;
pub mod leases;
pub mod ledger;
pub mod local;
pub mod platform;
pub mod rates;
pub mod writer;
pub mod housekeeping;
