use super::*;

const RELATION: RelationLocator = RelationLocator { tablespace: 1663, database: 5, relfilenode: 16_384 };

/// Header of one block: what `XLogRecordAssemble` writes.
fn block(id: u8, flags: u8, data_length: u16, image: &[u8], relation: bool, number: u32) -> Vec<u8> {
    let mut bytes = vec![id, flags];
    bytes.extend(data_length.to_le_bytes());
    bytes.extend(image);
    if relation {
        for oid in [RELATION.tablespace, RELATION.database, RELATION.relfilenode] {
            bytes.extend(oid.to_le_bytes());
        }
    }
    bytes.extend(number.to_le_bytes());
    bytes
}

fn image(length: u16, hole_offset: u16, flags: u8, hole_length: Option<u16>) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(hole_offset.to_le_bytes());
    bytes.push(flags);
    bytes.extend(hole_length.into_iter().flat_map(u16::to_le_bytes));
    bytes
}

fn parse(parts: &[&[u8]], major: MajorVersion) -> Result<(Vec<u8>, RecordBodyOwned), RecordFault> {
    let bytes = parts.concat();
    let owned = RecordBody::parse(&bytes, major).map(|body| RecordBodyOwned {
        main_data: body.main_data().to_vec(),
        origin: body.origin(),
        top_level_xid: body.top_level_xid(),
        blocks: body.blocks().map(|block| format!("{block:?}")).collect(),
    });
    owned.map(|owned| (bytes, owned))
}

#[derive(Debug, PartialEq)]
struct RecordBodyOwned {
    main_data: Vec<u8>,
    origin: Option<u16>,
    top_level_xid: Option<TransactionId>,
    blocks: Vec<String>,
}

fn fault(parts: &[&[u8]], major: MajorVersion) -> RecordFault {
    parse(parts, major).expect_err("it was accepted")
}

#[test]
fn payload_is_dealt_out_in_order() {
    let first = block(0, HAS_DATA | WILL_INIT, 3, &[], true, 7);
    let second = block(2, HAS_DATA | HAS_IMAGE | SAME_RELATION | 2, 2, &image(8192, 0, 2, None), false, 9);
    let page = vec![0xEE; 8192];
    let bytes =
        [&first[..], &second, &[253, 1, 0], &[252, 9, 0, 0, 0], &[255, 4], b"abc", &page, b"de", b"main"].concat();
    let body = RecordBody::parse(&bytes, MajorVersion::V16).unwrap();
    assert_eq!(body.main_data(), b"main");
    assert_eq!((body.origin(), body.top_level_xid()), (Some(1), Some(TransactionId::new(9))));
    let blocks: Vec<_> = body.blocks().collect();
    let image = PageImage { bytes: &page, hole_offset: 0, hole_length: 0, compression: None, apply: true };
    let expected = [
        BlockReference {
            id: 0,
            relation: RELATION,
            fork: Fork::Main,
            block: 7,
            will_init: true,
            image: None,
            data: b"abc",
        },
        BlockReference {
            id: 2,
            relation: RELATION,
            fork: Fork::Vm,
            block: 9,
            will_init: false,
            image: Some(image),
            data: b"de",
        },
    ];
    assert_eq!(blocks, expected);
}

#[test]
fn image_flags_changed_their_meaning_in_15() {
    let table = [
        (MajorVersion::V13, 0x02, Some(ImageCompression::Pglz), false),
        (MajorVersion::V14, 0x06, Some(ImageCompression::Pglz), true),
        (MajorVersion::V15, 0x04, Some(ImageCompression::Pglz), false),
        (MajorVersion::V15, 0x0A, Some(ImageCompression::Lz4), true),
        (MajorVersion::V17, 0x12, Some(ImageCompression::Zstd), true),
        (MajorVersion::V18, 0x06, Some(ImageCompression::Pglz), true),
    ];
    for (major, flags, compression, apply) in table {
        // Compressed, with a hole: the only kind that says how long the hole is.
        let header = block(0, HAS_IMAGE, 0, &image(100, 40, flags | 1, Some(300)), true, 7);
        let bytes = [header, vec![1; 100]].concat();
        let body = RecordBody::parse(&bytes, major).unwrap();
        let found = body.blocks().next().unwrap().image.unwrap();
        assert_eq!((found.compression, found.apply), (compression, apply), "{major} {flags:x}");
        assert_eq!((found.hole_offset, found.hole_length, found.bytes.len()), (40, 300, 100));
    }
}

