//! A pin that was set, or taken back.

use pitr::repository::pin::{Pin, PinSubject};
use serde::Serialize;

use super::View;
use super::json::Time;
use super::table::printable;

#[derive(Debug, Clone, Serialize)]
pub struct PinDocument {
    pub format: u32,
    pub cluster: String,
    pub id: String,
    pub subject: PinSubject,
    pub reason: Option<String>,
    pub who: Option<String>,
    pub time: Time,
    /// Whether it is in force.
    pub pinned: bool,
}

impl PinDocument {
    pub fn new(cluster: &str, pin: Pin, pinned: bool) -> Self {
        let Pin { id, subject, reason, who, time } = pin;
        Self {
            format: 1,
            cluster: cluster.to_owned(),
            id: id.to_string(),
            subject,
            reason,
            who,
            time: time.into(),
            pinned,
        }
    }

    pub fn text(&self, _: &View) -> String {
        let subject = match &self.subject {
            PinSubject::Backup { id } => format!("the backup {id}"),
            PinSubject::Marker { lsn, name, .. } => format!("the marker {}@{lsn}", printable(name)),
        };
        if self.pinned {
            format!("{subject} is pinned: it stays until \"pitr unpin\" releases it\n")
        } else {
            format!("{subject} is no longer pinned\n")
        }
    }
}
