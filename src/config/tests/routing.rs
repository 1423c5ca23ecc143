//! `routing:`: what a policy of the file becomes, and what it must not be.

use otari_filters::route::{Policy, Select};

use super::*;

const BASE: &str = "\
providers: {openai: {api_key: k}, vllm: }
aliases: {mini: openai:gpt-4o-mini}
";

fn policies(yaml: &str) -> (Vec<Policy>, Vec<String>) {
    let config = good(&format!("{BASE}{yaml}"), &[]);
    (config.policies, config.warnings)
}

/// The problems of one policy called `p`, which begins in the fifth line.
fn faults(policy: &str) -> Vec<String> {
    let indented: Vec<String> = policy.lines().map(|line| format!("      {line}\n")).collect();
    bad(&format!("{BASE}routing:\n  policies:\n    p:\n{}", indented.concat()), &[])
}

#[test]
fn policies_are_read_in_the_files_order_with_one_spelling_for_targets() {
    let (policies, warnings) = policies(
        "\
routing:
  enabled: true
  policies:
    steady:
      select: [{default: openai/gpt-4o}]
      on_failure: [vllm:a, mini]
    balanced:
      spec_version: 1
      select:
        - router: weighted
          candidates: [openai:gpt-4o, vllm/a/b]
          weights: {openai/gpt-4o: 7, mini: 0.5}
        - default: mini
      on_failure: []
      guardrails: []
    gpt-4o: {select: [{default: vllm:gpt-4o}], on_failure: null}
    plain:
      select:
        - {router: weighted, candidates: [vllm:a, vllm:b], weights: {vllm:b: 1, vllm:c: 0}}
        - default: vllm:c
",
    );
    assert!(warnings.is_empty(), "{warnings:?}");
    let names: Vec<&str> = policies.iter().map(|policy| &*policy.name).collect();
    assert_eq!(names, ["steady", "balanced", "gpt-4o", "plain"]);
    assert_eq!(policies[0].select, Select::Default("openai:gpt-4o".into()));
    assert_eq!(policies[0].on_failure, [Box::<str>::from("vllm:a"), "mini".into()]);
    assert_eq!(
        policies[1].select,
        Select::Weighted {
            default: "mini".into(),
            candidates: vec![
                ("openai:gpt-4o".into(), 7.0),
                ("vllm:a/b".into(), 0.0),
                ("mini".into(), 0.5),
            ],
        }
    );
    let Select::Weighted { candidates, .. } = &policies[3].select else { panic!() };
    assert_eq!(candidates.len(), 2, "a default without a weight is the last of the pool anyway");
}

#[test]
fn policies_can_be_switched_off_and_are_checked_all_the_same() {
    let (read, warnings) =
        policies("routing: {enabled: false, policies: {p: {select: [{default: vllm:a}]}}}");
    assert!(read.is_empty());
    assert!(warnings[0].contains("routing: switched off by enabled: false"), "{warnings:?}");
    assert!(policies("routing: {enabled: false, policies: {}}").1.is_empty());
    assert!(policies("routing: {}").0.is_empty());
    let yaml = format!("{BASE}routing: {{enabled: false, policies: {{p: {{select: []}}}}}}");
    assert_eq!(bad(&yaml, &[]).len(), 1);
}

/// The fault of each policy, in the words it begins with.
fn all_refused(cases: &[(&str, &[&str])]) {
    for (policy, wants) in cases {
        let found = faults(policy);
        assert_eq!(found.len(), wants.len(), "{policy}\n{found:#?}");
        for (found, want) in found.iter().zip(*wants) {
            assert!(found.starts_with(want), "{want}\n{found}");
        }
    }
}

