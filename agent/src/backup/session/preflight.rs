//! Whether a backup of this server makes sense, before anything is asked of it.

use std::path::{Path, PathBuf};

use pitr::postgres::{ControlFile, MajorVersion, PAGE_SIZE, ServerVersion, SystemIdentifier};
use tokio_postgres::Row;

use super::{ControlSession, Result, ServerRole, SessionError, column};
use crate::backup::config_files::ConfigFiles;
use crate::backup::control::read_control_file;

/// What a backup has to know of its server.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    pub version: ServerVersion,
    pub data_directory: PathBuf,
    /// As it is on disk.
    pub control: ControlFile,
    pub config_files: ConfigFiles,
}

const FACTS: &str = "
SELECT current_setting('data_directory'), current_setting('block_size')::int4, current_setting('wal_block_size')::int4,
       current_setting('wal_level'), pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()),
       current_setting('config_file'), current_setting('hba_file'), current_setting('ident_file'),
       ARRAY(SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL)";

impl ControlSession {
    /// Looks at the server and at its data directory.
    ///
    /// # Errors
    /// [`SessionError::Unfit`] with what is wrong and what to do.
    pub async fn preflight(&self, expected: SystemIdentifier) -> Result<ServerFacts> {
        let row = self.within(super::ANSWER_TIMEOUT, "answer", self.sql.query_one(FACTS, &[])).await?;
        check_settings(&row, self.role)?;
        let said: String = column(&row, 5)?;
        let path =
            |index: usize| column::<Option<String>>(&row, index).map(|path| PathBuf::from(path.unwrap_or_default()));
        let data_directory = path(0)?;
        self.refuse_leftovers(&data_directory).await?;
        let control = self.control_file(&data_directory).await?;
        check_identity(&control, &said, expected, &data_directory)?;
        if Some(control.major) != self.version.major() {
            let reason = format!("the server has version {}, its data directory {}", self.version, control.major);
            return Err(SessionError::Unfit { reason, hint: None });
        }
        let setting_files: Vec<String> = column(&row, 9)?;
        Ok(ServerFacts {
            version: self.version,
            data_directory,
            control,
            config_files: ConfigFiles {
                config_file: path(6)?,
                hba_file: path(7)?,
                ident_file: path(8)?,
                setting_files: setting_files.into_iter().map(PathBuf::from).collect(),
            },
        })
    }

    /// Looks at a server whose data directory is elsewhere.
    ///
    /// # Errors
    /// [`SessionError::Unfit`] with what is wrong and what to do.
    pub async fn preflight_distant(&self, expected: SystemIdentifier) -> Result<()> {
        let row = self.within(super::ANSWER_TIMEOUT, "answer", self.sql.query_one(FACTS, &[])).await?;
        check_settings(&row, self.role)?;
        let said: String = column(&row, 5)?;
        if said.parse() == Ok(expected) {
            return Ok(());
        }
        let reason = format!("the server has system identifier {said}, the repository's cluster {expected}");
        Err(SessionError::unfit(reason, "let [postgres] connection lead to the primary of this cluster"))
    }

    async fn control_file(&self, data_directory: &Path) -> Result<ControlFile> {
        let directory = data_directory.to_owned();
        let read = tokio::task::spawn_blocking(move || read_control_file(&directory)).await;
        match read {
            Ok(Ok((_, control))) => Ok(control),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(SessionError::Answer(error.to_string())),
        }
    }

    /// Before 15 another tool may have left an exclusive backup open: its `backup_label` stands in the data directory.
    async fn refuse_leftovers(&self, data_directory: &Path) -> Result<()> {
        if self.major >= MajorVersion::V15 {
            return Ok(());
        }
        let row = self.sql.query_one("SELECT pg_is_in_backup()", &[]).await?;
        let exclusive: bool = column(&row, 0)?;
        if exclusive || data_directory.join("backup_label").exists() {
            return Err(SessionError::unfit(
                "an exclusive backup of another tool is open",
                "end it with SELECT pg_stop_backup(), or remove backup_label if the server did not start from a backup",
            ));
        }
        Ok(())
    }
}

fn check_settings(row: &Row, role: ServerRole) -> Result<()> {
    for (index, name) in [(1, "block_size"), (2, "wal_block_size")] {
        let found: i32 = column(row, index)?;
        if usize::try_from(found) != Ok(PAGE_SIZE) {
            let reason = format!("the server was built with {name} {found}");
            return Err(SessionError::unfit(reason, "only servers with pages of 8192 bytes are supported"));
        }
    }
    let wal_level: String = column(row, 3)?;
    if wal_level == "minimal" {
        return Err(SessionError::unfit("wal_level is minimal", "set wal_level to replica and restart the server"));
    }
    match (column(row, 4)?, role.in_recovery()) {
        (true, false) => Err(SessionError::unfit(
            "the server is a standby",
            "let [postgres] connection lead to the primary, and [backup] standby to a standby whose files are to be read",
        )),
        (false, true) => Err(SessionError::unfit(
            "the server that [backup] standby names is no standby",
            "let it lead to a standby of this host, or leave it out where the primary is here",
        )),
        _ => Ok(()),
    }
}

/// The cluster that answers, the one on disk and the one of the repository must be the same.
fn check_identity(control: &ControlFile, said: &str, expected: SystemIdentifier, data_directory: &Path) -> Result<()> {
    let on_disk = control.system_identifier;
    if said.parse() != Ok(on_disk) {
        let reason = format!(
            "the server has system identifier {said}, the data directory \"{}\" here {on_disk}",
            data_directory.display()
        );
        return Err(SessionError::unfit(reason, "run the agent on the host of the server it connects to"));
    }
    if on_disk != expected {
        let reason = format!("the server has system identifier {on_disk}, the repository's cluster {expected}");
        return Err(SessionError::unfit(reason, "give this server a cluster name of its own in the configuration"));
    }
    Ok(())
}
