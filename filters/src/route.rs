//! Routing policies: model names that stand for several targets, and the order in which a request tries them.

use std::sync::Arc;

use crate::rejection::{Code, Rejection};

/// Targets one request may try: each can take as long as a provider may think.
pub const MAX_TARGETS: usize = 5;

/// How much of a header that makes no sense is repeated to whoever sent it.
const SHOWN: usize = 64;

/// A model name that stands for targets. A target is `instance:model` or the name of an alias.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What callers write as the model, and what answers show.
    pub name: Arc<str>,
    /// Where a request starts.
    pub select: Select,
    /// What is tried after everything that `select` gives, in this order.
    pub on_failure: Vec<Box<str>>,
}

/// Where a request starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Select {
    /// Always here.
    Default(Box<str>),
    /// At one of several, by a draw of its own for each request.
    Weighted {
        /// Where requests start that asked for no router; else the last of the pool.
        default: Box<str>,
        /// Targets and their weights: not negative, finite, one above zero. Only the proportions count. The default is
        /// among them when it is a candidate or has a weight.
        candidates: Vec<(Box<str>, f64)>,
    },
}

/// One target to try, and why it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// `instance:model`, or the name of an alias.
    pub selector: &'a str,
    /// `default`, `router:weighted` or `on_failure`: for the row of the attempt.
    pub reason: &'static str,
}

impl Policy {
    /// The order in which to try targets: no target twice, [`MAX_TARGETS`] at most, never none.
    ///
    /// The first of the weighted candidates is drawn with their weights; the others follow as if drawn one after
    /// another from those that are left; those without a weight follow in the order written, then the default.
    /// `on_failure` comes last. `draws` gives independent uniform numbers in `[0, 1)` and is called once for each
    /// candidate with a weight. `no_router`: the default and `on_failure` only, without a draw.
    ///
    /// Choices that a caller may not have can be left out afterwards: the rest is ordered as if drawn without them.
    pub fn order(&self, draws: &mut dyn FnMut() -> f64, no_router: bool) -> Vec<Choice<'_>> {
        let mut order = Vec::with_capacity(MAX_TARGETS);
        let mut add = |selector, reason| {
            let is_new = |choice: &Choice<'_>| choice.selector != selector;
            if order.len() < MAX_TARGETS && order.iter().all(is_new) {
                order.push(Choice { selector, reason });
            }
        };
        match &self.select {
            Select::Weighted { default, candidates } if !no_router => {
                for selector in drawn(candidates, draws) {
                    add(selector, "router:weighted");
                }
                add(default, "default");
            }
            Select::Default(default) | Select::Weighted { default, .. } => add(default, "default"),
        }
        for selector in &self.on_failure {
            add(selector, "on_failure");
        }
        order
    }

    /// Every target it may lead to, some perhaps twice.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        let (default, candidates) = match &self.select {
            Select::Default(default) => (default, &[][..]),
            Select::Weighted { default, candidates } => (default, candidates.as_slice()),
        };
        let candidates = candidates.iter().map(|(selector, _)| &**selector);
        candidates.chain([&**default]).chain(self.on_failure.iter().map(|selector| &**selector))
    }
}

/// A draw without replacement. Each candidate waits for a time that is exponentially distributed with its weight as the
/// rate; the order in which they come is that of such a draw, and no weights have to be added up.
fn drawn<'a>(
    candidates: &'a [(Box<str>, f64)],
    draws: &mut dyn FnMut() -> f64,
) -> impl Iterator<Item = &'a str> {
    let mut waits: Vec<(f64, &str)> = candidates
        .iter()
        .map(|(selector, weight)| {
            // `1 - u` is never zero, so that no wait is infinite but that of a weight of zero.
            let wait = if *weight > 0.0 { -(1.0 - draws()).ln() / weight } else { f64::INFINITY };
            (wait, &**selector)
        })
        .collect();
    // Stable: candidates without a weight keep their order.
    waits.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    waits.into_iter().map(|(_, selector)| selector)
}

