//! Configuration that stands outside the data directory, as Debian has it in `/etc`. Blocking.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pitr::repository::backup::{ContentsLine, ExternalRole};
use tracing::warn;

/// Where the server reads its configuration.
#[derive(Clone, Debug)]
pub struct ConfigFiles {
    pub config_file: PathBuf,
    pub hba_file: PathBuf,
    pub ident_file: PathBuf,
    /// Files that settings come from, `config_file` and those it includes.
    pub setting_files: Vec<PathBuf>,
}

/// No configuration file is larger.
const MAX_BYTES: u64 = 4 << 20;

/// The files of the server's configuration that a copy of the data directory lacks. What cannot be read is left out: a
/// restore asks for its configuration then.
#[must_use]
pub fn external_files(files: &ConfigFiles, data_directory: &Path) -> Vec<ContentsLine> {
    let data_directory = std::fs::canonicalize(data_directory).unwrap_or_else(|_| data_directory.to_owned());
    let mut roles: BTreeMap<PathBuf, ExternalRole> = BTreeMap::new();
    let named = [
        (&files.config_file, ExternalRole::ConfigFile),
        (&files.hba_file, ExternalRole::HbaFile),
        (&files.ident_file, ExternalRole::IdentFile),
    ];
    let included = files.setting_files.iter().map(|path| (path, ExternalRole::Included));
    for (path, role) in named.into_iter().chain(included) {
        roles.entry(path.clone()).or_insert(role);
    }
    let outside = roles.into_iter().filter(|(path, _)| {
        // A link in the data directory to a file in /etc counts as outside.
        path.is_absolute() && std::fs::canonicalize(path).is_ok_and(|real| !real.starts_with(&data_directory))
    });
    outside.filter_map(|(path, role)| external(&path, role)).collect()
}

fn external(path: &Path, role: ExternalRole) -> Option<ContentsLine> {
    use base64::Engine as _;
    let read = || {
        let stat = std::fs::metadata(path)?;
        if !stat.is_file() || stat.len() > MAX_BYTES {
            return Err(std::io::Error::other("not a configuration file"));
        }
        Ok((std::fs::read(path)?, stat.permissions().mode() & 0o7777))
    };
    match (read(), path.to_str()) {
        (Ok((content, mode)), Some(text)) => Some(ContentsLine::External {
            role,
            path: text.to_owned(),
            mode,
            base64: base64::engine::general_purpose::STANDARD.encode(content),
        }),
        (Err(error), _) => {
            warn!(path = %path.display(), error = %error, "a configuration file is not in the backup");
            None
        }
        (Ok(_), None) => {
            warn!(path = %path.display(), "a configuration file whose path is not UTF-8 is not in the backup");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_outside_the_data_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["data", "etc"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        for name in ["data/pg_hba.conf", "etc/postgresql.conf", "etc/extra.conf", "etc/ident"] {
            std::fs::write(path(name), name).unwrap();
        }
        std::os::unix::fs::symlink(path("etc/ident"), path("data/pg_ident.conf")).unwrap();
        let files = ConfigFiles {
            config_file: path("etc/postgresql.conf"),
            hba_file: path("data/pg_hba.conf"),
            ident_file: path("data/pg_ident.conf"),
            setting_files: vec![path("etc/postgresql.conf"), path("etc/extra.conf"), path("etc/missing.conf")],
        };
        let found: Vec<(String, ExternalRole)> = external_files(&files, &path("data"))
            .into_iter()
            .map(|line| match line {
                ContentsLine::External { role, path, .. } => (path, role),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            ("data/pg_ident.conf", ExternalRole::IdentFile),
            ("etc/extra.conf", ExternalRole::Included),
            ("etc/postgresql.conf", ExternalRole::ConfigFile),
        ];
        assert_eq!(found, expected.map(|(name, role)| (path(name).to_str().unwrap().to_owned(), role)));
    }
}
