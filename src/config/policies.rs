//! `routing:`, model names that stand for several targets.

use otari_filters::providers;
use otari_filters::resolve::split;
use otari_filters::route::{self, MAX_TARGETS, Policy, Select};

use super::ProviderConfig;
use super::layers::Fields;
use super::node::{Node, Value, child_path};
use super::problem::{Report, suggestion};

const SECTION_KEYS: &[&str] = &["enabled", "policies"];
const POLICY_KEYS: &[&str] = &["spec_version", "select", "on_failure", "guardrails"];
const ENTRY_KEYS: &[&str] = &["default", "router", "candidates", "weights"];
/// Weights are proportions: beyond this they are mistakes.
const LARGEST_WEIGHT: f64 = 1e12;

/// The policies in the file's order; none when they are switched off, though they are checked all the same.
pub(super) fn read(
    fields: &Fields,
    providers: &[ProviderConfig],
    aliases: &[(String, String)],
    report: &mut Report,
) -> Vec<Policy> {
    let Some(node) = fields.get("routing") else { return Vec::new() };
    let entries = node.entries(report);
    refuse_unknown(entries, SECTION_KEYS, report);
    let policies = child(entries, "policies").map_or(&[][..], |node| node.entries(report));
    let mut reader = Reader { providers, aliases, report };
    let read: Vec<Policy> =
        policies.iter().filter_map(|(name, node)| reader.policy(name, node)).collect();
    if is_enabled(entries, report) {
        return read;
    }
    if !policies.is_empty() {
        node.warn(report, "switched off by enabled: false, so its policies are not used.");
    }
    Vec::new()
}

/// Connected mode: what the policies are called, whatever they hold. The platform routes, but a call that names one is
/// meant for this gateway and must not reach it.
pub(super) fn names(fields: &Fields) -> Vec<Policy> {
    let quiet = &mut Report::default();
    let entries = fields.get("routing").map_or(&[][..], |node| node.entries(quiet));
    if !is_enabled(entries, quiet) {
        return Vec::new();
    }
    let policies = child(entries, "policies").map_or(&[][..], |node| node.entries(quiet));
    let named = |(name, _): &(String, Node)| Policy {
        name: name.as_str().into(),
        select: Select::Default("".into()),
        on_failure: Vec::new(),
    };
    policies.iter().map(named).collect()
}

fn is_enabled(entries: &[(String, Node)], report: &mut Report) -> bool {
    child(entries, "enabled").and_then(|node| node.flag(report)).unwrap_or(true)
}

fn child<'a>(entries: &'a [(String, Node)], key: &str) -> Option<&'a Node> {
    entries.iter().find(|(known, node)| known == key && node.is_set()).map(|(_, node)| node)
}

/// What is not known here would change where calls go: nothing is guessed.
fn refuse_unknown(entries: &[(String, Node)], known: &[&str], report: &mut Report) {
    for (key, node) in entries.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        let hint = match suggestion(key, known.iter().copied()) {
            hint if hint.is_empty() => format!(" Known: {}.", known.join(", ")),
            hint => hint,
        };
        report.problem(&node.key_place, format!("{}: unknown key.{hint}", node.path));
    }
}

struct Reader<'a> {
    providers: &'a [ProviderConfig],
    aliases: &'a [(String, String)],
    report: &'a mut Report,
}

