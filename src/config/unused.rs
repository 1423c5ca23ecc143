//! Keys that are accepted but have no effect in this version: checked as the reference does, then named once.

use super::layers::Fields;
use super::node::Node;
use super::problem::{Place, Report};

/// What such a key may hold. The value given here is its default.
enum Rule {
    Whole { least: i128, default: i128 },
    Text(&'static str),
    MaybeSeconds,
}

const RULES: &[(&str, Rule)] = &[
    ("db_pool_recycle", Rule::Whole { least: i128::MIN, default: -1 }),
    ("models_dev_cache_ttl_seconds", Rule::MaybeSeconds),
    ("secret_key", Rule::Text("")),
];

/// Checks them all and warns once about those that the operator changed.
pub(super) fn check(fields: &Fields, report: &mut Report) {
    let mut changed: Vec<&Node> = Vec::new();
    for (key, rule) in RULES {
        if let Some(node) = fields.get(key)
            && differs(rule, node, report)
        {
            changed.push(node);
        }
    }
    let place = match changed.as_slice() {
        [] => return,
        [one] => one.key_place.clone(),
        _ => Place::named("configuration"),
    };
    let names: Vec<&str> = changed.iter().map(|node| node.path.as_str()).collect();
    let text = format!("accepted, but this version does not use it yet: {}", names.join(", "));
    report.warn(&place, text);
}

fn differs(rule: &Rule, node: &Node, report: &mut Report) -> bool {
    match rule {
        Rule::Whole { least, default } => {
            node.whole(&(*least..=i128::MAX), report).is_some_and(|n| n != *default)
        }
        Rule::MaybeSeconds => node.number(false, f64::MAX, report).is_some(),
        Rule::Text(default) => node.text(report).is_some_and(|text| text != *default),
    }
}
