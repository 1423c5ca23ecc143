//! The environment: the one place that reads it, the `.env` files that add to it, and how the process was started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::expand::expand;

/// Variables by name, as the process saw them at start. `Debug` shows names only: values may be secrets.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<String, String>);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Env {
    /// The process environment, and below it the `.env` beside `config_file` and the one in the working directory.
    /// What is already set is never overridden. Variables that are not UTF-8 are left out.
    pub fn from_process(config_file: Option<&Path>) -> Self {
        let pairs = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let mut env = Self(pairs.collect());
        let beside = config_file.and_then(Path::parent).map(|folder| folder.join(".env"));
        for file in beside.into_iter().chain([Path::new(".env").to_owned()]) {
            if let Ok(text) = std::fs::read_to_string(file) {
                env.add_dotenv(&text);
            }
        }
        env
    }

    /// Just these variables.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The value of `name`, which may be empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of `name` without surrounding blanks; blank is unset.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty())
    }

    /// The variable called `name` in any case: its exact name and its value. Blank is unset.
    pub(super) fn filled_any_case(&self, name: &str) -> Option<(&str, &str)> {
        let exact = self.0.get_key_value(name);
        let any = || self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        let (name, value) = exact.or_else(any)?;
        (!value.trim().is_empty()).then_some((name, value))
    }

    /// Adds the variables of a `.env` text that are not set yet. Lines that make no sense are skipped, as
    /// python-dotenv does.
    fn add_dotenv(&mut self, text: &str) {
        let mut rest = text.trim_start_matches('\u{feff}');
        while !rest.is_empty() {
            let (line, below) = rest.split_once('\n').unwrap_or((rest, ""));
            let entry = line.trim_start();
            let entry = entry.strip_prefix("export ").unwrap_or(entry);
            let name = entry.split_once('=').map(|(name, _)| name.trim());
            let Some(name) = name.filter(|n| !n.is_empty() && !n.starts_with('#')) else {
                rest = below;
                continue;
            };
            let after = rest[rest.find('=').map_or(rest.len(), |at| at + 1)..]
                .trim_start_matches([' ', '\t']);
            let value;
            (value, rest) = dotenv_value(after);
            if !self.0.contains_key(name) {
                // An unset reference is empty here, as in a shell.
                let value = if after.starts_with('\'') {
                    value
                } else {
                    expand(&value, self).unwrap_or_default()
                };
                self.0.insert(name.to_owned(), value);
            }
        }
    }
}

/// How this process was started, to be started so again.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file; what is there by then may be another one.
    pub path: PathBuf,
    /// What followed it.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// Of this process. To be asked early: once its file is replaced, the system does not know the path any more.
    ///
    /// # Errors
    /// When the system does not say which file runs.
    pub fn of_process() -> std::io::Result<Self> {
        let mut arguments = std::env::args_os();
        let (runs, asked) = (std::env::current_exe()?, arguments.next().map(PathBuf::from));
        // The path that it was started by may be a link, and lead elsewhere by then; a bare name or a made-up one says
        // nothing.
        let file = |path: &Path| std::fs::metadata(path).map(|about| (about.dev(), about.ino()));
        let is_it = |path: &PathBuf| {
            path.components().count() > 1
                && matches!((file(path), file(&runs)), (Ok(a), Ok(b)) if a == b)
        };
        let path = match asked.filter(is_it) {
            Some(path) => std::path::absolute(path)?,
            None => runs,
        };
        Ok(Self { path, arguments: arguments.collect() })
    }
}

/// A value and what follows its line. Quoted ones may span lines; double quotes know `\n`, `\"` and `\\`.
fn dotenv_value(text: &str) -> (String, &str) {
    if let Some(quote @ ('"' | '\'')) = text.chars().next() {
        let mut value = String::new();
        let mut chars = text[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                let below = text[at + 2..].split_once('\n').map_or("", |(_, below)| below);
                return (value, below);
            }
            match (c, quote) {
                ('\\', '"') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, other)) => value.push(other),
                    None => {}
                },
                _ => value.push(c),
            }
        }
        // Never closed: an ordinary line.
    }
    let (line, below) = text.split_once('\n').unwrap_or((text, ""));
    let end = line.find(" #").unwrap_or(line.len());
    (line[..end].trim().to_owned(), below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotenv_files_add_but_never_override() {
        let mut env = Env::from_pairs([("SET", "process")]);
        env.add_dotenv(
            "\u{feff}# a comment\nSET=file\nexport A = one # why\nB=\"two\\n#2\"\nC='${A}'\nD=${A}/x\n\
             not a line\n=none\nE=\nKEY=\"-----BEGIN\nabc\n-----END\"\r\nLAST=x#y",
        );
        for (name, want) in [
            ("SET", "process"),
            ("A", "one"),
            ("B", "two\n#2"),
            ("C", "${A}"),
            ("D", "one/x"),
            ("E", ""),
            ("KEY", "-----BEGIN\nabc\n-----END"),
            ("LAST", "x#y"),
        ] {
            assert_eq!(env.get(name), Some(want), "{name}");
        }
        assert_eq!(env.0.len(), 8);
    }

    #[test]
    fn debug_shows_no_values() {
        let env = Env::from_pairs([("OPENAI_API_KEY", "sk-1")]);
        assert_eq!(format!("{env:?}"), r#"{"OPENAI_API_KEY"}"#);
    }

    #[test]
    fn the_legacy_names_are_found_in_any_case() {
        let env = Env::from_pairs([("gateway_Port", "9000"), ("GATEWAY_HOST", "")]);
        assert_eq!(env.filled_any_case("GATEWAY_PORT"), Some(("gateway_Port", "9000")));
        assert_eq!(env.filled_any_case("GATEWAY_HOST"), None, "blank is unset");
    }
}
