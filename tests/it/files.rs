//! Files that callers upload, list, download and delete; whose they are, and what is left of them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::gateway::{Answer, Builder, Gateway, MASTER};
use crate::support::sdk::Sdk;
use crate::support::{eventually, on_both_databases};

mod bucket;
mod large;

const BOUNDARY: &str = "multipart/form-data; boundary=b";

/// A form of these fields, in this order; one called `file` is a file of this name.
fn form(fields: &[(&str, &str)], name: &str) -> Vec<u8> {
    let mut body = String::new();
    for (field, text) in fields {
        body += &format!("--b\r\nContent-Disposition: form-data; name=\"{field}\"");
        if *field == "file" {
            body += &format!("; filename=\"{name}\"");
        }
        body += &format!("\r\n\r\n{text}\r\n");
    }
    (body + "--b--\r\n").into_bytes()
}

/// Sends a form with this key.
async fn post(gateway: &Gateway, key: &str, body: impl Into<reqwest::Body>) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", BOUNDARY)];
    gateway.send(Method::POST, "/v1/files", &headers, body).await
}

/// Uploads this text; returns the id.
async fn upload(gateway: &Gateway, key: &str, text: &str) -> String {
    let answer = post(gateway, key, form(&[("file", text)], "a.txt")).await.expect(200);
    answer.json()["id"].as_str().expect("an id").to_owned()
}

async fn call(gateway: &Gateway, key: &str, method: Method, path: &str) -> Answer {
    with(gateway, key, method, path, &[]).await
}

async fn with(
    gateway: &Gateway,
    key: &str,
    method: Method,
    path: &str,
    more: &[(&str, &str)],
) -> Answer {
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(more);
    gateway.send(method, path, &headers, "").await
}

async fn get(gateway: &Gateway, key: &str, path: &str) -> Answer {
    call(gateway, key, Method::GET, path).await
}

async fn listed(gateway: &Gateway, key: &str, query: &str) -> Vec<String> {
    let list = get(gateway, key, &format!("/v1/files{query}")).await.expect(200).json();
    assert_eq!(list["object"], "list");
    let ids = list["data"].as_array().expect("a list").iter();
    ids.map(|file| file["id"].as_str().expect("an id").to_owned()).collect()
}

/// Every file below the folder of files, uploads under way included.
fn blobs(gateway: &Gateway) -> usize {
    fn count(dir: &Path) -> usize {
        let entries = dir.read_dir().into_iter().flatten().flatten();
        entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
    }
    count(&gateway.folder().join("files"))
}

fn message(answer: &Answer) -> String {
    answer.json()["detail"].as_str().unwrap_or_default().to_owned()
}

async fn a_file_comes_in_and_goes_out_as_it_was(start: Builder) {
    let gateway = start.config("enable_metrics: true").await;
    let key = gateway.key("ann").await;
    // What says whose it is may come behind it.
    let fields =
        [("unknown", "x"), ("file", "hello\r\n--b\r\nfile"), ("purpose", "p"), ("user", "ann")];
    let made = post(&gateway, &key, form(&fields[1..], "ü \\ \".TXT")).await;
    assert_eq!(made.status, 400, "a boundary inside ends it: {}", made.text());
    let fields =
        [("unknown", "x"), ("file", "hello\r\n--c\r\nfile"), ("purpose", "p"), ("user", "ann")];
    let made = post(&gateway, &key, form(&fields, "ü 1.TXT")).await.expect(200);
    let file = made.json();
    let names: Vec<&str> = file.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["id", "object", "bytes", "created_at", "expires_at", "filename", "purpose"]);
    let id = file["id"].as_str().unwrap();
    assert!(id.starts_with("file-") && id.len() == 37, "{id}");
    assert_eq!(file["object"], "file");
    assert_eq!((&file["bytes"], &file["expires_at"]), (&json!(16), &Value::Null));
    assert_eq!((&file["filename"], &file["purpose"]), (&json!("ü 1.TXT"), &json!("p")));
    let place = gateway.folder().join("files").join(&id[5..7]).join(id);
    assert_eq!(std::fs::read_to_string(&place).unwrap(), "hello\r\n--c\r\nfile");

    for door in ["/v1/files", "/api/v1/files"] {
        assert_eq!(get(&gateway, &key, &format!("{door}/{id}/")).await.expect(200).json(), file);
    }
    let content = get(&gateway, &key, &format!("/v1/files/{id}/content")).await.expect(200);
    assert_eq!(content.text(), "hello\r\n--c\r\nfile");
    assert_eq!(content.header("content-type"), Some("text/plain"));
    assert_eq!(content.header("content-length"), Some("16"));
    assert_eq!(content.header("x-content-type-options"), Some("nosniff"));
    let disposition = "attachment; filename=\"1.TXT\"; filename*=UTF-8''%C3%BC%201.TXT";
    assert_eq!(content.header("content-disposition"), Some(disposition));

    let list = get(&gateway, &key, "/v1/files").await.expect(200).json();
    assert_eq!(list["data"], json!([file]));
    assert_eq!((&list["has_more"], &list["first_id"]), (&json!(false), &json!(id)));
    let gone = call(&gateway, &key, Method::DELETE, &format!("/v1/files/{id}")).await.expect(200);
    assert_eq!(gone.json(), json!({"id": id, "object": "file", "deleted": true}));
    assert!(!place.exists(), "its bytes are gone at once");
    for (method, path) in [(Method::GET, ""), (Method::GET, "/content"), (Method::DELETE, "")] {
        let answer = call(&gateway, &key, method, &format!("/v1/files/{id}{path}")).await;
        assert_eq!(answer.refused_for_good(404)["detail"], "File not found");
    }
    assert_eq!(listed(&gateway, &key, "").await, [""; 0]);
    assert!(gateway.all_usage().await.is_empty(), "files are not billed");
    let metrics = gateway.get("/metrics").await.expect(200).text();
    for line in [
        "gateway_file_bytes_total{direction=\"upload\"} 16",
        "gateway_file_bytes_total{direction=\"download\"} 16",
        "gateway_files_reclaimed_total 1",
        "endpoint=\"/v1/files/{id}/content\"",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains(id), "no id is a label");
}

