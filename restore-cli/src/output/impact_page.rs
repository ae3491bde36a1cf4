//! `pitr impact --html`: one page that needs nothing else, for a ticket or a browser without a network.

use chrono::{DateTime, Utc};

use super::View;
use super::html::escape;
use super::human;
use super::impact::{ImpactDocument, TableDocument};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 26.0;
/// Marks of the schema that the picture shows.
const MARKS: usize = 200;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--dim:#5d6978;--paper:#fff;--card:#f4f6f9;--line:#d8dee6;--bar:#2f6fde;\
--bad:#c4452f;--mark:#a35b00}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#98a3b3;--paper:#12161c;--card:#1b212a;--line:#303947;\
--bar:#6ea0ff;--bad:#ff8a73;--mark:#ffb454}}\
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);\
font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}\
main{max-width:1040px;margin:0 auto;padding:24px 20px 60px}h1{font-size:22px;margin:0 0 4px}\
h2{font-size:16px;margin:32px 0 8px}p{margin:4px 0}.dim{color:var(--dim)}\
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}\
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 16px;min-width:130px}\
.card b{display:block;font-size:20px;font-variant-numeric:tabular-nums}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}\
th{color:var(--dim);font-weight:600}.n{text-align:right}code{background:var(--card);padding:2px 6px;border-radius:4px}\
svg{width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}\
svg text{fill:var(--dim);font:11px system-ui,sans-serif}.c{fill:var(--bar)}.a{fill:var(--bad)}\
.d{stroke:var(--mark);stroke-width:1.5}.m{stroke:var(--ink);stroke-dasharray:3 3}.g{stroke:var(--line)}\
.warning{border-left:3px solid var(--mark);padding-left:10px}";

/// The whole page.
pub fn page(document: &ImpactDocument, view: &View) -> String {
    let title = format!("Impact on {}: back to {}", document.cluster, document.from.asked);
    let mut body = format!("<h1>{}</h1>", escape(&title));
    for (word, moment) in [("From", &document.from), ("To", &document.to)] {
        body += &format!("<p class=\"dim\">{word} {}</p>", escape(&moment.line(view)));
    }
    body += &cards(document);
    body += "<h2>Activity</h2>";
    body += &picture(document, view);
    for (traffic, heading) in [
        (Some("only"), "Changed only since then"),
        (Some("live"), "Live traffic, changed before too"),
        (None, "Changed since then"),
    ] {
        let tables: Vec<&TableDocument> = document.tables.iter().filter(|table| table.traffic == traffic).collect();
        if !tables.is_empty() {
            body += &format!("<h2>{heading}</h2>{}", table(&tables));
        }
    }
    if document.tables.is_empty() {
        body += "<p>No table was changed.</p>";
    }
    body += &ddl(document, view);
    body += &sequences(document);
    body += &format!("<h2>Going back</h2><p><code>{}</code></p>", escape(&document.restore));
    for warning in &document.warnings {
        body += &format!("<p class=\"warning\">{}</p>", escape(warning));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        escape(&title)
    )
}

fn cards(document: &ImpactDocument) -> String {
    let sum = |of: fn(&TableDocument) -> u64| human::grouped(document.tables.iter().map(of).sum());
    let cards = [
        (human::grouped(document.transactions.commits), "transactions undone"),
        (sum(|table| table.inserted), "rows inserted"),
        (sum(|table| table.updated), "rows updated"),
        (sum(|table| table.deleted), "rows deleted"),
        (sum(|table| table.truncated), "truncations"),
        (human::grouped(document.ddl.len() as u64), "changes of the schema"),
        (human::bytes(document.wal_bytes), "of WAL"),
    ];
    let cards = cards.map(|(number, word)| format!("<div class=\"card\"><b>{number}</b>{word}</div>"));
    format!("<div class=\"cards\">{}</div>", cards.concat())
}

/// Where things are in the picture.
struct Scale {
    begin: f64,
    end: f64,
    most: f64,
}

impl Scale {
    fn x(&self, time: f64) -> f64 {
        let share = ((time - self.begin) / (self.end - self.begin).max(1.0)).clamp(0.0, 1.0);
        LEFT + share * (WIDTH - LEFT - 12.0)
    }

