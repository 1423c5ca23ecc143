//! Two hundred streams at once whose first attempt fails: every caller gets a whole answer from the second.

use std::collections::BTreeMap;

use otari::mock::platform::Then;
use tokio::task::JoinSet;

use super::{Api, COST, Scene, attempt, line, refusing, without_cost, working};
use crate::support::platform::USER_TOKEN;
use crate::support::provider::{Provider, Reply, Step};

const STREAMS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_sees_a_broken_frame() {
    let mut scene = Scene::with(|start| {
        start
            .env("STREAMING_FALLBACK_FIRST_CHUNK_TIMEOUT_MS", "1000")
            // Two busy cores: what is looked at is that the cost is there, not how fast.
            .env("PLATFORM_USAGE_INLINE_TIMEOUT_MS", "20000")
    })
    .await;
    let silent = Provider::start(|_| Reply::events([Step::Silence]));
    let works = working();
    for api in Api::ALL {
        let good = attempt(api.provider(), &works, "sk-works");
        let plans = [refusing(api.provider()), attempt(api.provider(), &silent, "sk-silent")];
        for (name, bad) in ["refused", "silent"].into_iter().zip(plans) {
            scene.platform.answer(&format!("{name}-{api:?}"), Then::plan([bad, good.clone()]));
        }
    }
    let mut streams = JoinSet::new();
    for n in 0..STREAMS {
        let api = Api::ALL[n % 3];
        let model = format!("{}-{api:?}", if n % 2 == 0 { "refused" } else { "silent" });
        let call = scene.gateway.http().post(scene.gateway.url(api.path()));
        let call = call.bearer_auth(USER_TOKEN).json(&api.ask_streamed(&model));
        streams.spawn(async move {
            let answer = call.send().await.expect("an answer");
            let (status, headers) = (answer.status(), answer.headers().clone());
            let text = answer.text().await.expect("a whole answer");
            assert_eq!(status, 200, "{text}");
            let id = headers.get("x-correlation-id").and_then(|id| id.to_str().ok());
            assert!(id.is_some_and(|id| id.starts_with("att-b-")), "the second serves: {id:?}");
            // Byte for byte what the provider sent, its end marker included, besides the cost.
            let expected = api.events().concat();
            let plain = text.replace(api.sign_of_life(), "");
            let expected = expected.replace(api.sign_of_life(), "");
            assert_eq!(without_cost(&plain, COST, "managed"), expected);
        });
    }
    while let Some(done) = streams.join_next().await {
        done.expect("every caller gets a whole answer");
    }
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for report in scene.reports(2 * STREAMS).await {
        *told.entry(line(&report)).or_default() += 1;
    }
    let expected = [
        ("att-a error conn_err".to_owned(), STREAMS / 2),
        ("att-a error timeout".to_owned(), STREAMS / 2),
        ("att-b success final".to_owned(), STREAMS),
    ];
    assert_eq!(told.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!((silent.count(), works.count()), (STREAMS / 2, STREAMS));
    silent.aborted(STREAMS / 2).await;
    scene.finish().await;
}
