//! The command line against a running gateway: the real binary twice.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, MASTER};
use crate::support::provider::Provider;
use crate::support::{COST, ask, priced};

/// A gateway to be talked to, with a provider that prices and calls may name.
async fn started() -> (Gateway, Provider) {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start().sqlite(), &provider).await;
    (gateway, provider)
}

/// Runs `otari` in an empty folder with just these variables.
fn run(folder: &Path, env: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_otari"));
    command.args(arguments).env_clear().envs(env.iter().copied()).current_dir(folder);
    command.stdin(Stdio::null()).output().expect("the built binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks the exit code; returns the two streams.
fn ended(output: &Output, code: i32) -> (String, String) {
    let (out, err) = (stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    (out, err)
}

/// A shell whose variables name a gateway and its master key.
struct Shell {
    folder: tempfile::TempDir,
    url: String,
}

impl Shell {
    fn of(gateway: &Gateway) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, url: gateway.url("") }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let env = [("OTARI_URL", self.url.as_str()), ("OTARI_MASTER_KEY", MASTER)];
        run(self.folder.path(), &env, arguments)
    }

    /// What a command that must succeed prints for people.
    fn table(&self, arguments: &[&str]) -> String {
        ended(&self.run(arguments), 0).0
    }

    /// What it prints for programs.
    fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let out = ended(&self.run(&arguments), 0).0;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// What a command that must end with this code says.
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let (out, err) = ended(&self.run(arguments), code);
        assert_eq!(out, "", "results only go to standard output");
        err
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).expect("a writable folder");
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_made_listed_rotated_and_revoked() {
    let (gateway, _provider) = started().await;
    let shell = Shell::of(&gateway);
    let (_, err) = ended(&shell.run(&["keys", "list"]), 0);
    assert_eq!(err, "No keys.\n");

    let made = shell.json(&[
        "keys",
        "create",
        "--key-name",
        "laptop",
        "--user-id",
        "ada",
        "--expires-at",
        "2040-01-01",
        "--allowed-models",
        "p:m,p:n*",
        "--metadata",
        r#"{"team":"a"}"#,
        "--reject-user-mismatch=false",
    ]);
    let (id, secret) = (text(&made, "id"), text(&made, "key"));
    assert_eq!(made["allowed_models"], json!(["p:m", "p:n*"]));
    assert_eq!(
        (&made["metadata"], &made["reject_user_mismatch"]),
        (&json!({"team": "a"}), &json!(false))
    );
    assert_eq!(gateway.chat(secret, &ask()).await.status, 200);

    let (out, err) = ended(&shell.run(&["keys", "create", "--key-name", "phone"]), 0);
    assert!(out.contains("\nkey                   gw-"), "{out}");
    assert!(err.contains("shown this once"), "{err}");

    let list = shell.table(&["keys", "list"]);
    let rows: Vec<&str> = list.lines().collect();
    assert!(rows[0].starts_with("ID ") && rows[0].contains("  USER "), "{list}");
    assert_eq!(rows.len(), 3, "{list}");
    assert!(list.contains("laptop  ada ") && list.contains("2040-01-01 00:00:00"), "{list}");
    assert!(!list.contains(secret), "a secret is shown only where it is made");
    let (_, err) = ended(&shell.run(&["keys", "list", "--limit", "1"]), 0);
    assert_eq!(err, "1 shown. There may be more: --skip 1\n");
    assert_eq!(shell.json(&["keys", "list", "--skip", "1"]).as_array().map(Vec::len), Some(1));

    let rotated = shell.json(&["keys", "rotate", id]);
    let secret = [secret, text(&rotated, "key")];
    assert_eq!(gateway.chat(secret[0], &ask()).await.status, 401);
    assert_eq!(gateway.chat(secret[1], &ask()).await.status, 200);

    assert_eq!(shell.table(&["keys", "revoke", id]), format!("Key {id} is revoked.\n"));
    assert_eq!(gateway.chat(secret[1], &ask()).await.status, 401);
    let back = shell.json(&["keys", "update", id, "--is-active", "--clear", "expires-at"]);
    assert_eq!((&back["is_active"], &back["expires_at"]), (&json!(true), &Value::Null));
    assert!(shell.table(&["keys", "show", id]).contains("\nis_active             true\n"));

    let (out, _) = ended(&shell.run(&["keys", "revoke", id, "--delete", "--json"]), 0);
    assert_eq!(out, "", "the API answers nothing");
    let err = shell.refused(1, &["keys", "show", id]);
    assert_eq!(
        err,
        format!("Error: The gateway refused it (404): API key with id '{id}' not found\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_budgets_are_managed() {
    let (gateway, _provider) = started().await;
    let shell = Shell::of(&gateway);
    let budget = shell.json(&[
        "budgets",
        "create",
        "--name",
        "日本語",
        "--max-budget",
        "12.5",
        "--budget-duration-sec",
        "60",
    ]);
    let id = text(&budget, "budget_id");
    assert_eq!((&budget["max_budget"], &budget["budget_duration_sec"]), (&json!(12.5), &json!(60)));
    let changed = shell.json(&[
        "budgets",
        "update",
        id,
        "--clear",
        "budget-duration-sec",
        "--reset-alignment",
        "calendar_day",
    ]);
    assert_eq!(
        (&changed["budget_duration_sec"], text(&changed, "reset_alignment")),
        (&Value::Null, "calendar_day")
    );

    // An id that has to be escaped in a path.
    let user = "ada/lovelace ?";
    shell.json(&[
        "users",
        "create",
        "--user-id",
        user,
        "--budget-id",
        id,
        "--alias",
        "Ada",
        "--blocked",
    ]);
    let table = shell.table(&["users", "list"]);
    assert!(table.contains("ada/lovelace ?  Ada    "), "{table}");
    assert!(table.contains("   0.000000  0.000000  yes      all\n"), "{table}");
    let changed = shell.json(&["users", "update", user, "--blocked=false", "--allowed-models", ""]);
    assert_eq!((&changed["blocked"], &changed["allowed_models"]), (&json!(false), &json!([])));
    let changed = shell.json(&["users", "update", user, "--clear", "allowed-models"]);
    assert_eq!(changed["allowed_models"], Value::Null);
    assert!(shell.table(&["users", "show", user]).contains("\nalias                 Ada\n"));

    let table = shell.table(&["budgets", "list"]);
    assert!(table.contains("日本語  12.500000        -  calendar_day      1 "), "{table}");
    assert!(shell.table(&["budgets", "show", id]).contains("max_budget           12.5\n"));
    assert_eq!(shell.table(&["users", "delete", user]), "User ada/lovelace ? is deleted.\n");
    assert_eq!(shell.table(&["budgets", "delete", id]), format!("Budget {id} is deleted.\n"));
    let (out, err) = ended(&shell.run(&["users", "list"]), 0);
    assert_eq!((out.as_str(), err.as_str()), ("", "No users.\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_listed() {
    let (gateway, _provider) = started().await;
    let shell = Shell::of(&gateway);
    let key = gateway.key("ada").await;
    gateway.chat(&key, &ask()).await.expect(200);
    gateway.usage(1).await;
    let table = shell.table(&["usage", "list", "--user-id", "ada", "--start-date", "2020-01-01"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[2], "ada", "{table}");
    let cost = format!("{COST:.6}");
    assert_eq!(row[4..10], ["p", "m", "success", "10", "5", &cost], "{table}");
    assert_eq!(shell.json(&["usage", "list"])[0]["cost"], json!(COST));
    let unpriced = ["usage", "list", "--priced=false", "--model", "m", "--user-id", "ada"];
    assert_eq!(shell.json(&unpriced), json!([]), "filters reach the gateway");
    let summary = shell.json(&["usage", "summary"]);
    assert_eq!(summary["totals"]["cost"], json!(COST));
    assert!(shell.table(&["usage", "summary"]).contains("0.02"));
    let (_, err) = ended(&shell.run(&["usage", "list", "--user-id", "eve"]), 0);
    assert_eq!(err, "No calls.\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_is_said_and_has_a_code() {
    let (gateway, _provider) = started().await;
    let shell = Shell::of(&gateway);
    let err = shell
        .refused(1, &["budgets", "create", "--max-budget", "-1", "--budget-duration-sec", "0"]);
    let both = "max_budget: Input should be greater than or equal to 0; budget_duration_sec: Input should be greater than 0";
    assert_eq!(err, format!("Error: The gateway refused it (422): {both}\n"));
    let err = shell.refused(77, &["keys", "list", "--master-key", "wrong"]);
    assert!(err.starts_with("Error: Not allowed (401): "), "{err}");
    let err = shell.refused(2, &["users", "update", "ada"]);
    assert!(err.contains("Nothing to change"), "{err}");
    shell.refused(2, &["users", "update", "ada", "--alias", "a", "--clear", "alias"]);
    let err = shell.refused(2, &["keys", "rotat", "a"]);
    assert!(err.contains("'rotate'"), "a suggestion: {err}");

    let folder = tempfile::tempdir().unwrap();
    let nobody = run(folder.path(), &[], &["keys", "list", "--url", &shell.url]);
    assert!(ended(&nobody, 78).1.contains("OTARI_MASTER_KEY"));
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let err = shell.refused(69, &["usage", "list", "--url", &format!("http://{free}")]);
    assert!(err.contains(&format!("No gateway answers at http://{free}")), "{err}");
    assert!(!err.contains(MASTER), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_key_may_stand_in_a_dotenv_file_and_the_address_may_not() {
    let (gateway, _provider) = started().await;
    let shell = Shell::of(&gateway);
    shell.write(".env", &format!("OTARI_MASTER_KEY={MASTER}\nOTARI_URL=http://127.0.0.1:9\n"));
    let env = [("OTARI_URL", shell.url.as_str())];
    ended(&run(shell.folder.path(), &env, &["keys", "list"]), 0);
    let help =
        ended(&run(shell.folder.path(), &[("OTARI_MASTER_KEY", MASTER)], &["keys", "--help"]), 0).0;
    assert!(help.contains("http://127.0.0.1:8000") && !help.contains(MASTER), "{help}");
}

const PRICES: &str = "\
pricing:
  p:new: {input_price_per_million: 0.15, output_price_per_million: 0.6, cache_read_price_per_million: 0.075}
  p/m:
    input_price_per_million: 1000
    output_price_per_million: 2000
    pricing_tiers: [{min_input_tokens: 200000, input_price_per_million: 1500}]
  p:later: {input_price_per_million: 1, output_price_per_million: 2, effective_at: 2040-01-01}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prices_are_imported_once() {
    let (gateway, _provider) = started().await;
    let shell = Shell::of(&gateway);
    shell.write("prices.yml", PRICES);
    let before = gateway.read("/v1/pricing").await;

    let plan = shell.table(&["import", "prices.yml", "--dry-run"]);
    assert!(plan.contains("prices.yml:2:3  new      p:new "), "{plan}");
    assert!(plan.contains("changed  p:m      now                   tiers none -> 1\n"), "{plan}");
    assert!(
        plan.ends_with("2 new, 1 changed, 0 the same. Nothing was sent: a dry run.\n"),
        "{plan}"
    );
    assert_eq!(gateway.read("/v1/pricing").await, before, "a dry run changes nothing");

    let done = shell.table(&["import", "prices.yml"]);
    assert!(done.ends_with("2 new, 1 changed, 0 the same. 3 sent.\n"), "{done}");
    let price = gateway.read("/v1/pricing/p:m").await;
    assert_eq!(price["pricing_tiers"][0]["input_price_per_million"], 1500.0);
    assert_eq!(gateway.read("/v1/pricing/p:new").await["cache_read_price_per_million"], 0.075);

    let rows = gateway.read("/v1/pricing").await;
    let again = shell.table(&["import", "prices.yml"]);
    assert_eq!(again, "0 new, 0 changed, 3 the same. 0 sent.\n");
    assert_eq!(gateway.read("/v1/pricing").await, rows, "what is in force is not sent again");

    let csv = "model_key,input_price_per_million,output_price_per_million,cache_read_price_per_million\n\
        p:new,0.2,0.6,\n\"p/m\",1000,2000,null\n";
    shell.write("prices.csv", csv);
    let done = shell.json(&["import", "prices.csv"]);
    assert_eq!((&done["sent"], &done["same"]), (&json!(1), &json!(1)));
    assert_eq!(done["prices"][0]["place"], "prices.csv:2:1");
    let price = gateway.read("/v1/pricing/p:new").await;
    assert_eq!(price["input_price_per_million"], 0.2);
    assert_eq!(price["cache_read_price_per_million"], 0.075, "what the file does not say stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_sends_nothing_and_a_refused_price_holds_up_no_other() {
    let (gateway, _provider) = started().await;
    let shell = Shell::of(&gateway);
    let before = gateway.read("/v1/pricing").await;
    shell.write(
        "bad.csv",
        "model_key,input_price_per_million,output_price_per_million\np:a,1,1\np:b,x,1\np:c,1,-1\n",
    );
    let err = shell.refused(78, &["import", "bad.csv"]);
    let lines: Vec<&str> = err.lines().collect();
    assert!(
        lines[0].starts_with("bad.csv:3:5  ") && lines[1].starts_with("bad.csv:4:7  "),
        "{err}"
    );
    assert_eq!(lines[2], "2 problems. Nothing was sent.");
    assert_eq!(gateway.read("/v1/pricing").await, before);

    // Which providers there are, only the gateway knows.
    shell.write(
        "mixed.csv",
        "model_key,input_price_per_million,output_price_per_million\nnobody:a,1,1\np:b,1,1\n",
    );
    let (out, err) = ended(&shell.run(&["import", "mixed.csv"]), 1);
    assert!(
        out.contains("mixed.csv:2:1  new     nobody:a ") && out.contains("  failed\n"),
        "{out}"
    );
    assert!(out.ends_with("2 new, 0 changed, 0 the same. 1 sent, 1 failed.\n"), "{out}");
    assert!(err.starts_with("mixed.csv:2:1  nobody:a: The gateway refused it (422): "), "{err}");
    assert_eq!(gateway.read("/v1/pricing/p:b").await["input_price_per_million"], 1.0);
}

#[test]
fn init_writes_what_check_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let env = [("OPENAI_API_KEY", "sk-never-in-the-file"), ("OTARI_MASTER_KEY", MASTER)];
    let (out, _) = ended(&run(folder.path(), &env, &["init"]), 0);
    assert!(out.starts_with("Wrote config.yml (providers found: openai).\n"), "{out}");
    assert!(out.contains("otari serve --config config.yml"), "{out}");
    let file = std::fs::read_to_string(folder.path().join("config.yml")).unwrap();
    assert!(
        file.contains("\ndefault_pricing: true\n") && file.contains("${OPENAI_API_KEY}"),
        "{file}"
    );
    assert!(!file.contains("sk-never") && !file.contains(MASTER), "{file}");

    let (out, _) = ended(&run(folder.path(), &env, &["check", "config.yml"]), 0);
    assert!(out.starts_with("ok: config.yml\n"), "no warnings: {out}");
    assert!(out.contains("providers  openai (key)\n") && out.contains("master key set"), "{out}");

    let (_, err) = ended(&run(folder.path(), &env, &["init"]), 1);
    assert!(err.contains("is there already"), "{err}");
    ended(&run(folder.path(), &[], &["init", "config.yml", "--force"]), 0);
    let (out, _) = ended(&run(folder.path(), &[], &["check", "config.yml"]), 0);
    assert!(out.contains("providers  none\n"), "{out}");
}
