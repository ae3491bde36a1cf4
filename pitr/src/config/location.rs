//! Which file holds the configuration.

use std::io;
use std::path::{Path, PathBuf};

use crate::repository::layout::ClusterName;

/// Why no file was found.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    #[error("could not look for configurations in \"{}\"", directory.display())]
    Unreadable { directory: PathBuf, source: io::Error },
    #[error("there is no configuration in \"{}\"", directory.display())]
    None { directory: PathBuf },
    #[error("there are configurations of {} in \"{}\"", clusters.join(", "), directory.display())]
    Several { directory: PathBuf, clusters: Vec<String> },
    #[error("there is no configuration \"{}\"", path.display())]
    NoSuchCluster { path: PathBuf },
}

impl LocateError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Several { .. } => "choose one with --cluster NAME or --config FILE",
            _ => {
                "name the configuration with --config FILE, or the repository with --repository URL and --cluster NAME"
            }
        }
    }
}

/// The configuration to use where none is named: `<cluster>.toml` in `directory`, or the only one there.
///
/// # Errors
/// There is none, or there are several and no cluster is named.
pub fn locate(cluster: Option<&ClusterName>, directory: &Path) -> Result<PathBuf, LocateError> {
    if let Some(cluster) = cluster {
        let path = directory.join(format!("{cluster}.toml"));
        return if path.exists() { Ok(path) } else { Err(LocateError::NoSuchCluster { path }) };
    }
    let unreadable = |source| LocateError::Unreadable { directory: directory.to_owned(), source };
    let none = || LocateError::None { directory: directory.to_owned() };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    match found.as_slice() {
        [] => Err(none()),
        [only] => Ok(only.clone()),
        several => {
            let clusters = several.iter().filter_map(|path| path.file_stem()).map(|stem| stem.display().to_string());
            Err(LocateError::Several { directory: directory.to_owned(), clusters: clusters.collect() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_file_needs_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert!(matches!(locate(None, at), Err(LocateError::None { .. })));
        assert!(matches!(locate(None, &at.join("none")), Err(LocateError::None { .. })));
        std::fs::write(at.join("main.toml"), "").unwrap();
        std::fs::write(at.join("main.toml.orig"), "").unwrap();
        assert_eq!(locate(None, at).unwrap(), at.join("main.toml"));

        std::fs::write(at.join("other.toml"), "").unwrap();
        let error = locate(None, at).unwrap_err();
        assert!(error.to_string().starts_with("there are configurations of main, other in"), "{error}");
        assert_eq!(locate(Some(&"other".parse().unwrap()), at).unwrap(), at.join("other.toml"));
        assert!(matches!(locate(Some(&"third".parse().unwrap()), at), Err(LocateError::NoSuchCluster { .. })));
    }
}
