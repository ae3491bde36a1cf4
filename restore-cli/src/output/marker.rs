//! Markers as documents.

use std::collections::BTreeMap;

use pitr::api::MarkReply;
use pitr::postgres::{Lsn, SystemIdentifier, TimelineId};
use pitr::repository::marker::{Finish, FinishedMarker, MarkerSource, Outcome};
use serde::Serialize;

use super::View;
use super::json::Time;
use super::table::{Table, printable};

#[derive(Debug, Clone, Serialize)]
pub struct MarkerDocument {
    pub name: String,
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub timeline: TimelineId,
    pub time: Time,
    pub source: MarkerSource,
    pub who: Option<String>,
    pub key: Option<String>,
    pub meta: BTreeMap<String, String>,
    pub finish: Option<FinishDocument>,
    /// Kept beyond retention.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<SystemIdentifier>,
}

#[derive(Debug, Clone, Serialize)]
pub struct FinishDocument {
    pub outcome: Outcome,
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub timeline: TimelineId,
    pub time: Time,
    pub who: Option<String>,
    pub meta: BTreeMap<String, String>,
}

impl MarkerDocument {
    pub fn new(marker: &FinishedMarker, system_identifier: Option<SystemIdentifier>) -> Self {
        let FinishedMarker { marker, finish } = marker.clone();
        Self {
            name: marker.name,
            lsn: marker.lsn,
            end_lsn: marker.end_lsn,
            timeline: marker.timeline,
            time: marker.time.into(),
            source: marker.source,
            who: marker.who,
            key: marker.key,
            meta: marker.meta,
            finish: finish.map(FinishDocument::new),
            pinned: false,
            system_identifier,
        }
    }
}

impl FinishDocument {
    fn new(finish: Finish) -> Self {
        Self {
            outcome: finish.outcome,
            lsn: finish.lsn,
            end_lsn: finish.end_lsn,
            timeline: finish.timeline,
            time: finish.time.into(),
            who: finish.who,
            meta: finish.meta,
        }
    }
}

/// `pitr markers`.
#[derive(Debug, Clone, Serialize)]
pub struct MarkersDocument {
    pub format: u32,
    pub cluster: String,
    pub markers: Vec<MarkerDocument>,
}

impl MarkersDocument {
    pub fn text(&self, view: &View) -> String {
        if self.markers.is_empty() {
            return "no markers; \"pitr mark NAME\" makes one\n".to_owned();
        }
        marker_table(&self.markers, view).render(view.paint, "")
    }
}

pub fn marker_table(markers: &[MarkerDocument], view: &View) -> Table {
    let mut table = Table::new(&["MARKER", "TIME", ">LSN", ">TLI", "FINISHED", "WHO", "META"]);
    for marker in markers {
        table.row([
            marker.name.clone(),
            view.zone.both(marker.time.0),
            marker.lsn.to_string(),
            marker.timeline.to_string(),
            finished(marker.finish.as_ref(), view),
            who(marker).to_owned(),
            meta(&marker.meta),
        ]);
    }
    table
}

fn finished(finish: Option<&FinishDocument>, view: &View) -> String {
    match finish {
        None => "-".to_owned(),
        Some(finish) => {
            let outcome = match finish.outcome {
                Outcome::Ok => "ok",
                Outcome::Failed => "failed",
            };
            format!("{outcome} {}", view.zone.local(finish.time.0))
        }
    }
}

fn who(marker: &MarkerDocument) -> &str {
    match (&marker.who, marker.source) {
        (Some(who), _) => who,
        (None, MarkerSource::Discovered) => "(restore point)",
        (None, MarkerSource::Mark) => "-",
    }
}

