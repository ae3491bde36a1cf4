use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::postgres::control_file::{ControlFile, invalidate_checkpoint};
use crate::repository::backup::{Extent, StoredPath};
use crate::restore::destination::{TablespaceMapping, TablespacePair};
use crate::restore::testing::{BackupWriter, control_file, lineage_in, memory, path};

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(bytes)
    .collect()
}

#[tokio::test]
async fn files_come_back_byte_for_byte() {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    writer.directory("base", 0o700);
    writer.directory("base/5", 0o750);
    // Several frames, with zeros before, between and behind.
    let mut large = vec![0_u8; 3 << 20];
    large[300_000..1_000_000].copy_from_slice(&noise(1, 700_000));
    large[2_000_000..2_500_000].copy_from_slice(&noise(2, 500_000));
    writer.file("base/5/1259", &large);
    writer.file("base/5/zeros", &vec![0; 1 << 20]);
    writer.file("base/5/empty", b"");
    // Small files that share a frame, across two packs and two maps.
    let small: Vec<Vec<u8>> = (0..40).map(|n| noise(n, 100 + n as usize * 300)).collect();
    writer.close_map().await;
    writer.next_pack();
    let pieces: Vec<&[u8]> = small.iter().map(Vec::as_slice).collect();
    let frame = writer.frame(&pieces);
    let mut at = 0;
    for (number, content) in small.iter().enumerate() {
        writer.file_of(path(&format!("base/5/s{number}")), 0o640, vec![frame.extent(at, content.len())]);
        at += content.len();
        // So that the two maps hold users of one frame, and neither knows where all its blocks begin.
        if number == 20 {
            writer.close_map().await;
        }
    }
    // A file put together out of order, from a frame's middle, with a hole.
    let block = noise(77, 5 * 8192);
    let frame = writer.frame(&[&block]);
    writer.file_of(
        path("base/5/mixed"),
        0o600,
        vec![frame.extent(3 * 8192, 8192), Extent::Zeros { bytes: 8192 }, frame.extent(0, 2 * 8192)],
    );
    let odd = StoredPath::try_from("base/5/o%0Add %FF name%25".to_owned()).unwrap();
    let odd_frame = writer.frame(&[b"odd"]);
    writer.file_of(odd.clone(), 0o600, vec![odd_frame.extent(0, 3)]);
    writer.link("base/5/link", "../../PG_VERSION");
    let manifest = writer.finish().await;

    let (_scratch, target) = target();
    let restored = restore(&lineage, &manifest, &target).await.unwrap();
    let read = |name: &str| std::fs::read(target.join(name)).unwrap();
    assert!(read("base/5/1259") == large);
    assert!(read("base/5/zeros") == vec![0; 1 << 20]);
    assert_eq!(std::fs::metadata(target.join("base/5/zeros")).unwrap().blocks(), 0);
    assert!(read("base/5/empty").is_empty());
    for (number, content) in small.iter().enumerate() {
        assert!(read(&format!("base/5/s{number}")) == *content, "small file {number}");
    }
    assert!(read("base/5/mixed") == [&block[3 * 8192..4 * 8192], &[0; 8192][..], &block[..2 * 8192]].concat());
    assert_eq!(std::fs::read(target.join(odd.to_path())).unwrap(), b"odd");
    assert_eq!(std::fs::read_link(target.join("base/5/link")).unwrap(), Path::new("../../PG_VERSION"));
    let mode = |name: &str| std::fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode(""), mode("base/5"), mode("base/5/s0"), mode("base/5/1259")], [0o700, 0o750, 0o640, 0o600]);
    assert_eq!(std::fs::metadata(target.join("base/5/1259")).unwrap().mtime(), 1_790_000_000);
    assert_eq!((restored.files, restored.bytes), (manifest.files, manifest.size_bytes));
}

