//! What was measured, by job, place and tool.

use std::collections::BTreeMap;

use serde_json::json;

use crate::report::progress;

/// Samples in the order of the runs, of one figure.
type Key = (String, String, String, &'static str);

#[derive(Debug, Default)]
pub struct Figures {
    samples: BTreeMap<Key, Vec<f64>>,
    order: Vec<Key>,
}

impl Figures {
    pub fn add(&mut self, job: &str, place: &str, tool: &str, figures: &[(&'static str, f64)]) {
        let line: Vec<String> = figures.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
        progress(&format!("  {job}, {place}, {tool}: {}", line.join(", ")));
        for (name, value) in figures {
            let key = (job.to_owned(), place.to_owned(), tool.to_owned(), *name);
            if !self.samples.contains_key(&key) {
                self.order.push(key.clone());
            }
            self.samples.entry(key).or_default().push(*value);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// One line for each job, place and tool: medians and ranges.
    #[expect(clippy::print_stdout, reason = "the output of a command-line program")]
    pub fn print(&self) {
        let mut lines: Vec<((&str, &str, &str), String)> = Vec::new();
        for key in &self.order {
            let (job, place, tool, name) = key;
            let Some(samples) = self.samples.get(key) else { continue };
            let range = match samples.as_slice() {
                [_] => String::new(),
                several => {
                    let (least, most) = several.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
                    format!(" ({least:.2}-{most:.2})")
                }
            };
            let text = format!("{name} {:.2}{range}", median(samples));
            let at = (job.as_str(), place.as_str(), tool.as_str());
            match lines.iter_mut().find(|(known, _)| *known == at) {
                Some((_, line)) => *line = format!("{line} | {text}"),
                None => lines.push((at, text)),
            }
        }
        println!();
        for ((job, place, tool), line) in lines {
            println!("{job:<26} {place:<8} {tool:<18} {line}");
        }
    }

    pub fn json(&self) -> serde_json::Value {
        let rows = self.order.iter().map(|key| {
            let (job, place, tool, name) = key;
            json!({"job": job, "place": place, "tool": tool, "figure": name, "samples": self.samples.get(key)})
        });
        rows.collect()
    }
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The sample at this part of the way from the least to the greatest.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few thousand samples"
)]
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (part * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
