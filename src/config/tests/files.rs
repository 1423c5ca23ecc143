//! `files_*`: what combinations mean, and which are mistakes.

use std::time::Duration;

use super::{bad, good};
use crate::config::FilesBackend;

const BUCKET: &str = "files_backend: s3\nfiles_s3_bucket: otari-files\n";

#[test]
fn files_are_on_and_in_a_folder_unless_somebody_says_otherwise() {
    let files = good("{}", &[]).files.unwrap();
    assert_eq!(files.backend.label(), "folder ./otari-files");
    assert_eq!((files.max_bytes, files.retention), (536_870_912, None));
    let yaml = "files_local_dir: /data\nfiles_max_bytes: 1\nfiles_retention_hours: 3";
    let files = good(yaml, &[]).files.unwrap();
    assert_eq!(files.backend.label(), "folder /data");
    assert_eq!((files.max_bytes, files.retention), (1, Some(Duration::from_secs(10_800))));
    assert_eq!(good("files_enabled: false", &[]).files, None);
}

#[test]
fn a_bucket_has_a_name_and_perhaps_an_address_and_keys() {
    let FilesBackend::S3(s3) = good(BUCKET, &[]).files.unwrap().backend else {
        panic!("no bucket")
    };
    assert_eq!(
        (s3.bucket.as_str(), s3.endpoint, s3.region, s3.keys),
        ("otari-files", None, None, None)
    );
    let yaml =
        format!("{BUCKET}files_s3_endpoint_url: http://127.0.0.1:9000/\nfiles_s3_region: eu-1");
    let env =
        [("OTARI_FILES_S3_ACCESS_KEY_ID", "a"), ("OTARI_FILES_S3_SECRET_ACCESS_KEY", "hunter2")];
    let config = good(&yaml, &env);
    assert_eq!(config.warnings, [""; 0], "on this machine it is no risk");
    let files = config.files.unwrap();
    assert_eq!(files.backend.label(), "bucket otari-files at http://127.0.0.1:9000");
    assert!(!format!("{files:?}").contains("hunter2"));
    let FilesBackend::S3(s3) = files.backend else { panic!("no bucket") };
    let (id, secret) = s3.keys.unwrap();
    assert_eq!((id.expose(), secret.expose()), ("a", "hunter2"));
    let exposed = good(&format!("{BUCKET}files_s3_endpoint_url: http://minio:9000"), &[]);
    assert!(exposed.warnings[0].contains("in clear"), "{:?}", exposed.warnings);
}

#[test]
fn what_does_not_fit_together_is_said_with_what_to_do() {
    let bucket = |more: &str| format!("{BUCKET}{more}");
    for (yaml, words) in [
        ("files_backend: s3".to_owned(), "s3 needs a bucket. Set files_s3_bucket."),
        (
            "files_backend: gcs".to_owned(),
            "Unsupported files_backend: 'gcs' (supported: 'local', 's3')",
        ),
        (
            "files_s3_bucket: abc".to_owned(),
            "has no effect with files_backend: local. Set files_backend: s3",
        ),
        ("files_backend: s3\nfiles_s3_bucket: s3://a".to_owned(), "Write the name alone"),
        (
            bucket("files_s3_access_key_id: a"),
            "is of no use without files_s3_secret_access_key. Set both",
        ),
        (
            bucket("files_s3_secret_access_key: hunter2"),
            "is of no use without files_s3_access_key_id",
        ),
        (
            bucket("files_s3_endpoint_url: minio:9000"),
            "must be an absolute http:// or https:// URL",
        ),
        (bucket("files_s3_endpoint_url: https://h/b"), "files_s3_bucket"),
        (
            bucket("files_s3_endpoint_url: https://a:hunter2@h"),
            "must not carry a user name or a password",
        ),
        (bucket("files_s3_region: eu central"), "not a region"),
        ("files_max_bytes: 0".to_owned(), "expected a whole number from 1"),
        ("files_retention_hours: 0".to_owned(), "expected a whole number from 1"),
    ] {
        let problems = bad(&yaml, &[]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(words), "{words}: {problems:?}");
        assert!(!problems[0].contains("hunter2"), "{problems:?}");
    }
}
