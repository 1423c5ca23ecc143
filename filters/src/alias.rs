//! Names that stand for a model. A user's own wins over the configuration's, and that over one stored for everybody.

use std::collections::HashMap;
use std::sync::Arc;

use crate::resolve::split;

type Targets = HashMap<Box<str>, Arc<str>>;

/// All aliases, each with its target, `instance:model`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    configured: Targets,
    stored: Targets,
    by_user: HashMap<Box<str>, Targets>,
}

impl Aliases {
    /// Those of the configuration, as names and targets.
    pub fn configured<'a>(aliases: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let configured =
            aliases.into_iter().map(|(name, target)| (name.into(), target.into())).collect();
        Self { configured, ..Self::default() }
    }

    /// Takes over a stored one, new or changed; `user_id`: for whom, or for everybody.
    pub fn put(&mut self, name: &str, user_id: Option<&str>, target: &str) {
        let targets = match user_id {
            Some(user_id) => self.by_user.entry(user_id.into()).or_default(),
            None => &mut self.stored,
        };
        targets.insert(name.into(), target.into());
    }

    /// Forgets a stored one.
    pub fn remove(&mut self, name: &str, user_id: Option<&str>) {
        match user_id {
            None => drop(self.stored.remove(name)),
            Some(user_id) => {
                if let Some(targets) = self.by_user.get_mut(user_id) {
                    targets.remove(name);
                    if targets.is_empty() {
                        self.by_user.remove(user_id);
                    }
                }
            }
        }
    }

    /// What `name` stands for when `user_id` asks.
    pub fn target(&self, user_id: &str, name: &str) -> Option<&Arc<str>> {
        let own = self.by_user.get(user_id).and_then(|targets| targets.get(name));
        own.or_else(|| self.configured.get(name)).or_else(|| self.stored.get(name))
    }

    /// Every name that stands for something when `user_id` asks, with its target.
    pub fn visible_to(&self, user_id: &str) -> Vec<(&str, &Arc<str>)> {
        let everybodys = self.configured.keys().chain(self.stored.keys());
        let own = self.by_user.get(user_id).into_iter().flat_map(HashMap::keys);
        let mut names: Vec<&str> = everybodys.chain(own).map(|name| &**name).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| Some((name, self.target(user_id, name)?))).collect()
    }

    /// Whether the configuration has this name.
    pub fn is_configured(&self, name: &str) -> bool {
        self.configured.contains_key(name)
    }

    /// What `name` stands for, for anybody.
    pub fn any(&self, name: &str) -> Option<&Arc<str>> {
        let everybodys = self.configured.get(name).or_else(|| self.stored.get(name));
        everybodys.or_else(|| self.by_user.values().find_map(|targets| targets.get(name)))
    }
}

/// What is wrong with a name, in a sentence. `is_provider`: names of providers, which selectors begin with.
pub fn name_fault(name: &str, is_provider: impl Fn(&str) -> bool) -> Option<String> {
    if name.trim().is_empty() {
        return Some("An alias needs a name".to_owned());
    }
    if name.contains([':', '/']) {
        return Some(format!("Alias name '{name}' must not contain ':' or '/'"));
    }
    is_provider(name).then(|| format!("Alias name '{name}' is the name of a provider"))
}

/// A target as `instance:model`, whichever separator was written. It cannot be an alias: those have no separator.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn read_target(target: &str, is_provider: impl Fn(&str) -> bool) -> Result<String, String> {
    match split(target) {
        Some((instance, model)) if is_provider(instance) => Ok(format!("{instance}:{model}")),
        Some((instance, _)) => {
            Err(format!("Alias target '{target}': unknown provider or instance '{instance}'"))
        }
        None => Err(format!(
            "Alias target '{target}' must be instance:model (e.g. openai:gpt-4o); an alias cannot stand for another"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aliases() -> Aliases {
        let mut aliases = Aliases::configured([("fast", "p:configured"), ("only", "p:only")]);
        aliases.put("fast", None, "p:stored");
        aliases.put("slow", None, "p:slow");
        aliases.put("fast", Some("u"), "p:own");
        aliases
    }

    #[test]
    fn a_users_own_wins_then_the_configurations_then_everybodys() {
        let mut aliases = aliases();
        let target = |aliases: &Aliases, user: &str, name: &str| {
            aliases.target(user, name).map(|target| target.to_string())
        };
        assert_eq!(target(&aliases, "u", "fast").as_deref(), Some("p:own"));
        assert_eq!(target(&aliases, "v", "fast").as_deref(), Some("p:configured"));
        assert_eq!(target(&aliases, "u", "slow").as_deref(), Some("p:slow"));
        assert_eq!(target(&aliases, "u", "Fast"), None);
        aliases.remove("fast", Some("u"));
        aliases.remove("fast", Some("u"));
        assert_eq!(target(&aliases, "u", "fast").as_deref(), Some("p:configured"));
        aliases.remove("slow", None);
        assert_eq!(target(&aliases, "u", "slow"), None);
        assert!(aliases.is_configured("only") && !aliases.is_configured("slow"));
    }

    #[test]
    fn a_name_is_an_alias_whoever_has_it() {
        let mut aliases = aliases();
        aliases.put("mine", Some("u"), "p:mine");
        assert_eq!(aliases.any("mine").map(|target| &**target), Some("p:mine"));
        assert_eq!(aliases.target("v", "mine"), None);
        assert_eq!(aliases.any("p:mine"), None);
    }

    #[test]
    fn names_and_targets_have_rules() {
        let is_provider = |name: &str| name == "p";
        assert_eq!(name_fault("fast", is_provider), None);
        for name in ["", " ", "a:b", "a/b", "p"] {
            assert!(name_fault(name, is_provider).is_some(), "{name}");
        }
        assert_eq!(read_target("p/a:b", is_provider).as_deref(), Ok("p:a:b"));
        for target in ["fast", "q:m", "p:", ":m", ""] {
            assert!(read_target(target, is_provider).is_err(), "{target}");
        }
    }
}
