//! Whether the `restore_command` works, before anybody relies on it: run once as the server would run it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Error, Result};
use crate::fs::{Action, Error as FileError};
use crate::postgres::WalSegmentSize;
use crate::restore::destination::Ownership;

/// A command that takes longer would make replay crawl.
const PATIENCE: Duration = Duration::from_secs(300);
pub(in crate::restore) const TEST_FILE: &str = "pg_wal/pitr_restore_command_test";

/// Fetches `segment` with `command` as the server's user in the server's directory, and takes it away again.
///
/// # Errors
/// The command fails, or delivers something that is no segment.
pub(in crate::restore) async fn test_restore_command(
    command: &[u8],
    segment: &str,
    segment_size: WalSegmentSize,
    data_directory: &Path,
    ownership: &Ownership,
) -> Result<()> {
    let failed = |reason: String, exit_code| Error::RestoreCommand {
        segment: segment.to_owned(),
        user: ownership.account.name.clone(),
        reason,
        exit_code,
    };
    let shell = String::from_utf8_lossy(&expand(command, segment)).into_owned();
    let mut process = Command::new("/bin/sh");
    process.arg("-c").arg(shell).current_dir(data_directory);
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    if ownership.give_away {
        process.uid(ownership.account.uid).gid(ownership.gid);
    }
    let finished = match tokio::time::timeout(PATIENCE, process.output()).await {
        Ok(finished) => finished.map_err(|error| failed(error.to_string(), None))?,
        Err(_) => return Err(failed(format!("no answer within {} seconds", PATIENCE.as_secs()), None)),
    };
    let path = data_directory.join(TEST_FILE);
    let delivered = std::fs::metadata(&path).map(|metadata| metadata.len());
    if delivered.is_ok() {
        std::fs::remove_file(&path).map_err(|error| FileError::new(Action::Remove, &path, error))?;
    }
    if !finished.status.success() {
        let said = String::from_utf8_lossy(&finished.stderr).trim().to_owned();
        let reason = if said.is_empty() { finished.status.to_string() } else { format!("{}: {said}", finished.status) };
        return Err(failed(reason, finished.status.code()));
    }
    match delivered {
        Ok(bytes) if bytes == segment_size.as_u64() => Ok(()),
        Ok(bytes) => Err(failed(format!("it delivered {bytes} bytes, a segment has {}", segment_size.as_u64()), None)),
        Err(error) => Err(failed(format!("it succeeded without a file: {error}"), None)),
    }
}

/// As `BuildRestoreCommand` does it.
fn expand(command: &[u8], segment: &str) -> Vec<u8> {
    let mut text = Vec::new();
    let mut rest = command;
    while let Some((byte, after)) = rest.split_first() {
        let (replacement, after): (&[u8], &[u8]) = match (byte, after.split_first()) {
            (b'%', Some((b'f', after))) => (segment.as_bytes(), after),
            (b'%', Some((b'p', after))) => (TEST_FILE.as_bytes(), after),
            // The file before the last restart point; we have none to name.
            (b'%', Some((b'r', after))) => (segment.as_bytes(), after),
            (b'%', Some((b'%', after))) => (b"%", after),
            _ => (std::slice::from_ref(byte), after),
        };
        text.extend_from_slice(replacement);
        rest = after;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::destination::Account;

    const SEGMENT: &str = "000000010000000000000003";

    async fn tested(command: &str) -> Result<()> {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("pg_wal")).unwrap();
        let size = WalSegmentSize::new(1 << 20).unwrap();
        let account = Account { uid: 0, gid: 0, name: "me".to_owned() };
        let ownership = Ownership { account, gid: 0, give_away: false };
        let result = test_restore_command(command.as_bytes(), SEGMENT, size, scratch.path(), &ownership).await;
        assert_eq!(std::fs::read_dir(scratch.path().join("pg_wal")).unwrap().count(), 0);
        result
    }

    #[test]
    fn placeholders_are_expanded_as_the_server_does_it() {
        let expanded = expand(b"a %f \"%p\" 100%% %x %", SEGMENT);
        assert_eq!(String::from_utf8(expanded).unwrap(), format!("a {SEGMENT} \"{TEST_FILE}\" 100% %x %"));
    }

    #[tokio::test]
    async fn only_a_whole_segment_is_a_success() {
        assert!(tested("truncate -s 1M %p && test %f = 000000010000000000000003").await.is_ok());
        for command in ["truncate -s 1000 %p", "true", "false", "truncate -s 1M %p; false", "echo why >&2; exit 200"] {
            assert!(tested(command).await.is_err(), "{command}");
        }
    }

    #[tokio::test]
    async fn trouble_is_told_in_the_commands_own_words() {
        let error = tested("echo no credentials >&2; exit 200").await.unwrap_err();
        assert!(error.to_string().contains("no credentials"), "{error}");
        assert_eq!(error.class(), crate::restore::FailureClass::Unavailable);
        assert_eq!(tested("exit 1").await.unwrap_err().class(), crate::restore::FailureClass::Failed);
    }
}
