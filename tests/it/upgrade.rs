//! Databases that the reference gateway made, opened in place: samples of its released head on both databases.

use std::path::Path;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::provider::{Provider, completion};
use crate::support::{on_both_databases, postgres};

/// Where the samples are.
fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/reference/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A database with a copy of the sample, and what the reference said about it.
struct Sample {
    file: String,
    database: Where,
    known: Value,
}

enum Where {
    Sqlite(std::path::PathBuf),
    Postgres(String),
}

impl Sample {
    /// Puts a copy where the gateway will look.
    fn copied(start: &Builder) -> Self {
        let (folder, file) = start.write();
        let yaml = std::fs::read_to_string(&file).expect("it was just written");
        let url = yaml.lines().find_map(|line| line.strip_prefix("database_url: postgresql:"));
        let known = std::fs::read_to_string(fixture("reference.json")).expect("a fixture");
        let known: Value = serde_json::from_str(&known).expect("JSON");
        let (database, known) = match url {
            None => {
                let path = folder.join("otari.db");
                std::fs::copy(fixture("reference-head.sqlite"), &path).expect("a copy");
                (Where::Sqlite(path), known["sqlite"].clone())
            }
            Some(rest) => {
                let url = format!("postgresql:{rest}");
                let dump =
                    std::fs::read_to_string(fixture("reference-head.pg.sql")).expect("a dump");
                postgres::execute(&url, &dump).expect("the dump is loaded");
                (Where::Postgres(url), known["postgres"].clone())
            }
        };
        Self { file: file.display().to_string(), database, known }
    }

    fn execute(&self, sql: &str) {
        match &self.database {
            Where::Sqlite(path) => open(path).execute_batch(sql).expect(sql),
            Where::Postgres(url) => postgres::execute(url, sql).expect(sql),
        }
    }

    fn key(&self, name: &str) -> &str {
        self.known["keys"][name]["key"].as_str().expect("a key of the sample")
    }

    fn master(&self) -> &str {
        self.known["master"].as_str().expect("the sample's master key")
    }

    async fn read(&self, gateway: &Gateway, path: &str) -> Value {
        let bearer = format!("Bearer {}", self.master());
        let headers = [("authorization", bearer.as_str())];
        gateway.send(Method::GET, path, &headers, "").await.expect(200).json()
    }

    /// `otari migrate` on it: the exit code, and all it said.
    fn migrate(&self, more: &[&str]) -> (i32, String) {
        let mut arguments = vec!["migrate", "--config", &self.file];
        arguments.extend(more);
        let output = Gateway::run(&arguments);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().expect("it ended"), String::from_utf8_lossy(&text).into_owned())
    }
}

fn open(path: &Path) -> Connection {
    Connection::open(path).expect("the database of the sample")
}

/// The sample's provider, whose answers are 10 tokens in and 3 out, as when the sample was made.
fn provider() -> Provider {
    let mut answer = completion("ok");
    answer["usage"] = json!({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13});
    Provider::answers(200, answer)
}

fn configured(start: Builder, provider: &Provider) -> Builder {
    start.provider("openai", provider).config("master_key: mk-heldout-master-0123456789")
}

async fn ask(gateway: &Gateway, key: &str, model: &str) -> Answer {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = json!({"model": model, "max_tokens": 3, "messages": messages});
    gateway.chat(key, &body).await
}

/// Checks that ours has all of theirs. Times without an offset are UTC, and ours say so.
fn same(ours: &Value, theirs: &Value, what: &str) {
    for (name, value) in theirs.as_object().expect("an object") {
        let mut expected = value.clone();
        if let Some(text) = value.as_str().filter(|text| is_time(name, text)) {
            expected = format!("{text}+00:00").into();
        }
        assert_eq!(ours[name], expected, "{what}: {name} of {ours}");
    }
}

fn is_time(name: &str, text: &str) -> bool {
    (name.ends_with("_at") || name == "timestamp") && !text.ends_with("+00:00")
}

