//! A file of prices on its own: YAML or JSON in the shape of `pricing:`, or CSV under a header of the API's field names.
//! Checked as a configuration is, but nothing is guessed: an unknown name is a problem.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::env::Env;
use super::node::{Node, Value, child_path};
use super::prices::{KEYS, entry};
use super::problem::{ConfigError, Place, Report, suggestion};
use super::{PriceSeed, yaml};

/// Ten thousand prices are a tenth of it.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The name of the model in CSV, as in the API.
const MODEL: &str = "model_key";
/// What an export of the API holds besides; not a part of a price.
const EXPORTED: [&str; 2] = ["created_at", "updated_at"];

/// A price, where it stands, and how much of it was said.
#[derive(Clone, Debug)]
pub struct FilePrice {
    /// File, line and column.
    pub place: Place,
    /// The price; what was left out is `None` or empty.
    pub price: PriceSeed,
    /// The names of the optional rates and tiers that were given, if only as `null`.
    pub named: Vec<&'static str>,
}

impl FilePrice {
    /// Whether the file says what this field is.
    pub fn names(&self, field: &str) -> bool {
        self.named.contains(&field)
    }
}

/// Reads the prices of `path`: CSV if its name ends so, else YAML, of which JSON is a part. Of a whole configuration
/// only `pricing:` counts.
///
/// # Errors
/// Every problem of the file at once, each with its place.
pub fn load_prices(path: &Path, env: &Env) -> Result<Vec<FilePrice>, ConfigError> {
    let mut report = Report::default();
    let name = path.display().to_string();
    let found = match text(path) {
        Ok(text) if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("csv")) => {
            read_csv(&text, &name, &mut report)
        }
        Ok(text) => read_yaml(&text, &name, env, &mut report),
        Err(error) => {
            report.problem(&Place::named(&name), format!("cannot be read: {error}."));
            Vec::new()
        }
    };
    report.strict().finish().map(|_| found)
}

fn text(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_BYTES {
        return Err(std::io::Error::other("larger than 16 MiB"));
    }
    std::fs::read_to_string(path)
}

fn read_yaml(text: &str, name: &str, env: &Env, report: &mut Report) -> Vec<FilePrice> {
    let mut entries = yaml::read_section(text, name, "pricing", env, report);
    if let [(key, section)] = entries.as_slice()
        && key == "pricing"
    {
        entries = section.entries(report).to_vec();
    }
    prices(&entries, name, report)
}

fn read_csv(text: &str, name: &str, report: &mut Report) -> Vec<FilePrice> {
    let source: Arc<str> = name.into();
    let at = |cell: &Cell| Place::at(&source, cell.line, cell.column);
    let mut records = match records(text.trim_start_matches('\u{feff}')) {
        Ok(records) => records.into_iter(),
        Err((line, column, problem)) => {
            report.problem(&Place::at(&source, line, column), problem);
            return Vec::new();
        }
    };
    let Some(header) = records.next() else {
        return prices(&[], name, report);
    };
    if !is_header(&header, at, report) {
        return Vec::new();
    }
    let mut entries = Vec::new();
    for record in records {
        let Some(first) = record.first() else { continue };
        if record.len() != header.len() {
            let (found, wanted) = (record.len(), header.len());
            report.problem(&at(first), format!("{found} cells, the header has {wanted}."));
            continue;
        }
        let mut key = (String::new(), at(first));
        let mut fields = Vec::new();
        for (title, cell) in header.iter().zip(&record) {
            match title.text.trim() {
                MODEL => key = (cell.text.trim().to_owned(), at(cell)),
                title if EXPORTED.contains(&title) || cell.text.trim().is_empty() => {}
                title => fields.push((title.to_owned(), cell)),
            }
        }
        let path = child_path("pricing", &key.0);
        let field = |(title, cell): (String, &Cell)| {
            let node = value(&child_path(&path, &title), cell, &at(cell), report);
            (title, node)
        };
        let fields = fields.into_iter().map(field).collect();
        let (place, key_place) = (key.1.clone(), key.1);
        let value = Value::Map(fields);
        entries.push((key.0, Node { path, key_place, place, value, expanded: false }));
    }
    prices(&entries, name, report)
}

/// Whether the columns are those of prices.
fn is_header(header: &[Cell], at: impl Fn(&Cell) -> Place, report: &mut Report) -> bool {
    let titles: Vec<&str> = header.iter().map(|cell| cell.text.trim()).collect();
    let known: Vec<&str> = std::iter::once(MODEL).chain(KEYS.iter().copied()).collect();
    let mut is_fine = true;
    for (index, (title, cell)) in titles.iter().zip(header).enumerate() {
        if !known.contains(title) && !EXPORTED.contains(title) {
            let hint = suggestion(title, known.iter().copied());
            report.problem(&at(cell), format!("unknown column {title:?}.{hint}"));
            is_fine = false;
        } else if titles[..index].contains(title) {
            report.problem(&at(cell), format!("a second column {title:?}. Remove one."));
            is_fine = false;
        }
    }
    for needed in &known[..3] {
        if !titles.contains(needed) {
            let first = header.first().map_or_else(|| Place::named("csv"), &at);
            report.problem(&first, format!("column {needed:?} is missing from the header."));
            is_fine = false;
        }
    }
    is_fine
}

