//! How credentials are kept: asked for once, renewed ahead, bounded, never shown.

use std::time::{Duration, Instant};

use otari_filters::upstream::Upstream;
use tokio::task::JoinSet;

use super::google::service_account;
use super::support::{Asked, Desk, Issuer, Reply, fast, ok, soon, token, upstream};
use crate::config::Ambient;
use crate::credentials::{CredentialFailure, MAX_KEPT, Pace};

fn watsonx(issuer: &Issuer, key: &str) -> Upstream {
    upstream("watsonx", Some(key), &[("iam_url", &issuer.url(""))])
}

fn desk() -> Desk {
    Desk::new(Some(Ambient::default()))
}

/// `token-N` for the Nth question.
fn counting(life_s: u64) -> impl FnMut(&Asked, usize) -> Reply + Send + 'static {
    move |_, n| token(&format!("token-{n}"), life_s)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_callers_ask_once() {
    let issuer = Issuer::new(counting(3600)).await;
    let desk = desk();
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let (credentials, upstream) = (desk.credentials.clone(), watsonx(&issuer, "k"));
        callers.spawn(async move { credentials.bearer(&upstream).await });
    }
    for caller in callers.join_all().await {
        assert_eq!(caller.unwrap(), "Bearer token-0");
    }
    assert_eq!(issuer.count(), 1);
}

