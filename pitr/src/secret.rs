//! Values that must not be seen: passwords, keys, tokens.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A value that `Debug` and `Display` print as `***`, so that neither a log line, an error nor a dump of the configuration
/// shows it. It can be read from a configuration and never be written to one. There is no `==`: comparing a token takes a
/// comparison whose time does not tell where the difference is.
#[derive(Clone, Default)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. The long name makes every place where a secret leaves its wrapping easy to find.
    #[must_use]
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_nothing_of_its_value() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "only its Debug is looked at")]
        struct Login {
            password: Secret<String>,
        }
        let password = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{password} {password:?} {password:#?}"), "*** *** ***");
        assert_eq!(password.expose(), "hunter2");
        assert!(!format!("{:?}", Login { password }).contains("hunter2"));
    }

    #[test]
    fn reads_as_the_value_it_wraps() {
        let secret: Secret<String> = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(secret.expose(), "hunter2");
    }
}
