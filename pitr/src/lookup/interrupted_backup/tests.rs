use super::*;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::backup::file_map::FrameExtent;
use crate::repository::hash::FrameHash;
use crate::restore::testing::{enveloped, lineage_in, memory, path};
use crate::storage::{Payload, PutMode};

const NAME: &str = "20261122T063100Z";

async fn put(lineage: &LineageStore, key: &crate::storage::ObjectKey, content: Vec<u8>) {
    lineage.store().put(key, Payload::Chunks(vec![content.into()]), PutMode::Overwrite).await.unwrap();
}

fn frame(pack: u32) -> Extent {
    let hash = FrameHash::from_bytes([1; 16]);
    Extent::Frame(FrameExtent { bytes: 8192, pack, offset: 100, stored_bytes: 10, at: 0, hash })
}

fn pack(text: &str, bytes: u64) -> ProgressLine {
    ProgressLine::Pack { id: text.parse().unwrap(), bytes }
}

fn piece(text: &str, from: u64, pack: u32) -> ProgressLine {
    ProgressLine::Piece { path: path(text), from, extents: vec![frame(pack)] }
}

fn header(number: u32) -> ProgressHeader {
    ProgressHeader {
        id: NAME.parse().unwrap(),
        timeline: TimelineId::FIRST,
        start_lsn: Lsn::new(0x28),
        catalog_version: 7,
        control_version: 1300,
        data_checksums: false,
        number,
        end_lsn: Lsn::new(0x100 + u64::from(number)),
        file_bytes: u64::from(number + 1) * 8192,
        bytes: 0,
        blake3: ContentHash::of(b""),
    }
}

async fn put_record(lineage: &LineageStore, header: ProgressHeader, lines: &[ProgressLine]) {
    let text: Vec<u8> =
        lines.iter().flat_map(|line| [serde_json::to_vec(line).unwrap(), b"\n".to_vec()].concat()).collect();
    let header = ProgressHeader { bytes: text.len() as u64, blake3: ContentHash::of(&text), ..header };
    put(lineage, &lineage.layout().progress(&header.id, header.number), enveloped(&header, &text)).await;
}

async fn put_intent(lineage: &LineageStore, id: &str, parent: Option<&str>) {
    let id: BackupId = id.parse().unwrap();
    let parent = parent.map(|parent| parent.parse().unwrap());
    let intent = Intent { id: id.clone(), parent, resumes: None, start_time: id.time(), host: "db1".to_owned() };
    lineage.create(&lineage.layout().intent(&id), &intent).await.unwrap();
}

async fn put_pack(lineage: &LineageStore, id: &str, bytes: usize) {
    put(lineage, &lineage.layout().pack(&id.parse().unwrap()), vec![0; bytes]).await;
}

/// Two records, the second of which has files that come before some of the first, and two packs.
async fn interrupted() -> (LineageStore, InterruptedBackup) {
    let lineage = lineage_in(memory()).await;
    put_intent(&lineage, NAME, Some("20261121T063100Z")).await;
    put_pack(&lineage, "20261122T063100Z/00000000", 50).await;
    put_pack(&lineage, "20261121T063100Z/00000007", 60).await;
    let lines = [pack("20261122T063100Z/00000000", 50), piece("base/5/3", 0, 0), piece("base/5/9", 8192, 0)];
    put_record(&lineage, header(0), &lines).await;
    let lines = [
        pack("20261121T063100Z/00000007", 60),
        pack("20261122T063100Z/00000000", 50),
        piece("base/5/1", 0, 1),
        piece("base/5/9", 0, 0),
        ProgressLine::Corrupt { path: path("base/5/3"), block: 0 },
    ];
    put_record(&lineage, header(1), &lines).await;
    let found = interrupted_backups(&lineage, None).await.unwrap();
    assert_eq!(found.len(), 1);
    (lineage, found.into_iter().next().unwrap())
}

async fn damage(lineage: &LineageStore, backup: &InterruptedBackup) -> Option<String> {
    match InterruptedFiles::load(lineage, backup).await {
        Ok(_) => None,
        Err(Error::Damaged { object, reason }) => Some(format!("{object} {reason}")),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn all_records_together_tell_what_is_stored() {
    let (lineage, backup) = interrupted().await;
    assert_eq!(backup.parent, Some("20261121T063100Z".parse().unwrap()));
    assert_eq!(backup.newest_record(&lineage).await.unwrap().unwrap().file_bytes, 2 * 8192);
    let files = InterruptedFiles::load(&lineage, &backup).await.unwrap();
    assert_eq!(files.packs.values().copied().collect::<Vec<_>>(), [60, 50]);
    let begins: Vec<(u32, &str)> = files.records.iter().map(|record| (record.number, record.first.as_str())).collect();
    assert_eq!(begins, [(1, "base/5/1"), (0, "base/5/3")]);
    assert_eq!(files.corrupt_pages.len(), 1);
    assert_eq!((files.header.number, files.header.end_lsn), (1, Lsn::new(0x101)));
}

#[tokio::test]
async fn only_what_began_later_and_has_no_manifest_is_interrupted() {
    let (lineage, backup) = interrupted().await;
    put_intent(&lineage, "20261122T070000Z", None).await;
    let found = interrupted_backups(&lineage, None).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&backup), "nothing was recorded of the new one");
    let before: BackupId = "20261121T063100Z".parse().unwrap();
    assert_eq!(interrupted_backups(&lineage, Some(&before)).await.unwrap().len(), 1);
    assert_eq!(interrupted_backups(&lineage, Some(&backup.id)).await.unwrap(), []);
    put(&lineage, &lineage.layout().manifest(&backup.id), Vec::new()).await;
    assert_eq!(interrupted_backups(&lineage, None).await.unwrap(), []);
}

#[tokio::test]
async fn nothing_is_used_that_is_not_as_it_was() {
    let (lineage, backup) = interrupted().await;
    let own = lineage.layout().pack(&"20261122T063100Z/00000000".parse().unwrap());
    put(&lineage, &own, vec![0; 49]).await;
    assert!(damage(&lineage, &backup).await.unwrap().ends_with("has 49 bytes instead of 50"));
    lineage.store().delete(&[own]).await.unwrap();
    assert!(damage(&lineage, &backup).await.unwrap().ends_with("is missing"));

    let (lineage, backup) = interrupted().await;
    lineage.store().delete(&[lineage.layout().progress(&backup.id, 0)]).await.unwrap();
    assert!(damage(&lineage, &backup).await.unwrap().ends_with("is missing"));
    let left = interrupted_backups(&lineage, None).await.unwrap().remove(0);
    assert!(damage(&lineage, &left).await.unwrap().ends_with("lacks a record"));

    let (lineage, backup) = interrupted().await;
    put_record(&lineage, ProgressHeader { start_lsn: Lsn::new(0x30), ..header(1) }, &[]).await;
    assert!(damage(&lineage, &backup).await.unwrap().ends_with("is not of the same backup as those before"));
    put_record(&lineage, header(1), &[pack("20261122T063100Z/00000000", 51)]).await;
    assert!(damage(&lineage, &backup).await.unwrap().ends_with("says another size of a pack than those before"));
    put_record(&lineage, header(1), &[piece("base/5/3", 0, 0)]).await;
    assert!(damage(&lineage, &backup).await.unwrap().contains("that no frame can hold"));
    let lines = [pack("20261122T063100Z/00000000", 50), piece("base/5/3", 0, 0), piece("base/5/3", 0, 0)];
    put_record(&lineage, header(1), &lines).await;
    assert!(damage(&lineage, &backup).await.unwrap().contains("not in order"));
}
