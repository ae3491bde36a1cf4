//! The one place that writes data.

use std::io::{self, Write};

/// # Errors
/// Stdout is closed or its disk is full. A closed pipe is for [`exit`](crate::exit) to forgive.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Talk: what happens, to whoever watches. That nobody does is no failure.
pub fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{text}");
}
