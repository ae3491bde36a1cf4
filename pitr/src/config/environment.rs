//! Values of the environment, as the binary passes them in.

use std::collections::BTreeMap;

use crate::secret::Secret;

/// Names and values. They may hold secrets, so nothing prints them.
#[derive(Clone, Debug, Default)]
pub struct Environment(Secret<BTreeMap<String, String>>);

impl Environment {
    /// The value of `name`; an empty value counts as none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.expose().get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(values: I) -> Self {
        let values: BTreeMap<_, _> = values.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self(Secret::new(values))
    }
}
