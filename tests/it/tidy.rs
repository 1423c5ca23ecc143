//! The walls between the rooms, and the limits of a file. What fails here says what to do instead.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file before its tests. Past that it is split by resource or by direction, never into `util` or `helpers`.
const MAX_LINES: usize = 500;

/// What breaks a rule for a reason. An entry that breaks nothing any more fails too: it must go.
const EXCEPTIONS: &[(&str, &str)] = &[
    // The driver's own parser judges the URL, so that what `otari check` accepts the store opens; nothing is opened.
    ("sql", "src/config/database.rs"),
];

/// A source file, whole and as far as the walls are concerned.
struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
    /// Line numbers and lines: without comments, up to the tests at the foot.
    code: Vec<(usize, String)>,
    /// Lines before the tests.
    lines: usize,
    /// A file of tests and nothing else.
    is_test: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file below `folder`.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Line at which `#[cfg(test)]` stands over `mod tests`; the number of lines when there is none.
fn tests_begin(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = |at: usize| {
        lines[at].trim() == "#[cfg(test)]"
            && lines.get(at + 1).is_some_and(|next| next.starts_with("mod tests {"))
    };
    (0..lines.len()).find(|at| tests(*at)).unwrap_or(lines.len())
}

fn source(path: String) -> Source {
    let text = read(&path);
    let lines = tests_begin(&text);
    let code = text
        .lines()
        .take(lines)
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(at, line)| (at + 1, line.to_owned()))
        .collect();
    Source { path, text, code, lines, is_test: false }
}

/// The modules that `source` declares under `#[cfg(test)]`, as the paths their files begin with.
fn test_modules(source: &Source) -> Vec<String> {
    let folder = source.path.trim_end_matches(".rs").trim_end_matches("/lib");
    let lines: Vec<&str> = source.text.lines().collect();
    let declared = lines.windows(2).filter(|pair| pair[0].trim() == "#[cfg(test)]");
    declared
        .filter_map(|pair| pair[1].trim().strip_prefix("mod ")?.strip_suffix(';'))
        .map(|name| format!("{folder}/{name}"))
        .collect()
}

/// Every file of both crates.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["src", "filters/src"] {
        walk(&root().join(folder), &mut found);
    }
    found.sort();
    let relative = |path: PathBuf| {
        let path = path.strip_prefix(root()).expect("below the root").to_owned();
        path.to_str().expect("an ASCII path").replace('\\', "/")
    };
    let mut all: Vec<Source> = found.into_iter().map(relative).map(source).collect();
    let tests: Vec<String> = all.iter().flat_map(test_modules).collect();
    for source in &mut all {
        let stem = source.path.trim_end_matches(".rs");
        source.is_test =
            tests.iter().any(|test| stem == test || stem.starts_with(&format!("{test}/")));
    }
    assert!(all.len() > 50, "the sources are not where this test looks for them");
    all
}

/// Whether the file is `room`, or lies in its folder: `src/store` means `src/store.rs` and `src/store/`.
fn is_in(path: &str, room: &str) -> bool {
    path == format!("{room}.rs") || path.starts_with(&format!("{room}/"))
}

/// Panics with everything that breaks `rule`, exceptions apart, and with what to do about it.
fn judge(rule: &str, advice: &str, broken: Vec<(String, String)>) {
    let excepted: BTreeSet<&str> =
        EXCEPTIONS.iter().filter(|(of, _)| *of == rule).map(|(_, path)| *path).collect();
    let needed: BTreeSet<&str> = broken.iter().map(|(path, _)| path.as_str()).collect();
    for path in &excepted {
        assert!(
            needed.contains(path),
            "{path} keeps the rule `{rule}` now: take it out of EXCEPTIONS"
        );
    }
    let rest: Vec<String> = broken
        .iter()
        .filter(|(path, _)| !excepted.contains(path.as_str()))
        .map(|(path, what)| format!("  {path}{what}"))
        .collect();
    assert!(rest.is_empty(), "{advice}\n{}", rest.join("\n"));
}

/// Lines of code, tests apart, that hold one of `words` outside of `rooms`.
fn uses(words: &[&str], rooms: &[&str]) -> Vec<(String, String)> {
    let all = sources();
    let outside = all
        .iter()
        .filter(|source| !source.is_test && !rooms.iter().any(|room| is_in(&source.path, room)));
    outside
        .flat_map(|source| {
            let hits =
                source.code.iter().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
            hits.map(|(at, line)| (source.path.clone(), format!(":{at}: {}", line.trim())))
        })
        .collect()
}

#[test]
fn every_file_says_what_it_is_for() {
    let all = sources();
    let silent = all.iter().filter(|source| !source.text.starts_with("//! "));
    let silent = silent.map(|source| (source.path.clone(), String::new())).collect();
    judge(
        "head",
        "Open the file with `//!`: a line or two, what the room owns and what it does not.",
        silent,
    );
}