/// A cell as the value of YAML that it would be: tiers are JSON, `null` clears.
fn value(path: &str, cell: &Cell, place: &Place, report: &mut Report) -> Node {
    let text = cell.text.trim();
    let value = match text {
        "null" => Value::Null,
        _ if text.starts_with(['[', '{']) => match serde_json::from_str(text) {
            Ok(json) => return placed(Node::from_json("", path, json), place),
            Err(error) => {
                report.problem(place, format!("{path}: not valid JSON: {error}."));
                Value::Broken
            }
        },
        _ => Value::Text(text.to_owned()),
    };
    let (key_place, place) = (place.clone(), place.clone());
    Node { path: path.to_owned(), key_place, place, value, expanded: false }
}

/// The tree, all of it at one place.
fn placed(mut node: Node, place: &Place) -> Node {
    (node.key_place, node.place) = (place.clone(), place.clone());
    node.value = match node.value {
        Value::List(items) => {
            Value::List(items.into_iter().map(|item| placed(item, place)).collect())
        }
        Value::Map(entries) => {
            Value::Map(entries.into_iter().map(|(key, item)| (key, placed(item, place))).collect())
        }
        other => other,
    };
    node
}

/// The prices of the entries; one model has one price from one time on.
fn prices(entries: &[(String, Node)], name: &str, report: &mut Report) -> Vec<FilePrice> {
    if entries.is_empty() {
        // After a mistake nothing is left either: that one was reported.
        report.problem_if_none(&Place::named(name), "there are no prices in it.");
    }
    let mut found: Vec<FilePrice> = Vec::new();
    let mut first = HashMap::new();
    for (key, node) in entries {
        let Some(price) = entry(key, node, "not a part of a price", report) else { continue };
        let same = (price.model_key.clone(), price.effective_at);
        if let Some(other) = first.insert(same, node.key_place.clone()) {
            let text =
                format!("a second price for {}; the first stands at {other}.", price.model_key);
            report.problem(&node.key_place, text);
        }
        let given = |field: &&&str| match &node.value {
            Value::Map(fields) => fields.iter().any(|(name, _)| name == **field),
            _ => false,
        };
        let named = KEYS.iter().filter(given).copied().collect();
        found.push(FilePrice { place: node.key_place.clone(), price, named });
    }
    found
}

/// One cell and where it begins.
#[derive(Debug)]
struct Cell {
    text: String,
    line: u32,
    column: u32,
}

/// Comma-separated values as RFC 4180 has them; empty lines are left out.
fn records(text: &str) -> Result<Vec<Vec<Cell>>, (u32, u32, &'static str)> {
    let (mut line, mut column) = (1, 1);
    let mut records = Vec::new();
    let mut record = Vec::new();
    let mut cell = Cell { text: String::new(), line, column };
    let mut quoted = false;
    let mut was_quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        column += 1;
        if c == '\n' {
            (line, column) = (line + 1, 1);
        }
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                column += 1;
                cell.text.push('"');
            }
            '"' if quoted => quoted = false,
            _ if quoted => cell.text.push(c),
            '"' if cell.text.trim().is_empty() && !was_quoted => {
                cell.text.clear();
                (quoted, was_quoted) = (true, true);
            }
            ',' | '\n' => {
                record
                    .push(std::mem::replace(&mut cell, Cell { text: String::new(), line, column }));
                was_quoted = false;
                if c == '\n' {
                    records.push(std::mem::take(&mut record));
                }
            }
            '\r' => {}
            _ if was_quoted && !c.is_whitespace() => {
                return Err((
                    line,
                    column - 1,
                    "text behind a closing quote. Write a quote inside a quoted cell twice.",
                ));
            }
            _ => cell.text.push(c),
        }
    }
    if quoted {
        return Err((cell.line, cell.column, "the quote is never closed."));
    }
    record.push(cell);
    records.push(record);
    let is_empty =
        |record: &Vec<Cell>| matches!(record.as_slice(), [one] if one.text.trim().is_empty());
    records.retain(|record| !is_empty(record));
    Ok(records)
}

#[cfg(test)]
mod tests {
    use otari_filters::money::Rate;

    use super::*;

