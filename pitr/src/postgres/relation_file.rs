//! Names of the files of relations, as `RelationPathname` makes them.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use super::relation::{Fork, Oid, RelationLocator};

/// `<relfilenode>[_<fork>][.<segment>]`: one file of up to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFileName {
    pub relfilenode: Oid,
    pub fork: Fork,
    pub segment: u32,
}

/// The text is not the name of a file of a relation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a relation's file")]
pub struct ParseRelationFileNameError(String);

impl FromStr for RelationFileName {
    type Err = ParseRelationFileNameError;

    /// Only what a server would write: `07`, `5.0` and `5_main` name nothing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseRelationFileNameError(text.to_owned());
        let (stem, segment) = match text.split_once('.') {
            None => (text, 0),
            Some((stem, segment)) => (stem, number(segment).ok_or_else(invalid)?),
        };
        let (relfilenode, fork) = split_fork(stem).ok_or_else(invalid)?;
        Ok(Self { relfilenode: number(relfilenode).ok_or_else(invalid)?, fork, segment })
    }
}

impl fmt::Display for RelationFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.relfilenode, self.fork.suffix())?;
        if self.segment > 0 { write!(f, ".{}", self.segment) } else { Ok(()) }
    }
}

fn split_fork(stem: &str) -> Option<(&str, Fork)> {
    match stem.split_once('_') {
        None => Some((stem, Fork::Main)),
        Some((relfilenode, "fsm")) => Some((relfilenode, Fork::Fsm)),
        Some((relfilenode, "vm")) => Some((relfilenode, Fork::Vm)),
        Some((relfilenode, "init")) => Some((relfilenode, Fork::Init)),
        Some(_) => None,
    }
}

/// A number above zero as a server prints it.
pub(super) fn number(text: &str) -> Option<u32> {
    let printed = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    if printed { text.parse().ok() } else { None }
}

/// The name belongs to a temporary relation: `t<backend>_`, then as ever.
#[must_use]
pub fn is_temporary_relation_file(name: &str) -> bool {
    let Some((backend, rest)) = name.strip_prefix('t').and_then(|rest| rest.split_once('_')) else { return false };
    let digits = !backend.is_empty() && backend.bytes().all(|byte| byte.is_ascii_digit());
    digits && rest.parse::<RelationFileName>().is_ok()
}

/// Relations that have an init fork: unlogged ones. Recovery makes their other forks anew from it, so a backup has none.
///
/// Filled from a whole directory before its files are judged: the fork may come last in a listing.
#[derive(Clone, Debug, Default)]
pub struct InitForks {
    relations: HashSet<RelationLocator>,
}

impl InitForks {
    /// Notes a file that exists.
    pub fn note(&mut self, relation: RelationLocator, fork: Fork) {
        if fork == Fork::Init {
            self.relations.insert(relation);
        }
    }

    /// The file is one of those that recovery makes anew.
    #[must_use]
    pub fn resets(&self, relation: RelationLocator, fork: Fork) -> bool {
        fork != Fork::Init && self.relations.contains(&relation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_it_reads() {
        let table = [
            ("16384", (16_384, Fork::Main, 0)),
            ("16384.1", (16_384, Fork::Main, 1)),
            ("16384_fsm", (16_384, Fork::Fsm, 0)),
            ("16384_vm.12", (16_384, Fork::Vm, 12)),
            ("4294967295_init", (u32::MAX, Fork::Init, 0)),
        ];
        for (text, (relfilenode, fork, segment)) in table {
            let name: RelationFileName = text.parse().unwrap();
            assert_eq!(name, RelationFileName { relfilenode, fork, segment });
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn names_nothing_else() {
        for text in [
            "",
            "0",
            "016384",
            "16384.0",
            "16384.01",
            "16384.",
            "16384.x",
            "16384_",
            "16384_main",
            "16384_vm_fsm",
            "16384.1_vm",
            "4294967296",
            "+5",
            "t3_16384",
            "PG_VERSION",
            "pg_filenode.map",
            "16384.1.2",
            " 1",
            "_vm",
        ] {
            assert!(text.parse::<RelationFileName>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn temporary_relations_name_their_backend() {
        for text in ["t3_16384", "t0_16384", "t12_16384_fsm", "t3_16384.1", "t3_16384_vm.2"] {
            assert!(is_temporary_relation_file(text), "{text}");
        }
        for text in ["t_16384", "t3_", "t3_x", "t3", "16384", "tx_16384", "t3_16384_main", "tablespace_map"] {
            assert!(!is_temporary_relation_file(text), "{text}");
        }
    }

    #[test]
    fn an_init_fork_leaves_itself_only() {
        let unlogged = RelationLocator { tablespace: 1663, database: 5, relfilenode: 7 };
        let elsewhere = RelationLocator { database: 6, ..unlogged };
        let mut forks = InitForks::default();
        for fork in [Fork::Main, Fork::Init, Fork::Fsm] {
            forks.note(unlogged, fork);
        }
        forks.note(elsewhere, Fork::Main);
        assert!(forks.resets(unlogged, Fork::Main) && forks.resets(unlogged, Fork::Vm));
        assert!(!forks.resets(unlogged, Fork::Init));
        assert!(!forks.resets(elsewhere, Fork::Main));
    }
}