async fn the_official_sdk_works_with_files(start: Builder) {
    let gateway = start.await;
    let key = gateway.key("ann").await;
    let seen = Sdk::Python.run("openai_files", &[&gateway.url("/v1"), &key]);
    let [first, second, third] = [0, 1, 2].map(|at| seen["ids"][at].clone());
    let made = json!([first, "file", 10, "notes ü.txt", "user_data", null]);
    assert_eq!(seen["first"], made, "{seen}");
    assert_eq!(seen["second"], json!([9000, "batch", 3600]), "{seen}");
    assert_eq!(seen["listed"], json!([third, second, first]), "newest first");
    assert_eq!(seen["paged"], seen["listed"], "page by page");
    assert_eq!(seen["oldest"], json!([first, second]));
    assert_eq!(seen["batch"], json!([second]));
    assert_eq!((&seen["retrieved"], &seen["content"]), (&json!("c.pdf"), &json!("hello file")));
    assert_eq!((&seen["length"], &seen["streamed"]), (&json!(9000), &json!(9000)));
    assert_eq!(seen["type"], "application/pdf");
    assert_eq!(seen["deleted"], json!([true, true, "file"]));
    assert_eq!(seen["gone"][0], 404);
}

async fn a_file_is_its_owners_alone(start: Builder) {
    let gateway = start.await;
    let (ann, bob) = (gateway.key("ann").await, gateway.key("bob").await);
    let id = upload(&gateway, &ann, "secret").await;
    let path = format!("/v1/files/{id}");
    let unknown = "/v1/files/file-00000000000000000000000000000000";
    for (method, end) in [(Method::GET, ""), (Method::GET, "/content"), (Method::DELETE, "")] {
        let foreign = call(&gateway, &bob, method.clone(), &format!("{path}{end}")).await;
        let none = call(&gateway, &bob, method.clone(), &format!("{unknown}{end}")).await;
        assert_eq!(foreign.refused_for_good(404), none.refused_for_good(404), "{method} {end}");
        let text = "'user' field does not match the authenticated API key's user";
        let named = format!("{path}{end}?user=ann");
        let named = call(&gateway, &bob, method.clone(), &named).await;
        assert_eq!(named.refused_for_good(403)["detail"], text);
        let text = "When using master key, 'user' field is required";
        let master = call(&gateway, MASTER, method, &format!("{path}{end}")).await;
        assert_eq!(master.refused_for_good(400)["detail"], text);
    }
    assert_eq!(listed(&gateway, &bob, "").await, [""; 0]);
    assert_eq!(
        get(&gateway, MASTER, "/v1/files").await.refused(400)["error"]["code"],
        "user_required"
    );
    assert_eq!(listed(&gateway, MASTER, "?user=ann").await, [id.as_str()]);
    assert_eq!(listed(&gateway, MASTER, "?user=nobody").await, [""; 0]);
    get(&gateway, MASTER, &format!("{path}/content?user=ann")).await.expect(200);
    get(&gateway, MASTER, &format!("{path}?user=bob")).await.refused_for_good(404);
    get(&gateway, &ann, &format!("{path}?user=ann")).await.expect(200);
    gateway.get(&path).await.refused(401);

    // Whose a new file is.
    let file = ("file", "x");
    let made = post(&gateway, MASTER, form(&[file, ("user", "bob")], "a")).await.expect(200);
    let of_bob = made.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(listed(&gateway, &bob, "").await, [of_bob]);
    let nobody = post(&gateway, MASTER, form(&[file, ("user", "nobody")], "a")).await;
    assert_eq!(nobody.refused_for_good(404)["detail"], "User 'nobody' not found");
    post(&gateway, MASTER, form(&[file], "a")).await.refused_for_good(400);
    let mismatch = post(&gateway, &bob, form(&[file, ("user", "ann")], "a")).await;
    assert_eq!(mismatch.refused_for_good(403)["error"]["code"], "user_mismatch");
    assert_eq!(blobs(&gateway), 2, "nothing of the refused ones is left");

    let lenient = json!({"user_id": "bob", "reject_user_mismatch": false});
    let lenient = gateway.manage(Method::POST, "/v1/keys", lenient).await;
    let lenient = lenient["key"].as_str().unwrap();
    post(&gateway, lenient, form(&[file, ("user", "ann")], "a")).await.expect(200);
    assert_eq!(listed(&gateway, lenient, "?user=ann").await.len(), 2, "bob's, whoever is named");
    get(&gateway, lenient, &format!("{path}?user=ann")).await.refused_for_good(404);

    gateway.patch("/v1/users/bob", json!({"blocked": true})).await;
    let refused = post(&gateway, &bob, form(&[file], "a")).await;
    assert_eq!(refused.refused_for_good(403)["detail"], "User 'bob' is blocked");
    let refused = post(&gateway, MASTER, form(&[file, ("user", "bob")], "a")).await;
    assert_eq!(refused.refused_for_good(403)["detail"], "User 'bob' is blocked");
    assert_eq!(listed(&gateway, &bob, "").await.len(), 2, "what a blocked user has can be seen");
    assert_eq!(blobs(&gateway), 3);
}

