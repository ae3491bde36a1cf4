//! The terminal: whether there is one, and questions to whoever sits there.

use std::io::{self, BufRead, IsTerminal, Write};

use pitr::config::Environment;

use crate::args::ColorChoice;
use crate::output::Paint;

/// Which of the three streams a person reads or writes.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Terminal {
    pub fn detect() -> Self {
        Self {
            stdin: io::stdin().is_terminal(),
            stdout: io::stdout().is_terminal(),
            stderr: io::stderr().is_terminal(),
        }
    }

    /// Whether a question can be asked and answered.
    pub fn can_ask(self) -> bool {
        self.stdin && self.stderr
    }

    /// Asks on stderr; anything but a yes is a no. Blocks.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn confirm(question: &str) -> io::Result<bool> {
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question} [y/N] ")?;
        stderr.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }
}

/// Colours for a stream that is, or is not, a terminal.
pub fn paint(choice: ColorChoice, terminal: bool, environment: &Environment) -> Paint {
    let colored = match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            terminal && environment.get("NO_COLOR").is_none() && environment.get("TERM") != Some("dumb")
        }
    };
    if colored { Paint::colored() } else { Paint::plain() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_need_a_terminal_that_wants_them() {
        let environment = |name: &str, value: &str| Environment::from_iter([(name, value)]);
        for (choice, terminal, environment, colored) in [
            (ColorChoice::Auto, true, Environment::default(), true),
            (ColorChoice::Auto, false, Environment::default(), false),
            (ColorChoice::Auto, true, environment("NO_COLOR", "1"), false),
            (ColorChoice::Auto, true, environment("NO_COLOR", ""), true),
            (ColorChoice::Auto, true, environment("TERM", "dumb"), false),
            (ColorChoice::Always, false, environment("NO_COLOR", "1"), true),
            (ColorChoice::Never, true, Environment::default(), false),
        ] {
            assert_eq!(paint(choice, terminal, &environment).red("x") != "x", colored, "{choice:?} {environment:?}");
        }
    }
}
