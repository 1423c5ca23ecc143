//! What goes wrong, when it goes wrong.

use std::time::Duration;

use otari::mock::platform::{Rule, Then, When};

use crate::scene::{Fault, Kind, Side};
use crate::stage::{Server, Stage};
use crate::standby;

/// Makes the fault happen, from its beginning to its end.
pub(crate) async fn happen(stage: &Stage, fault: &Fault) {
    tokio::time::sleep(fault.at).await;
    let link = stage.link(fault.side, fault.gateway);
    // Nothing starts while its database is not to be reached or its disk is full.
    let shakes =
        fault.side == Side::Database || matches!(fault.kind, Kind::DiskFull | Kind::FailOver);
    let shakes = shakes || fault.kind == Kind::DatabaseRestart;
    let _ground =
        if shakes && fault.kind != Kind::Killed { Some(stage.ground.write().await) } else { None };
    match fault.kind {
        Kind::Slow => {
            let delay = Duration::from_millis(fault.amount.unsigned_abs());
            link.slow(delay, fault.lasts).await;
        }
        Kind::Cut => link.cut(fault.lasts).await,
        Kind::CutInAnswer => {
            let after = usize::try_from(fault.amount).unwrap_or_default();
            link.cut_answers(after, fault.lasts).await;
        }
        Kind::HalfOpen => link.silence(fault.lasts).await,
        Kind::Reordered => reorder(stage, fault).await,
        Kind::NoNames => {
            each_shim(stage, |shim| shim.take_names(true));
            tokio::time::sleep(fault.lasts).await;
            each_shim(stage, |shim| shim.take_names(false));
        }
        Kind::DiskFull => {
            let shim = stage.nodes[fault.gateway].shim.as_ref();
            shim.into_iter().for_each(|shim| shim.fill_disk(true));
            tokio::time::sleep(fault.lasts).await;
            shim.into_iter().for_each(|shim| shim.fill_disk(false));
        }
        Kind::ClockJump => {
            // It stays as it is then: a clock that was set.
            let shim = stage.nodes[fault.gateway].shim.as_ref();
            shim.into_iter().for_each(|shim| shim.set_clock(fault.amount));
        }
        Kind::Stopped => stage.nodes[fault.gateway].stop(fault.lasts).await,
        Kind::Killed => {
            let ready = async {
                tokio::time::sleep(fault.lasts).await;
            };
            kill(stage, fault, ready).await;
        }
        Kind::DatabaseRestart => restart(stage, fault).await,
        Kind::FailOver => fail_over(stage),
    }
}

async fn kill(stage: &Stage, fault: &Fault, ready: impl Future<Output = ()>) {
    // A database or disk that is away meanwhile is waited for, and may not go before it is there again.
    let _ground = stage.ground.read().await;
    stage.nodes[fault.gateway].kill(ready).await;
}

fn each_shim(stage: &Stage, what: impl Fn(&crate::shim::Shim)) {
    stage.nodes.iter().filter_map(|node| node.shim.as_ref()).for_each(what);
}

/// Answers of providers, and of a platform, overtake each other.
async fn reorder(stage: &Stage, fault: &Fault) {
    stage.upstreams.iter().for_each(|upstream| upstream.shuffle(true));
    if let Some((platform, _)) = &stage.platform {
        let half = When { chance: Some(50), ..When::default() };
        let late = Rule { when: half, then: Then::default().delayed(300) };
        platform.lock().await.edit(|script| script.usage = vec![late]);
    }
    tokio::time::sleep(fault.lasts).await;
    stage.upstreams.iter().for_each(|upstream| upstream.shuffle(false));
    if let Some((platform, _)) = &stage.platform {
        platform.lock().await.edit(|script| script.usage.clear());
    }
}

async fn restart(stage: &Stage, fault: &Fault) {
    let Some(Server::Restarted(cluster)) = stage.base.as_ref().map(|base| &base.server) else {
        return;
    };
    let Some(cluster) = cluster.as_ref() else { return };
    tokio::task::block_in_place(|| match fault.amount {
        0 => cluster.stop(),
        _ => standby::stop_politely(cluster),
    });
    tokio::time::sleep(fault.lasts / 2).await;
    tokio::task::block_in_place(|| cluster.start());
}

fn fail_over(stage: &Stage) {
    let Some(base) = &stage.base else { return };
    let Server::Pair(pair) = &base.server else { return };
    let port = tokio::task::block_in_place(|| pair.fail_over());
    base.link.lead_to(([127, 0, 0, 1], port).into());
}
