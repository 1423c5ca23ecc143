//! `aliases:`, names that stand for a model.

use otari_filters::{alias, providers};

use super::ProviderConfig;
use super::layers::Fields;
use super::problem::Report;

/// Names and targets in the file's order.
pub(super) fn read(
    fields: &Fields,
    configured: &[ProviderConfig],
    report: &mut Report,
) -> Vec<(String, String)> {
    let is_provider = |name: &str| {
        configured.iter().any(|provider| provider.instance == name)
            || providers::find(name).is_some()
    };
    let entries = fields.get("aliases").map_or(&[][..], |node| node.entries(report));
    let mut aliases = Vec::with_capacity(entries.len());
    for (name, node) in entries {
        if let Some(fault) = alias::name_fault(name, is_provider) {
            report.problem(&node.key_place, format!("{}: {fault}.", node.path));
        }
        if !node.is_set() {
            node.wrong(report, "an alias needs a target such as openai:gpt-4o.");
        }
        let Some(target) = node.text(report) else { continue };
        match alias::read_target(target, is_provider) {
            Ok(target) => aliases.push((name.clone(), target)),
            Err(_) if node.expanded => node.wrong(report, "the target is not instance:model."),
            Err(fault) => node.wrong(report, &format!("{fault}.")),
        }
    }
    aliases
}
