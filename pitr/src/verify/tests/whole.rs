//! A repository without damage.

use super::*;

#[tokio::test]
async fn nothing_is_found_where_nothing_is_damaged() {
    let fixture = Fixture::new().await;
    for depth in [Depth::Fast, Depth::Full, Depth::Sample { bytes: 1 << 30, seed: 1 }] {
        let report = verify(fixture.lineage(), depth).await;
        assert!(report.is_whole(), "{depth:?}: {:#?} {:#?}", report.damages, report.backups);
        assert!(report.loss.is_none(), "{:?}", report.loss);
        assert_eq!(report.backups.len(), 2);
        assert_eq!(report.figures.unnamed_objects, 1, "the pack of the backup that was given up");
        assert_eq!(report.figures.unknown_objects, 0);
        assert_eq!(report.windows.last().unwrap().to.lsn, fixture.end);
        assert!(report.windows.iter().any(|window| window.timeline.as_u32() == 1), "{:?}", report.windows);
    }
}

#[tokio::test]
async fn a_full_verification_reads_every_pack_once_and_all_wal() {
    let fixture = Fixture::new().await;
    let report = verify(fixture.lineage(), Depth::Full).await;
    let figures = report.figures;
    assert_eq!((figures.packs, figures.packs_read), (3, 3));
    let all = objects(fixture.lineage().store().as_ref()).await;
    let named = all.iter().filter(|(key, _)| key.as_str().contains("/packs/") && !key.as_str().contains("T120130Z"));
    assert_eq!(figures.pack_bytes_read, named.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    assert!(figures.summaries_compared >= 3, "{figures:?}");
    assert!(figures.segments_read >= figures.segments, "{figures:?}");
    assert!(fixture.fork < fixture.end);
}
