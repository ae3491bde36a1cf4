//! Why a started server did not get where it should.

use std::path::PathBuf;

use crate::fs;
use crate::postgres::MajorVersion;
use crate::restore::FailureClass;

pub type Result<T> = std::result::Result<T, Error>;

/// A server that was not started, or did not reach the target. The restored files stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the programs of PostgreSQL {wanted} are not installed here")]
    NoPrograms { wanted: MajorVersion, looked_in: Vec<PathBuf> },
    #[error("\"{}\" is of PostgreSQL {found}, the backup of {wanted}", program.display())]
    WrongVersion { program: PathBuf, found: String, wanted: MajorVersion },
    #[error("\"{}\" could not be run", program.display())]
    NotRunnable { program: PathBuf, source: std::io::Error },
    #[error("\"{}\" holds no recovery.signal: a server there would not recover to the target", directory.display())]
    NotRecovering { directory: PathBuf },
    #[error("the server's files could not be prepared")]
    Files(#[from] fs::Error),
    #[error("the restore_command does not deliver \"{segment}\" as user \"{user}\": {reason}")]
    RestoreCommand { segment: String, user: String, reason: String, exit_code: Option<i32> },
    #[error("the server did not reach the target: {reason}")]
    Recovery { reason: String, last_file: Option<String>, log: PathBuf },
    #[error("the server did not reach the target, because its WAL could not be had: {reason}")]
    Unserved { reason: String, last_file: Option<String>, log: PathBuf },
    #[error("the recovery paused before it was over: {reason}")]
    Paused { reason: String, log: PathBuf },
    #[error("the server is not what was asked for: {failed}")]
    NotAsAsked { failed: String, log: PathBuf },
    #[error("the recovery was not over after {seconds} seconds")]
    TimedOut { seconds: u64, log: PathBuf },
    #[error("the start of the server was interrupted; it was stopped again")]
    Interrupted,
}

impl Error {
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::RestoreCommand { exit_code: Some(200), .. } | Self::Unserved { .. } => FailureClass::Unavailable,
            Self::TimedOut { .. } => FailureClass::TimedOut,
            Self::Interrupted => FailureClass::Interrupted,
            _ => FailureClass::Failed,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let restored = "the restored files are complete and unharmed";
        Some(match self {
            Self::NoPrograms { looked_in, .. } => {
                let places: Vec<String> = looked_in.iter().map(|path| path.display().to_string()).collect();
                format!("install them, or name their directory with --bin-directory; looked in {}", places.join(", "))
            }
            Self::WrongVersion { .. } => "name the directory of the right version with --bin-directory".to_owned(),
            Self::NotRecovering { .. } => "restore anew; nothing was started".to_owned(),
            Self::NotRunnable { .. } => "name the directory of the right version with --bin-directory".to_owned(),
            Self::Files(_) => restored.to_owned(),
            Self::RestoreCommand { user, .. } => format!(
                "check that user \"{user}\" can run the program, read the recovery configuration and reach the repository \
                 with credentials of its own; {restored}"
            ),
            Self::Recovery { last_file, log, .. } => {
                let last = last_file.as_ref().map_or(String::new(), |file| format!(" after WAL file {file}"));
                format!("see \"{}\"{last}; the same command with an empty directory tries again", log.display())
            }
            Self::Unserved { log, .. } => format!(
                "see \"{}\" for why the repository did not deliver it; nothing was promoted, and the same command with an \
                 empty directory tries again",
                log.display()
            ),
            Self::Paused { log, .. } | Self::NotAsAsked { log, .. } | Self::TimedOut { log, .. } => {
                format!("see \"{}\"; the server was stopped", log.display())
            }
            Self::Interrupted => format!("{restored}; a server started there recovers to the target"),
        })
    }
}
