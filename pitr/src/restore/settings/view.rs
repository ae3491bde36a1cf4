//! The configuration of a data directory as a server would read it, as far as its files tell.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::conf_file::{ConfLine, IncludeKind, lines};
use super::paths::{MovedPaths, as_path};
use crate::fs::{Action, Error, Result};

/// As deep as the server goes (`CONF_FILE_MAX_DEPTH`).
const MAX_DEPTH: usize = 10;
/// A larger file is no configuration.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Parameters with the value that counts, and the files they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::restore) struct ConfigView {
    values: BTreeMap<String, Vec<u8>>,
    files: Vec<PathBuf>,
}

impl ConfigView {
    /// Reads `postgresql.conf` of `directory` with what it includes, then `postgresql.auto.conf`. Blocks. Files that are
    /// missing are left out: the server says so itself.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub(in crate::restore) fn read(directory: &Path) -> Result<Self> {
        Self::read_moved(directory, &MovedPaths::default())
    }

    pub(super) fn read_moved(directory: &Path, moved: &MovedPaths) -> Result<Self> {
        let mut view = Self::default();
        for name in ["postgresql.conf", "postgresql.auto.conf"] {
            view.read_file(&directory.join(name), moved, 0)?;
        }
        Ok(view)
    }

    fn read_file(&mut self, path: &Path, moved: &MovedPaths, depth: usize) -> Result<()> {
        let Some(content) = read_if_there(path)? else { return Ok(()) };
        self.files.push(path.to_owned());
        for (_, line) in lines(&content) {
            match line {
                ConfLine::Setting { name, value } => {
                    self.values.insert(name, value);
                }
                ConfLine::Include { kind, path: included } if depth < MAX_DEPTH => {
                    let included = moved.moved(as_path(&included)).unwrap_or_else(|| as_path(&included).to_owned());
                    let included = path.parent().unwrap_or(path).join(included);
                    if kind == IncludeKind::Directory {
                        for file in conf_files(&included)? {
                            self.read_file(&file, moved, depth + 1)?;
                        }
                    } else {
                        self.read_file(&included, moved, depth + 1)?;
                    }
                }
                ConfLine::Include { .. } | ConfLine::Other(_) => {}
            }
        }
        Ok(())
    }

    /// Every file that was read, in order.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    pub(in crate::restore) fn value(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// A whole number; none where the value is none, and `default` where nothing is set.
    pub(super) fn number(&self, name: &str, default: u32) -> Option<u32> {
        match self.value(name) {
            None => Some(default),
            Some(value) => std::str::from_utf8(value).ok()?.trim().parse().ok(),
        }
    }

    /// As `parse_bool` takes it: any beginning of on, true, yes and 1.
    pub(super) fn is_on(&self, name: &str, default: bool) -> bool {
        let Some(value) = self.value(name) else { return default };
        let value = String::from_utf8_lossy(value).trim().to_ascii_lowercase();
        let begins = |word: &str| !value.is_empty() && word.starts_with(&value);
        value == "on" || value == "1" || begins("true") || begins("yes")
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    let failed = |error| Error::new(Action::Read, path, error);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_FILE_BYTES => {
            std::fs::read(path).map(Some).map_err(failed)
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // Another user's file outside the data directory is the server's affair.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The files that `include_dir` reads: `*.conf` by name, hidden ones left out.
fn conf_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(_) => return Ok(Vec::new()),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::new(Action::List, directory, error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension() == Some(OsStr::new("conf")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_and_included_ones_count_in_their_order() {
        let scratch = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(scratch.path().join(name), text).unwrap();
        std::fs::create_dir(scratch.path().join("conf.d")).unwrap();
        write("postgresql.conf", "port = 1\nwork_mem = 1MB\ninclude_dir 'conf.d'\ninclude 'missing'\nssl = TRU\n");
        write("conf.d/b.conf", "port = 3\n");
        write("conf.d/a.conf", "port = 2\ninclude '../more.conf'\n");
        write("conf.d/.hidden.conf", "port = 9\n");
        write("conf.d/c.txt", "port = 9\n");
        write("more.conf", "fsync = off\n");
        write("postgresql.auto.conf", "work_mem = '2MB'\n");
        let view = ConfigView::read(scratch.path()).unwrap();
        assert_eq!(view.number("port", 0), Some(3));
        assert_eq!(view.number("work_mem", 0), None);
        assert_eq!(view.value("work_mem"), Some(b"2MB".as_slice()));
        assert_eq!(view.number("max_connections", 100), Some(100));
        assert!(view.is_on("ssl", false) && !view.is_on("fsync", true) && view.is_on("hot_standby", true));
        assert_eq!(view.files().len(), 5);
    }

    #[test]
    fn a_file_that_includes_itself_ends() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("postgresql.conf"), "include 'postgresql.conf'\n").unwrap();
        assert_eq!(ConfigView::read(scratch.path()).unwrap().files().len(), MAX_DEPTH + 1);
    }
}