async fn what_is_no_upload_leaves_nothing(start: Builder) {
    let gateway = start.config("files_max_bytes: 1500000").await;
    let key = gateway.key("ann").await;
    let refused = async |body: Vec<u8>, status: u16, text: &str| {
        let answer = post(&gateway, &key, body).await;
        answer.refused_for_good(status);
        assert!(answer.text().contains(text), "{text} is not in {}", answer.text());
        assert_eq!(blobs(&gateway), 0, "{text}");
    };
    refused(form(&[("file", "")], "a"), 400, "Uploaded file is empty").await;
    let missing = r#"{"type":"missing","loc":["body","file"],"msg":"Field required","input":null}"#;
    refused(form(&[("purpose", "p")], ""), 422, missing).await;
    refused(Vec::new(), 422, missing).await;
    refused(form(&[("file", "x"), ("file", "y")], "a"), 400, "two fields 'file'").await;
    refused(form(&[("file", "x")], &"n".repeat(600)), 400, "name is longer than 512 bytes").await;
    let long = "p".repeat(9000);
    refused(form(&[("file", "x"), ("purpose", &long)], "a"), 400, "'purpose' is longer").await;
    refused(form(&[("file", "x"), ("purpose", "a\0b")], "a"), 422, "NUL").await;
    refused(form(&[("a", "x"); 70], "a"), 400, "64 fields at most").await;
    refused(
        b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf".to_vec(),
        400,
        "parsing",
    )
    .await;
    let head = format!("--b\r\nX: {}", "x".repeat(600_000));
    refused(head.into_bytes(), 400, "head of a part").await;
    for (field, text, fault) in [
        ("expires_after[seconds]", "60", "greater than or equal to 3600"),
        ("expires_after[seconds]", "2592001", "less than or equal to 2592000"),
        ("expires_after[seconds]", "soon", "valid integer"),
        ("expires_after[anchor]", "now", "'created_at'"),
    ] {
        refused(form(&[("file", "x"), (field, text)], "a"), 422, fault).await;
    }

    let too_large = "File exceeds maximum upload size of 1 MB";
    let by_one = form(&[("file", &"x".repeat(1_500_001))], "a");
    refused(by_one.clone(), 413, too_large).await;
    refused(form(&[("file", &"x".repeat(4_000_000))], "a"), 413, too_large).await;
    // Without a length it is noticed on the way.
    let pieces = by_one.chunks(100_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec()));
    let pieces: Vec<_> = pieces.collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    assert_eq!(message(&post(&gateway, &key, stream).await.expect(413)), too_large);
    post(&gateway, &key, form(&[("file", &"x".repeat(1_500_000))], "a")).await.expect(200);
    assert_eq!((blobs(&gateway), listed(&gateway, &key, "").await.len()), (1, 1));

    // Who it is comes before anything of the body.
    let mut raw = gateway.connect().await;
    raw.send(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n\
              Content-Length: 1000000\r\nAuthorization: Bearer gw-wrong\r\n\r\n",
    )
    .await;
    assert_eq!(raw.reply().await.status, 401);
    let json = gateway.post(&key, "/v1/files", "{}").await;
    assert_eq!(json.refused_for_good(422)["detail"][0]["loc"], json!(["body", "file"]));
}