#[tokio::test]
async fn directory_can_start_only_with_its_label() {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    let manifest = writer.finish().await;
    let (_scratch, target) = target();
    restore(&lineage, &manifest, &target).await.unwrap();

    let control = std::fs::read(target.join("global/pg_control")).unwrap();
    assert_eq!(control, invalidate_checkpoint(&control_file()).unwrap());
    assert_eq!(ControlFile::parse(&control).unwrap().checkpoint_lsn.as_u64(), 0xDEAD);
    assert!(target.join("recovery.signal").exists() && target.join("backup_label").exists());
    for name in ["pg_wal/archive_status", "pg_replslot", "pg_notify", "pg_tblspc", "pg_subtrans"] {
        assert!(target.join(name).is_dir(), "{name}");
    }
    let stamp = RestoreStamp::read(&target).unwrap().unwrap();
    assert_eq!((stamp.state, stamp.archive, &stamp.backup), (StampState::Restored, false, &manifest.id));
    let auto_conf = std::fs::read_to_string(target.join("postgresql.auto.conf")).unwrap();
    assert!(auto_conf.contains("recovery_target_lsn = '0/3000110'\n"), "{auto_conf}");
    let leftovers: Vec<_> = crate::restore::testing::snapshot(&target)
        .into_keys()
        .filter(|path| path.to_string_lossy().ends_with(".tmp"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[tokio::test]
async fn tablespaces_go_where_they_are_mapped() {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    writer.tablespace(16400, "/mnt/one two");
    writer.tablespace(16401, "/mnt/other");
    writer.directory("pg_tblspc", 0o700);
    for oid in [16400, 16401] {
        writer.directory(&format!("pg_tblspc/{oid}/PG_15_202209061"), 0o700);
        writer.directory(&format!("pg_tblspc/{oid}/PG_15_202209061/5"), 0o700);
        writer.file(&format!("pg_tblspc/{oid}/PG_15_202209061/5/9"), format!("in {oid}").as_bytes());
    }
    writer.file("tablespace_map", b"16400 /mnt/one two\n16401 /mnt/other\n");
    let manifest = writer.finish().await;

    let (scratch, target) = target();
    let mut options = options(&target);
    let (one, all) = (scratch.path().join("o\ne"), scratch.path().join("all"));
    options.tablespaces = TablespaceMapping {
        all_into: Some(all.clone()),
        pairs: vec![TablespacePair { from: "/mnt/one two".to_owned(), to: one.clone() }],
    };
    restore_with(&lineage, &manifest, &options).await.unwrap();
    assert_eq!(std::fs::read_to_string(one.join("PG_15_202209061/5/9")).unwrap(), "in 16400");
    assert_eq!(std::fs::read_to_string(all.join("16401/PG_15_202209061/5/9")).unwrap(), "in 16401");
    assert_eq!(std::fs::read_link(target.join("pg_tblspc/16400")).unwrap(), one);
    let map = std::fs::read(target.join("tablespace_map")).unwrap();
    let map = crate::postgres::tablespace_map::TablespaceMap::parse(&map).unwrap();
    assert_eq!(map.path(16400), Some(one.as_path()));
    assert_eq!(map.path(16401), Some(all.join("16401").as_path()));
    // The stamps that guarded them are gone.
    assert_eq!(std::fs::read_dir(&one).unwrap().count(), 1);
}

#[tokio::test]
async fn a_link_cannot_lead_files_elsewhere() {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    let (scratch, target) = target();
    writer.link("base", scratch.path().to_str().unwrap());
    writer.directory("pg_notify", 0o700);
    writer.link("pg_notify", "/somewhere");
    let manifest = writer.finish().await;
    let restored = restore(&lineage, &manifest, &target).await.unwrap();
    assert!(target.join("pg_notify").is_dir());
    assert_eq!(restored.notes.len(), 2, "{:?}", restored.notes);

    // With a file below the link there is no directory for it.
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    writer.link("base", scratch.path().to_str().unwrap());
    writer.file("base/escaped", b"x");
    let manifest = writer.finish().await;
    let second = scratch.path().join("second");
    assert!(restore(&lineage, &manifest, &second).await.is_err());
    assert!(!scratch.path().join("escaped").exists());
}

#[tokio::test]
async fn configuration_from_outside_comes_in() {
    use crate::repository::backup::ExternalRole;

    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    let config = "data_directory = '/var/lib/postgresql/15/main'\nwork_mem = '5MB'\n";
    writer.external(ExternalRole::ConfigFile, "/etc/postgresql/15/main/postgresql.conf", config);
    let manifest = writer.finish().await;
    let (_scratch, target) = target();
    restore(&lineage, &manifest, &target).await.unwrap();
    let text = std::fs::read_to_string(target.join("postgresql.conf")).unwrap();
    assert!(text.contains("\nwork_mem = '5MB'\n") && text.starts_with("# not taken over"), "{text}");
}

#[tokio::test]
async fn more_files_than_may_be_open_are_put_together() {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    writer.directory("base", 0o700);
    // The beginnings of all files, then all their ends, far behind.
    let content = |number: u64, part: u64| noise(number * 2 + part, 8192);
    let beginnings: Vec<_> = (0..300).map(|number| writer.frame(&[&content(number, 0)])).collect();
    writer.next_pack();
    for (number, beginning) in (0..300).zip(beginnings) {
        let end = writer.frame(&[&content(number, 1)]);
        let extents = vec![beginning.extent(0, 8192), end.extent(0, 8192)];
        writer.file_of(path(&format!("base/{number}")), 0o600, extents);
    }
    let manifest = writer.finish().await;
    let (_scratch, target) = target();
    restore(&lineage, &manifest, &target).await.unwrap();
    for number in 0..300 {
        let restored = std::fs::read(target.join(format!("base/{number}"))).unwrap();
        assert!(restored == [content(number, 0), content(number, 1)].concat(), "file {number}");
    }
}
