//! When a list is asked for, shown and renewed.

use std::sync::Arc;
use std::time::Duration;

use otari_filters::providers;
use otari_filters::providers::list::Listed;
use otari_filters::upstream::{Draft, Upstream};
use tokio::time::Instant;

use super::entry::{Entry, Known, Need};
use crate::config::{self, Env, Sources};
use crate::control::settings::Settings;
use crate::outbound::{Error, ListError};

const SECOND: Duration = Duration::from_secs(1);

fn settings(ttl_s: u64) -> Settings {
    let config = config::load(&Sources { env: Env::default(), ..Sources::default() }).unwrap();
    let kept = Settings::new(&config, &[]);
    assert!(kept.model_discovery && kept.model_cache_ttl == 300 * SECOND);
    assert_eq!(kept.model_discovery_timeout, 10 * SECOND);
    assert_eq!(kept.model_discovery_negative_ttl, 30 * SECOND);
    Settings { model_cache_ttl: Duration::from_secs(ttl_s), ..kept }
}

fn entry(kind: &str, has_credential: bool) -> Entry {
    let upstream = Upstream::new(&Draft {
        instance: kind,
        kind: providers::find(kind).unwrap(),
        base_url: "https://h.example/v1",
        api_key: None,
        headers: &[],
        client_settings: &[],
        max_retries: 0,
        first_byte_timeout: SECOND,
        idle_timeout: SECOND,
        address: None,
    });
    Entry::new(Arc::new(upstream.unwrap()), has_credential)
}

fn known() -> Known {
    let model = |id: &str, created_s| Listed { id: id.into(), created_s, ..Listed::default() };
    Known::new(vec![model("a", 1), model("b", 2), model("a", 3)])
}

#[test]
fn of_two_models_of_one_name_the_first_is_kept() {
    let known = known();
    assert_eq!(known.models().len(), 2);
    assert_eq!(known.model("a").map(|model| model.created_s), Some(1));
    assert!(known.model("c").is_none());
}

#[test]
fn a_list_is_waited_for_once_then_renewed_in_passing_and_given_up_when_it_is_too_old() {
    let (entry, settings) = (entry("openai", true), settings(300));
    let now = Instant::now();
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    assert_eq!(entry.need(&settings, now), Need::Wait);
    assert!(entry.begin() && !entry.begin(), "one at a time");
    entry.end(Ok(known()));
    assert!(entry.begin(), "and again");
    entry.end(Ok(known()));
    for (seconds, need) in [
        (0, Need::Nothing),
        (299, Need::Nothing),
        (301, Need::Renewal),
        (3_890, Need::Renewal),
        (3_910, Need::Wait),
    ] {
        assert_eq!(entry.need(&settings, at(seconds)), need, "after {seconds} s");
        assert_eq!(entry.shown(&settings, at(seconds)).is_some(), seconds < 3_900);
    }
    assert!(!entry.is_due(&settings, at(290)), "nobody asked for it");
    entry.touch(at(10));
    assert!(!entry.is_due(&settings, at(230)), "it is still good");
    assert!(entry.is_due(&settings, at(250)));
}

#[test]
fn a_failure_is_remembered_and_hides_no_older_list() {
    let (entry, settings) = (entry("openai", true), settings(300));
    let now = Instant::now();
    entry.end(Err(ListError::Failed(Error::Timeout)));
    assert_eq!(entry.need(&settings, now + 20 * SECOND), Need::Nothing);
    assert_eq!(entry.need(&settings, now + 40 * SECOND), Need::Wait);
    entry.end(Ok(known()));
    entry.end(Err(ListError::Status(500)));
    assert!(entry.shown(&settings, now + 310 * SECOND).is_some());
    entry.end(Err(ListError::Refused(401)));
    assert!(entry.shown(&settings, now).is_none(), "a key that was taken away sees nothing");
}

#[test]
fn without_a_cache_everybody_waits_and_an_older_list_is_not_shown() {
    let (entry, settings) = (entry("openai", true), settings(0));
    let now = Instant::now();
    entry.end(Ok(known()));
    entry.touch(now + SECOND);
    assert_eq!(entry.need(&settings, now + SECOND), Need::Wait);
    assert!(entry.shown(&settings, now).is_some());
    assert!(!entry.is_due(&settings, now + 9_000 * SECOND));
    entry.end(Err(ListError::Limited));
    assert!(entry.shown(&settings, now).is_none());
}

#[test]
fn who_has_no_list_or_no_credential_is_not_asked() {
    for (kind, has_credential) in [("perplexity", true), ("openai", false)] {
        let entry = entry(kind, has_credential);
        assert_eq!(entry.need(&settings(300), Instant::now()), Need::Nothing);
        assert!(!entry.begin());
    }
}