/// What is wrong with a policy's name, in a sentence. `is_provider`: names of providers, which selectors begin with;
/// `is_alias`: names of aliases, which are looked up in the same place.
pub fn name_fault(
    name: &str,
    is_provider: impl Fn(&str) -> bool,
    is_alias: impl Fn(&str) -> bool,
) -> Option<String> {
    if name.trim().is_empty() {
        return Some("A routing policy needs a name".to_owned());
    }
    if name.contains([':', '/']) {
        return Some(format!("Routing policy name '{name}' must not contain ':' or '/'"));
    }
    if is_provider(name) {
        return Some(format!("Routing policy name '{name}' is the name of a provider"));
    }
    is_alias(name).then(|| format!("Routing policy name '{name}' is the name of an alias"))
}

/// Whether a request wants its policy's router, from its `Otari-Router` header; without one it does.
///
/// # Errors
/// `invalid_value` for anything but `on` and `off`, in any case.
pub fn wants_router(header: Option<&str>) -> Result<bool, Rejection> {
    let Some(header) = header else { return Ok(true) };
    match header.trim() {
        value if value.eq_ignore_ascii_case("on") => Ok(true),
        value if value.eq_ignore_ascii_case("off") => Ok(false),
        value => {
            let shown: String = value.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
            let message = format!("Invalid Otari-Router header '{shown}': expected 'on' or 'off'.");
            Err(Rejection::new(Code::InvalidValue, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn policy(select: Select, on_failure: &[&str]) -> Policy {
        let on_failure = on_failure.iter().map(|&selector| selector.into()).collect();
        Policy { name: "fast".into(), select, on_failure }
    }

    fn weighted(default: &str, candidates: &[(&str, f64)]) -> Select {
        let candidates = candidates.iter().map(|&(name, weight)| (name.into(), weight)).collect();
        Select::Weighted { default: default.into(), candidates }
    }

    /// Splitmix64, so that a test gives the same result for ever.
    fn uniform(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    fn names<'a>(order: &[Choice<'a>]) -> Vec<&'a str> {
        order.iter().map(|choice| choice.selector).collect()
    }

    fn reasons(order: &[Choice<'_>]) -> Vec<&'static str> {
        order.iter().map(|choice| choice.reason).collect()
    }

    #[test]
    fn without_a_router_the_default_comes_first_and_nothing_is_drawn() {
        let mut none = || -> f64 { panic!("nothing is drawn") };
        let plain = policy(Select::Default("a:1".into()), &["b:1", "a:1", "b:1", "c:1"]);
        let order = plain.order(&mut none, false);
        assert_eq!(names(&order), ["a:1", "b:1", "c:1"]);
        assert_eq!(reasons(&order), ["default", "on_failure", "on_failure"]);
        let router = policy(weighted("b:1", &[("a:1", 1.0), ("b:1", 1.0)]), &["c:1"]);
        let order = router.order(&mut none, true);
        assert_eq!(names(&order), ["b:1", "c:1"]);
        assert_eq!(reasons(&order), ["default", "on_failure"]);
    }

    #[test]
    fn the_pool_comes_before_what_is_for_failures() {
        let candidates = [("zero:1", 0.0), ("a:1", 3.0), ("zero:2", 0.0)];
        let policy = policy(weighted("d:1", &candidates), &["a:1", "f:1", "g:1"]);
        let mut calls = 0;
        let mut draws = || {
            calls += 1;
            0.5
        };
        let order = policy.order(&mut draws, false);
        assert_eq!(names(&order), ["a:1", "zero:1", "zero:2", "d:1", "f:1"], "five at most");
        let router = "router:weighted";
        assert_eq!(reasons(&order), [router, router, router, "default", "on_failure"]);
        assert_eq!(calls, 1, "one draw for each candidate with a weight");
        let all: Vec<&str> = policy.targets().collect();
        assert_eq!(all, ["zero:1", "a:1", "zero:2", "d:1", "a:1", "f:1", "g:1"]);
    }

    #[test]
    fn a_default_with_a_weight_is_drawn_like_any_other() {
        let policy = policy(weighted("a:1", &[("b:1", 1.0), ("a:1", 1e9)]), &[]);
        let order = policy.order(&mut uniform(1), false);
        assert_eq!(names(&order), ["a:1", "b:1"]);
        assert_eq!(reasons(&order), ["router:weighted", "router:weighted"]);
    }

    /// Every order of three candidates, against its probability in draws one after another from those left.
    #[test]
    fn orders_are_as_frequent_as_draws_without_replacement_make_them() {
        let weights = [("a", 7.0), ("b", 2.0), ("c", 1.0)];
        // The same proportions: only they count.
        for scale in [1.0, 10.0, 1e-6] {
            let scaled = weights.map(|(name, weight)| (name, weight * scale));
            let policy = policy(weighted("d", &scaled), &[]);
            let mut draws = uniform(42);
            let mut seen: HashMap<String, f64> = HashMap::new();
            let rounds = 60_000;
            for _ in 0..rounds {
                let order = names(&policy.order(&mut draws, false)).concat();
                *seen.entry(order).or_default() += 1.0;
            }
            let mut chi_square = 0.0;
            for (first, second, third) in
                [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
            {
                let [first, second, third] = [first, second, third].map(|at| weights[at]);
                let share = first.1 / 10.0 * second.1 / (second.1 + third.1);
                let expected = share * f64::from(rounds);
                let name = [first.0, second.0, third.0, "d"].concat();
                let got = seen.remove(&name).unwrap_or_default();
                chi_square += (got - expected).powi(2) / expected;
            }
            assert!(seen.is_empty(), "{seen:?}");
            // Five degrees of freedom: one set of draws in a thousand is beyond.
            assert!(chi_square < 20.5, "chi-square {chi_square} with weights of {scale}");
        }
    }

    #[test]
    fn the_edges_of_a_draw_are_harmless() {
        for edge in [0.0, 1.0 - f64::EPSILON / 2.0, 1.0, f64::NAN] {
            let candidates = [("a", f64::MIN_POSITIVE), ("b", 1e300), ("c", 0.0)];
            let policy = policy(weighted("c", &candidates), &["d"]);
            let order = policy.order(&mut || edge, false);
            assert_eq!(order.len(), 4, "{edge}: {order:?}");
            assert_eq!(order[3].selector, "d", "{edge}");
        }
    }

    #[test]
    fn names_have_rules() {
        let fault = |name| name_fault(name, |name| name == "openai", |name| name == "mini");
        assert_eq!(fault("fast"), None);
        assert_eq!(fault("gpt-4o"), None, "a model's own name may be taken");
        for (name, part) in [
            ("", "needs a name"),
            (" ", "needs a name"),
            ("a:b", "must not contain ':' or '/'"),
            ("a/b", "must not contain ':' or '/'"),
            ("openai", "name of a provider"),
            ("mini", "name of an alias"),
        ] {
            let fault = fault(name);
            assert!(
                fault.as_deref().is_some_and(|fault| fault.contains(part)),
                "{name}: {fault:?}"
            );
        }
    }

    #[test]
    fn the_header_switches_the_router_off() {
        for (header, want) in
            [(None, true), (Some("on"), true), (Some("off"), false), (Some(" OFF "), false)]
        {
            assert_eq!(wants_router(header).ok(), Some(want), "{header:?}");
        }
        let refused = wants_router(Some("maybe")).unwrap_err();
        assert_eq!(refused.code.status(), 400);
        assert_eq!(refused.message, "Invalid Otari-Router header 'maybe': expected 'on' or 'off'.");
        let long = wants_router(Some(&"x".repeat(5000))).unwrap_err();
        assert!(long.message.len() < 200, "what is repeated is bounded");
        assert!(wants_router(Some("")).is_err());
    }
}
