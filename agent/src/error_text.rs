//! Errors as one line of text, for places that have no room for a chain.

/// The error and its sources, joined by colons; a source that repeats what was said is left out.
#[must_use]
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    #[test]
    fn says_each_cause_once() {
        let root = Link { text: "disk full", source: None };
        let middle = Link { text: "could not write", source: Some(Box::new(root)) };
        let repeating = Link { text: "could not write", source: Some(Box::new(middle)) };
        assert_eq!(in_full(&repeating), "could not write: disk full");
    }
}