#[tokio::test]
async fn a_token_is_renewed_ahead_of_its_end_and_nobody_waits() {
    let issuer = Issuer::new(counting(3600)).await;
    let desk = desk();
    let upstream = watsonx(&issuer, "k");
    assert_eq!(desk.bearer(&upstream).await.as_deref(), Ok("token-0"));
    desk.clock.advance_s(3_290);
    assert_eq!(desk.bearer(&upstream).await.as_deref(), Ok("token-0"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(issuer.count(), 1, "not yet");
    desk.clock.advance_s(11);
    soon("a renewal", || issuer.count() == 2).await;
    soon("its use", || !desk.credentials.0.find(&upstream, 0).unwrap().is_asked_for()).await;
    assert_eq!(desk.bearer(&upstream).await.as_deref(), Ok("token-1"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(issuer.count(), 2, "once");

    // What nobody used for an hour is forgotten, not renewed.
    desk.clock.advance_s(3_700);
    soon("forgotten", || desk.credentials.0.kept.pin().is_empty()).await;
    assert_eq!(issuer.count(), 2);
}

#[tokio::test]
async fn an_outage_fails_no_call_while_the_token_is_valid() {
    let issuer = Issuer::new(counting(3600)).await;
    let desk = desk();
    let upstream = watsonx(&issuer, "k");
    assert!(desk.bearer(&upstream).await.is_ok());
    issuer.now_says(Reply::Text(503, "down".to_owned()));
    desk.clock.advance_s(3_400);
    soon("a try", || issuer.count() == 2).await;
    for _ in 0..5 {
        assert_eq!(desk.bearer(&upstream).await.as_deref(), Ok("token-0"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(issuer.count(), 2, "a pause after a failure");
    desk.clock.advance_s(2);
    soon("the next try", || issuer.count() == 3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    desk.clock.advance_s(1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(issuer.count(), 3, "pauses grow");

    // It ends during the outage: that is said at once, and not everybody asks.
    desk.clock.advance_s(300);
    soon("one more", || issuer.count() == 4).await;
    let began = Instant::now();
    for _ in 0..20 {
        let failure = desk.bearer(&upstream).await.unwrap_err();
        assert!(matches!(failure, CredentialFailure::Unavailable(_)), "{failure:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "remembered");
    assert!(issuer.count() <= 5, "{}", issuer.count());
    issuer.now_says(token("back", 3600));
    desk.clock.advance_s(6);
    assert_eq!(desk.bearer(&upstream).await.as_deref(), Ok("back"));
}

#[tokio::test]
async fn hostile_answers_are_bounded_and_worded() {
    let elsewhere = Issuer::saying(token("stolen", 3600)).await;
    let pace = Pace { fetch: Duration::from_millis(500), ..fast() };
    for (reply, part) in [
        (Reply::Huge(10 << 20), "longer than any"),
        (ok("<html>hunter2</html>"), "without a token"),
        (ok("{\"access_token\":7}"), "without a token"),
        (ok("{\"access_token\":\" \"}"), "without a token"),
        (ok("{\"access_token\":\"hunter2\\nx: y\",\"expires_in\":60}"), "no header can carry"),
        (ok("{\"access_token\":\"hunter2\",\"expires_in\":0}"), "ended already"),
        (ok("{\"access_token\":\"hunter2\",\"expires_in\":-1e300}"), "ended already"),
        (ok("{\"access_token\":\"hunter2\",\"expires_in\":\"NaN\"}"), "ended already"),
        (ok("{\"access_token\":\"hunter2\",\"expires_in\":[]}"), "ended already"),
        (Reply::Text(500, "hunter2".to_owned()), "answered 500: no reason given"),
        (Reply::Text(429, "{}".to_owned()), "answered 429"),
        (Reply::Redirect(elsewhere.url("/identity/token")), "answered 307"),
        (Reply::Hang, "took longer than it may"),
    ] {
        let issuer = Issuer::saying(reply.clone()).await;
        let desk = Desk::with(Some(Ambient::default()), pace);
        let failure = desk.bearer(&watsonx(&issuer, "key-value-1")).await.unwrap_err();
        let shown = format!("{failure} {failure:?} {:?}", failure.rejection());
        assert!(matches!(failure, CredentialFailure::Unavailable(_)), "{failure:?}");
        assert!(shown.contains(part), "{reply:?}: {shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("key-value"), "{shown}");
        let told = failure.rejection().message;
        assert!(!told.contains("127.0.0.1") && told.contains("gateway"), "{told}");
    }
    assert_eq!(elsewhere.count(), 0, "the key goes to nobody else");
    // What lives absurdly long is asked for again within days, and nothing overflows.
    for life in ["1e300", "\"3600\"", "18446744073709551615", "null"] {
        let text = format!("{{\"access_token\":\"fine\",\"expires_in\":{life}}}");
        let issuer = Issuer::saying(ok(text)).await;
        assert_eq!(desk().bearer(&watsonx(&issuer, "k")).await.as_deref(), Ok("fine"), "{life}");
    }
    let nobody = upstream("watsonx", Some("k"), &[("iam_url", "http://127.0.0.1:1")]);
    let text = desk().bearer(&nobody).await.unwrap_err().to_string();
    assert!(text.contains("127.0.0.1 cannot be reached"), "{text}");
}

#[tokio::test]
async fn waits_are_bounded_and_nobody_waits_for_a_service_that_has_gone() {
    let pace = Pace { wait: Duration::from_millis(200), ..fast() };
    let issuer = Issuer::saying(Reply::Hang).await;
    let upstream = watsonx(&issuer, "k");
    let idle = Desk::without_service(Some(Ambient::default()), pace);
    assert_eq!(idle.bearer(&upstream).await, Err(CredentialFailure::Timeout));
    assert_eq!(CredentialFailure::Timeout.rejection().code.status(), 504);

    let mut desk = Desk::new(Some(Ambient::default()));
    let began = Instant::now();
    let waiting = desk.credentials.clone();
    let stop = async {
        soon("a question", || issuer.count() == 1).await;
        desk.service.abort_all();
    };
    let (result, ()) = tokio::join!(waiting.bearer(&upstream), stop);
    assert!(result.unwrap_err().to_string().contains("given up"));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn what_a_provider_refuses_is_asked_for_anew_but_not_by_every_call() {
    let issuer = Issuer::new(counting(3600)).await;
    let desk = desk();
    let upstream = watsonx(&issuer, "k");
    assert_eq!(desk.bearer(&upstream).await.as_deref(), Ok("token-0"));
    desk.credentials.spurn(&upstream);
    assert_eq!(desk.bearer(&upstream).await.as_deref(), Ok("token-0"), "too young");
    desk.clock.advance_s(61);
    desk.credentials.spurn(&upstream);
    assert_eq!(desk.bearer(&upstream).await.as_deref(), Ok("token-1"));
    desk.credentials.spurn(&upstream);
    assert_eq!(desk.bearer(&upstream).await.as_deref(), Ok("token-1"));
    desk.credentials.spurn(&watsonx(&issuer, "unknown"));
    assert_eq!(issuer.count(), 2);
}

#[tokio::test]
async fn tenants_have_their_own_even_when_fingerprints_are_equal() {
    let issuer = Issuer::new(|asked, _| {
        token(&format!("for-{}", asked.field("apikey").unwrap_or_default()), 3600)
    })
    .await;
    let desk = desk();
    let mut upstreams: Vec<Upstream> =
        (0..5).map(|n| watsonx(&issuer, &format!("tenant-{n}"))).collect();
    let own = async |upstreams: &[Upstream]| {
        for (n, upstream) in upstreams.iter().enumerate() {
            assert_eq!(desk.bearer(upstream).await, Ok(format!("for-tenant-{n}")));
        }
    };
    own(&upstreams).await;
    own(&upstreams).await;
    assert_eq!(issuer.count(), 5);
    upstreams.iter_mut().for_each(|upstream| upstream.fingerprint = 7);
    own(&upstreams).await;
    own(&upstreams).await;
}

#[tokio::test]
async fn only_so_many_are_kept_and_the_oldest_goes() {
    let issuer = Issuer::new(counting(3600)).await;
    let desk = desk();
    let first = watsonx(&issuer, "first");
    assert!(desk.bearer(&first).await.is_ok());
    let shared = &desk.credentials.0;
    let now = super::support::START_S * 1_000_000;
    for n in 0..MAX_KEPT + 10 {
        // Used all along, so it stays.
        let at = now + i64::try_from(n).unwrap() * 2_000_000;
        shared.find(&first, at).unwrap();
        shared.find(&watsonx(&issuer, &format!("t{n}")), at).unwrap();
    }
    assert_eq!(shared.kept.len(), MAX_KEPT);
    assert!(shared.kept.pin().contains_key(&first.fingerprint));
    assert!(!shared.kept.pin().contains_key(&watsonx(&issuer, "t0").fingerprint));
}

#[tokio::test]
async fn the_wrong_kind_of_provider_is_said() {
    let desk = desk();
    let openai = upstream("openai", Some("k"), &[]);
    assert!(matches!(desk.bearer(&openai).await, Err(CredentialFailure::Settings { .. })));
    assert!(matches!(desk.keys(&openai).await, Err(CredentialFailure::Settings { .. })));
}

#[test]
fn nothing_shows_a_secret() {
    let account = service_account("https://oauth2.example/token");
    for (name, key, settings) in [
        ("vertexai", None, vec![("credentials", account.as_str())]),
        ("watsonx", Some("hunter2-key"), vec![]),
        ("bedrock", None, vec![("profile_name", "p")]),
    ] {
        let upstream = upstream(name, key, &settings);
        let ambient = std::sync::Arc::new(Ambient::default());
        let source = crate::credentials::Source::of(&upstream, Some(&ambient)).unwrap();
        let shown = format!("{source:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("PRIVATE"), "{shown}");
    }
}
