//! Facts about the rows of uploaded files.

use jiff::Timestamp;
use serde_json::{Map, json};

use super::rows::{at, user};
use crate::store::{FileFilter, FileRow, FilesDue, Store, StoreError};

fn file(id: &str, user_id: &str, created: Timestamp) -> FileRow {
    FileRow {
        id: id.into(),
        user_id: user_id.into(),
        filename: "ü \"x\".txt".into(),
        mime_type: "text/plain".into(),
        bytes: 5_000_000_000,
        purpose: "user_data".into(),
        storage_ref: format!("ab/{id}"),
        created_at: created,
        expires_at: None,
        deleted_at: Some(created),
        metadata: Map::from_iter([("a".to_owned(), json!(1))]),
        sha256: Some("00ff".into()),
    }
}

async fn upload(store: &dyn Store, file: &FileRow) {
    assert!(store.file_begin(file).await.unwrap());
    assert!(store.file_finish(&file.id).await.unwrap());
}

fn of(user_id: &str) -> FileFilter {
    FileFilter {
        user_id: user_id.into(),
        purpose: None,
        after: None,
        oldest_first: false,
        limit: 100,
    }
}

fn due(now: i64, at_most: i64) -> FilesDue {
    FilesDue { now: at(now), dropped_before: at(now - 100), claim_until: at(now + 50), at_most }
}

async fn names(store: &dyn Store, filter: &FileFilter) -> Vec<String> {
    store.file_list(filter).await.unwrap().into_iter().map(|file| file.id).collect()
}

async fn claimed(store: &dyn Store, due: FilesDue) -> Vec<String> {
    let mut ids: Vec<String> =
        store.file_claim(due).await.unwrap().into_iter().map(|file| file.id).collect();
    ids.sort();
    ids
}

pub(super) async fn a_file_is_seen_once_its_bytes_are_there(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    let begun = FileRow { expires_at: Some(at(9)), ..file("file-1", "u1", at(1)) };
    assert!(store.file_begin(&begun).await.unwrap());
    assert_eq!(store.file_find("file-1").await.unwrap(), Some(begun.clone()));
    assert_eq!(names(store, &of("u1")).await, [""; 0], "its bytes may not be there");
    assert!(matches!(store.file_begin(&begun).await, Err(StoreError::Conflict(_))));

    assert!(store.file_finish("file-1").await.unwrap());
    let whole = FileRow { deleted_at: None, ..begun };
    assert_eq!(store.file_find("file-1").await.unwrap(), Some(whole.clone()));
    assert_eq!(store.file_list(&of("u1")).await.unwrap(), [whole]);
    assert_eq!(store.file_find("file-2").await.unwrap(), None);

    assert!(store.file_delete("file-1", at(2)).await.unwrap());
    assert!(!store.file_delete("file-1", at(3)).await.unwrap(), "once");
    assert!(!store.file_delete("file-2", at(3)).await.unwrap());
    assert_eq!(store.file_find("file-1").await.unwrap().unwrap().deleted_at, Some(at(2)));
    assert_eq!(names(store, &of("u1")).await, [""; 0]);
}

pub(super) async fn a_file_of_an_unknown_user_is_not_begun(store: &dyn Store) {
    assert!(!store.file_begin(&file("file-1", "nobody", at(1))).await.unwrap());
    store.user_create(&user("gone")).await.unwrap();
    store.user_delete("gone", at(1)).await.unwrap();
    assert!(!store.file_begin(&file("file-1", "gone", at(1))).await.unwrap());
    assert_eq!(store.file_find("file-1").await.unwrap(), None);
}

pub(super) async fn files_are_listed_by_owner_purpose_and_page(store: &dyn Store) {
    for name in ["u1", "u2"] {
        store.user_create(&user(name)).await.unwrap();
    }
    // Two of one instant: their ids say which comes first.
    for (id, created) in [("file-1", 1), ("file-3", 2), ("file-2", 2), ("file-4", 3)] {
        upload(store, &file(id, "u1", at(created))).await;
    }
    upload(store, &FileRow { purpose: "batch".into(), ..file("file-5", "u1", at(4)) }).await;
    upload(store, &file("file-6", "u2", at(5))).await;
    let newest = ["file-5", "file-4", "file-3", "file-2", "file-1"];
    assert_eq!(names(store, &of("u1")).await, newest);
    assert_eq!(names(store, &of("u2")).await, ["file-6"]);
    assert_eq!(names(store, &of("u3")).await, [""; 0]);
    let batch = FileFilter { purpose: Some("batch".into()), ..of("u1") };
    assert_eq!(names(store, &batch).await, ["file-5"]);
    let page = FileFilter { after: Some((at(2), "file-3".into())), limit: 1, ..of("u1") };
    assert_eq!(names(store, &page).await, ["file-2"]);
    let oldest = FileFilter { oldest_first: true, limit: 2, ..of("u1") };
    assert_eq!(names(store, &oldest).await, ["file-1", "file-2"]);
    let rest = FileFilter { after: Some((at(2), "file-2".into())), limit: 10, ..oldest };
    assert_eq!(names(store, &rest).await, ["file-3", "file-4", "file-5"]);
}

pub(super) async fn what_is_dropped_or_expired_is_claimed_once(store: &dyn Store) {
    store.user_create(&user("u1")).await.unwrap();
    upload(store, &file("file-kept", "u1", at(1))).await;
    upload(store, &FileRow { expires_at: Some(at(500)), ..file("file-old", "u1", at(2)) }).await;
    upload(store, &FileRow { expires_at: Some(at(5_000)), ..file("file-young", "u1", at(3)) })
        .await;
    upload(store, &file("file-deleted", "u1", at(4))).await;
    store.file_delete("file-deleted", at(800)).await.unwrap();
    assert!(store.file_begin(&file("file-begun", "u1", at(950))).await.unwrap());

    assert_eq!(claimed(store, due(1_000, 10)).await, ["file-deleted", "file-old"]);
    assert_eq!(claimed(store, due(1_001, 10)).await, [""; 0], "somebody is at them");
    assert_eq!(claimed(store, due(1_051, 1)).await.len(), 1, "the claim has ended");

    store.file_reclaimed("file-old", at(1_060)).await.unwrap();
    assert_eq!(store.file_find("file-old").await.unwrap().unwrap().deleted_at, Some(at(1_060)));
    store.file_put_off("file-deleted", at(3_000)).await.unwrap();
    assert_eq!(claimed(store, due(2_000, 10)).await, ["file-begun"], "its upload never ended");
    assert!(!store.file_finish("file-begun").await.unwrap(), "it is being removed");
    store.file_reclaimed("file-begun", at(2_001)).await.unwrap();
    assert!(!store.file_finish("file-begun").await.unwrap(), "it is gone");
    assert_eq!(claimed(store, due(3_001, 10)).await, ["file-deleted"]);
    assert_eq!(store.file_find("file-deleted").await.unwrap().unwrap().deleted_at, Some(at(800)));
    let mut left = names(store, &of("u1")).await;
    left.sort();
    assert_eq!(left, ["file-kept", "file-young"]);
}
