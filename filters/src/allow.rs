//! Lists of the models that a key or a user may call.
//!
//! An entry is `instance:model`, `instance:*` or `instance:prefix*`. No list at all permits everything, and an empty one
//! nothing; a key's own list takes the place of its user's.

use crate::resolve::split;

/// A list, ready to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Box<[Entry]>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    instance: Box<str>,
    /// The model's name, or how it begins.
    model: Box<str>,
    is_prefix: bool,
}

impl Entry {
    /// Reads `instance:model`, whichever separator was written; `None` for anything else.
    fn read(text: &str) -> Option<Self> {
        let (instance, model) = split(text)?;
        let (model, is_prefix) = match model.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (model, false),
        };
        // One star, at the end.
        if instance.contains('*') || model.contains('*') {
            return None;
        }
        Some(Self { instance: instance.into(), model: model.into(), is_prefix })
    }

    fn permits(&self, instance: &str, model: &str) -> bool {
        let fits =
            if self.is_prefix { model.starts_with(&*self.model) } else { model == &*self.model };
        fits && *self.instance == *instance
    }

    /// Whether everything that `other` permits is permitted here too.
    fn covers(&self, other: &Self) -> bool {
        (self.is_prefix || !other.is_prefix) && self.permits(&other.instance, &other.model)
    }

    fn text(&self) -> String {
        format!("{}:{}{}", self.instance, self.model, if self.is_prefix { "*" } else { "" })
    }
}

impl AllowList {
    /// Reads entries as an operator wrote them; of two that say the same one is kept.
    ///
    /// # Errors
    /// A sentence for every entry that is none. `is_instance`: providers that may be named; `is_alias`: names that stand
    /// for a model, and `is_policy`: names of routing policies; neither has a place here.
    pub fn read(
        entries: &[String],
        is_instance: impl Fn(&str) -> bool,
        is_alias: impl Fn(&str) -> bool,
        is_policy: impl Fn(&str) -> bool,
    ) -> Result<Self, Vec<String>> {
        let (mut list, mut faults) = (Vec::with_capacity(entries.len()), Vec::new());
        for text in entries {
            match Entry::read(text) {
                Some(entry) if !is_instance(&entry.instance) => {
                    let instance = &entry.instance;
                    faults.push(format!("'{text}': unknown provider or instance '{instance}'"));
                }
                Some(entry) if !list.contains(&entry) => list.push(entry),
                Some(_) => {}
                None if is_alias(text) => faults.push(format!(
                    "'{text}' is an alias name; use its canonical instance:model target"
                )),
                None if is_policy(text) => faults.push(format!(
                    "'{text}' is the name of a routing policy; use the instance:model targets that it may reach"
                )),
                None => faults.push(format!(
                    "'{text}' must be instance:model (e.g. openai:gpt-4o, openai:*, or openai:gpt-4*)"
                )),
            }
        }
        if faults.is_empty() { Ok(Self(list.into())) } else { Err(faults) }
    }

    /// A list as it was stored. What cannot be read permits nothing.
    pub fn stored(entries: &[String]) -> Self {
        Self(entries.iter().filter_map(|text| Entry::read(text)).collect())
    }

    /// The entries as they are stored and shown.
    pub fn entries(&self) -> Vec<String> {
        self.0.iter().map(Entry::text).collect()
    }

    /// Whether `model` of `instance` may be called.
    pub fn permits(&self, instance: &str, model: &str) -> bool {
        self.0.iter().any(|entry| entry.permits(instance, model))
    }

    /// Whether everything that `narrower` permits is permitted here too, entry by entry.
    pub fn covers(&self, narrower: &Self) -> bool {
        narrower.0.iter().all(|theirs| self.0.iter().any(|ours| ours.covers(theirs)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[&str]) -> Result<AllowList, Vec<String>> {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        AllowList::read(
            &entries,
            |name| ["p", "q"].contains(&name),
            |name| name == "fast",
            |name| name == "any",
        )
    }

    fn list(entries: &[&str]) -> AllowList {
        read(entries).unwrap()
    }

    #[test]
    fn entries_are_made_one_spelling_and_kept_once() {
        let read = list(&["p/m", "p:m", "q:a/b:c", "p:*", "p:gpt-4*", "p/gpt-4*"]);
        assert_eq!(read.entries(), ["p:m", "q:a/b:c", "p:*", "p:gpt-4*"]);
        assert_eq!(AllowList::stored(&read.entries()), read, "and read back the same");
    }

    #[test]
    fn what_is_no_entry_is_named_and_all_of_it_at_once() {
        let form = "must be instance:model (e.g. openai:gpt-4o, openai:*, or openai:gpt-4*)";
        assert_eq!(
            read(&["p:m", "zzz:m", "fast", "any", "m", "p:", ":m", "p*:m", "*:*", "p:a*b", "p:**", ""]),
            Err(vec![
                "'zzz:m': unknown provider or instance 'zzz'".to_owned(),
                "'fast' is an alias name; use its canonical instance:model target".to_owned(),
                "'any' is the name of a routing policy; use the instance:model targets that it may reach"
                    .to_owned(),
                format!("'m' {form}"),
                format!("'p:' {form}"),
                format!("':m' {form}"),
                format!("'p*:m' {form}"),
                format!("'*:*' {form}"),
                format!("'p:a*b' {form}"),
                format!("'p:**' {form}"),
                format!("'' {form}"),
            ])
        );
        let stored = AllowList::stored(&["nonsense".into(), "p*:*".into(), "p:m".into()]);
        assert_eq!(stored, list(&["p:m"]), "a damaged list is a narrower one");
    }

    #[test]
    fn a_name_a_star_and_a_beginning_permit() {
        let allowed = list(&["p:m", "p:gpt-4*", "q:*"]);
        for (instance, model, permitted) in [
            ("p", "m", true),
            ("p", "m2", false),
            ("p", "M", false),
            ("p", "gpt-4", true),
            ("p", "gpt-4o", true),
            ("p", "gpt-5", false),
            ("p", "*", false),
            ("q", "", true),
            ("q", "a/b:c", true),
            ("r", "m", false),
        ] {
            assert_eq!(allowed.permits(instance, model), permitted, "{instance}:{model}");
        }
        assert!(!list(&[]).permits("p", "m"), "an empty list permits nothing");
    }

    #[test]
    fn a_list_can_only_be_narrowed() {
        let users = list(&["p:gpt-4*", "q:m"]);
        for (keys, covered) in [
            (&[][..], true),
            (&["p:gpt-4*"][..], true),
            (&["p:gpt-4o*", "p:gpt-4", "q:m"][..], true),
            (&["p:gpt-*"][..], false),
            (&["p:*"][..], false),
            (&["q:m*"][..], false),
            (&["q:m", "p:m"][..], false),
        ] {
            assert_eq!(users.covers(&list(keys)), covered, "{keys:?}");
        }
        assert!(!list(&[]).covers(&users));
    }
}
