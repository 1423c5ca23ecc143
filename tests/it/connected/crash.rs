//! `kill -9`: what a caller got whole is reported, however often the gateway dies and however long the platform is away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use otari::mock::platform::{Fault, Rule, Seen, Then, When};
use tokio::task::JoinSet;

use super::{Api, Scene, attempt, failing, working};
use crate::support::eventually;
use crate::support::platform::USER_TOKEN;

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 8;
/// Between the acceptance of a report and its note, on busy cores.
const NOTED_WITHIN_MS: u64 = 400;
/// Of load before each kill.
const LOAD: Duration = Duration::from_millis(600);

/// Load until the gateway dies; the attempts that answered whole.
async fn load(scene: &Scene, answers: Arc<AtomicUsize>) -> JoinSet<Vec<String>> {
    let mut callers = JoinSet::new();
    for at in 0..CONNECTIONS {
        let (http, answers) = (scene.gateway.http().clone(), answers.clone());
        let urls = Api::ALL.map(|api| (api, scene.gateway.url(api.path())));
        callers.spawn(async move {
            let mut whole = Vec::new();
            for turn in at.. {
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
    // Answers do not wait for their reports, and many of these are still to be repeated when the gateway dies.
    let mut scene = Scene::with(|start| start.env("PLATFORM_USAGE_INLINE_TIMEOUT_MS", "1")).await;
    let half = When { chance: Some(50), ..When::default() };
    let fails = Rule { when: half, then: Then::status(503) };
    scene.platform.edit(|script| script.usage = vec![fails]);
    let (denied, works) = (failing(401, "no"), working());
    for api in Api::ALL {
        let by = |provider, key| attempt(api.provider(), provider, key);
        scene
            .platform
            .answer(&format!("{api:?}"), Then::plan([by(&denied, "k1"), by(&works, "k2")]));
    }
    let (mut whole, mut pending, mut kills) = (Vec::new(), 0, Vec::new());
    for _ in 0..ROUNDS {
        let answers = Arc::new(AtomicUsize::new(0));
        let mut callers = load(&scene, answers.clone()).await;
        tokio::time::sleep(LOAD).await;
        eventually("answers before the kill", async || {
            (answers.load(Ordering::Relaxed) > CONNECTIONS).then_some(())
        })
        .await;
        scene.gateway.kill9();
        kills.push(latest(&scene));
        while let Some(ids) = callers.join_next().await {
            whole.extend(ids.expect("a caller's answers are as they should be"));
        }
        pending += wanted(&whole).difference(&accepted(&scene)).count();
        scene.gateway.restart().await;
    }
    scene.platform.edit(|script| script.usage.clear());
    // What the last start found to be failing waits for a while; the next one looks anew.
    scene.gateway.kill9();
    kills.push(latest(&scene));
    scene.gateway.restart().await;
    assert!(pending > ROUNDS, "{pending} reports were under way at a kill: too few to tell");
    let wanted = wanted(&whole);
    assert!(wanted.len() > ROUNDS * CONNECTIONS * 2, "a round of load is more than this");
    eventually("every answer's reports", async || {
        wanted.is_subset(&accepted(&scene)).then_some(())
    })
    .await;
    assert!(scene.gateway.terminate().await.success());
    assert_eq!(scene.platform.violations(), [""; 0]);
    // Repeated is only what a kill met between the platform's acceptance and the note of it.
    let twice = scene.platform.duplicates();
    println!(
        "{} answers, {pending} reports pending at {ROUNDS} kills, {} came twice",
        whole.len(),
        twice.len()
    );
    assert!(twice.len() * 5 < wanted.len(), "{} of {} came twice", twice.len(), wanted.len());
    let reports = scene.platform.reports();
    for id in twice {
        let first =
            reports.iter().find(|report| report.accepted() && report.correlation_id() == id);
        let at_ms = first.expect("an accepted report").at_ms;
        let soon = kills.iter().any(|kill| (at_ms..=at_ms + NOTED_WITHIN_MS).contains(kill));
        assert!(soon, "{id} was accepted at {at_ms} and told again, the kills were at {kills:?}");
    }
}

/// When the platform heard its latest report, in its own milliseconds.
fn latest(scene: &Scene) -> u64 {
    scene.platform.reports().last().map_or(0, |report| report.at_ms)
}

/// The attempts of these answers: the first of each failed, and has its report too.
fn wanted(whole: &[String]) -> HashSet<String> {
    whole.iter().flat_map(|id| [id.clone(), id.replace("att-b-", "att-a-")]).collect()
}

/// The attempts whose reports the platform took.
fn accepted(scene: &Scene) -> HashSet<String> {
    let accepted = scene.platform.reports().into_iter().filter(Seen::accepted);
    accepted.map(|report| report.correlation_id()).collect()
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
