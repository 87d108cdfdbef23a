//! What came of it, by kind of event: the table, and JSON.
#![forbid(unsafe_code)]

use crate::chaos::event::Kind;
use crate::chaos::job::Times;
use crate::perf::stats::Stats;
use std::collections::BTreeMap;
use std::time::Duration;

/// All events so far.
#[derive(Debug, Default)]
pub struct Tally {
    rows: BTreeMap<Kind, Row>,
}

#[derive(Debug, Default)]
struct Row {
    events: u64,
    failures: u64,
    detection_s: Vec<f64>,
    recovery_s: Vec<f64>,
}

impl Tally {
    /// An event that ended so.
    pub fn count(&mut self, kind: Kind, outcome: Option<Times>) {
        let row = self.rows.entry(kind).or_default();
        row.events += 1;
        let Some(Times { detection, recovery }) = outcome else {
            row.failures += 1;
            return;
        };
        row.detection_s.extend(detection.as_ref().map(Duration::as_secs_f64));
        row.recovery_s.extend(recovery.as_ref().map(Duration::as_secs_f64));
    }

    /// Events that failed.
    pub fn failures(&self) -> u64 {
        self.rows.values().map(|row| row.failures).sum()
    }

    /// All events.
    pub fn events(&self) -> u64 {
        self.rows.values().map(|row| row.events).sum()
    }

    /// The table, in Markdown: times in seconds, minimum / median / maximum.
    pub fn table(&self) -> String {
        let mut text = format!(
            "| {:<15} | {:>6} | {:^23} | {:^23} | {:>8} |\n",
            "event", "number", "noticed after [s]", "right again after [s]", "failures"
        );
        text += &format!("|{:-<17}|{:->8}|{:-<25}|{:-<25}|{:->10}|\n", "", ":", "", "", ":");
        for (kind, row) in &self.rows {
            let (name, detection, recovery) = (kind.name(), three(&row.detection_s), three(&row.recovery_s));
            text += &format!(
                "| {name:<15} | {:>6} | {detection:^23} | {recovery:^23} | {:>8} |\n",
                row.events, row.failures
            );
        }
        text + &format!("| {:<15} | {:>6} | {:^23} | {:^23} | {:>8} |", "all", self.events(), "", "", self.failures())
    }

    /// One object per kind.
    pub fn json(&self) -> Vec<String> {
        let times = |seconds: &[f64]| {
            let stats = Stats::new(0.0, seconds.to_vec());
            match seconds.is_empty() {
                true => serde_json::Value::Null,
                false => serde_json::json!({"min": stats.min, "median": stats.median, "max": stats.max}),
            }
        };
        let object = |(kind, row): (&Kind, &Row)| {
            serde_json::json!({
                "event": kind.name(),
                "number": row.events,
                "detection_s": times(&row.detection_s),
                "recovery_s": times(&row.recovery_s),
                "failures": row.failures,
            })
            .to_string()
        };
        self.rows.iter().map(object).collect()
    }
}

fn three(seconds: &[f64]) -> String {
    if seconds.is_empty() {
        return "-".into();
    }
    let Stats { min, median, max, .. } = Stats::new(0.0, seconds.to_vec());
    format!("{min:.3} / {median:.3} / {max:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_kind() {
        let mut tally = Tally::default();
        for millis in [30, 10, 20] {
            let detection = Some(Duration::from_millis(millis));
            tally.count(Kind::Kill, Some(Times { detection, recovery: None }));
        }
        tally.count(Kind::Join, None);
        assert_eq!((tally.events(), tally.failures()), (4, 1));
        let table = tally.table();
        assert!(table.contains("0.010 / 0.020 / 0.030"), "{table}");
        assert_eq!(table.lines().count(), 2 + 2 + 1);
        let rows: Vec<serde_json::Value> =
            tally.json().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows[0]["detection_s"]["median"], 0.02);
        assert_eq!((&rows[1]["failures"], &rows[1]["recovery_s"]), (&1.into(), &serde_json::Value::Null));
    }
}
