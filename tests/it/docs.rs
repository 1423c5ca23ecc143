//! What the documents say is so: their links lead somewhere, their configurations load, their commands exist.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const DOCUMENTS: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];

fn read(document: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The fenced blocks of this language, in their order; of every language for `None`.
fn blocks(text: &str, language: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(named), None) => {
                open = Some((language.is_none_or(|l| l == named), String::new()))
            }
            (Some(_), Some(_)) => {
                found.extend(open.take().filter(|(wanted, _)| *wanted).map(|(_, block)| block))
            }
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fenced block is not closed");
    found
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let mut links = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for after in text.split("](").skip(1) {
            let target = after.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            links += 1;
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            assert!(
                path.exists(),
                "{document} links to {target}, and there is no {file}: mend the link"
            );
        }
    }
    assert!(links > 5, "the links were not found: {links}");
}

#[test]
fn every_heading_that_is_linked_to_is_there() {
    for document in DOCUMENTS {
        let text = read(document);
        let anchors: Vec<String> =
            text.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
        for after in text.split("](#").skip(1) {
            let target = after.split(')').next().unwrap_or_default();
            let known = anchors.iter().any(|anchor| anchor == target);
            assert!(known, "{document} links to #{target}; its headings are {anchors:?}");
        }
    }
}

/// The anchor that a heading gets where Markdown is shown.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_configuration_in_the_readme_is_one() {
    let blocks = blocks(&read("README.md"), Some("yaml"));
    assert!(!blocks.is_empty(), "the README shows at least one configuration");
    for block in blocks {
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("otari.yml");
        fs::write(&file, &block).expect("the temporary folder is writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_otari"));
        command.arg("check").arg(&file).env_clear().current_dir(folder.path()).stdin(Stdio::null());
        // What a block takes from the environment is there.
        for after in block.split("${").skip(1) {
            let name = after.split(['}', ':']).next().unwrap_or_default();
            command.env(name, "set-by-the-test");
        }
        let checked = command.output().expect("the built binary runs");
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(
            checked.status.success(),
            "`otari check` refuses a block of the README:\n{said}\n{block}"
        );
        assert!(
            !said.contains("warning:"),
            "`otari check` warns of a block of the README:\n{said}\n{block}"
        );
    }
}

#[test]
fn every_command_in_the_readme_exists() {
    let readme = read("README.md");
    let makefile = read("Makefile");
    let aliases = read(".cargo/config.toml");
    let built_in = ["build", "test", "bench", "run", "fmt", "install"];
    let verbs = [
        "serve",
        "check",
        "migrate",
        "init-db",
        "demo",
        "mock",
        "mock-platform",
        "init",
        "keys",
        "users",
        "budgets",
        "usage",
        "import",
        "providers",
    ];
    let mut seen = 0;
    for line in blocks(&readme, None).iter().flat_map(|block| block.lines()) {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        // Variables may stand before the command.
        let program = words.find(|word| !word.contains('='));
        let Some(argument) = words.next() else { continue };
        let is_known = match program {
            Some("make") => makefile.lines().any(|rule| rule.starts_with(&format!("{argument}:"))),
            Some("cargo") => {
                built_in.contains(&argument)
                    || aliases.lines().any(|alias| alias.starts_with(&format!("{argument} =")))
            }
            Some("otari" | "target/release/otari") => verbs.contains(&argument),
            _ => continue,
        };
        seen += 1;
        assert!(is_known, "the README says `{line}`, and there is no such command");
    }
    assert!(seen >= 5, "the commands were not found: {seen}");
    for verb in verbs {
        let mut help = Command::new(env!("CARGO_BIN_EXE_otari"));
        let help =
            help.arg(verb).arg("--help").env_clear().output().expect("the built binary runs");
        assert!(help.status.success(), "`otari {verb}` is gone");
    }
}
