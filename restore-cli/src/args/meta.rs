//! `--meta key=value`, on several commands.

use std::collections::BTreeMap;
use std::time::Duration;

use super::UsageError;

/// # Errors
/// A pair without "=", without a name, or a name that comes twice.
pub fn parse_meta(pairs: &[String]) -> Result<BTreeMap<String, String>, UsageError> {
    let mut meta = BTreeMap::new();
    for pair in pairs {
        let hint = "write --meta KEY=VALUE, such as --meta sha=1f3a9c2";
        let (key, value) = pair
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| UsageError::new(format!("invalid metadata \"{pair}\"")).with_hint(hint))?;
        if meta.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(UsageError::new(format!("the metadata \"{key}\" is given twice")));
        }
    }
    Ok(meta)
}

/// Durations as in the configuration: "30s", "2m".
///
/// # Errors
/// Text that is no duration, or one longer than a day.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    let timeout = pitr::config::parse_duration(text)?;
    if timeout <= LONGEST { Ok(timeout) } else { Err("longer than a day".to_owned()) }
}
