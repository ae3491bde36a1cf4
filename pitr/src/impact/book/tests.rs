use super::*;
use crate::postgres::system_catalog::{PUBLIC, Persistence};

const DATABASE: Oid = 5;
const ORDERS: Oid = 16_400;

fn class(oid: Oid, name: &str, file: Oid, kind: u8) -> Vec<u8> {
    let mut data = vec![0; 140];
    data[..4].copy_from_slice(&oid.to_le_bytes());
    data[4..4 + name.len()].copy_from_slice(name.as_bytes());
    data[68..72].copy_from_slice(&PUBLIC.to_le_bytes());
    data[88..92].copy_from_slice(&file.to_le_bytes());
    data[114..116].copy_from_slice(&[b'p', kind]);
    data
}

fn schema(oid: Oid, name: &str) -> Vec<u8> {
    let mut data = vec![0; 72];
    data[..4].copy_from_slice(&oid.to_le_bytes());
    data[4..4 + name.len()].copy_from_slice(name.as_bytes());
    data
}

fn at(offset: u16) -> RowPlace {
    RowPlace { block: 0, offset }
}

fn xid(number: u32) -> TransactionId {
    TransactionId::new(number)
}

fn lsn(position: u64) -> Lsn {
    Lsn::new(position)
}

fn file(relfilenode: Oid) -> RelationLocator {
    RelationLocator { tablespace: 1663, database: DATABASE, relfilenode }
}

fn relation(oid: Oid) -> RelationId {
    RelationId { database: DATABASE, oid }
}

/// A copy with one table, from which on everything is asked for that comes at 100 or later.
struct Scene {
    book: CatalogBook,
}

impl Scene {
    fn new() -> Self {
        let mut book = CatalogBook::new(MajorVersion::V17, lsn(100));
        book.begin_database(DATABASE, 1663);
        let (done, never) = (Fate::Committed, Fate::Never);
        book.base_row(DATABASE, NamingCatalog::Namespace, at(1), &schema(PUBLIC, "public"), done, never);
        book.base_row(DATABASE, NamingCatalog::Class, at(1), &class(ORDERS, "orders", 16_400, b'r'), done, never);
        Self { book }
    }

    fn change(&mut self, position: u64, kind: CatalogChangeKind) {
        self.book.change(&CatalogChange { lsn: lsn(position), database: DATABASE, tablespace: 1663, kind });
    }

    fn insert(&mut self, position: u64, by: u32, place: u16, data: &[u8]) {
        let (catalog, row) = (NamingCatalog::Class, RowBytes::of(data));
        self.change(position, CatalogChangeKind::Insert { catalog, xid: xid(by), place: at(place), row });
    }

    /// As the server writes it: without what both rows begin and end with.
    fn update(&mut self, position: u64, by: u32, places: (u16, u16), old: &[u8], new: &[u8]) {
        let prefix = old.iter().zip(new).take_while(|(a, b)| a == b).count();
        let rest = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
        let suffix = rest.min(new.len() - prefix).min(old.len() - prefix);
        let row = RowBytes::of(&new[prefix..new.len() - suffix]);
        self.change(
            position,
            CatalogChangeKind::Update {
                catalog: NamingCatalog::Class,
                xid: xid(by),
                old: at(places.0),
                new: at(places.1),
                prefix: u16::try_from(prefix).unwrap(),
                suffix: u16::try_from(suffix).unwrap(),
                row,
            },
        );
    }

    fn delete(&mut self, position: u64, by: u32, place: u16) {
        let catalog = NamingCatalog::Class;
        self.change(position, CatalogChangeKind::Delete { catalog, xid: xid(by), place: at(place) });
    }

    fn commit(&mut self, position: u64, by: &[u32]) -> Vec<(Oid, ActionKind)> {
        let xids = by.iter().copied().map(xid).collect();
        let actions = self.book.commit(&CatalogCommit { lsn: lsn(position), xids });
        actions.into_iter().map(|action| (action.relation.oid, action.action)).collect()
    }

    fn name_before(&self, oid: Oid, position: u64) -> Option<String> {
        let row = self.book.class_before(relation(oid), lsn(position))?;
        self.book.name(DATABASE, row, lsn(position)).map(|name| format!("{}.{}", name.schema, name.name))
    }
}

#[test]
fn a_table_has_the_name_that_it_had_then() {
    let mut scene = Scene::new();
    let (old, new) = (class(ORDERS, "orders", 16_400, b'r'), class(ORDERS, "orders_old", 16_400, b'r'));
    scene.update(110, 700, (1, 2), &old, &new);
    assert_eq!(scene.commit(120, &[700]), [(ORDERS, ActionKind::Renamed)]);
    assert_eq!(scene.name_before(ORDERS, 120).unwrap(), "public.orders");
    assert_eq!(scene.name_before(ORDERS, 121).unwrap(), "public.orders_old");
    scene.delete(130, 701, 2);
    assert_eq!(scene.commit(140, &[701]), [(ORDERS, ActionKind::Dropped)]);
    assert_eq!(scene.name_before(ORDERS, 141), None);
    let last = scene.book.last_class_before(relation(ORDERS), lsn(200)).unwrap();
    assert_eq!(last.name, "orders_old");
    assert_eq!(scene.book.relation_of(file(16_400)), Some(relation(ORDERS)));
}

