//! Where a secret comes from. The configuration itself never holds one.

use std::io;
use std::path::PathBuf;

use super::Environment;
use crate::secret::Secret;

/// No secret is longer; a larger file is the wrong one.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// `{ file = "/absolute/path" }` or `{ env = "NAME" }`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretSource {
    File(PathBuf),
    Env(String),
}

/// Why a secret is not there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("could not read the secret in \"{}\"", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the file \"{}\" holds no secret: {reason}", path.display())]
    Malformed { path: PathBuf, reason: &'static str },
    #[error("the environment variable {0}, which should hold a secret, is not set")]
    Env(String),
}

impl SecretSource {
    /// The secret itself. A file's last line feed is not part of it. Reads the file anew, so that it may be exchanged.
    ///
    /// # Errors
    /// The file cannot be read or is empty, the variable is not set.
    pub fn resolve(&self, environment: &Environment) -> Result<Secret<String>, SecretError> {
        match self {
            Self::Env(name) => {
                let value = environment.get(name).ok_or_else(|| SecretError::Env(name.clone()))?;
                Ok(Secret::new(value.to_owned()))
            }
            Self::File(path) => {
                let unreadable = |source| SecretError::File { path: path.clone(), source };
                let malformed = |reason| SecretError::Malformed { path: path.clone(), reason };
                if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_SECRET_BYTES {
                    return Err(malformed("it is larger than 64 KiB"));
                }
                let text = std::fs::read_to_string(path).map_err(unreadable)?;
                let secret = text.trim_end_matches(['\r', '\n']);
                if secret.is_empty() { Err(malformed("it is empty")) } else { Ok(Secret::new(secret.to_owned())) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_from_a_file_without_its_line_feed_or_from_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "hunter2 \n").unwrap();
        let environment = Environment::from_iter([("PASSWORD", "hunter3"), ("EMPTY", "")]);
        let resolve = |source: SecretSource| source.resolve(&environment).map(|secret| secret.expose().clone());
        assert_eq!(resolve(SecretSource::File(path.clone())).unwrap(), "hunter2 ");
        assert_eq!(resolve(SecretSource::Env("PASSWORD".to_owned())).unwrap(), "hunter3");

        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(resolve(SecretSource::File(path)), Err(SecretError::Malformed { .. })));
        assert!(matches!(resolve(SecretSource::File(directory.path().join("none"))), Err(SecretError::File { .. })));
        for unset in ["EMPTY", "NONE"] {
            assert!(matches!(resolve(SecretSource::Env(unset.to_owned())), Err(SecretError::Env(_))));
        }
    }
}
