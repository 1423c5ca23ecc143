//! A thousand requests through plans of three attempts that fail at random; then an auditor compares what providers
//! saw, what callers got and what the platform was told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use otari::mock::platform::{Rule, Seen, Then};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Api, Scene, is_streamed, nobody};
use crate::support::platform::USER_TOKEN;
use crate::support::provider::{Provider, Reply, Request, Step};

const REQUESTS: usize = 1000;
const AT_ONCE: usize = 32;
const ATTEMPTS: usize = 3;

/// What becomes of an attempt, and how often of a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Serves,
    /// Nobody listens.
    Refused,
    /// Closed by reset, before an answer.
    Reset,
    /// Closed in order, before an answer.
    Closed,
    Status(u16),
    /// Not even a header.
    Silent,
    /// A header, and nothing behind it.
    Stalled,
    /// An answer that is none.
    Html,
    /// Ends in the middle: of a stream behind its first event.
    Cut,
    /// Of a stream: an error as its first event.
    ErrorEvent,
}

const FATES: [(Fate, u64); 18] = [
    (Fate::Serves, 34),
    (Fate::Refused, 8),
    (Fate::Reset, 6),
    (Fate::Closed, 6),
    (Fate::Silent, 2),
    (Fate::Stalled, 4),
    (Fate::Html, 3),
    (Fate::Cut, 9),
    (Fate::ErrorEvent, 4),
    (Fate::Status(400), 3),
    (Fate::Status(401), 3),
    (Fate::Status(402), 3),
    (Fate::Status(404), 3),
    (Fate::Status(408), 1),
    (Fate::Status(422), 2),
    (Fate::Status(429), 3),
    (Fate::Status(500), 3),
    (Fate::Status(503), 3),
];

impl Fate {
    fn name(self) -> String {
        format!("{self:?}")
    }

    fn of(name: &str) -> Self {
        let found = FATES.iter().map(|(fate, _)| *fate).find(|fate| fate.name() == name);
        found.unwrap_or_else(|| panic!("no fate is called {name}"))
    }

    /// Whether no other attempt follows.
    fn is_last(self, streamed: bool) -> bool {
        self == Self::Serves || (self == Self::Cut && streamed)
    }

    /// The `error_class` it is reported with, if any; not of a success.
    fn class(self, api: Api, streamed: bool) -> Option<String> {
        let class = match self {
            Self::Refused | Self::Reset | Self::Closed => "conn_err",
            Self::Cut if streamed => return None,
            Self::Cut => "conn_err",
            Self::Silent | Self::Stalled => "timeout",
            Self::Html => "unknown",
            Self::Status(402) => "http_402_billing",
            Self::Status(status) => return Some(format!("http_{status}")),
            Self::ErrorEvent if !streamed => "http_502",
            Self::ErrorEvent => match api {
                Api::Chat => "http_503",
                Api::Messages => "http_529",
                Api::Responses => "http_500",
            },
            Self::Serves => return None,
        };
        Some(class.to_owned())
    }

    fn plays(self, request: &Request) -> Reply {
        let (api, streamed) = (Api::of(request), is_streamed(request));
        match self {
            Self::Serves => api.served(streamed),
            Self::Refused => panic!("nobody listens there"),
            Self::Reset => Reply::reset(),
            Self::Closed => Reply::none(Step::CutNow),
            Self::Status(status) => Reply::json(status, &json!({"error": {"message": "scripted"}})),
            Self::Silent => Reply::silence(),
            Self::Stalled if streamed => Reply::events([Step::Silence]),
            Self::Stalled => Reply::bytes(200, "application/json", "{").before(0, Step::Silence),
            Self::Html => Reply::bytes(200, "text/html", "<p>"),
            Self::Cut if streamed => Reply::events([
                Step::Send(api.events()[0].clone().into()),
                Step::Sleep(20),
                Step::CutNow,
            ]),
            Self::Cut => {
                let (begin, rest) = api.document().split_at(40);
                let whole = Reply::bytes(200, "application/json", begin);
                whole.then(Step::CutNow).then(Step::Send(rest.into()))
            }
            Self::ErrorEvent if streamed => Reply::events([Step::Send(api.error_event().into())]),
            Self::ErrorEvent => Reply::json(502, &json!({"error": {"message": "scripted"}})),
        }
    }
}

/// Numbers from a seed: SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn fate(&mut self) -> Fate {
        let mut at = self.below(100);
        for (fate, share) in FATES {
            if at < share {
                return fate;
            }
            at -= share;
        }
        Fate::Serves
    }
}