async fn every_key_does_as_its_name_says(start: Builder) {
    let provider = provider();
    let start = configured(start, &provider);
    let sample = Sample::copied(&start);
    let gateway = start.await;
    // The keys of a deleted user were switched off by the reference.
    let expected = [
        ("main", 200),
        ("timed", 200),
        ("future", 200),
        ("solo", 200),
        ("blocked", 403),
        ("deleted", 401),
        ("inactive", 401),
        ("expired", 401),
    ];
    for (name, status) in expected {
        let answer = ask(&gateway, sample.key(name), "openai:upg-free").await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    assert_eq!(provider.count(), 4);
    // Switched on again it is known, and its user is still gone.
    let id = sample.known["keys"]["deleted"]["id"].as_str().expect("an id");
    let bearer = format!("Bearer {}", sample.master());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let path = format!("/v1/keys/{id}");
    for (is_active, status) in [(true, 404), (false, 401)] {
        let change = json!({"is_active": is_active}).to_string();
        gateway.send(Method::PATCH, &path, &headers, change).await.expect(200);
        ask(&gateway, sample.key("deleted"), "openai:upg-free").await.refused(status);
    }
    let rows = sample.read(&gateway, "/v1/keys?limit=100").await;
    let rows = rows.as_array().expect("a list");
    let keys = sample.known["keys"].as_object().expect("the keys of the sample");
    assert_eq!(rows.len(), keys.len());
    for (name, key) in keys {
        let row = rows.iter().find(|row| row["id"] == key["id"]).expect(name);
        assert_eq!(row["user_id"], key["user"], "{name}");
        assert_eq!(row["is_active"], !["inactive", "deleted"].contains(&name.as_str()), "{name}");
    }
}

async fn what_the_reference_showed_is_shown(start: Builder) {
    let provider = provider();
    let start = configured(start, &provider);
    let sample = Sample::copied(&start);
    let mut gateway = start.await;
    let log = gateway.log();
    assert!(log.contains("was taken over") && log.contains("c3d5e7f9a1b3"), "{log}");
    assert!(log.contains("24 rows") && log.contains("0 stale holds"), "{log}");
    let files = sample.read(&gateway, "/v1/files?user=upg-user").await;
    let file = &files["data"][0];
    assert_eq!((&file["filename"], &file["bytes"]), (&json!("upg.txt"), &json!(10)), "{files}");
    let id = file["id"].as_str().expect("an id");
    let place = gateway.folder().join("files").join(&id[5..7]);
    std::fs::create_dir_all(&place).expect("the reference's layout");
    std::fs::write(place.join(id), "its content").expect("a file of another length");
    let bearer = format!("Bearer {}", sample.master());
    let headers = [("authorization", bearer.as_str())];
    let path = format!("/v1/files/{id}/content?user=upg-user");
    gateway.send(Method::GET, &path, &headers, "").await.refused(500);
    std::fs::write(place.join(id), "0123456789").expect("its bytes");
    let content = gateway.send(Method::GET, &path, &headers, "").await.expect(200);
    assert_eq!(
        (content.text().as_str(), content.header("content-type")),
        ("0123456789", Some("text/plain"))
    );
    for _ in 0..2 {
        let user = sample.read(&gateway, "/v1/users/upg-user").await;
        same(&user, &sample.known["user"], "the user");
        let usage = sample.read(&gateway, "/v1/usage?user_id=upg-user").await;
        let (usage, known) = (usage.as_array(), sample.known["usage"].as_array());
        let (usage, known) = (usage.expect("a list"), known.expect("a list"));
        assert_eq!(usage.len(), known.len());
        usage.iter().zip(known).for_each(|(row, known)| same(row, known, "a usage row"));
        for (name, cap, seconds) in
            [("budget", 10.0, Value::Null), ("timed_budget", 50.0, json!(86400))]
        {
            let id = sample.known[name].as_str().expect("a budget");
            let budget = sample.read(&gateway, &format!("/v1/budgets/{id}")).await;
            assert_eq!(
                (&budget["max_budget"], &budget["budget_duration_sec"]),
                (&json!(cap), &seconds)
            );
        }
        let prices = sample.read(&gateway, "/v1/pricing/openai:upg-paid/history").await;
        let known = sample.known["pricing_history"].as_array().expect("a list");
        let prices = prices.as_array().expect("a list");
        assert_eq!(prices.len(), known.len());
        prices.iter().zip(known).for_each(|(row, known)| same(row, known, "a price"));
        let before = gateway.log().matches("was taken over").count();
        assert_eq!(before, 1, "a second start changes nothing");
        gateway.terminate().await;
        gateway.restart().await;
    }
}

async fn new_spend_adds_to_the_old(start: Builder) {
    let provider = provider();
    let start = configured(start, &provider);
    let sample = Sample::copied(&start);
    // What a process of the reference held when it ended.
    sample.execute("UPDATE users SET reserved = 3.999999 WHERE user_id = 'upg-user'");
    let gateway = start.await;
    let text = gateway.log();
    assert!(text.contains("1 stale holds set to zero"), "{text}");
    let user = sample.read(&gateway, "/v1/users/upg-user").await;
    assert_eq!((&user["spend"], &user["reserved"]), (&json!(6.0), &json!(0.0)));
    // 3 tokens at the price of June 2024, a dollar each; of the 4 dollars left.
    ask(&gateway, sample.key("main"), "openai:upg-paid").await.expect(200);
    let refusal = ask(&gateway, sample.key("main"), "openai:upg-paid").await.refused_for_good(403);
    assert_eq!(refusal["error"]["code"], "budget_exceeded");
    let usage = crate::support::eventually("the new row", async || {
        let rows = sample.read(&gateway, "/v1/usage?user_id=upg-user").await;
        // The newest is the refusal's.
        (rows[0]["status_code"] == 403 && rows[1]["status"] == "success").then_some(rows)
    })
    .await;
    assert_eq!((&usage[1]["cost"], &usage[1]["model"]), (&json!(3.0), &json!("upg-paid")));
    let user = sample.read(&gateway, "/v1/users/upg-user").await;
    assert_eq!((&user["spend"], &user["reserved"]), (&json!(9.0), &json!(0.0)));
}

/// What the later version is known to add to the tables that a call touches.
const LATER: &str = "
ALTER TABLE api_keys ADD COLUMN key_prefix VARCHAR;
ALTER TABLE api_keys ADD COLUMN allowed_models JSON;
ALTER TABLE api_keys ADD COLUMN workspace_id VARCHAR DEFAULT 'w1' NOT NULL;
ALTER TABLE users ADD COLUMN allowed_models JSON;
ALTER TABLE model_pricing ADD COLUMN cache_read_price_per_million NUMERIC(18, 8);
ALTER TABLE model_pricing ADD COLUMN pricing_tiers JSON DEFAULT '[]' NOT NULL;
ALTER TABLE usage_logs ADD COLUMN workspace_id VARCHAR DEFAULT 'w1' NOT NULL;
ALTER TABLE usage_logs ADD COLUMN source VARCHAR DEFAULT 'gateway' NOT NULL;
ALTER TABLE usage_logs ADD COLUMN source_event_id VARCHAR;
CREATE TABLE workspaces (id VARCHAR NOT NULL PRIMARY KEY);
UPDATE alembic_version SET version_num = 'c4d7f2a9b6e1'";

async fn a_database_of_the_later_version_serves(start: Builder) {
    let provider = provider();
    let start = configured(start, &provider);
    let sample = Sample::copied(&start);
    sample.execute(LATER);
    let gateway = start.await;
    assert!(gateway.log().contains("c4d7f2a9b6e1"), "{}", gateway.log());
    ask(&gateway, sample.key("main"), "openai:upg-paid").await.expect(200);
    ask(&gateway, sample.key("expired"), "openai:upg-paid").await.refused(401);
    crate::support::eventually("the new spend", async || {
        let user = sample.read(&gateway, "/v1/users/upg-user").await;
        (user["spend"] == 9.0).then_some(())
    })
    .await;
    let usage = sample.read(&gateway, "/v1/usage?user_id=upg-user").await;
    assert_eq!(usage.as_array().map(Vec::len), Some(5));
}

async fn a_dry_run_says_what_would_be_done(start: Builder) {
    let sample = Sample::copied(&start);
    for _ in 0..2 {
        let (code, text) = sample.migrate(&["--dry-run"]);
        assert_eq!(code, 0, "{text}");
        for words in [
            "a database of the reference gateway, revision c3d5e7f9a1b3",
            "V1__initial, V2__key_prefix, V3__management",
            "budgets 2, users 5, api_keys 8, model_pricing 4, usage_logs 4, budget_reset_logs 0",
            "users.spend",
            "holds    0",
            "kept     nothing unknown was there",
            "Nothing was changed",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    let (code, text) = sample.migrate(&[]);
    assert!(code == 0 && text.ends_with("Migrations completed successfully!\n"), "{text}");
    let (code, text) = sample.migrate(&["--dry-run", "--revision", "c3d5e7f9a1b3"]);
    assert!(code == 0 && text.contains("schema ") && text.contains("steps    none"), "{text}");
    let output = Gateway::run(&["init-db", "--config", &sample.file]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("Database initialized successfully!"),
        "{text}"
    );
    let (code, text) = sample.migrate(&["--revision", "28d153c22616"]);
    assert!(code == 1 && text.contains("its own schema only"), "{text}");
}

async fn a_dry_run_on_nothing_makes_nothing(start: Builder) {
    let (folder, file) = start.write();
    let file = file.display().to_string();
    for _ in 0..2 {
        let output = Gateway::run(&["migrate", "--dry-run", "--config", &file]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("an empty database"), "{text}");
    }
    assert!(!folder.join("otari.db").exists(), "a file that is missing is not made");
}

async fn problems_are_said_and_nothing_is_served(start: Builder) {
    let sample = Sample::copied(&start);
    sample.execute("UPDATE users SET spend = -1e300 WHERE user_id = 'upg-timed'");
    let place = "table users, row 'upg-timed', column spend: ";
    for arguments in [&["--dry-run"][..], &[]] {
        let (code, text) = sample.migrate(arguments);
        assert!(
            code == 1 && text.contains(place) && text.contains("Nothing was changed"),
            "{text}"
        );
    }
    let output = Gateway::run(&["serve", "--config", &sample.file]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains(place), "{text}");
    let output = Gateway::run(&["serve", "--no-auto-migrate", "--config", &sample.file]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("is not upgraded yet; make a backup"), "{text}");

    sample.execute("UPDATE users SET spend = 0.1 WHERE user_id = 'upg-timed'");
    sample.execute("UPDATE alembic_version SET version_num = 'feedfacecafe'");
    let (code, text) = sample.migrate(&["--dry-run"]);
    assert!(code == 1 && text.contains("feedfacecafe, which this otari does not know"), "{text}");
    sample.execute("UPDATE alembic_version SET version_num = 'c3d5e7f9a1b3'");
    let (code, text) = sample.migrate(&["--dry-run"]);
    assert_eq!(code, 0, "untouched so far: {text}");
}

on_both_databases!(
    every_key_does_as_its_name_says,
    what_the_reference_showed_is_shown,
    new_spend_adds_to_the_old,
    a_database_of_the_later_version_serves,
    a_dry_run_says_what_would_be_done,
    a_dry_run_on_nothing_makes_nothing,
    problems_are_said_and_nothing_is_served,
);
