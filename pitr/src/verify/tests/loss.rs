//! What damage takes away, and what it does not.

use super::*;
use crate::postgres::{Lsn, SegmentNumber};
use crate::repository::catalog::testing::{MIB, at, lsn, size, tli};
use crate::restore::testing::{BackupSpan, BackupWriter};

async fn flip(fixture: &Fixture, key: &ObjectKey) {
    let store = fixture.lineage().store();
    let mut bytes = store.get_bytes(key, u64::MAX).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    replace(store.as_ref(), key, Some(bytes.into())).await;
}

fn segment(fixture: &Fixture, timeline: u32, number: u64) -> ObjectKey {
    fixture.lineage().layout().segment(SegmentNumber::new(number).name(tli(timeline), size()))
}

/// Ranges as they are told.
fn ranges(report: &LineageReport) -> Vec<(u32, Lsn, Lsn)> {
    report.loss.ranges.iter().map(|lost| (lost.timeline.as_u32(), lost.from.lsn, lost.to.lsn)).collect()
}

#[tokio::test]
async fn a_segment_takes_away_what_is_behind_it_up_to_the_next_backup() {
    let fixture = Fixture::new().await;
    flip(&fixture, &segment(&fixture, 1, 3)).await;
    let report = verify(fixture.lineage(), Depth::Full).await;
    let second = &fixture.backups[1];
    assert!(report.backups.iter().all(BackupVerdict::is_whole), "{:?}", report.backups);
    assert!(ranges(&report).contains(&(2, lsn(3 * MIB), second.stop_lsn)), "{:?}", ranges(&report));
    let lost = report.loss.ranges.iter().find(|lost| lost.timeline == tli(2)).unwrap();
    assert_eq!((lost.from.time, lost.to.time), (Some(at(32)), Some(second.stop_time)));
    let left: Vec<Lsn> = report.windows.iter().map(|window| window.to.lsn).collect();
    assert!(left.contains(&fixture.end), "what the second backup reaches is unharmed: {left:?}");
}

#[tokio::test]
async fn an_object_of_wal_that_is_gone_takes_away_the_same() {
    let fixture = Fixture::new().await;
    let key = segment(&fixture, 1, 3);
    fixture.lineage().store().delete(std::slice::from_ref(&key)).await.unwrap();
    for depth in [Depth::Fast, Depth::Full] {
        let report = verify(fixture.lineage(), depth).await;
        let missing: Vec<&str> =
            report.damages.iter().filter(|damage| damage.missing).map(|damage| damage.key.as_str()).collect();
        assert_eq!(missing, [key.as_str()], "{depth:?}");
        assert!(ranges(&report).contains(&(2, lsn(3 * MIB), fixture.backups[1].stop_lsn)), "{:?}", ranges(&report));
    }
}

#[tokio::test]
async fn a_shared_pack_takes_away_every_backup_that_needs_it_and_an_own_one_its_own() {
    let fixture = Fixture::new().await;
    let (first, second) = (&fixture.backups[0].id, &fixture.backups[1].id);
    let shared = fixture.lineage().layout().pack(&format!("{first}/00000000").parse().unwrap());
    let own = fixture.lineage().layout().pack(&format!("{second}/00000000").parse().unwrap());
    let before = fixture.lineage().store().get_bytes(&own, u64::MAX).await.unwrap();
    flip(&fixture, &own).await;
    let report = verify(fixture.lineage(), Depth::Full).await;
    assert_eq!(report.loss.backups.as_slice(), std::slice::from_ref(second));
    assert!(report.loss.ranges.is_empty(), "the first one reaches all of it: {:?}", report.loss.ranges);
    replace(fixture.lineage().store().as_ref(), &own, Some(before)).await;

    flip(&fixture, &shared).await;
    assert!(verify(fixture.lineage(), Depth::Fast).await.is_whole(), "fast reads no pack");
    let report = verify(fixture.lineage(), Depth::Full).await;
    assert_eq!(report.loss.backups, [first.clone(), second.clone()]);
    assert!(report.windows.is_empty(), "{:?}", report.windows);
    let damage = report.damages.iter().find(|damage| damage.key == shared.as_str()).unwrap();
    assert!(damage.offset.is_some());
    let reasons = report.backups[0].faults.join(" ");
    assert!(reasons.contains("base/5/1259"), "{reasons}");
}

