//! Files in a bucket: a scripted server that speaks as much of S3 as the gateway uses, and looks at every signature.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{blobs, call, form, get, listed, post, upload, with};
use crate::support::gateway::{Builder, Gateway};
use crate::support::provider::{Provider, Reply, Request};
use crate::support::{eventually, on_both_databases};

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "secret-of-the-bucket";

/// What is in the bucket.
#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Vec<u8>>,
    /// Uploads in parts, by their id.
    uploads: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
    begun: usize,
    /// From this part on, parts are refused.
    refuse_part: Option<usize>,
    refuse_everything: bool,
    faults: Vec<String>,
}

struct Bucket {
    server: Provider,
    kept: Arc<Mutex<Kept>>,
}

impl Bucket {
    fn start() -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = kept.clone();
        let server = Provider::start(move |request| shared.lock().unwrap().answer(request));
        Self { server, kept }
    }

    fn settings(&self) -> String {
        format!(
            "files_backend: s3\nfiles_s3_bucket: otari-files\nfiles_s3_region: eu-test-1\n\
             files_s3_endpoint_url: http://{}",
            self.server.addr()
        )
    }

    fn before(&self, start: Builder) -> Builder {
        let keys = format!("files_s3_access_key_id: {ID}\nfiles_s3_secret_access_key: {SECRET}");
        start.config(&self.settings()).config(&keys)
    }

    /// Objects, and uploads in parts that are not over.
    fn counts(&self) -> (usize, usize) {
        let kept = self.kept.lock().unwrap();
        assert!(kept.faults.is_empty(), "{:?}", kept.faults);
        (kept.objects.len(), kept.uploads.len())
    }

    fn set(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.kept.lock().unwrap());
    }
}

