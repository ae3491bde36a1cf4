//! How a failure is told: the error, what caused it, what to do. Once, here.

use std::error::Error;

use crate::failure::Failure;
use crate::output::Paint;

/// `error: …`, each cause behind a colon, and the hint on a line of its own.
pub fn report(failure: &Failure, paint: Paint) -> String {
    let mut text = format!("{} {failure}", paint.red("error:"));
    let mut said = failure.to_string();
    let mut source = failure.source();
    while let Some(error) = source {
        let words = error.to_string();
        // Wrappers of other crates repeat what their source says.
        if !said.ends_with(&words) {
            text += &format!(": {words}");
        }
        said = words;
        source = error.source();
    }
    if let Some(hint) = failure.hint() {
        text += &format!("\n{} {hint}", paint.yellow("hint:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitr::repository;
    use pitr::storage::{self, ErrorKind, Operation};

    #[test]
    fn tells_the_chain_and_the_hint_once() {
        let cause = std::io::Error::other("connection refused");
        let error = storage::Error::new(ErrorKind::Unavailable, Operation::Get, "main/lease", "no answer for 120 s");
        let failure = Failure::Repository(repository::Error::Storage(error.with_source(cause)));
        assert_eq!(
            report(&failure, Paint::plain()),
            "error: the object store failed: could not get \"main/lease\": no answer for 120 s: connection refused\n\
             hint: check that the store is reachable at [repository] endpoint, then try again"
        );
    }

    #[test]
    fn every_problem_of_a_configuration_is_told() {
        let error = pitr::config::Config::parse("", std::path::Path::new("main.toml")).unwrap_err();
        let text = report(&Failure::Config(error.into()), Paint::plain());
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
