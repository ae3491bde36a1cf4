//! Words for a POSIX shell, in commands that a person or the server runs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// `word` as the shell takes it for one word: itself where nothing in it is special, else in single quotes.
#[must_use]
pub fn shell_word(word: impl AsRef<OsStr>) -> String {
    String::from_utf8_lossy(&shell_word_bytes(word.as_ref().as_bytes())).into_owned()
}

pub(super) fn shell_word_bytes(word: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b'+' | b',');
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut text = vec![b'\''];
    for byte in word {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            other => text.push(*other),
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_reads_back_what_was_meant() {
        for word in ["/srv/a", "", "my data", "it's", "a\"b$c`d\\e", "-x", "100%", "newline\nhere"] {
            let script = format!("printf %s {}", shell_word(word));
            let output = std::process::Command::new("/bin/sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