impl Kept {
    fn answer(&mut self, request: &Request) -> Reply {
        if let Some(fault) = unsigned(request) {
            self.faults.push(fault);
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let Some(key) = path.strip_prefix("/otari-files/").map(str::to_owned) else {
            self.faults.push(format!("not in the path: {path}"));
            return error(404, "NoSuchBucket");
        };
        if self.refuse_everything {
            return error(403, "AccessDenied");
        }
        let parameter =
            |name: &str| query.split('&').find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
        let upload = parameter("uploadId").map(str::to_owned);
        match (request.method.as_str(), upload) {
            ("POST", None) => {
                self.begun += 1;
                let id = format!("upload-{}", self.begun);
                self.uploads.insert(id.clone(), BTreeMap::new());
                xml(&format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            ("PUT", Some(id)) => {
                let number = parameter("partNumber").and_then(|n| n.parse().ok()).unwrap_or(0);
                if self.refuse_part.is_some_and(|from| number >= from) {
                    return error(403, "AccessDenied");
                }
                let Some(parts) = self.uploads.get_mut(&id) else {
                    return error(404, "NoSuchUpload");
                };
                parts.insert(number, request.body.clone());
                Reply::bytes(200, "text/plain", "").header("ETag", &format!("\"{number}\""))
            }
            ("POST", Some(id)) => {
                let Some(parts) = self.uploads.remove(&id) else {
                    return error(404, "NoSuchUpload");
                };
                let lengths: Vec<usize> = parts.values().map(Vec::len).collect();
                let (_, full) = lengths.split_last().expect("parts");
                if full.iter().any(|length| *length != full[0] || *length < 5 << 20) {
                    self.faults.push(format!("parts of these lengths: {lengths:?}"));
                }
                self.objects.insert(key, parts.into_values().flatten().collect());
                xml(
                    "<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>",
                )
            }
            ("DELETE", Some(id)) => {
                self.uploads.remove(&id);
                Reply::bytes(204, "text/plain", "")
            }
            ("PUT", None) => {
                self.objects.insert(key, request.body.clone());
                Reply::bytes(200, "text/plain", "").header("ETag", "\"one\"")
            }
            ("GET", None) => self.objects.get(&key).map_or_else(
                || error(404, "NoSuchKey"),
                |object| object_of(object, request.header("range")),
            ),
            ("DELETE", None) => {
                self.objects.remove(&key);
                Reply::bytes(204, "text/plain", "")
            }
            (method, _) => {
                self.faults.push(format!("{method} {}", request.path));
                error(405, "MethodNotAllowed")
            }
        }
    }
}

/// What is wrong with the signature, as far as can be seen without making it anew.
fn unsigned(request: &Request) -> Option<String> {
    let header = |name| request.header(name).unwrap_or_default();
    let authorization = header("authorization");
    let day = header("x-amz-date").get(..8).unwrap_or_default();
    let scope = format!("AWS4-HMAC-SHA256 Credential={ID}/{day}/eu-test-1/s3/aws4_request, ");
    let digest: String = Sha256::digest(&request.body).iter().map(|b| format!("{b:02x}")).collect();
    let signs = |name: &str| authorization.contains(name);
    let all = ["host", "x-amz-content-sha256", "x-amz-date"].iter().all(|name| signs(name));
    let is_good = authorization.starts_with(&scope)
        && all
        && authorization.contains("Signature=")
        && header("x-amz-content-sha256") == digest
        && header("host").contains(':');
    (!is_good).then(|| format!("{} {}: {:?}", request.method, request.path, request.headers))
}

fn object_of(object: &[u8], range: Option<&str>) -> Reply {
    let date = |reply: Reply| {
        reply.header("ETag", "\"e\"").header("Last-Modified", "Sun, 22 Nov 2026 10:00:00 GMT")
    };
    let kind = "application/octet-stream";
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    else {
        return date(Reply::bytes(200, kind, object));
    };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let named = format!("bytes {first}-{last}/{}", object.len());
    date(Reply::bytes(206, kind, &object[first..=last])).header("Content-Range", &named)
}

fn xml(body: &str) -> Reply {
    Reply::bytes(200, "application/xml", body)
}

fn error(status: u16, code: &str) -> Reply {
    let text = format!("<Error><Code>{code}</Code><Message>{code} of {SECRET}</Message></Error>");
    Reply::bytes(status, "application/xml", text)
}

async fn files_lie_in_a_bucket(start: Builder) {
    let bucket = Bucket::start();
    let mut gateway = bucket.before(start).await;
    let key = gateway.key("ann").await;
    let small = upload(&gateway, &key, "0123456789").await;
    let large: String = (0..2_500_000).map(|at| format!("{:07}\n", at % 9_999_999)).collect();
    let large_id = upload(&gateway, &key, &large).await;
    assert_eq!(bucket.counts(), (2, 0));
    {
        let kept = bucket.kept.lock().unwrap();
        assert_eq!(kept.objects[&format!("{}/{small}", &small[5..7])], b"0123456789");
        assert_eq!(kept.begun, 1, "one of them in parts");
    }
    assert_eq!(blobs(&gateway), 0, "nothing lies in the folder");
    // Another process, with nothing but the database and the bucket.
    gateway.terminate().await;
    gateway.restart().await;
    let content = async |id: &str, headers: &[(&str, &str)]| {
        with(&gateway, &key, Method::GET, &format!("/v1/files/{id}/content"), headers).await
    };
    assert!(content(&large_id, &[]).await.expect(200).text() == large);
    assert_eq!(content(&small, &[]).await.expect(200).text(), "0123456789");
    let part = content(&large_id, &[("range", "bytes=8000000-8000007")]).await.expect(206);
    assert_eq!(part.text(), "1000000\n");
    assert_eq!(content(&small, &[("range", "bytes=-3")]).await.expect(206).text(), "789");
    for id in [&small, &large_id] {
        call(&gateway, &key, Method::DELETE, &format!("/v1/files/{id}")).await.expect(200);
    }
    assert_eq!(bucket.counts(), (0, 0));
    assert!(!gateway.log().contains(SECRET) && !gateway.log().contains(ID), "{}", gateway.log());
}

async fn an_upload_that_fails_is_aborted_in_the_bucket(start: Builder) {
    let bucket = Bucket::start();
    let mut gateway = bucket.before(start).await;
    let key = gateway.key("ann").await;
    let large = form(&[("file", &"x".repeat(20 << 20))], "a");
    bucket.set(|kept| kept.refuse_part = Some(2));
    let refused = post(&gateway, &key, large.clone()).await;
    assert_eq!(refused.refused(500)["detail"], "Failed to store file");
    assert_eq!(bucket.counts(), (0, 0), "aborted");
    eventually("the log to say why", async || gateway.log().contains("AccessDenied").then_some(()))
        .await;

    // A caller who leaves in the middle.
    bucket.set(|kept| kept.refuse_part = None);
    let mut raw = gateway.connect().await;
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: {}\r\nContent-Length: {}\r\n\r\n",
        super::BOUNDARY,
        large.len()
    );
    raw.send(head).await;
    raw.send(&large[..18 << 20]).await;
    eventually("parts to arrive", async || (bucket.counts().1 == 1).then_some(())).await;
    drop(raw);
    eventually("the upload to be aborted", async || (bucket.counts().1 == 0).then_some(())).await;
    // A refusal behind the bytes.
    let nobody = form(&[("file", &"x".repeat(9 << 20)), ("user", "bob"), ("purpose", "\0")], "a");
    post(&gateway, &key, nobody).await.refused_for_good(422);
    assert_eq!((bucket.counts(), listed(&gateway, &key, "").await.len()), ((0, 0), 0));

    // What cannot be removed now is removed later.
    let id = upload(&gateway, &key, "hello").await;
    bucket.set(|kept| kept.refuse_everything = true);
    get(&gateway, &key, &format!("/v1/files/{id}/content")).await.refused(500);
    call(&gateway, &key, Method::DELETE, &format!("/v1/files/{id}")).await.expect(200);
    assert_eq!(bucket.counts(), (1, 0));
    get(&gateway, &key, &format!("/v1/files/{id}")).await.refused_for_good(404);
    bucket.set(|kept| kept.refuse_everything = false);
    gateway.sql("UPDATE file_objects SET deleted_at = '2020-01-01 00:00:00.000000'");
    gateway.terminate().await;
    gateway.restart().await;
    eventually("the bytes to go", async || (bucket.counts() == (0, 0)).then_some(())).await;
    assert!(!gateway.log().contains(SECRET), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_the_machine_sign_when_there_are_no_others() {
    let bucket = Bucket::start();
    let start = Gateway::start().config(&bucket.settings());
    let gateway = start.env("AWS_ACCESS_KEY_ID", ID).env("AWS_SECRET_ACCESS_KEY", SECRET).await;
    let key = gateway.key("ann").await;
    let id = upload(&gateway, &key, "hello").await;
    assert_eq!(bucket.counts(), (1, 0));
    let file = get(&gateway, &key, &format!("/v1/files/{id}")).await.expect(200).json();
    assert_eq!(file["bytes"], json!(5));
}

on_both_databases!(files_lie_in_a_bucket, an_upload_that_fails_is_aborted_in_the_bucket);