#[tokio::test]
async fn a_marker_that_cannot_be_read_is_told_by_name() {
    let fixture = Fixture::new().await;
    let all = objects(fixture.lineage().store().as_ref()).await;
    let key = all.keys().find(|key| key.as_str().ends_with("@two.json")).unwrap();
    flip(&fixture, key).await;
    let report = verify(fixture.lineage(), Depth::Fast).await;
    assert_eq!((report.loss.markers.as_slice(), report.loss.ranges.len()), (&["two".to_owned()][..], 0));
}

#[tokio::test]
async fn the_same_seed_takes_the_same_sample_and_all_seeds_together_take_everything() {
    let fixture = Fixture::new().await;
    let own = fixture.lineage().layout().pack(&format!("{}/00000000", fixture.backups[0].id).parse().unwrap());
    flip(&fixture, &own).await;
    let (mut found, mut missed) = (0, 0);
    for seed in 0..16 {
        let depth = Depth::Sample { bytes: 2, seed };
        let (one, other) = (verify(fixture.lineage(), depth).await, verify(fixture.lineage(), depth).await);
        assert_eq!((&one.damages, one.figures), (&other.damages, other.figures));
        assert_eq!((one.figures.packs_read, one.figures.segments_read), (1, 1));
        if one.is_whole() { missed += 1 } else { found += 1 }
    }
    assert!(found > 0 && missed > 0, "{found} {missed}");
}

#[tokio::test]
async fn a_named_backup_is_looked_at_alone() {
    let fixture = Fixture::new().await;
    flip(&fixture, &segment(&fixture, 1, 3)).await;
    let of = |index: usize| VerifyOptions { backup: Some(fixture.backups[index].id.clone()), ..options(Depth::Full) };
    for index in [0, 1] {
        let report = verify_lineage(fixture.lineage(), &of(index), &|_| {}).await.unwrap();
        assert!(report.is_whole(), "{:?}", report.damages);
        assert_eq!(report.backups.len(), 1);
    }
    let since = VerifyOptions { since: Some(at(1)), ..options(Depth::Full) };
    let report = verify_lineage(fixture.lineage(), &since, &|_| {}).await.unwrap();
    assert!(report.is_whole() && report.backups.len() == 1, "{:?}", report.damages);
}

/// A page whose hash is right and whose checksum is not: only a later backup that shares it is harmed.
#[tokio::test]
async fn a_page_with_a_wrong_checksum_harms_who_shares_it() {
    let fixture = Fixture::new().await;
    let span = |manifest: &crate::repository::backup::BackupManifest| BackupSpan {
        timeline: manifest.timeline,
        start: manifest.start_lsn,
        checkpoint: manifest.checkpoint_lsn,
        end_record: manifest.end_record_lsn,
        stop: manifest.stop_lsn,
    };
    let ids =
        ["20261122T130000Z", "20261122T140000Z"].map(|id| id.parse::<crate::repository::backup::BackupId>().unwrap());
    let mut page = vec![7_u8; 8192];
    page[0..8].fill(0);
    let mut writer =
        BackupWriter::at(fixture.lineage().clone(), ids[0].clone(), span(&fixture.backups[1])).with_checksums();
    writer.file("base/5/2000", &page);
    writer.close_map().await;
    writer.next_pack();
    writer.needed_files();
    let (first, lines) = writer.finish_with_lines().await;
    assert!(verify(fixture.lineage(), Depth::Full).await.is_whole(), "replay makes it whole");

    let mut writer =
        BackupWriter::at(fixture.lineage().clone(), ids[1].clone(), span(&fixture.backups[1])).with_checksums();
    writer.share(&first.id, &lines);
    writer.needed_files();
    writer.finish().await;
    let report = verify(fixture.lineage(), Depth::Full).await;
    assert_eq!(report.loss.backups, [ids[1].clone()]);
    assert!(report.damages[0].reason.contains("block 0 of \"base/5/2000\""), "{:?}", report.damages);
}
