//! How the server of a restored directory is started.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::probe::SqlProbe;
use super::{Error, Result, RunDirectory, ServerPrograms};
use crate::fs::{Action, Error as FileError};
use crate::restore::destination::Ownership;
use crate::restore::settings::TargetAction;
use crate::restore::shell::shell_word;

/// What a caller asks of a server.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    pub bin_directory: Option<PathBuf>,
    /// The configured one where none is given.
    pub port: Option<u16>,
    /// A directory that only the server's user can enter where none is given.
    pub socket_directory: Option<PathBuf>,
    /// None: no network.
    pub listen_addresses: Option<String>,
    /// Further parameters, which take precedence over all others.
    pub parameters: Vec<(String, String)>,
    /// How long the recovery may take.
    pub deadline: Option<Duration>,
    pub probe: Option<Arc<dyn SqlProbe>>,
    /// The role that the probe comes as; by default the owner of the files, then `postgres`.
    pub user: Option<String>,
}

/// A server that is about to be started.
#[derive(Clone, Debug)]
pub(in crate::restore) struct ServerCommand {
    pub(in crate::restore) programs: ServerPrograms,
    pub(in crate::restore) data_directory: PathBuf,
    pub(in crate::restore) ownership: Ownership,
    pub(in crate::restore) run_directory: RunDirectory,
    pub(in crate::restore) socket_directory: PathBuf,
    /// Whether the socket is in a directory that nobody else can enter, so that whoever comes is trusted.
    pub(in crate::restore) private_socket: bool,
    pub(in crate::restore) port: u16,
    pub(in crate::restore) listen_addresses: Option<String>,
    pub(in crate::restore) action: TargetAction,
    pub(in crate::restore) parameters: Vec<(String, String)>,
}

/// They would reach into the server, which reads everything from its files.
const SERVER_VARIABLES: [&str; 6] = ["PGDATA", "PGPORT", "PGOPTIONS", "PGCLIENTENCODING", "PGDATESTYLE", "PGTZ"];

impl ServerCommand {
    /// Parameters on the command line take precedence over every file, and leave no trace in them.
    fn parameters(&self) -> Vec<(String, String)> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut parameters = vec![
            ("data_directory", text(&self.data_directory)),
            ("port", self.port.to_string()),
            ("unix_socket_directories", text(&self.socket_directory)),
            ("listen_addresses", self.listen_addresses.clone().unwrap_or_default()),
            // The log is read by us: in one file, in English, whatever the origin had.
            ("logging_collector", "off".to_owned()),
            ("log_destination", "stderr".to_owned()),
            ("log_min_messages", "info".to_owned()),
            ("log_line_prefix", "%m [%p] ".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("lc_messages", "C".to_owned()),
            ("archive_mode", "off".to_owned()),
            ("synchronous_standby_names", String::new()),
            ("max_logical_replication_workers", "0".to_owned()),
            ("external_pid_file", String::new()),
            // Without hot standby no parameter of the origin can stop or pause the replay.
            ("hot_standby", if self.action == TargetAction::Pause { "on" } else { "off" }.to_owned()),
        ];
        if self.private_socket {
            parameters.push(("hba_file", text(&self.run_directory.hba_file())));
        }
        if self.listen_addresses.is_none() {
            parameters.push(("ssl", "off".to_owned()));
        }
        let mut all: Vec<(String, String)> =
            parameters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        all.extend(self.parameters.iter().cloned());
        all
    }

