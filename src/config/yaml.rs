//! YAML in, nodes with places out. Every call of serde_yaml is here.

use std::sync::Arc;

use serde_yaml::Value as Yaml;

use super::env::Env;
use super::expand::expand;
use super::node::{Node, Value, child_path};
use super::places::Places;
use super::problem::{Place, Report};

/// The top-level entries of `text`, `${…}` replaced. Empty for an empty text and after a problem.
pub(super) fn read(
    text: &str,
    source: &str,
    env: &Env,
    report: &mut Report,
) -> Vec<(String, Node)> {
    read_only(text, source, None, env, report)
}

/// As [`read`], but of a text that has the key `section` at its top, only that entry: the others are not looked at.
pub(super) fn read_section(
    text: &str,
    source: &str,
    section: &str,
    env: &Env,
    report: &mut Report,
) -> Vec<(String, Node)> {
    read_only(text, source, Some(section), env, report)
}

fn read_only(
    text: &str,
    source: &str,
    section: Option<&str>,
    env: &Env,
    report: &mut Report,
) -> Vec<(String, Node)> {
    let text = text.trim_start_matches('\u{feff}');
    let source: Arc<str> = source.into();
    let parsed = serde_yaml::from_str::<Yaml>(text).and_then(|mut yaml| {
        yaml.apply_merge()?;
        Ok(yaml)
    });
    let mut yaml = match parsed {
        Ok(yaml) => yaml,
        Err(error) => {
            syntax(&error, &source, report);
            return Vec::new();
        }
    };
    if let (Yaml::Mapping(entries), Some(section)) = (&mut yaml, section)
        && entries.contains_key(section)
    {
        entries.retain(|key, _| key.as_str() == Some(section));
    }
    let top = Place::at(&source, 1, 1);
    let mut reader = Reader { places: Places::of(text), source, env, report, path: Vec::new() };
    match reader.value(yaml, "", &top).0 {
        Value::Map(entries) => entries,
        Value::Null => Vec::new(),
        _ => {
            report.problem(&top, "expected a mapping of settings at the top level.");
            Vec::new()
        }
    }
}

fn syntax(error: &serde_yaml::Error, source: &Arc<str>, report: &mut Report) {
    let mut text = error.to_string();
    let place = match error.location() {
        Some(at) => {
            let (line, column) = (at.line(), at.column());
            text = text.replacen(&format!(" at line {line} column {column}"), "", 1);
            let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            Place::at(source, narrow(line), narrow(column))
        }
        None => Place::named(source),
    };
    report.problem(&place, format!("not valid YAML: {text}."));
}

struct Reader<'a> {
    places: Places,
    source: Arc<str>,
    env: &'a Env,
    report: &'a mut Report,
    path: Vec<String>,
}

impl Reader<'_> {
    fn node(&mut self, key: String, shown: String, yaml: Yaml, parent: &Place) -> Node {
        self.path.push(key);
        // What the layout reader missed is reported where its parent stands.
        let (key_place, place) = match self.places.get(&self.path) {
            Some((key, value)) => {
                (Place::at(&self.source, key.0, key.1), Place::at(&self.source, value.0, value.1))
            }
            None => (parent.clone(), parent.clone()),
        };
        let (value, expanded) = self.value(yaml, &shown, &place);
        self.path.pop();
        Node { path: shown, key_place, place, value, expanded }
    }

    /// The value, and whether a variable was put into it.
    fn value(&mut self, yaml: Yaml, shown: &str, place: &Place) -> (Value, bool) {
        let value = match yaml {
            Yaml::Null => Value::Null,
            Yaml::Bool(b) => Value::Bool(b),
            Yaml::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(n), _) => Value::Int(n.into()),
                (_, Some(n)) => Value::Int(n.into()),
                _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Yaml::String(text) => return self.text(text, shown, place),
            Yaml::Tagged(tagged) => return self.value(tagged.value, shown, place),
            Yaml::Sequence(items) => Value::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(i, item)| self.node(i.to_string(), format!("{shown}[{i}]"), item, place))
                    .collect(),
            ),
            Yaml::Mapping(entries) => Value::Map(
                entries
                    .into_iter()
                    .filter_map(|(key, item)| {
                        let key = self.key(key, shown, place)?;
                        let node = self.node(key.clone(), child_path(shown, &key), item, place);
                        Some((key, node))
                    })
                    .collect(),
            ),
        };
        (value, false)
    }

    fn key(&mut self, key: Yaml, shown: &str, place: &Place) -> Option<String> {
        match key {
            Yaml::String(text) => return Some(text),
            Yaml::Number(n) => return Some(n.to_string()),
            Yaml::Bool(b) => return Some(b.to_string()),
            _ => {}
        }
        let shown = if shown.is_empty() { "the top level" } else { shown };
        self.report.problem(place, format!("{shown}: a key must be text. Put it in quotes."));
        None
    }

    fn text(&mut self, text: String, shown: &str, place: &Place) -> (Value, bool) {
        match expand(&text, self.env) {
            Ok(expanded) => {
                let changed = expanded != text;
                (Value::Text(expanded), changed)
            }
            Err(problems) => {
                for problem in problems {
                    let shown = if shown.is_empty() { "the file" } else { shown };
                    self.report.problem(place, format!("{shown}: {problem}"));
                }
                (Value::Broken, false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let mut report = Report::default();
        read(text, "otari.yml", &Env::from_pairs([("P", "9000")]), &mut report);
        report.finish().map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn an_empty_file_is_no_settings() {
        assert_eq!(problems(""), "");
        assert_eq!(problems("# nothing\n---\n"), "");
    }

    #[test]
    fn syntax_errors_have_a_line_and_a_column() {
        let text = problems("host: a\nport: [1, 2\nb: c\n");
        assert!(text.starts_with("otari.yml:3:2  not valid YAML: "), "{text}");
        let text = problems("host: a\nhost: b\n");
        assert!(text.contains("duplicate entry"), "{text}");
        assert_eq!(
            problems("- a\n- b\n").lines().next(),
            Some("otari.yml:1:1  expected a mapping of settings at the top level.")
        );
    }

    #[test]
    fn unset_variables_are_named_with_their_place() {
        assert_eq!(
            problems("a:\n  b: [x, \"${NO}\"]\nc: ${P}\nd: ${ALSO} ${P\n"),
            "otari.yml:2:10  a.b[1]: ${NO} is not set. Set it, or write ${NO:-} for an empty value.\n\
             otari.yml:4:4   d: ${ALSO} is not set. Set it, or write ${ALSO:-} for an empty value.\n\
             2 problems. Nothing was started."
        );
    }

    #[test]
    fn variables_are_put_into_values_not_keys_and_cannot_change_the_structure() {
        let env = Env::from_pairs([("X", "a: b\nc: d")]);
        let entries = read("${X}: 1\nv: ${X}\n", "f", &env, &mut Report::default());
        assert_eq!(entries[0].0, "${X}");
        assert!(matches!(&entries[1].1.value, Value::Text(t) if t == "a: b\nc: d"));
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        let text = "base: &b {x: 1}\nnext:\n  <<: *b\n  y: 2\n";
        let entries = read(text, "f", &Env::default(), &mut Report::default());
        assert!(matches!(&entries[1].1.value, Value::Map(m) if m.len() == 2));
    }
}