impl Reader<'_> {
    fn policy(&mut self, name: &str, node: &Node) -> Option<Policy> {
        let is_provider = |name: &str| self.is_configured(name) || providers::find(name).is_some();
        let is_alias = |name: &str| self.alias(name).is_some();
        if let Some(fault) = route::name_fault(name, is_provider, is_alias) {
            self.report.problem(&node.key_place, format!("{}: {fault}.", node.path));
        }
        let entries = node.entries(self.report);
        refuse_unknown(entries, POLICY_KEYS, self.report);
        if let Some(version) = child(entries, "spec_version")
            && version.whole(&(0..=i128::MAX), self.report).is_some_and(|version| version != 1)
        {
            version.wrong(self.report, "this version reads spec_version 1 only.");
        }
        if let Some(guardrails) = child(entries, "guardrails")
            && !matches!(&guardrails.value, Value::List(items) if items.is_empty())
        {
            let text = "this version does not run guardrails, and calls must not pass without them. Remove them.";
            self.refuse(guardrails, text);
        }
        let on_failure = self.targets(child(entries, "on_failure"));
        let Some(select) = child(entries, "select") else {
            let path = child_path(&node.path, "select");
            let text = format!(
                "{path} is missing. Write a list that ends in `- default: provider:model`."
            );
            self.report.problem(&node.key_place, text);
            return None;
        };
        let select = self.select(select)?;
        let on_failure = on_failure?;
        let policy = Policy { name: name.into(), select, on_failure };
        self.count(node, &policy);
        Some(policy)
    }

    /// At most so many: those of the router with the default, or the default alone, and all of `on_failure`.
    fn count(&mut self, node: &Node, policy: &Policy) {
        let pool = match &policy.select {
            Select::Default(_) => 1,
            Select::Weighted { default, candidates } => {
                let is_default = |(selector, _): &(Box<str>, f64)| selector == default;
                candidates.len() + usize::from(!candidates.iter().any(is_default))
            }
        };
        let count = pool + policy.on_failure.len();
        if count > MAX_TARGETS {
            let text = format!(
                "{count} targets, the default and on_failure included; {MAX_TARGETS} at most."
            );
            self.refuse(node, &text);
        }
    }

    fn select(&mut self, node: &Node) -> Option<Select> {
        let items = match &node.value {
            Value::List(items) if !items.is_empty() => items,
            Value::Broken => return None,
            _ => {
                node.wrong(
                    self.report,
                    "expected a list that ends in `- default: provider:model`.",
                );
                return None;
            }
        };
        let mut router = None;
        let mut default = None;
        for (at, item) in items.iter().enumerate() {
            let entries = item.entries(self.report);
            if let Some(node) = child(entries, "when").or_else(|| child(entries, "target")) {
                self.refuse(node, "this version does not run conditions. Remove this entry.");
                continue;
            }
            refuse_unknown(entries, ENTRY_KEYS, self.report);
            match (child(entries, "router"), child(entries, "default")) {
                (None, Some(node)) if at + 1 == items.len() && entries.len() == 1 => {
                    default = Some(self.target(node)?);
                }
                (None, Some(node)) if entries.len() == 1 => {
                    self.refuse(node, "the default is the last entry, and there is one.");
                }
                (None, Some(node)) => self.refuse(node, "stands alone in its entry."),
                (Some(node), None) if router.is_none() => router = Some((node, entries)),
                (Some(node), None) => {
                    self.refuse(node, "never reached: a router stands before it. Remove it.")
                }
                (Some(_), Some(node)) => {
                    self.refuse(node, "stands in an entry of its own, the last.")
                }
                (None, None) => item.wrong(self.report, "expected `default` or `router`."),
            }
        }
        let Some(default) = default else {
            // Only if nothing else was wrong with it.
            let is_last = items.last().and_then(|last| child(last.entries(self.report), "default"));
            if is_last.is_none() {
                node.wrong(self.report, "must end in `- default: provider:model`.");
            }
            return None;
        };
        match router {
            None => Some(Select::Default(default)),
            Some((router, entries)) => self.router(router, entries, default),
        }
    }

    fn router(
        &mut self,
        router: &Node,
        entries: &[(String, Node)],
        default: Box<str>,
    ) -> Option<Select> {
        match router.text(self.report)?.trim() {
            "weighted" => {}
            "knn" => {
                let text = "this version does not run the knn router. Use `weighted`, or remove this entry.";
                self.refuse(router, text);
                return None;
            }
            _ => {
                router.wrong(self.report, "unknown router. Expected `weighted`.");
                return None;
            }
        }
        let node = child(entries, "candidates");
        let names = self.targets(node)?;
        if names.len() < 2 {
            node.unwrap_or(router).wrong(self.report, "a router needs two candidates or more.");
            return None;
        }
        let mut places: Vec<&str> = names.iter().map(|name| self.leads_to(name)).collect();
        places.sort_unstable();
        if let (Some(node), Some(pair)) = (node, places.windows(2).find(|pair| pair[0] == pair[1]))
        {
            let text =
                format!("{}: candidate '{}' is there twice. Remove one.", node.path, pair[0]);
            self.report.problem(&node.place, text);
            return None;
        }
        let mut candidates: Vec<(Box<str>, f64)> = names.into_iter().map(|n| (n, 0.0)).collect();
        let Some(weights) = child(entries, "weights") else {
            let text = "weights are missing. Write them as {provider:model: 7, ...}.";
            self.refuse(router, text);
            return None;
        };
        for (name, node) in weights.entries(self.report) {
            let weight = node.number(false, LARGEST_WEIGHT, self.report)?;
            let selector = self.canonical(name).unwrap_or_else(|| name.as_str().into());
            if let Some(candidate) = candidates.iter_mut().find(|(known, _)| *known == selector) {
                candidate.1 = weight;
            } else if selector == default {
                // Without a weight it is the last of the pool anyway.
                if weight > 0.0 {
                    candidates.push((selector, weight));
                }
            } else {
                let text = format!(
                    "{}: a weight for what is no candidate and not the default.",
                    node.path
                );
                self.report.problem(&node.key_place, text);
                return None;
            }
        }
        if candidates.iter().all(|(_, weight)| *weight == 0.0) {
            weights.wrong(self.report, "at least one weight must be above 0.");
            return None;
        }
        Some(Select::Weighted { default, candidates })
    }

    /// A list of targets, empty when there is none; `None` after a problem.
    fn targets(&mut self, node: Option<&Node>) -> Option<Vec<Box<str>>> {
        let Some(node) = node else { return Some(Vec::new()) };
        match &node.value {
            Value::List(items) => {
                let read: Vec<_> = items.iter().map(|item| self.target(item)).collect();
                read.into_iter().collect()
            }
            Value::Broken => None,
            _ => {
                node.wrong(
                    self.report,
                    "expected a list of targets. Write it as [\"provider:model\"].",
                );
                None
            }
        }
    }

    fn target(&mut self, node: &Node) -> Option<Box<str>> {
        if !node.is_set() {
            node.wrong(self.report, "needs a target such as openai:gpt-4o.");
        }
        let text = node.text(self.report)?.trim();
        if let Some(selector) = self.canonical(text) {
            return Some(selector);
        }
        let what = match split(text) {
            _ if node.expanded => {
                "leads nowhere. Write provider:model with a configured provider, or an alias."
                    .into()
            }
            Some((instance, _)) => {
                format!("'{text}': provider '{instance}' is not configured. Add it to providers.")
            }
            None => {
                let hint = suggestion(text, self.aliases.iter().map(|(name, _)| name.as_str()));
                format!("'{text}' is not provider:model and not the name of an alias.{hint}")
            }
        };
        node.wrong(self.report, &what);
        None
    }

    /// The spelling by which targets are compared: `instance:model`, or an alias; `None` when it is neither.
    fn canonical(&self, text: &str) -> Option<Box<str>> {
        if self.alias(text).is_some() {
            return Some(text.into());
        }
        let (instance, model) = split(text)?;
        self.is_configured(instance).then(|| format!("{instance}:{model}").into())
    }

    fn is_configured(&self, name: &str) -> bool {
        self.providers.iter().any(|provider| provider.instance == name)
    }

    fn alias(&self, name: &str) -> Option<&str> {
        let found = self.aliases.iter().find(|(alias, _)| alias == name);
        found.map(|(_, target)| target.as_str())
    }

    /// Where a target ends, aliases followed.
    fn leads_to<'s>(&'s self, selector: &'s str) -> &'s str {
        self.alias(selector).unwrap_or(selector)
    }

    /// Reports what cannot be done, at its key.
    fn refuse(&mut self, node: &Node, what: &str) {
        self.report.problem(&node.key_place, format!("{}: {what}", node.path));
    }
}