    fn height(&self, count: u64) -> f64 {
        count as f64 / self.most.max(1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

fn seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp_micros() as f64 / 1e6
}

fn picture(document: &ImpactDocument, view: &View) -> String {
    let activity = &document.activity;
    let (Some(first), Some(last)) = (activity.buckets.first(), activity.buckets.last()) else {
        return "<p>No transaction ended.</p>".to_owned();
    };
    let most = activity.buckets.iter().map(|bucket| bucket.commits + bucket.aborts).max().unwrap_or(0);
    let width = activity.seconds as f64;
    let scale = Scale { begin: seconds(first.time.0), end: seconds(last.time.0) + width, most: most as f64 };
    let base = HEIGHT - BOTTOM;
    let mut shapes = format!(
        "<line class=\"g\" x1=\"{LEFT}\" y1=\"{TOP}\" x2=\"{w}\" y2=\"{TOP}\"/>\
         <line class=\"g\" x1=\"{LEFT}\" y1=\"{base}\" x2=\"{w}\" y2=\"{base}\"/>\
         <text x=\"{t}\" y=\"{y}\" text-anchor=\"end\">{}</text>\
         <text x=\"{t}\" y=\"{base}\" text-anchor=\"end\">0</text>",
        human::grouped(most),
        w = WIDTH - 12.0,
        t = LEFT - 6.0,
        y = TOP + 4.0
    );
    for bucket in &activity.buckets {
        let at = seconds(bucket.time.0);
        let (x, right) = (scale.x(at), scale.x(at + width));
        let bar = (right - x - 0.6).max(0.8);
        let (commits, aborts) = (scale.height(bucket.commits), scale.height(bucket.aborts));
        let told = format!(
            "{}: {}, {}",
            view.zone.local(bucket.time.0),
            human::count(bucket.commits, "commit"),
            human::count(bucket.aborts, "rollback")
        );
        shapes += &format!("<g><title>{}</title>", escape(&told));
        for (class, height, from) in [("c", commits, base), ("a", aborts, base - commits)] {
            if height > 0.0 {
                let y = from - height;
                shapes += &format!(
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"{height:.1}\"/>"
                );
            }
        }
        shapes += "</g>";
    }
    for change in document.ddl.iter().take(MARKS) {
        let Some(time) = change.time else { continue };
        let x = scale.x(seconds(time.0));
        shapes += &format!(
            "<g><title>{}</title><line class=\"d\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{base}\"/></g>",
            escape(&change.words())
        );
    }
    for marker in document.markers.iter().take(MARKS) {
        let x = scale.x(seconds(marker.time.0));
        shapes += &format!(
            "<line class=\"m\" x1=\"{x:.1}\" y1=\"16\" x2=\"{x:.1}\" y2=\"{base}\"/>\
             <text x=\"{x:.1}\" y=\"12\">{}</text>",
            escape(&marker.name)
        );
    }
    let label = |time: f64| {
        let whole = DateTime::from_timestamp_micros((time * 1e6) as i64);
        whole.map(|time| view.zone.local(time)).unwrap_or_default()
    };
    shapes += &format!(
        "<text x=\"{LEFT}\" y=\"{y}\">{}</text><text x=\"{w}\" y=\"{y}\" text-anchor=\"end\">{}</text>",
        escape(&label(scale.begin)),
        escape(&label(scale.end)),
        y = HEIGHT - 10.0,
        w = WIDTH - 12.0
    );
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Ends of transactions over time\">{shapes}</svg>\
         <p class=\"dim\">Ends of transactions in each {}. Vertical lines are changes of the schema.</p>",
        human::span(chrono::TimeDelta::seconds(activity.seconds))
    )
}

fn table(tables: &[&TableDocument]) -> String {
    let rows = tables.iter().map(|table| {
        format!(
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&table.relation.label),
            human::grouped(table.inserted),
            human::grouped(table.updated),
            human::grouped(table.deleted),
            escape(&table.notes())
        )
    });
    format!(
        "<div class=\"wide\"><table><tr><th>Table</th><th class=\"n\">Inserted</th><th class=\"n\">Updated</th>\
         <th class=\"n\">Deleted</th><th>Notes</th></tr>{}</table></div>",
        rows.collect::<String>()
    )
}

fn ddl(document: &ImpactDocument, view: &View) -> String {
    if document.ddl.is_empty() {
        return String::new();
    }
    let rows = document.ddl.iter().map(|change| {
        let time = change.time.map(|time| view.zone.local(time.0)).unwrap_or_default();
        let xid = change.xid.map(|xid| xid.to_string()).unwrap_or_default();
        format!("<tr><td>{}</td><td class=\"n\">{xid}</td><td>{}</td></tr>", escape(&time), escape(&change.words()))
    });
    format!(
        "<h2>Changes of the schema</h2><div class=\"wide\"><table><tr><th>Time</th><th class=\"n\">Transaction</th>\
         <th>What</th></tr>{}</table></div>",
        rows.collect::<String>()
    )
}

fn sequences(document: &ImpactDocument) -> String {
    if document.sequences.is_empty() {
        return String::new();
    }
    let rows = document.sequences.iter().map(|sequence| {
        format!("<tr><td>{}</td><td class=\"n\">{}</td></tr>", escape(&sequence.relation.label), sequence.last_value)
    });
    format!(
        "<h2>Sequences</h2><div class=\"wide\"><table><tr><th>Sequence</th><th class=\"n\">Last value in the WAL</th>\
         </tr>{}</table></div>",
        rows.collect::<String>()
    )
}
