//! The `restore_command` of a restored server.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::restore::shell::shell_word_bytes;

/// How the server gets its WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreCommand {
    /// `PROGRAM wal-fetch --restore RESTORE %f "%p"`.
    WalFetch { program: PathBuf, restore: PathBuf },
    /// A command of the caller's own, with `%f` and `%p`. It has to keep the rule of exit codes: what is not proven to be
    /// absent is no reason to end the recovery.
    Shell(String),
}

impl RestoreCommand {
    /// The value of the parameter: a command of the shell in which `%` is special to the server.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        match self {
            Self::Shell(command) => command.clone().into_bytes(),
            Self::WalFetch { program, restore } => {
                let mut text = escaped_word(program.as_os_str().as_bytes());
                text.extend_from_slice(b" wal-fetch --restore ");
                text.extend(escaped_word(restore.as_os_str().as_bytes()));
                text.extend_from_slice(b" %f \"%p\"");
                text
            }
        }
    }
}

/// A word for the shell in a setting where `%` begins a placeholder.
fn escaped_word(word: &[u8]) -> Vec<u8> {
    let escape = |byte: u8| if byte == b'%' { vec![b'%'; 2] } else { vec![byte] };
    shell_word_bytes(word).into_iter().flat_map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(program: &str, restore: &str) -> String {
        let command = RestoreCommand::WalFetch { program: program.into(), restore: restore.into() };
        String::from_utf8(command.text()).unwrap()
    }

    #[test]
    fn words_survive_the_shell_and_the_server() {
        assert_eq!(
            text("/usr/bin/pitr", "/srv/main.toml"),
            "/usr/bin/pitr wal-fetch --restore /srv/main.toml %f \"%p\""
        );
        assert_eq!(
            text("/opt/my tools/pitr", "/srv/it's 100%.toml"),
            "'/opt/my tools/pitr' wal-fetch --restore '/srv/it'\\''s 100%%.toml' %f \"%p\""
        );
    }
}
