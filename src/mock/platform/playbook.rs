//! A script in use: which rule applies to a request, with the counters and the generator that this takes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use serde_json::Value;

use super::endpoint::Endpoint;
use super::script::{Rule, Script, Then, When};

/// What conditions look at.
pub(super) struct Asked<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) user_token: Option<&'a str>,
    /// The body; null when there is none.
    pub(super) body: &'a Value,
}

impl Asked<'_> {
    /// A field of the body that is a text.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field)?.as_str()
    }
}

/// A script and how far it was played.
pub(super) struct Playbook {
    pub(super) script: Script,
    /// Requests that met the conditions of each rule, by endpoint.
    met: [Vec<AtomicU32>; Endpoint::ALL.len()],
    /// State of the generator.
    chance: AtomicU64,
}

impl Playbook {
    pub(super) fn new(script: Script) -> Self {
        let counters = |endpoint| script.rules(endpoint).iter().map(|_| AtomicU32::new(0));
        let met = Endpoint::ALL.map(|endpoint| counters(endpoint).collect());
        Self { met, chance: AtomicU64::new(script.seed), script }
    }

    /// What the first rule that applies says; `None`: the default.
    pub(super) fn rule(&self, asked: &Asked<'_>) -> Option<&Then> {
        let rules = self.script.rules(asked.endpoint).iter();
        let counters = &self.met[asked.endpoint as usize];
        let found = rules.zip(counters).find(|(rule, met)| self.applies(rule, met, asked));
        found.map(|(rule, _)| &rule.then)
    }

    fn applies(&self, Rule { when, .. }: &Rule, met: &AtomicU32, asked: &Asked<'_>) -> bool {
        if !matches(when, asked) {
            return false;
        }
        if let Some(first) = when.first {
            let room = |n: u32| (n < first).then(|| n + 1);
            if met.fetch_update(Relaxed, Relaxed, room).is_err() {
                return false;
            }
        }
        when.chance.is_none_or(|chance| self.percent() < u64::from(chance))
    }

    /// 0 to 99, from the seed: SplitMix64, one addition shared between threads.
    fn percent(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.chance.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 100
    }
}

fn matches(when: &When, asked: &Asked<'_>) -> bool {
    let equal = |wanted: &Option<String>, given: Option<&str>| {
        wanted.is_none() || wanted.as_deref() == given
    };
    let begins = |wanted: &Option<String>, given: Option<&str>| match wanted {
        None => true,
        Some(wanted) => given.is_some_and(|given| given.starts_with(wanted)),
    };
    let model = match &when.model {
        None => true,
        Some(wanted) => asked.text("model").is_some_and(|model| match wanted.strip_suffix('*') {
            Some(start) => model.starts_with(start),
            None => model == wanted,
        }),
    };
    model
        && equal(&when.provider, asked.text("provider"))
        && equal(&when.user_token, asked.user_token)
        && equal(&when.status, asked.text("status"))
        && begins(&when.correlation_id, asked.text("correlation_id"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resolve(body: &Value) -> Asked<'_> {
        Asked { endpoint: Endpoint::Resolve, user_token: Some("tk_1"), body }
    }

    fn statuses(script: Script, body: &Value, count: usize) -> Vec<u16> {
        let book = Playbook::new(script);
        let status = |_| book.rule(&resolve(body)).and_then(|then| then.status).unwrap_or(200);
        (0..count).map(status).collect()
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let when = |when: Value, status: u16| Rule {
            when: serde_json::from_value(when).unwrap(),
            then: Then::status(status),
        };
        let script = Script {
            resolve: vec![
                when(json!({"model": "gpt", "provider": "azure"}), 401),
                when(json!({"model": "gpt*", "user_token": "tk_1"}), 402),
                when(json!({"user_token": "tk_2"}), 403),
                when(json!({"model": "claude"}), 404),
            ],
            ..Script::default()
        };
        for (body, status) in [
            (json!({"model": "gpt", "provider": "azure"}), 401),
            (json!({"model": "gpt"}), 402),
            (json!({"model": "gpt-4o"}), 402),
            (json!({"model": "claude"}), 404),
            (json!({"model": "claude-x"}), 200),
        ] {
            assert_eq!(statuses(script.clone(), &body, 1), [status], "{body}");
        }
    }

    #[test]
    fn first_counts_the_requests_that_match() {
        let script = Script {
            resolve: vec![
                Rule {
                    when: When { model: Some("a".into()), first: Some(2), ..When::default() },
                    then: Then::status(500),
                },
                Rule::first(1, Then::status(503)),
            ],
            ..Script::default()
        };
        assert_eq!(statuses(script.clone(), &json!({"model": "a"}), 5), [500, 500, 503, 200, 200]);
        assert_eq!(statuses(script, &json!({"model": "b"}), 2), [503, 200]);
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed() {
        let script = |seed, chance| Script {
            seed,
            resolve: vec![Rule {
                when: When { chance: Some(chance), ..When::default() },
                then: Then::status(500),
            }],
            ..Script::default()
        };
        let run = |seed, chance| statuses(script(seed, chance), &json!({}), 1000);
        assert_eq!(run(1, 30), run(1, 30));
        assert_ne!(run(1, 30), run(2, 30));
        let failed = run(1, 30).iter().filter(|status| **status == 500).count();
        assert!((250..350).contains(&failed), "about 30 of a hundred: {failed} of 1000");
        assert!(!run(1, 0).contains(&500) && !run(1, 100).contains(&200));
    }
}
