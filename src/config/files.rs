//! `files_*`: whether callers may upload files, where their bytes are kept and for how long.

use std::path::PathBuf;
use std::time::Duration;

use super::layers::Fields;
use super::problem::Report;
use super::{Files, FilesBackend, S3, Secret, url};

/// The keys that only one of the backends reads.
const S3_KEYS: [&str; 5] = [
    "files_s3_bucket",
    "files_s3_endpoint_url",
    "files_s3_region",
    "files_s3_access_key_id",
    "files_s3_secret_access_key",
];

/// A hundred years, in hours: what is meant to be kept longer is kept for ever.
const LONGEST_H: u64 = 876_000;

/// `None`: uploads are off. Everything is checked all the same.
pub(super) fn read(fields: &Fields, report: &mut Report) -> Option<Files> {
    let enabled = fields.flag("files_enabled", true, report);
    // The reference's: 512 MB, as at OpenAI.
    let max_bytes = fields.whole("files_max_bytes", 1..=1 << 40, 536_870_912, report);
    let retention = fields
        .some_whole("files_retention_hours", 1..=LONGEST_H, report)
        .map(|hours| Duration::from_secs(hours * 3600));
    let backend = backend(fields, report);
    enabled.then_some(Files { backend, max_bytes, retention })
}

fn backend(fields: &Fields, report: &mut Report) -> FilesBackend {
    let dir = fields.text("files_local_dir", report).map(str::trim).filter(|dir| !dir.is_empty());
    let local = FilesBackend::Local { dir: PathBuf::from(dir.unwrap_or("./otari-files")) };
    let written = fields.text("files_backend", report).unwrap_or("local").to_owned();
    match written.trim().to_lowercase().as_str() {
        "s3" => FilesBackend::S3(Box::new(s3(fields, report))),
        "local" | "" => {
            let vain = S3_KEYS.iter().filter_map(|key| fields.get(key));
            if let Some(node) = vain.into_iter().find(|node| node.is_set()) {
                let place = node.key_place.clone();
                let text = format!(
                    "{}: has no effect with files_backend: local. Set files_backend: s3, or remove it.",
                    node.path
                );
                report.problem(&place, text);
            }
            local
        }
        _ => {
            if let Some(node) = fields.get("files_backend") {
                let got = if node.expanded { "…" } else { &written };
                let text = format!("Unsupported files_backend: '{got}' (supported: 'local', 's3')");
                report.problem(&node.place, text);
            }
            local
        }
    }
}

fn s3(fields: &Fields, report: &mut Report) -> S3 {
    let bucket = fields.words("files_s3_bucket", report).unwrap_or_default();
    match fields.get("files_s3_bucket").filter(|_| !is_bucket(&bucket)) {
        Some(node) if !bucket.is_empty() => {
            node.wrong(report, "not the name of a bucket. Write the name alone, without s3:// and without slashes.");
        }
        _ if bucket.is_empty() => {
            if let Some(node) = fields.get("files_backend") {
                node.wrong(report, "s3 needs a bucket. Set files_s3_bucket.");
            }
        }
        _ => {}
    }
    let endpoint = fields.words("files_s3_endpoint_url", report);
    if let (Some(node), Some(endpoint)) = (fields.get("files_s3_endpoint_url"), &endpoint) {
        let instead = "Set files_s3_access_key_id and files_s3_secret_access_key.";
        match url::absolute(endpoint, instead) {
            Err(wrong) => node.wrong(report, &wrong),
            Ok(uri) if uri.path() != "/" || uri.query().is_some() => {
                node.wrong(report, "must be scheme, host and port alone: the bucket has a key of its own, files_s3_bucket.");
            }
            Ok(uri) if url::is_exposed(&uri) => {
                node.warn(report, "files travel over it in clear. Use https.");
            }
            Ok(_) => {}
        }
    }
    let id = fields.words("files_s3_access_key_id", report).map(Secret::new);
    let secret = fields.words("files_s3_secret_access_key", report).map(Secret::new);
    let half = match (&id, &secret) {
        (Some(_), None) => Some(("files_s3_access_key_id", "files_s3_secret_access_key")),
        (None, Some(_)) => Some(("files_s3_secret_access_key", "files_s3_access_key_id")),
        _ => None,
    };
    if let Some((there, missing)) = half
        && let Some(node) = fields.get(there)
    {
        let text = format!(
            "is of no use without {missing}. Set both, or neither: then the AWS credentials of this machine are used."
        );
        node.wrong(report, &text);
    }
    let region = fields.words("files_s3_region", report);
    let region_is_odd =
        |region: &String| !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if let (Some(node), Some(true)) =
        (fields.get("files_s3_region"), region.as_ref().map(region_is_odd))
    {
        node.wrong(report, "not a region. Write its name as in eu-central-1.");
    }
    S3 {
        bucket,
        endpoint: endpoint.map(|url| url.trim_end_matches('/').to_owned()),
        region,
        keys: id.zip(secret),
    }
}

/// Letters, digits, dots, dashes and, in old buckets and other makers', underscores.
fn is_bucket(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (3..=255).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}
