//! The fault suite: the real binary between callers, providers and a database or a platform, while things go wrong.
//!
//! ```text
//! make test-faults                                                       # 300 runs, fresh seeds
//! cargo test --test faults                                               # 20 runs, fresh seeds: what CI does
//! OTARI_FAULTS_SEED=17 OTARI_FAULTS_RUNS=1 cargo test --test faults      # that run again
//! ```
//!
//! Every run follows from its seed: who calls what when, and what goes wrong when and where (`scene`). The players
//! (`stage`) are joined by TCP proxies (`link`); after a load of two seconds an auditor (`audit`) compares what
//! providers served, what callers received, rows, reports, spend and holds, and says which of the gateway's promises
//! is broken, if one is. `OTARI_FAULTS_AT_ONCE` says how many runs go on at one time (2).

#[cfg(test)]
mod audit;
#[cfg(test)]
mod caller;
#[cfg(test)]
mod dice;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod happen;
#[cfg(test)]
#[path = "../it"]
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with the black-box tests, which use all of it"
)]
mod it {
    pub(crate) mod support;
}
#[cfg(test)]
mod link;
#[cfg(test)]
mod run;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod shim;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod standby;
#[cfg(test)]
mod table;
#[cfg(test)]
mod upstream;

#[cfg(test)]
use it::support;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Mutex, PoisonError};

    use crate::run::{Outcome, run};
    use crate::scene::Scene;
    use crate::shim;
    use crate::table::{Table, say};

    #[expect(clippy::disallowed_methods, reason = "tests have no configuration; this is theirs")]
    fn number(name: &str) -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
    }

    /// Plays a scene on a runtime of its own; what panics there is the finding.
    fn play(scene: &Scene) -> Result<Outcome, String> {
        let played = catch_unwind(AssertUnwindSafe(|| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(Box::pin(run(scene.clone())))
        }));
        played.map_err(|what| {
            let text = what.downcast_ref::<String>().cloned();
            text.or_else(|| what.downcast_ref::<&str>().map(|it| (*it).to_owned()))
                .unwrap_or_default()
        })
    }

    #[test]
    fn whatever_goes_wrong_the_books_are_right() {
        let runs = number("OTARI_FAULTS_RUNS").unwrap_or(20);
        let fresh = || u64::from(getrandom::u32().expect("a random number"));
        let first = number("OTARI_FAULTS_SEED").unwrap_or_else(fresh);
        let at_once = number("OTARI_FAULTS_AT_ONCE").unwrap_or(2).max(1);
        if !shim::is_there() {
            say("no C compiler (cc): without names that are gone, full disks and clocks that jump");
        }
        say(&format!("{runs} runs from seed {first} on, {at_once} at once"));
        let table = Mutex::new(Table::default());
        let seeds = Mutex::new((0..runs).map(|n| first.wrapping_add(n)));
        let next = || seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(seed) = next() {
                        let scene = Scene::draw(seed, shim::is_there());
                        let played = play(&scene);
                        table.lock().unwrap_or_else(PoisonError::into_inner).add(&scene, played);
                    }
                });
            }
        });
        table.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    }
}