#[test]
fn what_is_rolled_back_was_never_so() {
    let mut scene = Scene::new();
    let (old, new) = (class(ORDERS, "orders", 16_400, b'r'), class(ORDERS, "wrong", 16_400, b'r'));
    scene.update(110, 700, (1, 2), &old, &new);
    // The same row again, by somebody whose transaction commits: its old version is the first one.
    scene.update(120, 701, (1, 3), &old, &class(ORDERS, "right", 16_400, b'r'));
    scene.commit(130, &[701]);
    assert_eq!(scene.name_before(ORDERS, 131).unwrap(), "public.right");
    scene.book.forget_before(xid(702));
    assert_eq!(scene.commit(140, &[700]), []);
}

#[test]
fn subtransactions_count_with_their_transaction() {
    let mut scene = Scene::new();
    let new = class(16_500, "new", 16_500, b'r');
    scene.insert(110, 701, 5, &new);
    scene.update(115, 702, (5, 6), &new, &class(16_500, "newer", 16_500, b'r'));
    assert_eq!(scene.commit(120, &[700, 701, 702]), [(16_500, ActionKind::Created)]);
    assert_eq!(scene.name_before(16_500, 121).unwrap(), "public.newer");
    assert_eq!(scene.book.class_before(relation(16_500), lsn(120)), None);
}

#[test]
fn truncating_gives_a_new_file_and_rewriting_takes_it_over() {
    let mut scene = Scene::new();
    let first = class(ORDERS, "orders", 16_400, b'r');
    let second = class(ORDERS, "orders", 16_410, b'r');
    scene.update(110, 700, (1, 2), &first, &second);
    assert_eq!(scene.commit(120, &[700]), [(ORDERS, ActionKind::Truncated)]);
    assert_eq!(scene.book.truncations(relation(ORDERS), lsn(100), lsn(200)), 1);
    // As ALTER TABLE does it: by a table that is there for a while, and swaps files.
    let helper = class(16_420, "pg_temp_16400", 16_420, b'r');
    scene.insert(130, 701, 7, &helper);
    scene.update(131, 701, (2, 3), &second, &class(ORDERS, "orders", 16_420, b'r'));
    scene.update(132, 701, (7, 8), &helper, &class(16_420, "pg_temp_16400", 16_410, b'r'));
    scene.delete(133, 701, 8);
    assert_eq!(scene.commit(140, &[701]), [(ORDERS, ActionKind::Rewritten)]);
    for number in [16_400, 16_410, 16_420] {
        assert_eq!(scene.book.relation_of(file(number)), Some(relation(ORDERS)), "{number}");
    }
    assert!(scene.book.is_rewritten_file(file(16_420)) && !scene.book.is_rewritten_file(file(16_410)));
    assert_eq!(scene.book.truncations(relation(ORDERS), lsn(100), lsn(200)), 1);
}

#[test]
fn what_was_under_way_in_the_copy_waits_for_its_end() {
    let mut scene = Scene::new();
    let new = class(16_500, "new", 16_500, b'r');
    scene.book.base_row(DATABASE, NamingCatalog::Class, at(9), &new, Fate::Pending(xid(690)), Fate::Never);
    scene.book.base_row(DATABASE, NamingCatalog::Class, at(8), &class(1, "x", 1, b'r'), Fate::Never, Fate::Never);
    assert_eq!(scene.name_before(16_500, 50), None);
    scene.commit(60, &[690]);
    assert_eq!(scene.name_before(16_500, 100).unwrap(), "public.new");
}

#[test]
fn what_cannot_be_read_has_no_name() {
    let mut scene = Scene::new();
    let unread = CatalogChangeKind::Update {
        catalog: NamingCatalog::Class,
        xid: xid(700),
        old: at(1),
        new: at(2),
        prefix: 0,
        suffix: 0,
        row: RowBytes::default(),
    };
    scene.change(110, unread);
    scene.commit(120, &[700]);
    assert_eq!(scene.name_before(ORDERS, 120).unwrap(), "public.orders");
    assert_eq!(scene.name_before(ORDERS, 121), None);
    assert_eq!(scene.book.last_class_before(relation(ORDERS), lsn(130)), None);
}

#[test]
fn names_after_a_catalog_moved_are_unknown() {
    let mut scene = Scene::new();
    scene.change(150, CatalogChangeKind::Mapped { file: 16_999 });
    assert_eq!(scene.name_before(ORDERS, 150).unwrap(), "public.orders");
    assert_eq!(scene.name_before(ORDERS, 151), None);
    assert!(scene.book.is_lost_before(DATABASE, lsn(151)) && !scene.book.is_lost_before(DATABASE, lsn(150)));
}

#[test]
fn a_copied_database_begins_with_what_the_other_had() {
    let mut scene = Scene::new();
    let kind = CatalogChangeKind::CopiedFiles { database: DATABASE };
    scene.book.change(&CatalogChange { lsn: lsn(110), database: 9, tablespace: 1663, kind });
    let locator = RelationLocator { database: 9, ..file(16_400) };
    let copy = scene.book.relation_of(locator).unwrap();
    assert_eq!(copy, RelationId { database: 9, oid: ORDERS });
    assert_eq!(scene.book.class_before(copy, lsn(120)).unwrap().persistence, Persistence::Permanent);
}