    /// Starts it, in a process group of its own so that no key pressed here reaches it.
    pub(super) fn spawn(&self) -> Result<Child> {
        let program = self.programs.postgres();
        let log = self.open_log()?;
        let copy = log.try_clone().map_err(|error| FileError::new(Action::Open, self.run_directory.log(), error))?;
        let mut command = Command::new(&program);
        command.arg("-D").arg(&self.data_directory);
        for (name, value) in self.parameters() {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        for name in SERVER_VARIABLES {
            command.env_remove(name);
        }
        command.current_dir(&self.data_directory).stdin(Stdio::null()).stdout(log).stderr(copy).process_group(0);
        if self.ownership.give_away {
            command.uid(self.ownership.account.uid).gid(self.ownership.gid);
        }
        command.spawn().map_err(|source| Error::NotRunnable { program, source })
    }

    fn open_log(&self) -> Result<std::fs::File> {
        let path = self.run_directory.publish("server.log", b"")?;
        let opened = OpenOptions::new().append(true).mode(0o600).open(&path);
        opened.map_err(|error| FileError::new(Action::Open, path, error).into())
    }

    /// Who may connect to a private socket: whoever can enter its directory. `original` follows for the network.
    pub(in crate::restore) fn write_hba_file(&self, original: &[u8]) -> Result<()> {
        if !self.private_socket {
            return Ok(());
        }
        let mut text = b"local all all trust\n".to_vec();
        if self.listen_addresses.is_some() {
            text.extend_from_slice(original);
        }
        self.run_directory.publish("pg_hba.conf", &text).map(|_| ())
    }

    /// The command that stops the server, to be run by its user.
    pub(in crate::restore) fn stop_command(&self) -> String {
        let stop = format!("{} stop -D {}", shell_word(self.programs.pg_ctl()), shell_word(&self.data_directory));
        self.ownership.command_of_account(&stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::destination::Account;

    fn command(action: TargetAction) -> (tempfile::TempDir, ServerCommand) {
        let scratch = tempfile::tempdir().unwrap();
        let data_directory = scratch.path().join("data");
        let programs = fake_programs(scratch.path());
        let command = ServerCommand {
            programs,
            run_directory: RunDirectory::make(&data_directory, None).unwrap(),
            data_directory,
            ownership: Ownership {
                account: Account { uid: 1, gid: 1, name: "postgres".to_owned() },
                gid: 1,
                give_away: true,
            },
            socket_directory: "/sockets".into(),
            private_socket: true,
            port: 5444,
            listen_addresses: None,
            action,
            parameters: vec![("work_mem".to_owned(), "1MB".to_owned())],
        };
        (scratch, command)
    }

    fn fake_programs(directory: &std::path::Path) -> ServerPrograms {
        use std::os::unix::fs::PermissionsExt;

        let program = directory.join("postgres");
        std::fs::write(&program, "#!/bin/sh\necho 'postgres (PostgreSQL) 15.18'\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        ServerPrograms::find(crate::postgres::MajorVersion::V15, Some(directory)).unwrap()
    }

    #[test]
    fn a_clone_reaches_nobody_and_nobody_reaches_it() {
        let (_scratch, command) = command(TargetAction::Promote);
        let parameters = command.parameters();
        let value = |name: &str| parameters.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        for (name, expected) in [
            ("archive_mode", "off"),
            ("listen_addresses", ""),
            ("max_logical_replication_workers", "0"),
            ("synchronous_standby_names", ""),
            ("hot_standby", "off"),
            ("port", "5444"),
            ("ssl", "off"),
        ] {
            assert_eq!(value(name), Some(expected), "{name}");
        }
        assert_eq!(value("data_directory"), command.data_directory.to_str());
        assert_eq!(parameters.last(), Some(&("work_mem".to_owned(), "1MB".to_owned())));
        assert!(command.stop_command().starts_with("runuser -u postgres -- "));
    }

    #[test]
    fn pausing_keeps_hot_standby() {
        let (_scratch, command) = command(TargetAction::Pause);
        assert!(command.parameters().contains(&("hot_standby".to_owned(), "on".to_owned())));
    }

    #[test]
    fn only_a_private_socket_trusts_whoever_comes() {
        let (_scratch, mut command) = command(TargetAction::Promote);
        command.write_hba_file(b"host all all all reject\n").unwrap();
        let written = || std::fs::read_to_string(command.run_directory.hba_file()).unwrap();
        assert_eq!(written(), "local all all trust\n");
        command.listen_addresses = Some("*".to_owned());
        command.write_hba_file(b"host all all all reject\n").unwrap();
        let written = std::fs::read_to_string(command.run_directory.hba_file()).unwrap();
        assert_eq!(written, "local all all trust\nhost all all all reject\n");
        command.private_socket = false;
        assert!(!command.parameters().iter().any(|(name, _)| name == "hba_file"));
    }
}
