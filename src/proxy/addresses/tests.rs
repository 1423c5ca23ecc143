//! How often a name is asked for, and who waits.

use std::sync::atomic::AtomicUsize;

use futures_util::future::join_all;
use otari_filters::providers;
use otari_filters::upstream::Draft;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const ADDRESS: &str = "192.0.2.7:443";

/// A name server of which a test says what it does.
struct Server {
    asked: AtomicUsize,
    is_gone: AtomicBool,
    /// One permit, one answer.
    answers: Semaphore,
}

fn scripted(fresh: Duration, stale: Duration, retry: Duration) -> (Arc<Server>, Addresses) {
    let server = Arc::new(Server {
        asked: AtomicUsize::new(0),
        is_gone: AtomicBool::new(false),
        answers: Semaphore::new(1000),
    });
    let of = server.clone();
    let lookup: Box<Lookup> = Box::new(move |_, _| {
        let server = of.clone();
        Box::pin(async move {
            server.asked.fetch_add(1, Ordering::SeqCst);
            server.answers.acquire().await.unwrap().forget();
            match server.is_gone.load(Ordering::SeqCst) {
                true => Err("gone".to_owned()),
                false => Ok(vec![ADDRESS.parse().unwrap()]),
            }
        })
    });
    let pace = Pace { fresh, stale, retry };
    (server, Addresses { places: HashMap::new(), lookup, pace })
}

impl Server {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn hold_back(&self) {
        self.answers.forget_permits(usize::MAX);
    }
}

fn upstream(address: Option<SocketAddr>) -> Upstream {
    Upstream::new(&Draft {
        instance: "p",
        kind: &providers::UNKNOWN,
        base_url: "https://provider.test/v1",
        api_key: None,
        headers: &[],
        client_settings: &[],
        max_retries: 0,
        first_byte_timeout: SECOND,
        idle_timeout: SECOND,
        address,
    })
    .unwrap()
}

#[tokio::test]
async fn many_calls_ask_once() {
    let (server, addresses) = scripted(SECOND, SECOND, SECOND);
    let upstream = upstream(None);
    let found = join_all((0..100).map(|_| addresses.find(&upstream, SECOND))).await;
    for known in found {
        assert_eq!(known.unwrap().peers[0].address().to_string(), ADDRESS);
    }
    assert_eq!(server.asked(), 1);

    let other = addresses.find(&upstream, SECOND * 2).await.unwrap();
    assert_eq!(other.peers[0].options.connection_timeout, Some(SECOND * 2));
    assert_eq!(server.asked(), 1, "another timeout is no reason to ask");
}

#[tokio::test]
async fn a_name_without_an_address_is_not_asked_for_by_every_call() {
    let retry = Duration::from_millis(50);
    let (server, addresses) = scripted(SECOND, SECOND, retry);
    let upstream = upstream(None);
    server.is_gone.store(true, Ordering::SeqCst);
    let found = join_all((0..100).map(|_| addresses.find(&upstream, SECOND))).await;
    assert!(found.iter().all(|known| matches!(known, Err(Failure::Dns))));
    assert_eq!(server.asked(), 1);

    server.is_gone.store(false, Ordering::SeqCst);
    sleep(retry).await;
    addresses.find(&upstream, SECOND).await.unwrap();
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn what_is_called_is_asked_for_in_the_background() {
    let fresh = Duration::from_millis(40);
    let (server, addresses) = scripted(fresh, SECOND * 60, Duration::ZERO);
    let upstream = upstream(None);
    addresses.find(&upstream, SECOND).await.unwrap();
    addresses.refresh().await;
    assert_eq!(server.asked(), 1, "it is young");
    sleep(fresh).await;
    addresses.refresh().await;
    assert_eq!(server.asked(), 2);
    sleep(fresh).await;
    addresses.refresh().await;
    assert_eq!(server.asked(), 2, "nobody has called it since");

    addresses.find(&upstream, SECOND).await.unwrap();
    server.is_gone.store(true, Ordering::SeqCst);
    addresses.refresh().await;
    assert_eq!(server.asked(), 3);
    addresses.find(&upstream, SECOND).await.expect("the last good answer");
    assert_eq!(server.asked(), 3, "a call asks nobody");
}

#[tokio::test]
async fn nobody_waits_who_has_an_old_answer() {
    let (server, addresses) = scripted(Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let upstream = upstream(None);
    addresses.find(&upstream, SECOND).await.unwrap();
    server.hold_back();
    {
        let refresh = addresses.refresh();
        tokio::pin!(refresh);
        assert!(futures_util::poll!(refresh.as_mut()).is_pending());
        let found = addresses.find(&upstream, SECOND);
        tokio::time::timeout(SECOND, found).await.expect("at once").expect("the old answer");
    }
    assert_eq!(server.asked(), 2);

    // One that nobody has called for long is asked for by the call; a name server that is gone does no harm.
    server.is_gone.store(true, Ordering::SeqCst);
    server.answers.add_permits(10);
    addresses.find(&upstream, SECOND).await.expect("the old answer");
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn nobody_is_asked_for_an_address_that_is_given() {
    let (server, addresses) = scripted(Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let upstream = upstream(Some("192.0.2.8:80".parse().unwrap()));
    for timeout in [SECOND, SECOND * 2] {
        let known = addresses.find(&upstream, timeout).await.unwrap();
        assert_eq!(known.peers[0].address().to_string(), "192.0.2.8:80");
        addresses.refresh().await;
    }
    assert_eq!(server.asked(), 0);
}
