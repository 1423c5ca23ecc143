//! From a model selector to a provider instance and the model's name there.

use crate::providers::Provider;
use crate::rejection::{Code, Rejection};

/// What a selector may name: a configured provider.
#[derive(Clone, Copy, Debug)]
pub struct Instance<'a> {
    /// Its key in the configuration.
    pub name: &'a str,
    /// The row of the table it is an instance of.
    pub kind: &'static Provider,
}

/// Whether an instance has a model, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// The operator: it has a price, or is declared.
    Configured,
    /// The provider.
    Discovered,
    /// Nobody.
    No,
}

/// Splits `provider:model` or `provider/model` at whichever separator comes first; `None` without two halves.
pub fn split(selector: &str) -> Option<(&str, &str)> {
    let at = selector.find([':', '/'])?;
    let (provider, model) = (&selector[..at], &selector[at + 1..]);
    (!provider.is_empty() && !model.is_empty()).then_some((provider, model))
}

/// Finds the instance for `selector`: its index in `instances` and the model's name there.
///
/// A bare name is the model of the only instance that `lists` it: those that the operator says have it come before those
/// that say so themselves, and among several of these the one whose provider is known for names that begin so. Where
/// nobody lists it, it is the model of the instance whose provider is known for such names.
///
/// # Errors
/// `model_not_found`; `ambiguous_model`, naming the candidates.
pub fn find<'a>(
    selector: &'a str,
    instances: &[Instance<'_>],
    lists: impl Fn(&Instance<'_>, &str) -> Lists,
) -> Result<(usize, &'a str), Rejection> {
    if let Some((provider, model)) = split(selector)
        && let Some(at) = instances.iter().position(|instance| instance.name == provider)
    {
        return Ok((at, model));
    }
    if selector.is_empty() || selector.contains(':') {
        return Err(not_found(selector));
    }
    let candidates = |takes: &dyn Fn(&Instance<'_>) -> bool| -> Vec<usize> {
        (0..instances.len()).filter(|at| takes(&instances[*at])).collect()
    };
    let is_known = |at: usize| is_well_known(instances[at].kind, selector);
    let mut found = candidates(&|instance| lists(instance, selector) == Lists::Configured);
    if found.is_empty() {
        found = candidates(&|instance| lists(instance, selector) == Lists::Discovered);
        // Resellers list the models of others under their names.
        if found.len() > 1 && found.iter().filter(|at| is_known(**at)).count() == 1 {
            found.retain(|at| is_known(*at));
        }
    }
    if found.is_empty() {
        found = candidates(&|instance| is_well_known(instance.kind, selector));
    }
    match found.as_slice() {
        [] => Err(not_found(selector)),
        [one] => Ok((*one, selector)),
        several => {
            let names: Vec<String> =
                several.iter().map(|at| format!("{}:{selector}", instances[*at].name)).collect();
            let message =
                format!("Model '{selector}' is ambiguous: write one of {}", names.join(", "));
            Err(Rejection::new(Code::AmbiguousModel, message))
        }
    }
}

/// Whether names like `model` belong to `provider`. A short prefix such as `o1` must be followed by a separator.
fn is_well_known(provider: &Provider, model: &str) -> bool {
    provider.well_known.iter().any(|prefix| {
        model.strip_prefix(prefix).is_some_and(|rest| {
            prefix.ends_with('-')
                || rest.is_empty()
                || !rest.starts_with(char::is_alphanumeric)
                || prefix.len() > 2
        })
    })
}

fn not_found(selector: &str) -> Rejection {
    let message = format!(
        "Unknown or unsupported model '{selector}'. Use the format 'provider:model' with a configured provider."
    );
    Rejection::new(Code::ModelNotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers;

    fn instances() -> Vec<Instance<'static>> {
        [("openai", "openai"), ("azure-east", "openai"), ("claude", "anthropic")]
            .map(|(name, kind)| Instance { name, kind: providers::find(kind).unwrap() })
            .to_vec()
    }

    fn found(selector: &str, listed: &[(&str, &str)]) -> Result<(usize, String), Code> {
        find_among(selector, listed, &[])
    }

    fn find_among(
        selector: &str,
        configured: &[(&str, &str)],
        discovered: &[(&str, &str)],
    ) -> Result<(usize, String), Code> {
        let lists = |instance: &Instance<'_>, model: &str| {
            if configured.contains(&(instance.name, model)) {
                Lists::Configured
            } else if discovered.contains(&(instance.name, model)) {
                Lists::Discovered
            } else {
                Lists::No
            }
        };
        find(selector, &instances(), lists)
            .map(|(at, model)| (at, model.to_owned()))
            .map_err(|refused| refused.code)
    }

    #[test]
    fn the_first_separator_decides() {
        assert_eq!(split("openrouter:openai/gpt-4o"), Some(("openrouter", "openai/gpt-4o")));
        assert_eq!(split("openrouter/meta:free"), Some(("openrouter", "meta:free")));
        assert_eq!(split("gpt-4o"), None);
        assert_eq!(split(":x"), None);
        assert_eq!(split("x:"), None);
    }

    #[test]
    fn selectors_name_instances() {
        assert_eq!(found("azure-east:gpt-5", &[]), Ok((1, "gpt-5".into())));
        assert_eq!(found("azure-east/gpt-5", &[]), Ok((1, "gpt-5".into())));
        assert_eq!(found("nobody:gpt-5", &[]), Err(Code::ModelNotFound));
    }

    #[test]
    fn a_bare_name_is_found_by_who_lists_it_then_by_who_is_known_for_it() {
        assert_eq!(found("my-model", &[("azure-east", "my-model")]), Ok((1, "my-model".into())));
        assert_eq!(found("claude-opus-5", &[]), Ok((2, "claude-opus-5".into())));
        assert_eq!(found("gpt-5", &[("openai", "gpt-5")]), Ok((0, "gpt-5".into())));
        assert_eq!(found("gpt-5", &[]), Err(Code::AmbiguousModel), "two instances of openai");
        assert_eq!(found("llama-3", &[]), Err(Code::ModelNotFound));
    }

    #[test]
    fn the_operator_is_believed_before_the_providers_and_the_vendor_before_others() {
        let both = [("azure-east", "m"), ("claude", "m")];
        assert_eq!(find_among("m", &both[..1], &both[1..]), Ok((1, "m".into())));
        assert_eq!(find_among("m", &[], &both[1..]), Ok((2, "m".into())));
        assert_eq!(find_among("m", &[], &both), Err(Code::AmbiguousModel));
        let claude = [("openai", "claude-opus-5"), ("claude", "claude-opus-5")];
        assert_eq!(find_among("claude-opus-5", &[], &claude), Ok((2, "claude-opus-5".into())));
        let gpt = [("openai", "gpt-5"), ("azure-east", "gpt-5")];
        assert_eq!(find_among("gpt-5", &[], &gpt), Err(Code::AmbiguousModel), "both are openai's");
    }
}
