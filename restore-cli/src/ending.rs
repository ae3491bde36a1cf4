//! The exit codes of `wal-fetch`, whatever happens.
//!
//! PostgreSQL takes 1 to 125 from `restore_command` as "the archive ends here" and promotes: after a failure, or a usage
//! error of this command, that would be a server that lacks transactions and says nothing. So 1 is only what the repository
//! answered, and everything that is not 0 or that answer is 200 (`RestoreArchivedFile`, `wait_result_is_any_signal`).

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub const FOUND: u8 = 0;
pub const PROVEN_ABSENT: u8 = 1;
pub const ANYTHING_ELSE: u8 = 200;

const FAILED: u8 = 1;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The code of `pitr`'s table.
    Command(u8),
    /// `wal-fetch` delivered the file.
    WalFound,
    /// The repository proved that the file does not exist.
    WalAbsent,
    WalFailed,
    /// Help or version was asked for, and shown.
    Shown,
}

/// Whether these arguments may be meant for `wal-fetch`. Decided before they are parsed, because parsing may fail; where in
/// doubt, yes.
pub fn is_wal_fetch(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).any(|argument| argument == "wal-fetch")
}

/// The exit code of `work`, also when it panics.
pub fn guarded(fetching: bool, work: impl FnOnce() -> Ending) -> u8 {
    let ending = catch_unwind(AssertUnwindSafe(work));
    match ending {
        Ok(Ending::WalFound) => FOUND,
        Ok(Ending::WalAbsent) => PROVEN_ABSENT,
        Ok(Ending::WalFailed) => ANYTHING_ELSE,
        Ok(Ending::Shown) => 0,
        Ok(Ending::Command(_)) | Err(_) if fetching => ANYTHING_ELSE,
        Ok(Ending::Command(code)) => code,
        Err(_) => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_fetch_ends_with_0_1_or_200() {
        for (ending, code) in [
            (Ending::WalFound, 0),
            (Ending::WalAbsent, 1),
            (Ending::WalFailed, 200),
            (Ending::Command(0), 200),
            (Ending::Command(1), 200),
            (Ending::Command(2), 200),
            (Ending::Command(130), 200),
        ] {
            assert_eq!(guarded(true, || ending), code, "{ending:?}");
        }
        assert_eq!(guarded(false, || Ending::Command(3)), 3);
    }

    #[test]
    fn a_panic_never_looks_like_the_end_of_the_archive() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let fetching = guarded(true, || panic!("a bug"));
        let other = guarded(false, || panic!("a bug"));
        std::panic::set_hook(hook);
        assert_eq!((fetching, other), (200, 1));
    }

    #[test]
    fn arguments_are_recognised_wherever_the_command_stands() {
        let arguments = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        for words in ["pitr wal-fetch a b", "pitr --config x wal-fetch", "pitr --nonsense x wal-fetch a b"] {
            assert!(is_wal_fetch(&arguments(words)), "{words}");
        }
        for words in ["pitr", "pitr status", "wal-fetch status"] {
            assert!(!is_wal_fetch(&arguments(words)), "{words}");
        }
    }
}
