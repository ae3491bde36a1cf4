//! Where the tablespaces of a backup go.

use std::path::{Path, PathBuf};

use super::{Error, Result};
use crate::repository::backup::BackupTablespace;

/// One `OLD=NEW`: OLD is the location of a tablespace or its OID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespacePair {
    pub from: String,
    pub to: PathBuf,
}

/// What a person says of tablespaces; those not mentioned go where they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// A directory that takes every tablespace without a pair of its own, each under its OID.
    pub all_into: Option<PathBuf>,
    pub pairs: Vec<TablespacePair>,
}

/// A tablespace of the backup outside the data directory, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceTarget {
    pub oid: u32,
    pub mode: u32,
    /// Where it stood when the backup was taken.
    pub original: String,
    pub path: PathBuf,
}

impl TablespaceMapping {
    /// Where each tablespace goes; those in place stay within the data directory and are not among them.
    ///
    /// # Errors
    /// A pair for a tablespace that the backup does not have, or two pairs for one; targets that are not absolute or within
    /// one another or `data_directory`.
    pub fn resolve(&self, tablespaces: &[BackupTablespace], data_directory: &Path) -> Result<Vec<TablespaceTarget>> {
        let outside: Vec<&BackupTablespace> = tablespaces.iter().filter(|t| !t.in_place).collect();
        for pair in &self.pairs {
            if !outside.iter().any(|tablespace| pair.names(tablespace)) {
                let known = outside.iter().map(|t| format!("{} ({})", t.location, t.oid)).collect();
                return Err(Error::UnknownTablespace { asked: pair.from.clone(), known });
            }
        }
        let targets: Vec<TablespaceTarget> =
            outside.into_iter().map(|tablespace| self.target(tablespace)).collect::<Result<_>>()?;
        check_apart(&targets, data_directory)?;
        Ok(targets)
    }

    fn target(&self, tablespace: &BackupTablespace) -> Result<TablespaceTarget> {
        let mut pairs = self.pairs.iter().filter(|pair| pair.names(tablespace));
        let chosen = pairs.next();
        if let Some(second) = pairs.next() {
            return Err(Error::MappedTwice { asked: second.from.clone() });
        }
        let path = match (chosen, &self.all_into) {
            (Some(pair), _) => pair.to.clone(),
            (None, Some(directory)) => directory.join(tablespace.oid.to_string()),
            (None, None) => PathBuf::from(&tablespace.location),
        };
        if !path.is_absolute() {
            return Err(Error::NotAbsolute { path });
        }
        Ok(TablespaceTarget { oid: tablespace.oid, mode: tablespace.mode, original: tablespace.location.clone(), path })
    }
}

impl TablespacePair {
    fn names(&self, tablespace: &BackupTablespace) -> bool {
        let location = |text: &str| text.trim_end_matches('/').to_owned();
        self.from.parse() == Ok(tablespace.oid) || location(&self.from) == location(&tablespace.location)
    }
}

/// Whether no directory is within another.
pub(super) fn check_apart(targets: &[TablespaceTarget], data_directory: &Path) -> Result<()> {
    let mut taken = vec![data_directory];
    for target in targets {
        for other in &taken {
            if target.path.starts_with(other) || other.starts_with(&target.path) {
                return Err(Error::Overlap { one: target.path.clone(), other: other.to_path_buf() });
            }
        }
        taken.push(&target.path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tablespaces() -> Vec<BackupTablespace> {
        let tablespace = |oid, location: &str, in_place| BackupTablespace {
            oid,
            location: location.to_owned(),
            in_place,
            mode: 0o700,
        };
        vec![tablespace(16400, "/mnt/a", false), tablespace(16401, "/mnt/b c", false), tablespace(16402, "", true)]
    }

    fn resolve(all_into: Option<&str>, pairs: &[(&str, &str)]) -> Result<Vec<PathBuf>> {
        let mapping = TablespaceMapping {
            all_into: all_into.map(PathBuf::from),
            pairs: pairs.iter().map(|(from, to)| TablespacePair { from: (*from).to_owned(), to: to.into() }).collect(),
        };
        let targets = mapping.resolve(&tablespaces(), Path::new("/data"))?;
        Ok(targets.into_iter().map(|target| target.path).collect())
    }

    fn paths(texts: &[&str]) -> Vec<PathBuf> {
        texts.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn goes_where_it_was_unless_mapped_by_location_or_oid() {
        assert_eq!(resolve(None, &[]).unwrap(), paths(&["/mnt/a", "/mnt/b c"]));
        assert_eq!(resolve(None, &[("/mnt/a/", "/x")]).unwrap(), paths(&["/x", "/mnt/b c"]));
        assert_eq!(resolve(None, &[("16401", "/y")]).unwrap(), paths(&["/mnt/a", "/y"]));
        assert_eq!(resolve(Some("/all"), &[("16401", "/y")]).unwrap(), paths(&["/all/16400", "/y"]));
    }

    #[test]
    fn refuses_pairs_that_fit_nothing_or_fit_twice() {
        assert!(
            matches!(resolve(None, &[("/mnt", "/x")]), Err(Error::UnknownTablespace { known, .. }) if known.len() == 2)
        );
        assert!(matches!(resolve(None, &[("16402", "/x")]), Err(Error::UnknownTablespace { .. })));
        assert!(matches!(resolve(None, &[("/mnt/a", "/x"), ("16400", "/y")]), Err(Error::MappedTwice { .. })));
        assert!(matches!(resolve(None, &[("/mnt/a", "x")]), Err(Error::NotAbsolute { .. })));
    }

    #[test]
    fn refuses_targets_within_one_another() {
        for (one, other) in [("/x", "/x"), ("/x", "/x/y"), ("/x/y", "/x"), ("/data/ts", "/x"), ("/", "/x")] {
            let result = resolve(None, &[("16400", one), ("16401", other)]);
            assert!(matches!(result, Err(Error::Overlap { .. })), "{one} and {other}: {result:?}");
        }
    }
}