/// One request: how it is asked and what its attempts come to.
#[derive(Clone, Copy, Debug)]
struct Case {
    api: Api,
    streamed: bool,
    /// The caller hangs up behind the first piece.
    leaves: bool,
    fates: [Fate; ATTEMPTS],
}

impl Case {
    fn roll(dice: &mut Dice) -> Self {
        let streamed = dice.below(3) == 0;
        Self {
            api: Api::ALL[usize::try_from(dice.below(3)).expect("small")],
            streamed,
            leaves: streamed && dice.below(12) == 0,
            fates: [dice.fate(), dice.fate(), dice.fate()],
        }
    }

    fn plan(&self, n: usize, provider: &Provider) -> Then {
        Then::plan(self.fates.iter().enumerate().map(|(at, fate)| {
            let base = match fate {
                Fate::Refused => format!("http://{}/v1", nobody()),
                _ => provider.base(),
            };
            // A place and key for each fate: a circuit breaker learns what is behind it.
            json!({"provider": self.api.provider(), "model": format!("{n}:{at}:{}", fate.name()),
                   "api_base": base, "api_key": format!("sk-{}", fate.name())})
        }))
    }

    /// Attempts that are made when none is passed over.
    fn tried(&self) -> usize {
        let last = self.fates.iter().position(|fate| fate.is_last(self.streamed));
        last.map_or(ATTEMPTS, |at| at + 1)
    }
}

/// What a caller got.
struct Got {
    status: u16,
    id: Option<String>,
    text: String,
}

fn call(
    scene: &Scene,
    n: usize,
    case: Case,
    permits: Arc<Semaphore>,
) -> impl Future<Output = (usize, Got)> + use<> {
    let mut body = if case.streamed {
        case.api.ask_streamed(&format!("m{n}"))
    } else {
        case.api.ask(&format!("m{n}"))
    };
    body["session_label"] = json!(format!("label-{n}"));
    let call = scene.gateway.http().post(scene.gateway.url(case.api.path()));
    let call = call.bearer_auth(USER_TOKEN).json(&body);
    async move {
        let _permit = permits.acquire_owned().await.expect("never closed");
        let mut answer = call.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let id = answer.headers().get("x-correlation-id").and_then(|id| id.to_str().ok());
        let id = id.map(str::to_owned);
        let text = if case.leaves {
            let _ = answer.chunk().await;
            String::new()
        } else {
            answer.text().await.expect("a whole answer")
        };
        (n, Got { status, id, text })
    }
}

/// Who tried which attempt: request and place by the platform's id.
fn given(resolves: &[Seen]) -> HashMap<String, (usize, usize)> {
    let mut given = HashMap::new();
    for resolve in resolves {
        for attempt in resolve.answer_json()["attempts"].as_array().expect("attempts") {
            let model = attempt["model"].as_str().expect("a model").to_owned();
            let mut parts = model.split(':').map(|part| part.parse().unwrap_or(usize::MAX));
            let place = (parts.next().expect("a request"), parts.next().expect("a place"));
            given.insert(attempt["attempt_id"].as_str().expect("an id").to_owned(), place);
        }
    }
    given
}

async fn a_thousand(seed: u64, breaker: bool) {
    let yaml = if breaker {
        "first_byte_timeout_s: 1\ncircuit_breaker_failures: 5"
    } else {
        "first_byte_timeout_s: 1"
    };
    let mut scene = Scene::with(|start| {
        start.config(yaml).env("STREAMING_FALLBACK_FIRST_CHUNK_TIMEOUT_MS", "1000")
    })
    .await;
    let provider = Provider::start(|request| {
        let model = request.json()["model"].as_str().expect("a model").to_owned();
        Fate::of(model.rsplit(':').next().expect("a fate")).plays(request)
    });
    let mut dice = Dice(seed);
    let cases: Vec<Case> = (0..REQUESTS).map(|_| Case::roll(&mut dice)).collect();
    scene.platform.edit(|script| {
        script.resolve = (cases.iter().enumerate())
            .map(|(n, case)| Rule::model(&format!("m{n}"), case.plan(n, &provider)))
            .collect();
    });
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut calls = JoinSet::new();
    for (n, case) in cases.iter().enumerate() {
        calls.spawn(call(&scene, n, *case, permits.clone()));
    }
    let mut got = BTreeMap::new();
    while let Some(done) = calls.join_next().await {
        let (n, answer) = done.expect("no caller panics");
        got.insert(n, answer);
    }
    // It ends when the platform has everything.
    let ended = scene.gateway.terminate().await;
    assert!(ended.success(), "{ended}");
    scene.platform.assert_clean();
    audit(&scene, &provider, &cases, &got, breaker);
}