async fn parts_of_a_file_can_be_asked_for(start: Builder) {
    let gateway = start.await;
    let key = gateway.key("ann").await;
    let path = format!("/v1/files/{}/content", upload(&gateway, &key, "0123456789").await);
    let ask =
        async |headers: &[(&str, &str)]| with(&gateway, &key, Method::GET, &path, headers).await;
    let whole = ask(&[]).await.expect(200);
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let etag = whole.header("etag").expect("a tag").to_owned();
    let digest = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
    assert_eq!(etag, format!("\"{digest}\""), "the bytes' own digest");
    for (range, bytes, named) in [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=5-500", "56789", "bytes 5-9/10"),
    ] {
        let part = ask(&[("range", range)]).await.expect(206);
        assert_eq!((part.text().as_str(), part.header("content-range")), (bytes, Some(named)));
        assert_eq!(part.header("content-length"), Some(bytes.len().to_string().as_str()));
        assert_eq!(part.header("etag"), Some(etag.as_str()));
    }
    for range in ["bytes=10-", "bytes=-0"] {
        let beyond = ask(&[("range", range)]).await;
        assert_eq!(beyond.refused_for_good(416)["error"]["code"], "range_not_satisfiable");
        assert_eq!(beyond.header("content-range"), Some("bytes */10"));
    }
    for range in ["bytes=0-1,4-5", "pages=1-2", "bytes=x"] {
        assert_eq!(ask(&[("range", range)]).await.expect(200).text(), "0123456789", "{range}");
    }
    let same = ask(&[("range", "bytes=0-0"), ("if-range", &etag)]).await.expect(206);
    assert_eq!(same.text(), "0");
    ask(&[("range", "bytes=0-0"), ("if-range", "\"other\"")]).await.expect(200);

    let known = ask(&[("if-none-match", &format!("\"x\", {etag}"))]).await.expect(304);
    assert_eq!((known.body.len(), known.header("etag")), (0, Some(etag.as_str())));
    ask(&[("if-none-match", "\"x\"")]).await.expect(200);
    let head = with(&gateway, &key, Method::HEAD, &path, &[]).await.expect(200);
    assert_eq!((head.body.len(), head.header("content-length")), (0, Some("10")));
    assert_eq!(head.header("etag"), Some(etag.as_str()));
    let unknown = path.replace("file-", "file-x");
    assert_eq!(with(&gateway, &key, Method::HEAD, &unknown, &[]).await.status, 404);
    let probe = gateway.send(Method::HEAD, &unknown, &[], "").await.expect(200);
    assert_eq!(
        probe.header("content-length"),
        Some("0"),
        "without a key it is a question for the route"
    );
}

