//! Writes the configuration of a restored cluster.

use std::path::Path;

use super::auto_conf::{Adjusted, RecoverySettings, TargetAction, auto_conf};
use super::external::{self, WrittenExternals};
use super::paths::{adapt, as_path};
use super::view::ConfigView;
use crate::fs::{Action, Directory, Error, FailureKind, Publish, Result};
use crate::repository::backup::MinimumSettings;
use crate::restore::contents::ExternalFile;
use crate::restore::owned_file;

const HBA_FILE: &str = "pg_hba.conf";
const AUTO_CONF: &str = "postgresql.auto.conf";
const PRIVATE: u32 = 0o600;

/// What there is to write, and where.
#[derive(Debug)]
pub(in crate::restore) struct ConfigurationWriter<'a> {
    pub(in crate::restore) directory: &'a Directory,
    pub(in crate::restore) owner: Option<(u32, u32)>,
    /// Where the data directory of the origin stood.
    pub(in crate::restore) origin: &'a Path,
    pub(in crate::restore) externals: &'a [ExternalFile],
    pub(in crate::restore) settings: &'a RecoverySettings,
    /// What replay needs at any point of the WAL.
    pub(in crate::restore) minimum: MinimumSettings,
}

/// What a person should know of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::restore) struct WrittenConfiguration {
    pub(in crate::restore) notes: Vec<String>,
}

impl ConfigurationWriter<'_> {
    /// Adapts the files of the configuration and adds those that make the server recover. Blocks.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(in crate::restore) fn write(&self) -> Result<WrittenConfiguration> {
        let mut written = WrittenConfiguration::default();
        let mut externals = external::write(self.directory, self.externals, self.owner)?;
        externals.moved.add(self.origin, self.directory.path());
        self.adapt_files(&externals, &mut written)?;

        let view = ConfigView::read(self.directory.path())?;
        self.ensure_files(&view, &mut written)?;
        let adjusted = self.adjusted(&view, &mut written);
        let old = self.read(AUTO_CONF)?.unwrap_or_default();
        self.publish(AUTO_CONF, &auto_conf(&old, self.settings, &adjusted), PRIVATE)?;

        // Where both signals exist, the server takes itself for a standby and never ends its recovery.
        match self.directory.remove_file("standby.signal") {
            Err(error) if error.is_not_found() => {}
            removed => removed?,
        }
        self.publish("recovery.signal", b"", PRIVATE)?;
        Ok(written)
    }

    fn adapt_files(&self, externals: &WrittenExternals, written: &mut WrittenConfiguration) -> Result<()> {
        let view = ConfigView::read_moved(self.directory.path(), &externals.moved)?;
        for path in view.files() {
            let Ok(name) = path.strip_prefix(self.directory.path()) else {
                written.notes.push(format!(
                    "the configuration includes \"{}\", which is not part of the backup and was left as it is",
                    path.display()
                ));
                continue;
            };
            let (Some(parent), Some(file)) = (path.parent(), name.file_name().and_then(|name| name.to_str())) else {
                continue;
            };
            let content = std::fs::read(path).map_err(|error| Error::new(Action::Read, path, error))?;
            if let Some(adapted) = adapt(&content, &externals.moved, &externals.dropped) {
                if !external::leads_into(self.directory.path(), parent) {
                    written.notes.push(format!(
                        "\"{}\" is reached through a symbolic link and was left as it is",
                        path.display()
                    ));
                    continue;
                }
                let directory = Directory::open(parent)?;
                owned_file::publish(&directory, file, &adapted, PRIVATE, self.owner, Publish::Over)?;
            }
        }
        Ok(())
    }

    /// A server does not start without these.
    fn ensure_files(&self, view: &ConfigView, written: &mut WrittenConfiguration) -> Result<()> {
        if self.read("postgresql.conf")?.is_none() {
            self.publish("postgresql.conf", b"# The backup had none.\n", PRIVATE)?;
            written.notes.push("the backup holds no postgresql.conf: the server will run with defaults".to_owned());
        }
        if view.value("hba_file").is_none() && self.read(HBA_FILE)?.is_none() {
            self.publish(HBA_FILE, b"local all all peer\n", PRIVATE)?;
            written
                .notes
                .push("the backup holds no pg_hba.conf: only local users may connect, as themselves".to_owned());
        }
        Ok(())
    }

    fn adjusted(&self, view: &ConfigView, written: &mut WrittenConfiguration) -> Vec<Adjusted> {
        let mut adjusted = minimum_settings(view, self.minimum);
        if self.settings.action == TargetAction::Pause && !view.is_on("hot_standby", true) {
            let (name, value) = ("hot_standby".to_owned(), b"on".to_vec());
            adjusted.push(Adjusted {
                name,
                value,
                reason: "without it the server would stop at the target, not pause",
            });
        }
        if let Some(missing) = missing_ssl_file(view, self.directory.path()) {
            written.notes.push(format!("ssl is off here, because \"{missing}\" does not exist"));
            let (name, value) = ("ssl".to_owned(), b"off".to_vec());
            adjusted.push(Adjusted { name, value, reason: "a file that it needs is not here" });
        }
        if let Some(missing) = missing_socket_directory(view) {
            written.notes.push(format!("sockets are in /tmp here, because \"{missing}\" does not exist"));
            let (name, value) = ("unix_socket_directories".to_owned(), b"/tmp".to_vec());
            adjusted.push(Adjusted { name, value, reason: "the directory of the origin is not here" });
        }
        adjusted
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.directory.path_of(name);
        match std::fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) => {
                let error = Error::new(Action::Read, path, error);
                if error.kind() == FailureKind::NotFound { Ok(None) } else { Err(error) }
            }
        }
    }

    fn publish(&self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        owned_file::publish(self.directory, name, bytes, mode, self.owner, Publish::Over)
    }
}

/// Hot standby refuses to replay, or pauses, with less than the origin had. Only what is too low is raised.
fn minimum_settings(view: &ConfigView, minimum: MinimumSettings) -> Vec<Adjusted> {
    [
        ("max_connections", 100, minimum.max_connections),
        ("max_worker_processes", 8, minimum.max_worker_processes),
        ("max_wal_senders", 10, minimum.max_wal_senders),
        ("max_prepared_transactions", 0, minimum.max_prepared_transactions),
        ("max_locks_per_transaction", 64, minimum.max_locks_per_transaction),
    ]
    .into_iter()
    .filter(|(name, default, needed)| view.number(name, *default).is_none_or(|value| value < *needed))
    .map(|(name, _, needed)| Adjusted {
        name: name.to_owned(),
        value: needed.to_string().into_bytes(),
        reason: "replay needs as much as the origin had",
    })
    .collect()
}

fn missing_ssl_file(view: &ConfigView, directory: &Path) -> Option<String> {
    if !view.is_on("ssl", false) {
        return None;
    }
    let files =
        [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key"), ("ssl_ca_file", ""), ("ssl_crl_file", "")];
    files
        .into_iter()
        .map(|(name, default)| view.value(name).unwrap_or(default.as_bytes()))
        .find(|path| !path.is_empty() && !directory.join(as_path(path)).exists())
        .map(|path| String::from_utf8_lossy(path).into_owned())
}

/// An abstract socket, `@name`, needs no directory.
fn missing_socket_directory(view: &ConfigView) -> Option<String> {
    let value = String::from_utf8_lossy(view.value("unix_socket_directories")?).into_owned();
    value
        .split(',')
        .map(|path| path.trim().trim_matches('"'))
        .find(|path| path.starts_with('/') && !Path::new(path).is_dir())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests;
