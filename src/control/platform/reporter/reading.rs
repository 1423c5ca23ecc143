//! The journal, one piece at a time.

use tokio::time::sleep;

use super::Reporter;
use crate::control::journal::{Batch, Position};

/// Reading more than this at once may take the disk a while: another thread waits for it.
const MUCH_BYTES: u64 = 256 << 10;

/// One read of the journal.
pub(super) struct Read {
    pub(super) batch: Batch,
    /// Places that it passed over, whose reports requests post.
    pub(super) passed: Vec<Position>,
}

/// One piece of the journal. `None`, after a pause, when the disk fails.
pub(super) async fn read(owner: &Reporter, from: Position, at_most: usize) -> Option<Read> {
    let end = owner.journal.end();
    let is_much = end.segment > from.segment || end.offset.saturating_sub(from.offset) > MUCH_BYTES;
    let (journal, claims) = (owner.journal.clone(), owner.claims.clone());
    let read = move || {
        let mut passed = Vec::new();
        let batch = journal.read_some(from, at_most, |at| {
            let (size, is_open) = claims.pass(at)?;
            passed.extend(is_open.then_some(at));
            Some(size)
        })?;
        Ok(Read { batch, passed })
    };
    let read = if is_much {
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    } else {
        read()
    };
    match read {
        Ok(read) => Some(read),
        Err(error) => {
            tracing::error!(%error, "reports to the platform wait: the journal cannot be read");
            sleep(owner.pace.tidy).await;
            None
        }
    }
}
