//! The platform away: at the start, under load, or only for reports. Callers are told, nothing is lost, nothing hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use otari::mock::platform::{Fault, Rule, Seen, Then};
use tokio::task::JoinSet;

use super::{Api, Scene, working};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::platform::{Platform, USER_TOKEN};

#[tokio::test]
async fn it_starts_without_the_platform_and_works_once_that_is_there() {
    let mut platform = Platform::start().await;
    let works = working();
    platform.stop();
    let gateway = Gateway::start().connected(&platform).await;
    let mut scene = Scene { platform, gateway, looked_at: 0 };
    assert_eq!(scene.gateway.get("/health").await.expect(200).json()["platform_reachable"], "no");
    let ready = scene.gateway.get("/health/readiness").await.expect(503).json();
    assert_eq!(ready["detail"]["platform"], "unavailable");
    for api in Api::ALL {
        scene.platform.plan(&format!("{api:?}"), &[(api.provider(), &works)]);
        let answer = scene.ask(api, &format!("{api:?}")).await;
        assert_eq!(api.sentence(&answer, 502), "Authorization service unavailable");
        let answer = scene.ask_streamed(api, &format!("{api:?}")).await;
        assert_eq!(api.sentence(&answer, 502), "Authorization service unavailable");
    }
    assert_eq!(works.count(), 0);
    scene.platform.restart();
    assert_eq!(scene.gateway.get("/health").await.expect(200).json()["platform_reachable"], "yes");
    scene.gateway.get("/health/readiness").await.expect(200);
    for api in Api::ALL {
        scene.ask_streamed(api, &format!("{api:?}")).await.expect(200);
        assert_eq!(scene.told(1).await, ["att-a success final"]);
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_dies_under_load_and_comes_back_and_every_report_arrives_once() {
    let mut scene = Scene::new().await;
    let works = working();
    for api in Api::ALL {
        scene.platform.plan(&format!("{api:?}"), &[(api.provider(), &works)]);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for at in 0..8 {
        let (http, stop) = (scene.gateway.http().clone(), stop.clone());
        let urls = Api::ALL.map(|api| (api, scene.gateway.url(api.path())));
        callers.spawn(async move {
            let (mut answered, mut refused) = (Vec::new(), 0);
            for turn in at.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (api, url) = &urls[turn % 3];
                let model = format!("{api:?}");
                let body = if turn % 2 == 0 { api.ask(&model) } else { api.ask_streamed(&model) };
                let answer = http.post(url).bearer_auth(USER_TOKEN).json(&body).send().await;
                let answer = answer.expect("an answer");
                let id = answer
                    .headers()
                    .get("x-correlation-id")
                    .and_then(|id| id.to_str().ok())
                    .map(str::to_owned);
                let (status, text) =
                    (answer.status().as_u16(), answer.text().await.expect("a whole answer"));
                match status {
                    200 => answered.push(id.expect("whose answer it is")),
                    502 => {
                        assert!(text.contains("Authorization service unavailable"), "{text}");
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    other => panic!("{other}: {text}"),
                }
            }
            (answered, refused)
        });
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        scene.platform.stop();
        tokio::time::sleep(Duration::from_millis(400)).await;
        scene.platform.restart();
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut answered, mut refused) = (Vec::new(), 0);
    while let Some(done) = callers.join_next().await {
        let (ids, others) = done.expect("every answer is as it should be");
        answered.extend(ids);
        refused += others;
    }
    assert!(refused > 0 && answered.len() > 50, "{refused} refused, {} answered", answered.len());
    let reports = scene.platform.eventually_reports(answered.len()).await;
    let mut told: Vec<String> = reports.iter().map(Seen::correlation_id).collect();
    told.sort();
    answered.sort();
    assert_eq!(told, answered);
    scene.looked_at = answered.len();
    scene.finish().await;
}

#[tokio::test]
async fn answers_are_not_held_up_by_reports_once_those_are_known_to_fail() {
    for failure in [Then::status(503), Then::fault(Fault::Close), Then::fault(Fault::Hang)] {
        let mut scene = Scene::with(|start| {
            start
                .env("PLATFORM_USAGE_TIMEOUT_MS", "300")
                .env("PLATFORM_USAGE_INLINE_TIMEOUT_MS", "500")
                .config("enable_metrics: true")
        })
        .await;
        let works = working();
        scene.platform.plan("m", &[("openai", &works)]);
        scene.platform.edit(|script| script.usage = vec![Rule::always(failure.clone())]);
        let ask = async |scene: &Scene| {
            let began = Instant::now();
            let answer = scene.ask(Api::Chat, "m").await.expect(200);
            assert_eq!(answer.text(), Api::Chat.document());
            began.elapsed()
        };
        let mut asked = 0;
        // Three tries of one report, with their pauses.
        let known = Instant::now() + Duration::from_millis(2500);
        while Instant::now() < known {
            assert!(ask(&scene).await < Duration::from_millis(1200));
            asked += 1;
            if scene.gateway.log().contains("takes no reports") {
                break;
            }
        }
        for _ in 0..10 {
            let took = ask(&scene).await;
            assert!(took < Duration::from_millis(300), "{failure:?}: {took:?}");
            asked += 1;
        }
        let began = Instant::now();
        scene.ask_streamed(Api::Chat, "m").await.expect(200);
        assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
        asked += 1;
        scene.platform.edit(|script| script.usage.clear());
        // A new report finds out sooner than an old one.
        ask(&scene).await;
        asked += 1;
        let reports = scene.reports(asked).await;
        assert!(reports.iter().all(|report| report.is_success() && report.is_final()));
        let metrics = scene.gateway.get("/metrics").await.text();
        let settlements = metrics
            .lines()
            .filter(|line| line.starts_with("gateway_inline_cost_settlements_total{"))
            .map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("n"));
        assert_eq!(settlements.sum::<usize>(), asked, "each answer counts, waited for or not");
        // And costs are said again.
        eventually("a cost in an answer", async || {
            let answer = scene.ask(Api::Chat, "m").await.expect(200);
            scene.reports(1).await;
            answer.text().contains("cost_usd").then_some(())
        })
        .await;
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_polite_stop_waits_for_the_reports_under_way() {
    let mut scene = Scene::with(|start| start.env("PLATFORM_USAGE_INLINE_TIMEOUT_MS", "50")).await;
    let works = working();
    scene.platform.plan("m", &[("openai", &works)]);
    scene.platform.edit(|script| script.usage = vec![Rule::always(Then::default().delayed(700))]);
    for _ in 0..20 {
        scene.ask(Api::Chat, "m").await.expect(200);
    }
    let began = Instant::now();
    assert!(scene.gateway.terminate().await.success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let reports = scene.platform.reports();
    assert_eq!(reports.iter().filter(|report| report.accepted() && !report.abandoned).count(), 20);
    scene.platform.assert_clean();
    // They are not told again.
    scene.gateway.restart().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    scene.looked_at = 20;
    scene.finish().await;
}

#[tokio::test]
async fn a_polite_stop_does_not_wait_for_ever_and_the_next_start_tells_the_rest() {
    let mut scene = Scene::with(|start| {
        start.env("PLATFORM_USAGE_INLINE_TIMEOUT_MS", "50").env("PLATFORM_USAGE_TIMEOUT_MS", "1000")
    })
    .await;
    let works = working();
    scene.platform.plan("m", &[("openai", &works)]);
    scene.platform.edit(|script| script.usage = vec![Rule::always(Then::fault(Fault::Hang))]);
    for _ in 0..5 {
        scene.ask(Api::Chat, "m").await.expect(200);
    }
    let began = Instant::now();
    assert!(scene.gateway.terminate().await.success());
    let took = began.elapsed();
    assert!(took > Duration::from_millis(500) && took < Duration::from_secs(4), "{took:?}");
    scene.platform.edit(|script| script.usage.clear());
    scene.gateway.restart().await;
    assert_eq!(scene.told(5).await, ["att-a success final"; 5]);
    scene.finish().await;
}
