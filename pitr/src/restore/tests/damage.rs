//! Every object of a backup, changed in every way: the restore fails with the right class, and nothing there can start.

use bytes::Bytes;
use futures::TryStreamExt;

use super::*;
use crate::restore::testing::{BackupWriter, lineage_in, memory};
use crate::storage::{KeyPrefix, ObjectKey, ObjectStoreExt as _, PutMode};

async fn backup() -> (LineageStore, BackupManifest) {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    writer.directory("base", 0o700);
    for number in 0..4_u8 {
        let content: Vec<u8> = (0..60_000_u32).map(|n| (n * 7 + n / 251) as u8 ^ number).collect();
        writer.file(&format!("base/{number}"), &content);
        if number == 1 {
            writer.close_map().await;
            writer.next_pack();
        }
    }
    let manifest = writer.finish().await;
    (lineage, manifest)
}

async fn objects(lineage: &LineageStore) -> Vec<(ObjectKey, Bytes)> {
    let root = KeyPrefix::root();
    let metas: Vec<_> = lineage.store().list(&root).try_collect().await.unwrap();
    let mut objects = Vec::new();
    for meta in metas {
        let bytes = lineage.store().get_bytes(&meta.key, u64::MAX).await.unwrap();
        // The manifest and what is above it were read before there was a plan.
        if !meta.key.as_str().ends_with(".json") {
            objects.push((meta.key, bytes));
        }
    }
    objects
}

async fn replace(lineage: &LineageStore, key: &ObjectKey, bytes: Option<Bytes>) {
    match bytes {
        Some(bytes) => drop(lineage.store().put_bytes(key, bytes, PutMode::Overwrite).await.unwrap()),
        None => lineage.store().delete(std::slice::from_ref(key)).await.unwrap(),
    }
}

async fn assert_refused(lineage: &LineageStore, manifest: &BackupManifest, what: &str) {
    let (_scratch, target) = target();
    let error = restore(lineage, manifest, &target).await.expect_err(what);
    assert_eq!(error.class(), FailureClass::Corrupt, "{what}: {error:?}");
    assert!(!target.join("global/pg_control").exists(), "{what}: the directory could start");
}

#[tokio::test]
async fn missing_and_truncated_objects_are_refused() {
    let (lineage, manifest) = backup().await;
    for (key, bytes) in objects(&lineage).await {
        replace(&lineage, &key, None).await;
        assert_refused(&lineage, &manifest, &format!("{key} deleted")).await;
        // Only the end of a pack may be missing unnoticed: a restore does not read its table.
        let cuts =
            if key.as_str().contains("packs") { vec![0, 1, bytes.len() / 2] } else { vec![0, 1, bytes.len() - 1] };
        for length in cuts {
            replace(&lineage, &key, Some(bytes.slice(..length))).await;
            assert_refused(&lineage, &manifest, &format!("{key} cut to {length} bytes")).await;
        }
        replace(&lineage, &key, Some(bytes)).await;
    }
    let (_scratch, target) = target();
    restore(&lineage, &manifest, &target).await.expect("the objects are as they were");
}

#[tokio::test]
async fn swapped_objects_are_refused() {
    let (lineage, manifest) = backup().await;
    let objects = objects(&lineage).await;
    for (one, bytes) in &objects {
        for (other, other_bytes) in objects.iter().filter(|(other, _)| other > one) {
            replace(&lineage, one, Some(other_bytes.clone())).await;
            replace(&lineage, other, Some(bytes.clone())).await;
            assert_refused(&lineage, &manifest, &format!("{one} and {other} swapped")).await;
            replace(&lineage, one, Some(bytes.clone())).await;
            replace(&lineage, other, Some(other_bytes.clone())).await;
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_never_becomes_wrong_data() {
    let (lineage, manifest) = backup().await;
    let (_scratch, good) = target();
    restore(&lineage, &manifest, &good).await.unwrap();
    let files = |directory: &Path| {
        let mut found = crate::restore::testing::snapshot(directory);
        found.retain(|path, _| path.starts_with("base") || path.ends_with("PG_VERSION"));
        found
    };
    let expected = files(&good);
    for (key, bytes) in objects(&lineage).await {
        let step = (bytes.len() / 40).max(1);
        for position in (0..bytes.len()).step_by(step) {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= 1 << (position % 8);
            replace(&lineage, &key, Some(damaged.into())).await;
            let (_scratch, target) = target();
            match restore(&lineage, &manifest, &target).await {
                // A bit that nobody reads, or that means nothing: then the data is right.
                Ok(_) => assert_eq!(files(&target), expected, "{key}, byte {position}"),
                Err(error) => {
                    assert_eq!(error.class(), FailureClass::Corrupt, "{key}, byte {position}: {error:?}");
                    assert!(!target.join("global/pg_control").exists());
                }
            }
        }
        replace(&lineage, &key, Some(bytes)).await;
    }
}

#[tokio::test]
async fn a_frame_of_the_same_shape_is_not_taken_for_another() {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    let (one, other) = (writer.frame(&[&[1; 8192]]), writer.frame(&[&[2; 8192]]));
    assert_eq!(one.stored_bytes, other.stored_bytes);
    // What a confused writer would leave: the hash of one frame with the place of another.
    let confused = crate::restore::testing::WrittenFrame { offset: other.offset, ..one };
    writer.file_of(crate::restore::testing::path("confused"), 0o600, vec![confused.extent(0, 8192)]);
    let manifest = writer.finish().await;
    let (_scratch, target) = target();
    let error = restore(&lineage, &manifest, &target).await.unwrap_err();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("packs/20261122T063100Z/00000000") && text.contains("\"confused\""), "{text}");
    assert!(text.contains(&format!("frame at byte {}", other.offset)), "{text}");
}

#[tokio::test]
async fn files_that_are_not_those_of_the_manifest_are_refused() {
    for (name, content) in [
        ("backup_label", crate::restore::testing::BACKUP_LABEL.replace("0/3000028 (", "0/4000028 (")),
        ("PG_VERSION", "16\n".to_owned()),
        ("backup_label", "not a label\n".to_owned()),
    ] {
        let lineage = lineage_in(memory()).await;
        let mut writer = BackupWriter::new(lineage.clone()).await;
        writer.needed_files();
        writer.replace_file(name, content.as_bytes());
        let manifest = writer.finish().await;
        let (_scratch, target) = target();
        let error = restore(&lineage, &manifest, &target).await.unwrap_err();
        assert!(
            matches!(&error, Error::Incomplete { source, .. } if matches!(**source, Error::Unusable { .. })),
            "{error:?}"
        );
        assert!(!target.join("global/pg_control").exists());
    }
}

#[tokio::test]
async fn a_backup_without_what_every_backup_has_is_refused() {
    for name in ["backup_label", "PG_VERSION", "global/pg_control"] {
        let lineage = lineage_in(memory()).await;
        let mut writer = BackupWriter::new(lineage.clone()).await;
        writer.needed_files();
        writer.drop_file(name);
        let manifest = writer.finish().await;
        let (_scratch, target) = target();
        assert!(restore(&lineage, &manifest, &target).await.is_err(), "{name}");
        assert!(!target.join("global/pg_control").exists(), "{name}");
    }
}

#[tokio::test]
async fn a_file_named_twice_is_damage() {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    writer.file("twice", b"one");
    writer.close_map().await;
    writer.file("twice", b"two");
    let manifest = writer.finish().await;
    assert_refused(&lineage, &manifest, "a file named twice").await;
}