async fn lists_come_in_pages(start: Builder) {
    let gateway = start.await;
    let key = gateway.key("ann").await;
    let mut ids = Vec::new();
    for at in 0..5 {
        ids.push(upload(&gateway, &key, &format!("file {at}")).await);
    }
    let oldest = ids.clone();
    ids.reverse();
    assert_eq!(listed(&gateway, &key, "").await, ids);
    assert_eq!(listed(&gateway, &key, "?order=asc").await, oldest);
    let page = get(&gateway, &key, "/v1/files?limit=2").await.expect(200).json();
    assert_eq!(page["has_more"], true);
    assert_eq!((&page["first_id"], &page["last_id"]), (&json!(ids[0]), &json!(ids[1])));
    assert_eq!(listed(&gateway, &key, &format!("?limit=2&after={}", ids[1])).await, ids[2..4]);
    // The place of a deleted file is still one.
    call(&gateway, &key, Method::DELETE, &format!("/v1/files/{}", ids[1])).await.expect(200);
    assert_eq!(listed(&gateway, &key, &format!("?after={}", ids[1])).await, ids[2..]);
    let other = gateway.key("bob").await;
    let foreign = get(&gateway, &other, &format!("/v1/files?after={}", ids[0])).await;
    let unknown = get(&gateway, &other, "/v1/files?after=file-x").await;
    assert_eq!(foreign.refused_for_good(400), unknown.refused_for_good(400));
    for query in ["limit=0", "limit=10001", "limit=x", "order=up", "user=%00"] {
        get(&gateway, &key, &format!("/v1/files?{query}")).await.refused_for_good(422);
    }
    assert_eq!(listed(&gateway, &key, "?purpose=none").await, [""; 0]);
    assert_eq!(listed(&gateway, &key, "?purpose=user_data").await.len(), 4);
}

async fn a_caller_who_leaves_leaves_nothing(start: Builder) {
    let gateway = start.config("request_body_timeout_s: 1").await;
    let key = gateway.key("ann").await;
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: {BOUNDARY}\r\nContent-Length: 10000000\r\n\r\n"
    );
    let part = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let begun = async || {
        let mut raw = gateway.connect().await;
        raw.send(&head).await;
        raw.send(part).await;
        raw.send(vec![b'x'; 300_000]).await;
        eventually("the upload to be under way", async || (blobs(&gateway) == 1).then_some(()))
            .await;
        raw
    };
    drop(begun().await);
    eventually("its bytes to go", async || (blobs(&gateway) == 0).then_some(())).await;

    // One who is silent is told, and cut.
    let mut raw = begun().await;
    let answer = raw.reply().await;
    assert_eq!(answer.status, 408, "{}", answer.text());
    assert!(answer.text().contains("request_body_timeout_s"), "{}", answer.text());
    eventually("its bytes to go", async || (blobs(&gateway) == 0).then_some(())).await;
    assert_eq!(listed(&gateway, &key, "").await, [""; 0]);
    assert!(gateway.log().contains("client_disconnected"), "{}", gateway.log());

    // A slow one is not: only silence counts.
    let mut raw = gateway.connect().await;
    let body = form(&[("file", "slow but steady")], "a");
    raw.send(head.replace("10000000", &body.len().to_string())).await;
    for piece in body.chunks(body.len().div_ceil(6)) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        raw.send(piece).await;
    }
    assert_eq!(raw.reply().await.status, 200);
}

async fn a_caller_who_asks_first_is_told_to_go_on(start: Builder) {
    let gateway = start.await;
    let key = gateway.key("ann").await;
    let body = form(&[("file", "hello")], "a");
    let mut raw = gateway.connect().await;
    raw.send(format!(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nExpect: 100-continue\r\n\
         Content-Type: {BOUNDARY}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ))
    .await;
    let interim = raw.until(b"\r\n\r\n").await;
    assert!(interim.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&interim));
    raw.send(&body).await;
    assert_eq!(raw.reply().await.status, 200);
}

