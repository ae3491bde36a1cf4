//! The report on deployments as a page that needs nothing from elsewhere: no script, no font, no picture but its own.

use std::fmt::Write as _;

use pitr::deployments::Result;

use super::View;
use super::deployments::{DeploymentsDocument, Week, seconds};
use super::html::escape;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6776;--ground:#fff;--line:#d6dce4;--ok:#2f7d4f;--bad:#c0392b;--mid:#2563a8}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa7b6;--ground:#12161c;--line:#2c3541;--ok:#5cb883;--bad:#e57368;--mid:#6ea8e8}}\
body{margin:2rem auto;max-width:60rem;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground)}\
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.1rem;margin-top:2.5rem}p,dd{color:var(--soft)}\
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(12rem,1fr));gap:1rem;margin:1.5rem 0}\
dl div{border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem}dt{color:var(--soft);font-size:.85rem}\
dd{margin:0}dd b{display:block;font-size:1.4rem;color:var(--ink)}\
svg{width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}.ok{fill:var(--ok)}.bad{fill:var(--bad)}.mid{fill:var(--mid)}\
.axis{stroke:var(--line)}table{border-collapse:collapse;width:100%;font-size:.9rem}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line)}td.bad{color:var(--bad)}";

/// Of the drawing, in its own units.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 160.0;
const BELOW: f64 = 22.0;

pub fn page(document: &DeploymentsDocument, view: &View) -> String {
    let title = format!("Deployments of {}", escape(&document.cluster));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
         <h1>{title}</h1>\n<p>{} to {}</p>\n",
        escape(&view.zone.local(document.from.0)),
        escape(&view.zone.local(document.to.0))
    );
    page.push_str(&figures(document));
    page.push_str("<h2>Deployments a week</h2>\n");
    page.push_str(&bars(
        &document.weeks,
        |week| {
            vec![("ok", (week.figures.deployments - week.figures.failed) as f64), ("bad", week.figures.failed as f64)]
        },
        |value| format!("{value:.0}"),
    ));
    for (heading, of) in [
        ("Lead time, middle of each week", (|week| week.figures.lead_time) as fn(&Week) -> _),
        ("Time to recovery, middle of each week", |week| week.figures.time_to_recovery),
    ] {
        if document.weeks.iter().any(|week| of(week).is_some()) {
            let _ = writeln!(page, "<h2>{heading}</h2>");
            let value = |week: &Week| of(week).map_or(0.0, |spread| spread.median_seconds as f64);
            page.push_str(&bars(&document.weeks, |week| vec![("mid", value(week))], |value| seconds(value as i64)));
        }
    }
    page.push_str(&table(document, view));
    page
}

fn figures(document: &DeploymentsDocument) -> String {
    let overall = &document.overall;
    let middle = |spread: Option<super::deployments::SpreadDocument>| {
        spread.map_or_else(
            || "<b>-</b>".to_owned(),
            |spread| {
                format!("<b>{}</b>nine of ten within {}", seconds(spread.median_seconds), seconds(spread.p90_seconds))
            },
        )
    };
    let rate = overall.change_failure_rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.0} %", rate * 100.0));
    let mut list = String::from("<dl>\n");
    for (name, value) in [
        (
            "Deployment frequency",
            format!("<b>{} a week</b>{} in all", document.deployments_per_week, overall.deployments),
        ),
        ("Lead time", middle(overall.lead_time)),
        ("Change failure rate", format!("<b>{rate}</b>{} of {}", overall.failed, overall.deployments)),
        ("Time to recovery", middle(overall.time_to_recovery)),
    ] {
        let _ = writeln!(list, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    list.push_str("</dl>\n");
    list
}

/// A column a week, of parts that stand on each other.
fn bars(weeks: &[Week], parts: impl Fn(&Week) -> Vec<(&'static str, f64)>, label: impl Fn(f64) -> String) -> String {
    let height_of = |week: &Week| parts(week).iter().map(|(_, value)| value).sum::<f64>();
    let highest = weeks.iter().map(height_of).fold(0.0, f64::max);
    let scale = if highest > 0.0 { (HEIGHT - 20.0) / highest } else { 0.0 };
    let step = WIDTH / weeks.len().max(1) as f64;
    let every = weeks.len().div_ceil(12).max(1);
    let mut drawing = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">\n<line class=\"axis\" x1=\"0\" y1=\"{HEIGHT}\" x2=\"{WIDTH}\" y2=\"{HEIGHT}\"/>\n",
        HEIGHT + BELOW
    );
    for (index, week) in weeks.iter().enumerate() {
        let x = index as f64 * step;
        let mut y = HEIGHT;
        for (class, value) in parts(week).into_iter().filter(|(_, value)| *value > 0.0) {
            y -= value * scale;
            let _ = writeln!(
                drawing,
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                x + step * 0.15,
                step * 0.7,
                value * scale
            );
        }
        let whole = height_of(week);
        let middle = x + step / 2.0;
        if whole > 0.0 {
            let _ = writeln!(
                drawing,
                "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                y - 4.0,
                label(whole)
            );
        }
        if index % every == 0 {
            let _ = writeln!(
                drawing,
                "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT + 15.0,
                week.monday
            );
        }
    }
    drawing.push_str("</svg>\n");
    drawing
}

fn table(document: &DeploymentsDocument, view: &View) -> String {
    let mut table = String::from(
        "<h2>Each of them</h2>\n<table>\n<tr><th>Marker<th>Began<th>Ended<th>Result<th>Lead time<th>Well again after</tr>\n",
    );
    for deployment in document.deployments.iter().rev() {
        let (class, result) = match deployment.result {
            Result::Ok => ("", "ok"),
            Result::Failed => (" class=\"bad\"", "failed"),
            Result::Undone => (" class=\"bad\"", "undone by a restore"),
        };
        let dash = || "-".to_owned();
        let _ = writeln!(
            table,
            "<tr><td>{}<td>{}<td>{}<td{class}>{result}<td>{}<td>{}</tr>",
            escape(&deployment.name),
            escape(&view.zone.local(deployment.began.0)),
            escape(&view.zone.local(deployment.ended.0)),
            deployment.lead_seconds.map_or_else(dash, seconds),
            deployment.recovered.as_ref().map_or_else(dash, |recovered| seconds(recovered.seconds))
        );
    }
    table.push_str("</table>\n");
    for problem in &document.problems {
        let _ = writeln!(table, "<p>Note: {}</p>", escape(problem));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::deployments::tests::document;
    use super::*;

    #[test]
    fn names_are_text_and_nothing_comes_from_elsewhere() {
        let page = page(&document(), &View::fixed());
        assert!(page.contains("release &lt;42&gt;") && !page.contains("release <42>"), "{page}");
        for foreign in ["http:", "https:", "<script", "<link", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn each_week_has_its_place_and_what_failed_its_colour() {
        let page = page(&document(), &View::fixed());
        assert_eq!(page.matches("class=\"bad\" x=").count(), 1);
        assert!(page.contains(">2026-11-02<") && page.contains(">2026-11-16<"), "{page}");
    }
}
