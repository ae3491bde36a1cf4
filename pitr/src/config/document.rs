//! A parsed file, read section by section. Remembers what was asked for, so that whatever is left over is unknown.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};
use super::value::{Value, expected};

/// A suggestion must be this close (Jaro-Winkler) to be worth making.
const SIMILAR: f64 = 0.8;

/// The document, and all that was found wrong with it so far.
pub(super) struct Document<'t> {
    text: &'t str,
    tables: BTreeMap<String, (usize, DeTable<'t>)>,
    /// Top-level values that are not tables.
    scalars: DeTable<'t>,
    problems: Vec<Problem>,
    /// Keys that were asked for, by section.
    known: BTreeMap<&'static str, Vec<&'static str>>,
    /// Keys that nothing asked for: section, key, offset.
    left_over: Vec<(&'static str, String, usize)>,
    lines: BTreeMap<String, usize>,
    /// Not TOML: then whatever else seems wrong follows from that.
    broken: bool,
}

impl<'t> Document<'t> {
    pub(super) fn parse(text: &'t str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let problems: Vec<Problem> = errors
            .iter()
            .map(|error| Problem {
                line: error.span().map(|span| line_of(text, span.start)),
                key: String::new(),
                message: error.message().replace('\n', ", "),
            })
            .collect();
        let mut document = Self {
            broken: !problems.is_empty(),
            text,
            tables: BTreeMap::new(),
            scalars: DeTable::new(),
            problems,
            known: BTreeMap::new(),
            left_over: Vec::new(),
            lines: BTreeMap::new(),
        };
        for (key, value) in root.into_inner() {
            match value.get_ref() {
                DeValue::Table(table) => {
                    document.tables.insert(key.get_ref().to_string(), (key.span().start, table.clone()));
                }
                _ => {
                    document.scalars.insert(key, value);
                }
            }
        }
        document
    }

    /// The section `[name]`, empty where the file has none; `""` is what stands before the first section.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'_, 't> {
        self.known.entry(name).or_default();
        let table = if name.is_empty() {
            std::mem::take(&mut self.scalars)
        } else {
            self.tables.remove(name).map(|(_, table)| table).unwrap_or_default()
        };
        Section { name, table, document: self }
    }

    /// What was found wrong, once all sections are read.
    pub(super) fn finish(mut self, file: &Path) -> Result<BTreeMap<String, usize>, ConfigError> {
        if self.broken {
            return Err(ConfigError::new(
                file,
                self.problems.into_iter().filter(|problem| problem.key.is_empty()).collect(),
            ));
        }
        let sections: Vec<&str> = self.known.keys().copied().filter(|name| !name.is_empty()).collect();
        for (name, (offset, _)) in &self.tables {
            let message = match closest(name, &sections) {
                Some(meant) => format!("unknown section, did you mean [{meant}]?"),
                None => format!("unknown section, there are {}", sections.join(", ")),
            };
            self.problems.push(Problem { line: Some(line_of(self.text, *offset)), key: format!("[{name}]"), message });
        }
        for (section, key, offset) in &self.left_over {
            let message = self.explain_unknown(section, key);
            let line = Some(line_of(self.text, *offset));
            self.problems.push(Problem { line, key: qualified(section, key), message });
        }
        if self.problems.is_empty() { Ok(self.lines) } else { Err(ConfigError::new(file, self.problems)) }
    }

    fn explain_unknown(&self, section: &str, key: &str) -> String {
        if section.is_empty() && self.known.contains_key(key) {
            return format!("this is a section, write [{key}] on a line of its own");
        }
        if let Some(meant) = self.known.get(section).and_then(|keys| closest(key, keys)) {
            return format!("unknown key, did you mean \"{meant}\"?");
        }
        let place = |name: &str| if name.is_empty() { "the top of the file".to_owned() } else { format!("[{name}]") };
        let places: Vec<String> =
            self.known.iter().filter(|(_, keys)| keys.contains(&key)).map(|(name, _)| place(name)).collect();
        if places.is_empty() {
            "unknown key".to_owned()
        } else {
            format!("unknown key here, it belongs to {}", places.join(" or "))
        }
    }
}

/// One section being read. Dropping it reports the keys that nothing asked for.
pub(super) struct Section<'d, 't> {
    name: &'static str,
    table: DeTable<'t>,
    document: &'d mut Document<'t>,
}

impl<'t> Section<'_, 't> {
    /// The value of `key` as `T`; none where it is missing or wrong, which is reported.
    pub(super) fn get<T: Value>(&mut self, key: &'static str) -> Option<T> {
        self.get_with(key, T::from_toml)
    }

    /// As [`Section::get`], with a rule of its own.
    pub(super) fn get_with<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<T> {
        self.document.known.entry(self.name).or_default().push(key);
        let (key_at, value) = self.table.remove_entry(key)?;
        let line = line_of(self.document.text, key_at.span().start);
        self.document.lines.insert(qualified(self.name, key), line);
        match read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(key, message);
                None
            }
        }
    }

    /// A text that `parse` understands.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.get_with(key, |value| {
            let text = value.as_str().ok_or_else(|| expected("a text in quotes", value))?;
            parse(text).map_err(|error| error.to_string())
        })
    }

    /// Whether the file has `key`, once it was read.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.document.lines.contains_key(&qualified(self.name, key))
    }

    /// Reports what is wrong with `key`, or with its absence.
    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        let key = qualified(self.name, key);
        let line = self.document.lines.get(&key).copied();
        self.document.problems.push(Problem { line, key, message: message.into() });
    }
}

impl Drop for Section<'_, '_> {
    fn drop(&mut self) {
        for (key, _) in std::mem::take(&mut self.table) {
            self.document.left_over.push((self.name, key.get_ref().to_string(), key.span().start));
        }
    }
}

fn qualified(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn closest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&key, candidate), *candidate))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// For the test that holds `config/agent.toml` to the code.
#[cfg(test)]
impl Document<'_> {
    pub(super) fn known(&self) -> &BTreeMap<&'static str, Vec<&'static str>> {
        &self.known
    }
}