#[test]
fn a_policy_that_cannot_run_is_refused_with_what_to_do() {
    all_refused(&[
        ("{}", &["5:5 routing.policies.p.select is missing. Write a list"]),
        ("select: []", &["6:15 routing.policies.p.select: expected a list that ends in"]),
        ("select: openai:a", &["6:15 routing.policies.p.select: expected a list that ends in"]),
        (
            "selct: [{default: vllm:a}]",
            &[
                "5:5 routing.policies.p.select is missing.",
                "6:7 routing.policies.p.selct: unknown key. Did you mean \"select\"?",
            ][..],
        ),
        (
            "select: [{default: vllm:a, note: x}]",
            &[
                "6:17 routing.policies.p.select[0].default: stands alone",
                "6:34 routing.policies.p.select[0].note: unknown key. Known: default, router",
            ][..],
        ),
        (
            "select: [{default: vllm:a}, {default: vllm:b}]",
            &[
                "6:17 routing.policies.p.select[0].default: the default is the last entry, and there is one.",
            ][..],
        ),
        (
            "select: [{router: weighted, candidates: [vllm:a, vllm:b], weights: {vllm:a: 1}}]",
            &["6:15 routing.policies.p.select: must end in `- default: provider:model`."],
        ),
        (
            "select: [{}]",
            &[
                "6:15 routing.policies.p.select: must end in",
                "6:16 routing.policies.p.select[0]: expected `default` or `router`.",
            ][..],
        ),
    ]);
}

#[test]
fn targets_lead_somewhere_and_what_is_not_run_here_is_refused() {
    all_refused(&[
        (
            "select: [{default: nobody:m}]",
            &[
                "6:26 routing.policies.p.select[0].default: 'nobody:m': provider 'nobody' is not configured. Add it to providers.",
            ][..],
        ),
        (
            "select: [{default: groq:m}]",
            &[
                "6:26 routing.policies.p.select[0].default: 'groq:m': provider 'groq' is not configured.",
            ][..],
        ),
        (
            "select: [{default: minni}]",
            &[
                "6:26 routing.policies.p.select[0].default: 'minni' is not provider:model and not the name of an alias. Did you mean \"mini\"?",
            ][..],
        ),
        (
            "select: [{default: p}]",
            &["6:26 routing.policies.p.select[0].default: 'p' is not provider:model"],
        ),
        (
            "select: [{default: vllm:a}]\non_failure: vllm:b",
            &["7:19 routing.policies.p.on_failure: expected a list of targets."],
        ),
        (
            "select: [{default: vllm:a}]\non_failure: [vllm:b, gone, 7]",
            &[
                "7:28 routing.policies.p.on_failure[1]: 'gone' is not",
                "7:34 routing.policies.p.on_failure[2]: expected text",
            ][..],
        ),
        (
            "select: [{default: vllm:a}]\nspec_version: 2",
            &["7:21 routing.policies.p.spec_version: this version reads spec_version 1 only."],
        ),
        (
            "select: [{default: vllm:a}]\nguardrails: [{profile: x, mode: block}]",
            &["7:7 routing.policies.p.guardrails: this version does not run guardrails"],
        ),
        (
            "select:\n  - when: {budget_used_pct: {gte: 80}}\n    target: vllm:a\n  - default: vllm:b",
            &[
                "7:11 routing.policies.p.select[0].when: this version does not run conditions. Remove this entry.",
            ][..],
        ),
        (
            "select:\n  - router: knn\n    candidates: [vllm:a, vllm:b]\n  - default: vllm:b",
            &[
                "7:11 routing.policies.p.select[0].router: this version does not run the knn router.",
            ][..],
        ),
        (
            "select: [{default: vllm:a}]\non_failure: [vllm:b, vllm:c, vllm:d, vllm:e, vllm:f]",
            &["5:5 routing.policies.p: 6 targets, the default and on_failure included; 5 at most."]
                [..],
        ),
    ]);
}

