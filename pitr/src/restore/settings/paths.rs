//! Paths in configuration files, and where they lead in a copy. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::conf_file::{ConfLine, lines, quote};

/// Directories of the origin and what stands for them here, the deepest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MovedPaths(Vec<(PathBuf, PathBuf)>);

impl MovedPaths {
    pub(super) fn add(&mut self, from: &Path, to: &Path) {
        if from.is_absolute() && from != to && !self.0.iter().any(|(known, _)| known == from) {
            self.0.push((from.to_owned(), to.to_owned()));
            self.0.sort_by_key(|(from, _)| std::cmp::Reverse(from.components().count()));
        }
    }

    /// Where `path` is here; none where it did not move.
    pub(super) fn moved(&self, path: &Path) -> Option<PathBuf> {
        self.0.iter().find_map(|(from, to)| {
            let rest = path.strip_prefix(from).ok()?;
            Some(if rest == Path::new("") { to.clone() } else { to.join(rest) })
        })
    }
}

pub(super) fn as_path(value: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(value))
}

/// `content` with paths that follow the move, and without the settings of `dropped`. None where nothing is to be changed.
///
/// `data_directory` is always dropped: a server that is told to open the copy would open the origin instead.
pub(super) fn adapt(content: &[u8], moved: &MovedPaths, dropped: &[&str]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(content.len());
    let mut changed = false;
    for (raw, line) in lines(content) {
        match line {
            ConfLine::Setting { name, .. } if name == "data_directory" || dropped.contains(&name.as_str()) => {
                text.extend_from_slice(b"# not taken over by the restore: ");
                text.extend_from_slice(raw);
                changed = true;
            }
            ConfLine::Setting { name, value } => match moved.moved(as_path(&value)) {
                Some(path) => {
                    write_moved(&mut text, &[name.as_bytes(), b" = "].concat(), &path, raw);
                    changed = true;
                }
                None => text.extend_from_slice(raw),
            },
            ConfLine::Include { kind, path } => match moved.moved(as_path(&path)) {
                Some(path) => {
                    write_moved(&mut text, &[kind.keyword().as_bytes(), b" "].concat(), &path, raw);
                    changed = true;
                }
                None => text.extend_from_slice(raw),
            },
            ConfLine::Other(raw) => text.extend_from_slice(raw),
        }
        text.push(b'\n');
    }
    changed.then_some(text)
}

fn write_moved(text: &mut Vec<u8>, beginning: &[u8], path: &Path, raw: &[u8]) {
    text.extend_from_slice(beginning);
    text.extend(quote(path.as_os_str().as_bytes()));
    text.extend_from_slice(b" # moved by the restore; was: ");
    text.extend_from_slice(raw.trim_ascii());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved() -> MovedPaths {
        let mut moved = MovedPaths::default();
        moved.add(Path::new("/old"), Path::new("/new"));
        moved.add(Path::new("/old/conf"), Path::new("/elsewhere"));
        moved.add(Path::new("/same"), Path::new("/same"));
        moved
    }

    #[test]
    fn the_deepest_directory_decides() {
        let to = |path: &str| moved().moved(Path::new(path));
        assert_eq!(to("/old"), Some("/new".into()));
        assert_eq!(to("/old/server.key"), Some("/new/server.key".into()));
        assert_eq!(to("/old/conf/a"), Some("/elsewhere/a".into()));
        assert_eq!(to("/older/a"), None);
        assert_eq!(to("/same/a"), None);
        assert_eq!(to("conf/a"), None);
    }

    #[test]
    fn paths_follow_and_data_directory_goes() {
        let content = b"data_directory = '/anything'\nssl_key_file = '/old/server.key' # key\nport = 5432\n\
            include_dir '/old/conf'\nhba_file = '/etc/pg_hba.conf'\n# /old stays in comments\n";
        let text = adapt(content, &moved(), &["hba_file"]).unwrap();
        let expected = "# not taken over by the restore: data_directory = '/anything'\n\
            ssl_key_file = '/new/server.key' # moved by the restore; was: ssl_key_file = '/old/server.key' # key\n\
            port = 5432\n\
            include_dir '/elsewhere' # moved by the restore; was: include_dir '/old/conf'\n\
            # not taken over by the restore: hba_file = '/etc/pg_hba.conf'\n\
            # /old stays in comments\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn a_file_without_such_paths_stays_as_it_is() {
        assert_eq!(adapt(b"port = 5432\n\n# x", &moved(), &[]), None);
    }
}