async fn files_outlive_a_restart_and_not_their_time(start: Builder) {
    let mut gateway = start.config("files_retention_hours: 2").await;
    let key = gateway.key("ann").await;
    let kept = upload(&gateway, &key, "kept").await;
    let old = upload(&gateway, &key, "old").await;
    let life = async |seconds: &str| {
        let body = form(&[("file", "x"), ("expires_after[seconds]", seconds)], "a");
        let file = post(&gateway, &key, body).await.expect(200).json();
        file["expires_at"].as_i64().unwrap() - file["created_at"].as_i64().unwrap()
    };
    assert_eq!((life("3600").await, life("86400").await), (3600, 7200), "whichever is shorter");
    let deleted = upload(&gateway, &key, "deleted").await;
    gateway.sql(&format!(
        "UPDATE file_objects SET expires_at = '2020-01-01 00:00:00.000000' WHERE id = '{old}'; \
         UPDATE file_objects SET deleted_at = '2020-01-01 00:00:00.000000' WHERE id = '{deleted}'"
    ));
    for id in [&old, &deleted] {
        for end in ["", "/content"] {
            let gone = get(&gateway, &key, &format!("/v1/files/{id}{end}")).await;
            assert_eq!(gone.refused_for_good(404)["detail"], "File not found");
        }
        call(&gateway, &key, Method::DELETE, &format!("/v1/files/{id}")).await.refused(404);
    }
    assert_eq!(blobs(&gateway), 5);
    // What a process that died has left of an upload, and one of another process that lives.
    let uploads = gateway.folder().join("files/.uploads");
    for (name, age) in [("dead", 7200), ("alive", 0)] {
        let file = std::fs::File::create(uploads.join(name)).unwrap();
        let written = SystemTime::UNIX_EPOCH.elapsed().unwrap() - Duration::from_secs(age);
        file.set_modified(SystemTime::UNIX_EPOCH + written).unwrap();
    }
    gateway.kill9();
    gateway.restart().await;
    eventually("what is due to go", async || (blobs(&gateway) == 4).then_some(())).await;
    assert!(!uploads.join("dead").exists() && uploads.join("alive").exists());
    let content = get(&gateway, &key, &format!("/v1/files/{kept}/content")).await.expect(200);
    assert_eq!(content.text(), "kept");
    eventually("expired ones to leave the list", async || {
        (!listed(&gateway, &key, "").await.contains(&old)).then_some(())
    })
    .await;
    assert_eq!(listed(&gateway, &key, "").await.len(), 3);
    assert!(gateway.log().contains("expired and deleted files were removed"));
}

async fn files_of_the_reference_can_be_read(start: Builder) {
    let gateway = start.await;
    let key = gateway.key("ann").await;
    let id = "file-3f00000000000000000000000000abcd";
    let insert = |id: &str, place: &str| {
        gateway.sql(&format!(
            "INSERT INTO file_objects (id, user_id, filename, mime_type, bytes, purpose, storage_ref, created_at, \
             metadata) VALUES ('{id}', 'ann', 'old.txt', 'text/plain', 3, 'user_data', '{place}', \
             '2026-01-01 00:00:00.000000', '{{}}')"
        ));
    };
    insert(id, &format!("3f/{id}"));
    let folder = gateway.folder().join("files/3f");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(id), "old").unwrap();
    std::fs::write(gateway.folder().join("key"), "key").unwrap();
    let path = format!("/v1/files/{id}/content");
    let content = get(&gateway, &key, &path).await.expect(200);
    assert_eq!((content.text().as_str(), content.header("etag")), ("old", None));
    let part = with(&gateway, &key, Method::GET, &path, &[("range", "bytes=1-1")]).await;
    assert_eq!(part.expect(206).text(), "l");

    // Whatever a row says, nothing outside of the folder is read, and what is lost is not another's fault.
    for (id, place) in [("file-a", "../key"), ("file-b", "/etc/hostname"), ("file-c", "3f/lost")] {
        insert(id, place);
        let lost = get(&gateway, &key, &format!("/v1/files/{id}/content")).await;
        assert_eq!(lost.refused(500)["detail"], "Failed to read file", "{place}");
    }
    call(&gateway, &key, Method::DELETE, "/v1/files/file-a").await.expect(200);
    assert!(gateway.folder().join("key").exists());
    call(&gateway, &key, Method::DELETE, &format!("/v1/files/{id}")).await.expect(200);
    assert!(!folder.join(id).exists());
}

async fn uploads_can_be_switched_off(start: Builder) {
    let gateway = start.config("files_enabled: false").await;
    let key = gateway.key("ann").await;
    for (method, path) in [
        (Method::POST, "/v1/files"),
        (Method::GET, "/v1/files"),
        (Method::GET, "/v1/files/file-1"),
        (Method::DELETE, "/v1/files/file-1"),
        (Method::GET, "/v1/files/file-1/content"),
    ] {
        let answer = call(&gateway, &key, method.clone(), path).await;
        assert_eq!(answer.refused_for_good(404)["detail"], "File uploads are disabled", "{method}");
        gateway.send(method, path, &[], "").await.refused(401);
    }
}

on_both_databases!(
    a_file_comes_in_and_goes_out_as_it_was,
    the_official_sdk_works_with_files,
    a_file_is_its_owners_alone,
    what_is_no_upload_leaves_nothing,
    parts_of_a_file_can_be_asked_for,
    lists_come_in_pages,
    a_caller_who_leaves_leaves_nothing,
    a_caller_who_asks_first_is_told_to_go_on,
    files_outlive_a_restart_and_not_their_time,
    files_of_the_reference_can_be_read,
    uploads_can_be_switched_off,
);