#[test]
fn a_weighted_router_has_rules_of_its_own() {
    for (router, wants) in [
        ("candidates: [vllm:a, vllm:b]", &["[0].router: weights are missing."][..]),
        ("weights: {vllm:a: 1}", &["[0].router: a router needs two candidates or more."][..]),
        (
            "candidates: [vllm:a], weights: {vllm:a: 1}",
            &["[0].candidates: a router needs two candidates"][..],
        ),
        (
            "candidates: [vllm:a, vllm/a], weights: {vllm:a: 1}",
            &["[0].candidates: candidate 'vllm:a' is there twice."][..],
        ),
        (
            "candidates: [mini, openai:gpt-4o-mini], weights: {mini: 1}",
            &["candidate 'openai:gpt-4o-mini' is there twice."][..],
        ),
        (
            "candidates: [vllm:a, vllm:b], weights: {vllm:a: 0}",
            &["[0].weights: at least one weight must be above 0."][..],
        ),
        (
            "candidates: [vllm:a, vllm:b], weights: {}",
            &["[0].weights: at least one weight must be above 0."][..],
        ),
        (
            "candidates: [vllm:a, vllm:b], weights: {vllm:a: -1}",
            &["expected 0 or more, found -1."][..],
        ),
        (
            "candidates: [vllm:a, vllm:b], weights: {vllm:a: .inf}",
            &["expected a number, found inf."][..],
        ),
        (
            "candidates: [vllm:a, vllm:b], weights: {vllm:a: lots}",
            &["expected a number, found \"lots\"."][..],
        ),
        (
            "candidates: [vllm:a, vllm:b], weights: {vllm:a: 1, vllm:x: 0}",
            &["a weight for what is no candidate and not the default."][..],
        ),
        (
            "candidates: [vllm:a, vllm:b], weights: {vllm:a: 1}, alpha: 1",
            &["alpha: unknown key. Known: default, router, candidates, weights."][..],
        ),
        (
            "candidates: [vllm:a, vllm:b, vllm:c, vllm:d], weights: {vllm:a: 1}",
            &["p: 6 targets"][..],
        ),
        (
            "candidates: [vllm:a, gone, gone], weights: {vllm:a: 1}",
            &["candidates[1]: 'gone'", "candidates[2]: 'gone'"][..],
        ),
    ] {
        let policy = format!(
            "select:\n  - {{router: weighted, {router}}}\n  - default: vllm:d2\non_failure: [vllm:f]"
        );
        let found = faults(&policy);
        assert_eq!(found.len(), wants.len(), "{router}\n{found:#?}");
        for (found, want) in found.iter().zip(wants) {
            assert!(found.contains(want), "{want}\n{found}");
        }
    }
    let twice = "{router: weighted, candidates: [vllm:a, vllm:b], weights: {vllm:a: 1}}";
    let found = faults(&format!("select: [{twice}, {twice}, {{default: vllm:a}}]"));
    assert!(found.len() == 1 && found[0].contains("never reached"), "{found:?}");
    let found = faults("select: [{router: best, candidates: []}, {default: vllm:a}]");
    assert!(found[0].contains("unknown router. Expected `weighted`."), "{found:?}");
}

#[test]
fn names_and_keys_have_rules() {
    let policy = "{select: [{default: vllm:a}]}";
    let names = format!(
        "'a:b': {policy}, a/b: {policy}, mini: {policy}, vllm: {policy}, groq: {policy}, '': {policy}"
    );
    let found = bad(&format!("{BASE}routing: {{policies: {{{names}}}}}"), &[]).join("\n");
    for part in [
        "'a:b' must not contain ':' or '/'.",
        "'a/b' must not contain ':' or '/'.",
        "'mini' is the name of an alias.",
        "'vllm' is the name of a provider.",
        "'groq' is the name of a provider.",
        "A routing policy needs a name.",
    ] {
        assert!(found.contains(part), "{part}\n{found}");
    }
    assert_eq!(found.lines().count(), 6, "{found}");
    let found = bad(&format!("{BASE}routing: {{polices: {{}}, enabled: perhaps}}"), &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("routing.polices: unknown key. Did you mean \"policies\"?"));
    let secret = [("S", "hunter2:x")];
    let found = bad("routing: {policies: {p: {select: [{default: '${S}'}]}}}", &secret).concat();
    assert!(found.contains("leads nowhere") && !found.contains("hunter2"), "{found}");
}

#[test]
fn the_policies_of_the_reference_file_are_valid_when_they_are_uncommented() {
    let text = include_str!("../../../conf/otari.yml");
    let after = text.split("\n  policies: {}\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let commented = after.expect("the commented policies").lines();
    let lines: Vec<&str> = commented.filter_map(|line| line.strip_prefix('#')).collect();
    let yaml = format!(
        "providers: {{openai: {{api_key: k}}, groq: {{api_key: k}}}}\nrouting:\n  policies:\n{}\n",
        lines.join("\n")
    );
    let config = good(&yaml, &[]);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(config.policies.len(), 2, "{yaml}");
}
