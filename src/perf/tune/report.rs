//! What `roundel-tune` prints: a line for each kind of call and size, and what the forecasts were worth.
#![forbid(unsafe_code)]

use crate::perf::settings::Sink;
use crate::tuner::forecast::Kind;
use crate::tuner::{Sample, Way};
use serde_json::json;
use std::fs::File;
use std::io::{self, Write};

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was called.
    pub kind: Kind,
    /// Bytes of the vector.
    pub bytes: usize,
    /// How many ranks there were.
    pub ranks: usize,
    /// The way that is taken from now on, as measured.
    pub chosen: Sample,
    /// What was forecast for it from the other half of the sizes.
    pub predicted_ns: Option<f64>,
    /// What is done without a table.
    pub built_in: Sample,
    /// The best of the others.
    pub runner_up: Option<Sample>,
    /// How much longer the built-in way took, in a race of the two.
    pub gain: Option<f64>,
}

/// Where lines go.
pub struct Report {
    table: bool,
    json: Option<Box<dyn Write + Send>>,
}

impl Report {
    /// Opens the file, if there is one.
    pub fn new(json: Option<&Sink>) -> io::Result<Report> {
        Ok(Report {
            table: json != Some(&Sink::Stdout),
            json: match json {
                Some(Sink::File(path)) => Some(Box::new(File::create(path)?)),
                Some(Sink::Stdout) => Some(Box::new(io::stdout())),
                None => None,
            },
        })
    }

    /// A line for people.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        if self.table { writeln!(io::stdout(), "# {line}") } else { Ok(()) }
    }

    /// The line above the rows.
    pub fn head(&mut self) -> io::Result<()> {
        if !self.table {
            return Ok(());
        }
        writeln!(
            io::stdout(),
            "#{:>14}  {:<7}  {:>9}  {:<14}  {:>13}  {:>12}  {:<14}  {:>12}  {:<12}  {:>12}  {:>5}",
            "collective",
            "buffers",
            "size(B)",
            "chosen",
            "predicted(us)",
            "measured(us)",
            "runner-up",
            "measured(us)",
            "built in",
            "measured(us)",
            "gain"
        )
    }

    /// One row.
    pub fn row(&mut self, row: &Row) -> io::Result<()> {
        if self.table {
            writeln!(io::stdout(), "{}", text(row))?;
        }
        match &mut self.json {
            Some(json) => writeln!(json, "{}", record(row)),
            None => Ok(()),
        }
    }

    /// An object of its own, and the line that says the same.
    pub fn sum(&mut self, line: &str, record: &serde_json::Value) -> io::Result<()> {
        self.say(line)?;
        match &mut self.json {
            Some(json) => writeln!(json, "{record}"),
            None => Ok(()),
        }
    }
}

fn micros(ns: f64) -> String {
    let us = ns / 1e3;
    if us < 100.0 { format!("{us:.2}") } else { format!("{us:.0}") }
}

fn text(row: &Row) -> String {
    let way = |way: Way| way.to_string();
    let (collective, mapped) = row.kind;
    let none = || "-".to_string();
    let line = format!(
        "{:>15}  {:<7}  {:>9}  {:<14}  {:>13}  {:>12}  {:<14}  {:>12}  {:<12}  {:>12}  {:>5}",
        collective.name(),
        if mapped { "mapped" } else { "private" },
        row.bytes,
        way(row.chosen.way),
        row.predicted_ns.map_or_else(none, micros),
        micros(row.chosen.median_ns),
        row.runner_up.map_or_else(none, |sample| way(sample.way)),
        row.runner_up.map_or_else(none, |sample| micros(sample.median_ns)),
        way(row.built_in.way),
        micros(row.built_in.median_ns),
        row.gain.map_or_else(none, |gain| format!("{gain:.2}"))
    );
    line.trim_end().to_string()
}

fn record(row: &Row) -> serde_json::Value {
    let us = |ns: f64| (ns).round() / 1e3;
    let sample = |sample: &Sample| json!({ "way": sample.way.to_string(), "time_us_median": us(sample.median_ns) });
    json!({
        "op": row.kind.0.name(),
        "mapped": row.kind.1,
        "ranks": row.ranks,
        "bytes": row.bytes,
        "algorithm": row.chosen.way.algorithm.name(),
        "channels": row.chosen.way.channels,
        "slice_bytes": row.chosen.way.slice_bytes,
        "time_us_predicted": row.predicted_ns.map(us),
        "time_us_median": us(row.chosen.median_ns),
        "runner_up": row.runner_up.as_ref().map(sample),
        "built_in": sample(&row.built_in),
        "gain": row.gain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::catalogue::Algorithm;
    use crate::types::Collective;

    #[test]
    fn a_row_says_the_same_in_both_spellings() {
        let kind = (Collective::Broadcast, true);
        let sample = |algorithm, median_ns| Sample {
            kind,
            way: Way::plain(algorithm),
            bytes: 32768,
            median_ns,
            high_ns: median_ns,
        };
        let row = Row {
            kind,
            bytes: 32768,
            ranks: 4,
            chosen: sample(Algorithm::FlatPush, 12_345.0),
            predicted_ns: Some(11_000.0),
            built_in: sample(Algorithm::OneShot, 250_000.0),
            runner_up: None,
            gain: Some(20.25),
        };
        let words: Vec<String> = text(&row).split_whitespace().map(String::from).collect();
        let expected = ["broadcast", "mapped", "32768", "flat", "11.00", "12.35", "-", "-", "oneshot", "250", "20.25"];
        assert_eq!(words, expected);
        let record = record(&row);
        assert_eq!(record["algorithm"], "flat");
        assert_eq!(record["time_us_median"], 12.345);
        assert_eq!(record["built_in"]["way"], "oneshot");
        assert!(record["runner_up"].is_null());
    }
}