    fn load(name: &str, text: &str) -> Result<Vec<FilePrice>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let shown = folder.path().display().to_string() + "/";
        load_prices(&path, &Env::default())
            .map_err(|error| error.listing("Nothing was sent.").replace(&shown, ""))
    }

    fn keys(found: &[FilePrice]) -> Vec<String> {
        let rate = |rate: Rate| rate.to_f64();
        let text = |file: &FilePrice| {
            let price = &file.price;
            format!(
                "{} {} {}",
                price.model_key,
                rate(price.prices.input),
                rate(price.prices.output)
            )
        };
        found.iter().map(text).collect()
    }

    const ONE: &str = "openai:a:\n  input_price_per_million: 0.15\n  output_price_per_million: 1\n";

    #[test]
    fn yaml_counts_with_and_without_its_section() {
        let bare = load("p.yml", ONE).unwrap();
        assert_eq!(keys(&bare), ["openai:a 0.15 1"]);
        let nested = ONE.replace('\n', "\n  ");
        let whole =
            format!("providers:\n  openai: {{api_key: '${{NOT_SET}}'}}\npricing:\n  {nested}");
        let found = load("config.yml", &whole).unwrap();
        assert_eq!(keys(&found), ["openai:a 0.15 1"], "what else stands there is not looked at");
        assert!(found[0].place.to_string().ends_with("config.yml:4:3"), "{}", found[0].place);
    }

    #[test]
    fn json_is_read_with_tabs_and_with_places() {
        let text = "{\n\t\"openai:a\": {\"input_price_per_million\": 1, \"output_price_per_million\": 2},\n\t\"x\": 1\n}";
        assert_eq!(
            load("p.json", &text.replace(",\n\t\"x\": 1", "")).map(|found| keys(&found)),
            Ok(vec!["openai:a 1 2".to_owned()])
        );
        let problems = load("p.json", text).unwrap_err();
        assert!(problems.starts_with("p.json:3:2  "), "{problems}");
    }

    #[test]
    fn csv_has_the_apis_names_and_tiers_as_json() {
        let text = "\u{feff}model_key,input_price_per_million,output_price_per_million,cache_read_price_per_million,pricing_tiers,effective_at,created_at\r\n\
            openai/a,0.15,1,0.1,\"[{\"\"min_input_tokens\"\": 10, \"\"input_price_per_million\"\": 3}]\",2026-01-01,x\r\n\r\n\
            openai:b,1,2,null,,,\r\n";
        let found = load("p.CSV", text).unwrap();
        assert_eq!(keys(&found), ["openai:a 0.15 1", "openai:b 1 2"]);
        assert_eq!(found[0].price.prices.tiers().len(), 1);
        assert_eq!(found[0].price.effective_at.unwrap().to_string(), "2026-01-01T00:00:00Z");
        let cache = "cache_read_price_per_million";
        assert!(found[0].names(cache) && found[1].names(cache) && !found[1].names("pricing_tiers"));
        assert_eq!((found[1].price.prices.cache_read, found[1].price.effective_at), (None, None));
    }

    #[test]
    fn every_problem_has_its_line() {
        let text = "model_key,input_price_per_million,output_price_per_million\n\
            openai:a,x,-1\nnocolon,1,2\nopenai:b,1\nopenai:c,1,2\n\"openai/c\",2,2\nopenai:d,,2\n";
        let problems = load("p.csv", text).unwrap_err();
        let expected = "\
p.csv:2:10  pricing.\"openai:a\".input_price_per_million: expected a number, found \"x\".
p.csv:2:12  pricing.\"openai:a\".output_price_per_million: expected 0 or more, found \"-1\".
p.csv:3:1   pricing.nocolon: Invalid model format. Expected 'provider:model' or 'provider/model', got 'nocolon'
p.csv:4:1   2 cells, the header has 3.
p.csv:6:1   a second price for openai:c; the first stands at p.csv:5:1.
p.csv:7:1   pricing.\"openai:d\": input_price_per_million is missing. Set the USD per million.
6 problems. Nothing was sent.";
        let problems =
            problems.lines().map(|l| l.split("at /").next().unwrap_or(l)).collect::<Vec<_>>();
        assert_eq!(problems.join("\n"), expected);
    }

    #[test]
    fn unknown_names_are_problems() {
        let text = load("p.yml", &format!("{ONE}  cache_read_price: 1\n")).unwrap_err();
        assert!(
            text.starts_with("p.yml:4:3  ") && text.contains("not a part of a price"),
            "{text}"
        );
        let text = load("p.csv", "model_key,input_price,output_price_per_million\n").unwrap_err();
        assert!(text.contains("p.csv:1:11  unknown column \"input_price\"."), "{text}");
        assert!(text.contains("\"input_price_per_million\" is missing"), "{text}");
    }

    #[test]
    fn a_file_without_prices_is_a_mistake() {
        for name in ["p.yml", "p.csv"] {
            let text = load(name, "").unwrap_err();
            assert_eq!(
                text,
                format!("{name}  there are no prices in it.\n1 problem. Nothing was sent.")
            );
        }
        let text = load("p.csv", "model_key,input_price_per_million,output_price_per_million\n");
        assert!(text.unwrap_err().contains("no prices"));
        assert!(
            load("p.csv", "\"a").unwrap_err().contains("p.csv:1:1  the quote is never closed.")
        );
        assert!(load("p.csv", "\"a\"b").unwrap_err().contains("p.csv:1:4  text behind"));
    }
}
