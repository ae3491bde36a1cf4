//! The programs of a server's version.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, Result};
use crate::postgres::MajorVersion;

/// A directory with `postgres` and `pg_ctl` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPrograms {
    directory: PathBuf,
    /// As the program says it: `15.18 (Debian 15.18-0+deb12u1)`.
    version: String,
}

impl ServerPrograms {
    /// Looks in `directory` if one is given, else where `pg_config` of the `PATH` points and where packages of Debian and
    /// Red Hat put them. Blocks.
    ///
    /// # Errors
    /// There is no `postgres`, or in a directory that was given one of another version.
    pub fn find(wanted: MajorVersion, directory: Option<&Path>) -> Result<Self> {
        if let Some(directory) = directory {
            let program = directory.join("postgres");
            let version =
                version_of(&program).map_err(|source| Error::NotRunnable { program: program.clone(), source })?;
            if major_of(&version) != Some(wanted) {
                return Err(Error::WrongVersion { program, found: version, wanted });
            }
            return Ok(Self { directory: directory.to_owned(), version });
        }
        let places = places(wanted);
        for place in &places {
            if let Ok(version) = version_of(&place.join("postgres"))
                && major_of(&version) == Some(wanted)
            {
                return Ok(Self { directory: place.clone(), version });
            }
        }
        Err(Error::NoPrograms { wanted, looked_in: places })
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    #[must_use]
    pub fn postgres(&self) -> PathBuf {
        self.directory.join("postgres")
    }

    #[must_use]
    pub fn pg_ctl(&self) -> PathBuf {
        self.directory.join("pg_ctl")
    }
}

fn places(wanted: MajorVersion) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let configured = Command::new("pg_config").arg("--bindir").output();
    if let Some(output) = configured.ok().filter(|output| output.status.success()) {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    for pattern in ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql/bin", "/usr/bin"] {
        places.push(PathBuf::from(pattern.replace("{}", &wanted.to_string())));
    }
    places
}

/// Asked before the program looks whether it runs as root.
fn version_of(program: &Path) -> std::io::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(text.strip_prefix("postgres (PostgreSQL) ").unwrap_or(&text).to_owned())
}

/// `15.18 (Debian …)`, `18beta1`.
fn major_of(version: &str) -> Option<MajorVersion> {
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    MajorVersion::from_number(version.get(..end)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn majors_are_read_from_what_the_program_says() {
        assert_eq!(major_of("15.18 (Debian 15.18-0+deb12u1)"), Some(MajorVersion::V15));
        assert_eq!(major_of("18beta1"), Some(MajorVersion::V18));
        assert_eq!(major_of("9.6.24"), None);
        assert_eq!(major_of(""), None);
    }

    #[test]
    fn a_given_directory_must_have_the_right_version() {
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("postgres");
        let found = |wanted| ServerPrograms::find(wanted, Some(scratch.path()));
        assert!(matches!(found(MajorVersion::V15), Err(Error::NotRunnable { .. })));
        std::fs::write(&program, "#!/bin/sh\necho 'postgres (PostgreSQL) 15.18'\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found(MajorVersion::V15).unwrap().version(), "15.18");
        assert!(matches!(found(MajorVersion::V16), Err(Error::WrongVersion { found, .. }) if found == "15.18"));
    }
}
