//! The kinds of values that keys have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use super::{ByteSize, SecretSource};

/// A kind of value, read from TOML. The error says what was expected.
pub(super) trait Value: Sized {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;
}

pub(super) fn expected(what: &str, value: &DeValue<'_>) -> String {
    let found = match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("expected {what}, found {found}")
}

fn text_of<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| expected("a text in quotes", value))
}

impl Value for String {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = text_of(value)?;
        if text.contains('\0') { Err("the text holds a zero byte".to_owned()) } else { Ok(text.to_owned()) }
    }
}

impl Value for bool {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| expected("true or false", value))
    }
}

impl Value for u32 {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let integer = value.as_integer().ok_or_else(|| expected("a whole number", value))?;
        Self::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| format!("expected a number from 0 to {}, found {integer}", Self::MAX))
    }
}

impl Value for Duration {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        parse_duration(value.as_str().ok_or_else(|| expected("a duration such as \"15m\"", value))?)
    }
}

/// A number with its unit: "500ms", "15m", "14d".
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!("invalid duration \"{text}\", expected a number with a unit such as \"500ms\", \"15m\" or \"14d\"")
    })
}

impl Value for ByteSize {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| expected("a size such as \"64MiB\"", value))?;
        Self::from_str(text).map_err(|error| error.to_string())
    }
}

impl Value for PathBuf {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let path = Path::new(text_of(value)?);
        if path.is_absolute() {
            Ok(path.to_owned())
        } else {
            Err(format!("the path \"{}\" is not absolute", path.display()))
        }
    }
}

impl Value for SecretSource {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        const FORM: &str = "{ file = \"/absolute/path\" } or { env = \"NAME\" }";
        let Some(table) = value.as_table() else {
            // What was found may be the secret itself: it is not repeated.
            return Err(format!("a secret does not stand in the configuration, write {FORM}"));
        };
        let mut entries = table.iter().map(|(key, value)| (key.get_ref().as_ref(), value.get_ref()));
        match (entries.next(), entries.next()) {
            (Some(("file", path)), None) => PathBuf::from_toml(path).map(Self::File),
            (Some(("env", name)), None) => {
                let name = text_of(name)?;
                let valid = !name.is_empty() && !name.contains(['=', '\0']);
                if valid { Ok(Self::Env(name.to_owned())) } else { Err(format!("\"{name}\" cannot name a variable")) }
            }
            _ => Err(format!("expected {FORM}")),
        }
    }
}

/// A table of texts.
impl Value for BTreeMap<String, String> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let table = value.as_table().ok_or_else(|| expected("a table such as { team = \"db\" }", value))?;
        table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), String::from_toml(value.get_ref())?))).collect()
    }
}

impl Value for Vec<String> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let list = value.as_array().ok_or_else(|| expected("a list of texts", value))?;
        list.iter().map(|item| String::from_toml(item.get_ref())).collect()
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)], text: &str) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        format!("\"{text}\" is none of {}", words.join(", "))
    })
}

/// A value of a kind, within bounds.
pub(super) fn within<T: Value + PartialOrd + Shown>(
    value: &DeValue<'_>,
    bounds: &std::ops::RangeInclusive<T>,
) -> Result<T, String> {
    let read = T::from_toml(value)?;
    if bounds.contains(&read) {
        Ok(read)
    } else {
        let [read, least, most] = [&read, bounds.start(), bounds.end()].map(Shown::shown);
        Err(format!("{read} is not between {least} and {most}"))
    }
}

/// As it is written in the file.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for u32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for ByteSize {
    fn shown(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Shown for Duration {
    fn shown(&self) -> String {
        format!("\"{}\"", humantime::format_duration(*self))
    }
}