fn meta(meta: &BTreeMap<String, String>) -> String {
    meta.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// `pitr mark --no-wait` and `pitr finish --no-wait`, where nothing is known yet but that the restore point is made.
#[derive(Debug, Clone, Serialize)]
pub struct UnsealedDocument {
    pub format: u32,
    pub name: String,
    pub sealed: bool,
}

impl UnsealedDocument {
    pub const fn new(name: String) -> Self {
        Self { format: 1, name, sealed: false }
    }

    pub fn mark_text(&self, view: &View) -> String {
        format!("{} is set, not sealed yet\n", view.paint.bold(&printable(&self.name)))
    }

    pub fn finish_text(&self, view: &View) -> String {
        format!("{} is finished, not sealed yet\n", view.paint.bold(&printable(&self.name)))
    }
}

/// `pitr mark` and `pitr finish`.
#[derive(Debug, Clone, Serialize)]
pub struct MarkDocument {
    pub format: u32,
    #[serde(flatten)]
    pub marker: MarkerDocument,
    pub sealed: bool,
    pub found: bool,
}

impl MarkDocument {
    pub fn new(reply: &MarkReply) -> Self {
        Self { format: 1, marker: MarkerDocument::new(&reply.marker, None), sealed: reply.sealed, found: reply.found }
    }

    /// Of a new marker.
    pub fn mark_text(&self, view: &View) -> String {
        let marker = &self.marker;
        let name = printable(&marker.name);
        let found = if self.found { ", made by an earlier request with this key" } else { "" };
        let sealed = if self.sealed { "sealed" } else { "not sealed yet" };
        format!(
            "{} at {} on timeline {}, {}, {sealed}{found}\n",
            view.paint.bold(&name),
            marker.lsn,
            marker.timeline,
            view.zone.both(marker.time.0)
        )
    }

    /// Of a marker that was finished.
    pub fn finish_text(&self, view: &View) -> String {
        let name = view.paint.bold(&printable(&self.marker.name));
        let sealed = if self.sealed { "sealed" } else { "not sealed yet" };
        match &self.marker.finish {
            Some(finish) => {
                let outcome = match finish.outcome {
                    Outcome::Ok => view.paint.green("ok"),
                    Outcome::Failed => view.paint.red("failed"),
                };
                format!(
                    "{name} finished {outcome} at {} on timeline {}, {}, {sealed}\n",
                    finish.lsn,
                    finish.timeline,
                    view.zone.both(finish.time.0)
                )
            }
            None => format!("{name} {sealed}\n"),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use pitr::repository::marker::Marker;

    pub fn marker(name: &str, lsn: u64, minute: u32) -> FinishedMarker {
        FinishedMarker {
            marker: Marker {
                name: name.to_owned(),
                timeline: TimelineId::FIRST,
                lsn: Lsn::new(lsn),
                end_lsn: Lsn::new(lsn + 0x68),
                time: format!("2026-11-22T11:{minute:02}:00.123456Z").parse().unwrap(),
                source: MarkerSource::Mark,
                who: Some("ci@build-7".to_owned()),
                key: None,
                meta: [("sha".to_owned(), "1f3a9c2".to_owned())].into(),
            },
            finish: None,
        }
    }

    pub fn finished_marker(name: &str, lsn: u64, minute: u32) -> FinishedMarker {
        let mut marker = marker(name, lsn, minute);
        marker.finish = Some(Finish {
            marker: None,
            outcome: Outcome::Failed,
            timeline: TimelineId::FIRST,
            lsn: Lsn::new(lsn + 0x1000),
            end_lsn: Lsn::new(lsn + 0x1068),
            time: format!("2026-11-22T11:{:02}:30Z", minute + 1).parse().unwrap(),
            who: None,
            meta: BTreeMap::new(),
        });
        marker
    }

    fn document() -> MarkersDocument {
        let mut found = marker("nightly", 0x300_0028, 2);
        found.marker.source = MarkerSource::Discovered;
        found.marker.who = None;
        found.marker.meta.clear();
        let markers = [found, finished_marker("release-41", 0x300_1000, 10), marker("release-42", 0x400_2000, 40)];
        let id = SystemIdentifier::new(7_450_000_000_000_000_000);
        MarkersDocument {
            format: 1,
            cluster: "main".to_owned(),
            markers: markers.iter().map(|marker| MarkerDocument::new(marker, Some(id))).collect(),
        }
    }

    #[test]
    fn markers_as_text_and_json() {
        insta::assert_snapshot!("markers_text", document().text(&View::fixed()));
        insta::assert_snapshot!("markers_json", super::super::json::document(&document()));
        let none = MarkersDocument { markers: vec![], ..document() };
        assert_eq!(none.text(&View::fixed()), "no markers; \"pitr mark NAME\" makes one\n");
    }

    #[test]
    fn a_mark_says_whether_it_is_sealed() {
        let reply = |sealed, found| {
            MarkDocument::new(&MarkReply { marker: finished_marker("release-42", 0x400_2000, 40), sealed, found })
        };
        let view = View::fixed();
        let texts = [
            reply(true, false).mark_text(&view),
            reply(true, true).mark_text(&view),
            reply(false, false).mark_text(&view),
            reply(true, false).finish_text(&view),
        ];
        insta::assert_snapshot!("mark_text", texts.concat());
        insta::assert_snapshot!("mark_json", super::super::json::document(&reply(true, false)));
    }
}
