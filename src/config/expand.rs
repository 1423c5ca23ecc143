//! `${NAME}` inside text: `${NAME:-default}` and `${NAME:?message}` too, as a shell reads them.

use super::env::Env;

/// Replaces every reference. A `${` without its `}` and an empty `${}` stay as they are.
///
/// # Errors
/// What to tell the operator about every name that has no value.
pub(super) fn expand(text: &str, env: &Env) -> Result<String, Vec<String>> {
    let mut out = String::with_capacity(text.len());
    let mut missing = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let inside = &rest[start + 2..];
        let Some(end) = closing(inside).filter(|&end| end > 0) else {
            out.push_str(&rest[..start + 2]);
            rest = inside;
            continue;
        };
        out.push_str(&rest[..start]);
        match value(&inside[..end], env) {
            Ok(value) => out.push_str(&value),
            Err(problems) => missing.extend(problems),
        }
        rest = &inside[end + 1..];
    }
    out.push_str(rest);
    if missing.is_empty() { Ok(out) } else { Err(missing) }
}

/// The brace that closes an already open one.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut previous = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if previous == '$' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        previous = c;
    }
    None
}

fn value(reference: &str, env: &Env) -> Result<String, Vec<String>> {
    let operator = reference.find(":-").into_iter().chain(reference.find(":?")).min();
    let (name, tail) = operator.map_or((reference, ""), |at| reference.split_at(at));
    let set = env.get(name);
    if let Some(default) = tail.strip_prefix(":-") {
        return match set.filter(|v| !v.is_empty()) {
            Some(value) => Ok(value.to_owned()),
            None => expand(default, env),
        };
    }
    if let Some(message) = tail.strip_prefix(":?") {
        return set.filter(|v| !v.is_empty()).map(str::to_owned).ok_or_else(|| {
            let message = if message.is_empty() { "it must have a value" } else { message };
            vec![format!("${{{name}}} is not set: {message}. Set it.")]
        });
    }
    set.map(str::to_owned).ok_or_else(|| {
        vec![format!("${{{name}}} is not set. Set it, or write ${{{name}:-}} for an empty value.")]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        Env::from_pairs([("A", "one"), ("B", "two"), ("EMPTY", "")])
    }

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        for (text, want) in [
            ("${A}", "one"),
            ("x${A}-${B}${EMPTY}.", "xone-two."),
            ("${A", "${A"),
            ("${}", "${}"),
            ("$A $${A}", "$A $one"),
            ("${NO:-}", ""),
            ("${NO:-a:b}", "a:b"),
            ("${EMPTY:-fallback}", "fallback"),
            ("${NO:-${B}/v1}", "two/v1"),
            ("${A:?needed}", "one"),
            ("${A} and ${open", "one and ${open"),
        ] {
            assert_eq!(expand(text, &env()).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn every_missing_name_is_reported() {
        assert_eq!(
            expand("${NO} ${NEITHER:?ask the team}", &env()),
            Err(vec![
                "${NO} is not set. Set it, or write ${NO:-} for an empty value.".to_owned(),
                "${NEITHER} is not set: ask the team. Set it.".to_owned(),
            ])
        );
    }
}