#[test]
fn no_file_is_too_long_to_be_read_in_one_sitting() {
    let all = sources();
    let long = all.iter().filter(|source| source.lines >= MAX_LINES);
    let long = long
        .map(|source| (source.path.clone(), format!(": {} lines before its tests", source.lines)))
        .collect();
    let advice = "Keep files below 500 lines, tests apart: split by resource or by direction, never into `util` or `helpers`.";
    judge("lines", advice, long);
}

#[test]
fn pingora_stays_in_the_server_and_the_proxy() {
    let words = ["pingora::", "pingora_core::", "pingora_proxy::", "pingora_http::"];
    let found = uses(&words, &["src/server", "src/proxy", "src/app"]);
    judge(
        "pingora",
        "Only `server`, `proxy` and `app` know Pingora: pass plain values instead.",
        found,
    );
}

#[test]
fn sql_stays_in_the_store() {
    let words = [
        "rusqlite::",
        "tokio_postgres::",
        "deadpool_postgres::",
        "refinery::",
        "tokio_postgres_rustls::",
    ];
    let found = uses(&words, &["src/store"]);
    judge(
        "sql",
        "Only `store` knows databases: add a method to the `Store` trait and to both backends.",
        found,
    );
}

#[test]
fn yaml_stays_in_one_file() {
    let found = uses(&["serde_yaml::"], &["src/config/yaml"]);
    judge("yaml", "Only src/config/yaml.rs reads YAML: ask `config` for checked values.", found);
}

#[test]
fn the_environment_is_read_in_one_file() {
    let found = uses(&["std::env", "env::var", "env::args"], &["src/config/env", "src/main"]);
    let advice = "Only src/config/env.rs reads the environment (and src/main.rs the arguments): add a key to `Config`.";
    judge("env", advice, found);
}

#[test]
fn filters_decide_and_do_nothing() {
    let words = [
        // Addresses are values and may be named; sockets and look-ups may not.
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "ToSocketAddrs",
        "UnixStream",
        "std::fs",
        "std::io::std",
        "std::process",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "tokio",
        "pingora",
        "otari::",
    ];
    let all = uses(&words, &[]);
    let found = all.into_iter().filter(|(path, _)| path.starts_with("filters/")).collect();
    let advice = "Filters have no sockets, files, clocks or runtime: take what is needed as an argument, \
                  or put the doing into `src` behind `ControlPlane`.";
    judge("filters", advice, found);
}

#[test]
fn nothing_unwraps_outside_of_tests() {
    let found = uses(&[".unwrap()", ".unwrap_err()"], &[]);
    let advice =
        "Return the error with `?`, or say why it cannot happen: `expect(\"why it cannot fail\")`.";
    judge("unwrap", advice, found);
}

#[test]
fn every_todo_has_a_number() {
    // Spelled in two halves, or this file would be among the found.
    let word = concat!("TO", "DO");
    let mut files = Vec::new();
    for folder in ["src", "filters", "tests", "benches"] {
        walk(&root().join(folder), &mut files);
    }
    let mut found = Vec::new();
    for path in files {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        for (at, line) in read(&name).lines().enumerate() {
            let mut after = line.split(word).skip(1);
            if after.any(|rest| !rest.starts_with("(#")) {
                found.push((name.clone(), format!(":{}: {}", at + 1, line.trim())));
            }
        }
    }
    judge("todo", "Give it the number of its issue, as in (#123), or do it now.", found);
}

#[test]
fn every_route_is_documented() {
    let documents = read("README.md") + &read("ARCHITECTURE.md");
    // The shortest template is a part of every other; only its own spelling counts.
    let named = |template: &str| documents.contains(&format!("`{template}`"));
    let templates: BTreeSet<&str> =
        otari::routes::ROUTES.iter().map(|route| route.template).collect();
    let missing = templates.into_iter().filter(|template| !named(template));
    let missing = missing.map(|template| (template.to_owned(), String::new())).collect();
    judge(
        "routes",
        "Name the route in README.md, between backquotes, in the table of routes.",
        missing,
    );
}

#[test]
fn no_banned_crate_is_in_the_lock_file() {
    let lock = read("Cargo.lock");
    let banned = ["openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys"];
    let found = banned.iter().filter(|name| lock.contains(&format!("name = \"{name}\"\n")));
    let mut found: Vec<(String, String)> =
        found.map(|name| (format!("Cargo.lock: {name}"), String::new())).collect();
    found.extend(
        lock.lines()
            .filter(|line| line.starts_with("source = \"git+"))
            .map(|line| (format!("Cargo.lock: {line}"), String::new())),
    );
    let advice = "Switch off the feature that brings it (TLS is rustls with ring; sources are crates.io): \
                  `cargo tree -i <crate> -e features` says which. The list is that of .deny.toml.";
    judge("crates", advice, found);
}
