//! `kill -9`: what a caller got whole is reported, however often the gateway dies and however long the platform is away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use otari::mock::platform::{Fault, Rule, Seen, Then};
use tokio::task::JoinSet;

use super::{Api, Scene, attempt, failing, working};
use crate::support::eventually;
use crate::support::platform::USER_TOKEN;

const ROUNDS: usize = 6;
const CONNECTIONS: usize = 8;
/// Of load before each kill.
const LOAD: Duration = Duration::from_millis(300);

/// Load until the gateway dies or `stop` is set; the attempts that answered whole.
async fn load(
    scene: &Scene,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
) -> JoinSet<Vec<String>> {
    let mut callers = JoinSet::new();
    for at in 0..CONNECTIONS {
        let (http, stop, answers) = (scene.gateway.http().clone(), stop.clone(), answers.clone());
        let urls = Api::ALL.map(|api| (api, scene.gateway.url(api.path())));
        callers.spawn(async move {
            let mut whole = Vec::new();
            for turn in at.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let ((api, url), streamed) = (&urls[turn % 3], turn % 2 == 1);
                let model = format!("{api:?}");
                let body = if streamed { api.ask_streamed(&model) } else { api.ask(&model) };
                // Any failure here is the kill.
                let Ok(answer) = http.post(url).bearer_auth(USER_TOKEN).json(&body).send().await
                else {
                    break;
                };
                let id = answer
                    .headers()
                    .get("x-correlation-id")
                    .and_then(|id| id.to_str().ok())
                    .map(str::to_owned);
                let status = answer.status();
                let Ok(text) = answer.text().await else { break };
                assert_eq!(status, 200, "{text}");
                assert!(!streamed || api.is_whole(&text), "{text}");
                whole.push(id.expect("every answer says whose it is"));
                answers.fetch_add(1, Ordering::Relaxed);
            }
            whole
        });
    }
    callers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_reported_whenever_the_gateway_dies() {
    let mut scene = Scene::new().await;
    let (denied, works) = (failing(401, "no"), working());
    for api in Api::ALL {
        let by = |provider, key| attempt(api.provider(), provider, key);
        scene
            .platform
            .answer(&format!("{api:?}"), Then::plan([by(&denied, "k1"), by(&works, "k2")]));
    }
    let mut whole = Vec::new();
    for round in 0..ROUNDS {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut callers = load(&scene, stop.clone(), answers.clone()).await;
        tokio::time::sleep(LOAD).await;
        eventually("answers before the kill", async || {
            (answers.load(Ordering::Relaxed) > CONNECTIONS).then_some(())
        })
        .await;
        if round + 1 < ROUNDS {
            scene.gateway.kill9();
        } else {
            stop.store(true, Ordering::Relaxed);
        }
        while let Some(ids) = callers.join_next().await {
            whole.extend(ids.expect("a caller's answers are as they should be"));
        }
        if round + 1 < ROUNDS {
            scene.gateway.restart().await;
        }
    }
    // The first attempt of each failed; it has its report too.
    let wanted: HashSet<String> =
        (whole.iter()).flat_map(|id| [id.clone(), id.replace("att-b-", "att-a-")]).collect();
    assert!(wanted.len() > ROUNDS * CONNECTIONS * 2, "a round of load is more than this");
    eventually("every answer's reports", async || {
        let accepted = scene.platform.reports().into_iter().filter(Seen::accepted);
        let accepted: HashSet<String> = accepted.map(|report| report.correlation_id()).collect();
        wanted.is_subset(&accepted).then_some(())
    })
    .await;
    assert!(scene.gateway.terminate().await.success());
    assert_eq!(scene.platform.violations(), [""; 0]);
    // A kill between acceptance and the note of it repeats a report: at most what was under way at once.
    let twice = scene.platform.duplicates();
    let most = (ROUNDS - 1) * CONNECTIONS;
    println!(
        "{} answers, {} reports came twice after {} kills",
        whole.len(),
        twice.len(),
        ROUNDS - 1
    );
    assert!(
        twice.len() <= most,
        "{} of {} reports came twice: {twice:?}",
        twice.len(),
        wanted.len()
    );
}

/// Answers so many requests; their attempts.
async fn answered(scene: &Scene, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let api = Api::ALL[n % 3];
        let model = format!("{api:?}");
        let body = if n % 2 == 0 { api.ask(&model) } else { api.ask_streamed(&model) };
        let answer = scene.send(api, &body).await.expect(200);
        ids.push(answer.header("x-correlation-id").expect("whose answer it is").to_owned());
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_outlive_two_restarts_while_the_platform_is_away() {
    let mut scene = Scene::new().await;
    let works = working();
    for api in Api::ALL {
        scene.platform.plan(&format!("{api:?}"), &[(api.provider(), &works)]);
    }
    scene.platform.edit(|script| script.usage = vec![Rule::always(Then::fault(Fault::Close))]);
    let mut ids = answered(&scene, 120).await;
    scene.gateway.kill9();
    scene.gateway.restart().await;
    ids.extend(answered(&scene, 60).await);
    // Nobody is there any more, for the second restart.
    scene.platform.stop();
    scene.gateway.kill9();
    scene.gateway.restart().await;
    assert_eq!(scene.platform.counts().accepted, 0);
    scene.platform.edit(|script| script.usage.clear());
    scene.platform.restart();
    let reports = scene.platform.eventually_reports(ids.len()).await;
    let mut told: HashMap<String, usize> = HashMap::new();
    for report in &reports {
        *told.entry(report.correlation_id()).or_default() += 1;
        assert!(
            report.is_success()
                && report.is_final()
                && report.json()["usage"]["prompt_tokens"] == 10
        );
    }
    assert!(ids.iter().all(|id| told.get(id) == Some(&1)), "{told:?}");
    scene.looked_at = ids.len();
    scene.finish().await;
}