#[test]
fn an_uncompressed_image_lacks_its_hole() {
    let header = block(0, HAS_IMAGE, 0, &image(8000, 40, 3, None), true, 7);
    let bytes = [header, vec![1; 8000]].concat();
    let body = RecordBody::parse(&bytes, MajorVersion::V18).unwrap();
    assert_eq!(body.blocks().next().unwrap().image.unwrap().hole_length, 192);
}

#[test]
fn impossible_images_are_refused() {
    let table = [
        image(8192, 40, 3, None),
        image(8000, 0, 3, None),
        image(8000, 0, 2, None),
        image(8000, 40, 2, None),
        image(8193, 0, 2, None),
        image(8192, 0, 6, None),
        image(100, 8000, 7, Some(193)),
        image(100, 40, 7, Some(0)),
    ];
    for image in table {
        let header = block(0, HAS_IMAGE, 0, &image, true, 7);
        let found = fault(&[&header, &[1; 9000]], MajorVersion::V18);
        assert_eq!(found, RecordFault::Image { id: 0 }, "{image:?}");
    }
}

#[test]
fn contradictions_of_blocks_are_refused() {
    let plain = block(0, 0, 0, &[], true, 7);
    let table = [
        (vec![block(0, SAME_RELATION, 0, &[], false, 7)], RecordFault::NoRelation { id: 0 }),
        (vec![plain.clone(), plain.clone()], RecordFault::BlockOrder { id: 0 }),
        (vec![block(0, HAS_DATA, 0, &[], true, 7)], RecordFault::BlockFlags { id: 0, flags: HAS_DATA }),
        (vec![block(0, 0, 1, &[], true, 7)], RecordFault::BlockFlags { id: 0, flags: 0 }),
        (vec![block(0, 4, 0, &[], true, 7)], RecordFault::BlockFlags { id: 0, flags: 4 }),
        (vec![vec![33]], RecordFault::UnknownFragment { id: 33 }),
        (vec![vec![0, 0]], RecordFault::Truncated),
        (vec![plain[..19].to_vec()], RecordFault::Truncated),
    ];
    for (parts, expected) in table {
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        assert_eq!(fault(&parts, MajorVersion::V15), expected);
    }
}

#[test]
fn lengths_must_fit_exactly() {
    let block = block(0, HAS_DATA, 5, &[], true, 7);
    let accepted = parse(&[&block, &[255, 3], b"12345abc"], MajorVersion::V15).unwrap().1;
    assert_eq!(accepted.main_data, b"abc");
    for payload in [&b"12345ab"[..], b"12345abcd", b"1234"] {
        let found = fault(&[&block, &[255, 3], payload], MajorVersion::V15);
        assert_eq!(found, RecordFault::Length { fragments: 8, found: payload.len() });
    }
    let endless = [254, 0xFF, 0xFF, 0xFF, 0xFF, 1];
    assert_eq!(fault(&[&endless], MajorVersion::V15), RecordFault::Length { fragments: 0xFFFF_FFFF, found: 1 });
    assert_eq!(fault(&[&[254, 1, 0]], MajorVersion::V15), RecordFault::Truncated);
}

#[test]
fn the_top_level_transaction_came_with_14() {
    let bytes = [252, 9, 0, 0, 0, 255, 1, 42];
    assert_eq!(fault(&[&bytes], MajorVersion::V13), RecordFault::UnknownFragment { id: 252 });
    let body = RecordBody::parse(&bytes, MajorVersion::V14).unwrap();
    assert_eq!((body.top_level_xid(), body.main_data()), (Some(TransactionId::new(9)), &[42][..]));
}

#[test]
fn a_record_may_have_nothing_behind_its_header() {
    let body = RecordBody::parse(&[], MajorVersion::V13).unwrap();
    assert_eq!((body.main_data(), body.blocks().count()), (&[][..], 0));
}

proptest::proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), major in 0_usize..6) {
        if let Ok(body) = RecordBody::parse(&bytes, MajorVersion::ALL[major]) {
            let announced: usize = body.blocks().map(|b| b.data.len() + b.image.map_or(0, |image| image.bytes.len())).sum();
            assert!(announced + body.main_data().len() <= bytes.len());
        }
    }
}