fn audit(
    scene: &Scene,
    provider: &Provider,
    cases: &[Case],
    got: &BTreeMap<usize, Got>,
    breaker: bool,
) {
    let given = given(&scene.platform.resolves());
    assert_eq!(given.len(), REQUESTS * ATTEMPTS, "every request was resolved once");
    let mut asked = HashSet::new();
    for request in provider.requests() {
        let model = request.json()["model"].as_str().expect("a model").to_owned();
        let mut parts = model.split(':').map(|part| part.parse::<usize>().unwrap_or(usize::MAX));
        asked.insert((parts.next().expect("a request"), parts.next().expect("a place")));
    }
    let mut told: BTreeMap<usize, BTreeMap<usize, Seen>> = BTreeMap::new();
    for report in scene.platform.reports().into_iter().filter(Seen::accepted) {
        let (n, at) = given[&report.correlation_id()];
        assert_eq!(report.text("session_label"), Some(format!("label-{n}")));
        assert!(told.entry(n).or_default().insert(at, report).is_none(), "{n}:{at} twice");
    }
    let mut passed_over = 0;
    for (n, case) in cases.iter().enumerate() {
        let told = told.remove(&n).unwrap_or_default();
        let lines: Vec<String> = told.values().map(super::line).collect();
        let what = format!("request {n} {case:?}: {lines:?}");
        let asked: HashSet<usize> = (0..ATTEMPTS).filter(|at| asked.contains(&(n, *at))).collect();
        audit_attempts(case, &asked, &told, &what);
        if case.leaves {
            continue;
        }
        let made: Vec<usize> = told.keys().copied().collect();
        let last = *made.last().unwrap_or_else(|| panic!("no report: {what}"));
        let finals: Vec<usize> =
            told.iter().filter(|(_, r)| r.is_final()).map(|(at, _)| *at).collect();
        assert_eq!(finals, [last], "the last one that was made, and no other: {what}");
        let all: Vec<usize> = (0..case.tried()).collect();
        assert!(breaker || made == all, "those up to the first that serves: {what}");
        passed_over += usize::from(made != all);
        audit_answer(case, last, &told[&last], &got[&n], &what);
    }
    assert!(!breaker || passed_over > 50, "the circuit breaker passed over {passed_over} only");
}

/// Whether those that were made were reported, with what became of them, and no others.
fn audit_attempts(case: &Case, asked: &HashSet<usize>, told: &BTreeMap<usize, Seen>, what: &str) {
    let unreported: Vec<usize> =
        asked.iter().copied().filter(|at| !told.contains_key(at)).collect();
    // Of a call whose caller left, the attempt under way has none.
    let excepted = usize::from(case.leaves);
    assert!(unreported.len() <= excepted, "{unreported:?} was not reported: {what}");
    for (at, report) in told {
        let fate = case.fates[*at];
        assert!(fate == Fate::Refused || asked.contains(at), "{at} was never tried: {what}");
        assert_eq!(report.error_class(), fate.class(case.api, case.streamed), "{at} of {what}");
        assert_eq!(report.is_success(), fate == Fate::Serves, "{at} of {what}");
    }
}

/// Whether the caller got what the last attempt came to.
fn audit_answer(case: &Case, last: usize, report: &Seen, got: &Got, what: &str) {
    let (fate, text) = (case.fates[last], &got.text);
    if !fate.is_last(case.streamed) {
        assert!(got.status >= 400 && got.id.is_none(), "{} {what}", got.status);
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        assert!(body["error"]["message"].is_string(), "{what}: {text}");
        return;
    }
    assert_eq!((got.status, got.id.clone()), (200, Some(report.correlation_id())), "{what}");
    let is_whole = match (fate, case.streamed) {
        (Fate::Serves, true) => case.api.is_whole(text),
        (Fate::Serves, false) => serde_json::from_str::<Value>(text).is_ok(),
        _ if case.api == Api::Chat => text.ends_with("data: [DONE]\n\n"),
        _ => text.contains("\nevent: error\n") && text.ends_with("\n\n"),
    };
    assert!(is_whole, "{what}: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_is_reported_once_and_none_that_was_not_made() {
    a_thousand(20_261_123, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_any_that_a_circuit_breaker_passed_over() {
    a_thousand(42, true).await;
}
