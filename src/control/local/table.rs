//! Where calls may lead, as the configuration has it: replaced as a whole, never changed in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use otari_filters::route::Policy;
use otari_filters::upstream::Upstream;
use parking_lot::Mutex;

/// Looks of a request at a change under way; one takes microseconds.
const LOOKS: usize = 1000;

/// A provider as configured, ready to be called.
#[derive(Debug)]
pub struct Configured {
    /// How it is reached.
    pub upstream: Arc<Upstream>,
    /// Model ids the configuration declares.
    pub models: Vec<String>,
}

/// Providers, policies and search tools of one reading of the configuration.
#[derive(Debug, Default)]
pub struct Table {
    /// Configured providers, in order.
    pub providers: Vec<Configured>,
    /// Names that stand for several targets.
    pub policies: Vec<Policy>,
    /// Engines and names of the tools for web search: a price or a list of models may name them.
    pub search_tools: Vec<(&'static str, Box<str>)>,
}

impl Table {
    /// The provider of this name.
    pub fn provider(&self, name: &str) -> Option<&Configured> {
        self.providers.iter().find(|configured| *configured.upstream.instance == *name)
    }

    /// The routing policy of this name.
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| *policy.name == *name)
    }
}

/// Several rooms that change together: whoever reads them sees all of a change, or nothing of it.
///
/// Odd while a change is under way. A reader pays two loads of a number that nobody writes.
#[derive(Debug, Default)]
pub struct Changing {
    count: AtomicU64,
    turn: Mutex<()>,
}

impl Changing {
    /// Runs `work`, which puts things into effect and waits for nobody.
    pub fn write<T>(&self, work: impl FnOnce() -> T) -> T {
        let _turn = self.turn.lock();
        self.count.fetch_add(1, Ordering::SeqCst);
        let done = work();
        self.count.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// What `look` finds while nothing changes: it is asked again when something did, and keeps changes out when that was
    /// too often.
    pub fn read<T>(&self, mut look: impl FnMut() -> T) -> T {
        for _ in 0..LOOKS {
            let before = self.count.load(Ordering::SeqCst);
            if before % 2 == 1 {
                std::thread::yield_now();
                continue;
            }
            let found = look();
            if self.count.load(Ordering::SeqCst) == before {
                return found;
            }
        }
        // Whoever changes it does not get a turn for so long, or the processor does not.
        let _turn = self.turn.lock();
        look()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_never_sees_half_of_a_change() {
        let (changing, one, other) = (Changing::default(), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..=2000 {
                    changing.write(|| {
                        one.store(n, Ordering::Relaxed);
                        std::thread::yield_now();
                        other.store(n, Ordering::Relaxed);
                    });
                }
            });
            for _ in 0..2000 {
                let (a, b) =
                    changing.read(|| (one.load(Ordering::Relaxed), other.load(Ordering::Relaxed)));
                assert_eq!(a, b);
            }
        });
    }
}
