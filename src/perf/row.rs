//! One line of results, and its three spellings: the columns of nccl-tests, JSON, comma-separated values.
#![forbid(unsafe_code)]

use crate::perf::data::RedOp;
use crate::perf::geometry::Geometry;
use crate::perf::stats::Stats;
use crate::types::Rank;
use serde_json::Value;

/// The results at one size: out of place, and in place where the collective can be.
#[derive(Debug, Clone)]
pub struct Row {
    /// What ran.
    pub geometry: Geometry,
    /// The reduction, if any.
    pub op: Option<RedOp>,
    /// The root, if any.
    pub root: Option<Rank>,
    /// Seconds since 1970, when the row began.
    pub began: u64,
    /// With two buffers.
    pub out_of_place: Option<Side>,
    /// With one.
    pub in_place: Option<Side>,
}

/// The results of one way of calling.
#[derive(Debug, Clone)]
pub struct Side {
    /// Times per call.
    pub stats: Stats,
    /// Timed iterations.
    pub iters: u32,
    /// Elements that were not what they should be, over all ranks; `None` when nothing was checked.
    pub wrong: Option<u64>,
    /// What the library chose to run.
    pub choice: Choice,
}

/// What the library chose to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The algorithm's name.
    pub algorithm: String,
    /// What carries the bytes.
    pub transport: String,
    /// Parallel links per pair of ranks.
    pub channels: u32,
}

/// Which columns a table has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Columns {
    /// Shortest, longest, 99th-percentile iteration and variation.
    pub iterations: bool,
    /// Time of day.
    pub timestamps: bool,
}

/// The names of [`Row::records`]' values: the keys of JSON and the columns of CSV.
pub const FIELDS: [&str; 19] = [
    "op",
    "dtype",
    "redop",
    "root",
    "ranks",
    "bytes",
    "count",
    "in_place",
    "iters",
    "time_us",
    "time_us_median",
    "time_us_min",
    "time_us_p99",
    "algbw_GBps",
    "busbw_GBps",
    "wrong",
    "algorithm",
    "transport",
    "channels",
];

impl Row {
    /// Decimal gigabytes of the vector per second.
    pub fn algorithm_bandwidth(&self, side: &Side) -> f64 {
        if side.stats.mean > 0.0 { self.geometry.size_bytes() as f64 / side.stats.mean / 1e3 } else { 0.0 }
    }

    /// The same in terms of the wires (see [`Geometry::bus_factor`]).
    pub fn bus_bandwidth(&self, side: &Side) -> f64 {
        self.algorithm_bandwidth(side) * self.geometry.bus_factor()
    }

    /// The sides that ran; `true` is in place.
    pub fn sides(&self) -> impl Iterator<Item = (bool, &Side)> {
        [(false, &self.out_of_place), (true, &self.in_place)]
            .into_iter()
            .filter_map(|(which, side)| Some((which, side.as_ref()?)))
    }

    /// The line of the table.
    pub fn text(&self, columns: Columns) -> String {
        let mut line = if columns.timestamps { format!("{} ", time_of_day(self.began)) } else { String::new() };
        let root = self.root.map_or("-1".to_string(), |root| root.to_string());
        line += &format!(
            "{:>12}  {:>12}  {:>8}  {:>6}  {:>6}",
            self.geometry.size_bytes(),
            self.geometry.count,
            self.geometry.dtype,
            self.op.map_or("none", RedOp::name),
            root
        );
        for side in [&self.out_of_place, &self.in_place] {
            let text = |value: &dyn Fn(&Side) -> String| side.as_ref().map_or("N/A".to_string(), value);
            let cells = [
                text(&|side| fit(side.stats.mean, 7)),
                text(&|side| fit(self.algorithm_bandwidth(side), 6)),
                text(&|side| fit(self.bus_bandwidth(side), 6)),
                text(&|side| side.wrong.map_or("N/A".to_string(), |wrong| wrong.to_string())),
            ];
            let iteration_cells = [
                text(&|side| fit(side.stats.min, 7)),
                text(&|side| fit(side.stats.max, 7)),
                text(&|side| fit(side.stats.p99, 7)),
                text(&|side| fit(side.stats.variation, 5)),
            ];
            line += &side_cells(cells, iteration_cells, columns);
        }
        line
    }

    /// One list of values per side, in the order of [`FIELDS`].
    pub fn records(&self) -> Vec<[Value; FIELDS.len()]> {
        let record = |(in_place, side): (bool, &Side)| {
            [
                self.geometry.collective.name().into(),
                self.geometry.dtype.name().into(),
                self.op.map_or(Value::Null, |op| op.name().into()),
                self.root.map_or(Value::Null, |root| root.into()),
                self.geometry.world.into(),
                self.geometry.size_bytes().into(),
                self.geometry.count.into(),
                in_place.into(),
                side.iters.into(),
                thousandths(side.stats.mean),
                thousandths(side.stats.median),
                thousandths(side.stats.min),
                thousandths(side.stats.p99),
                thousandths(self.algorithm_bandwidth(side)),
                thousandths(self.bus_bandwidth(side)),
                side.wrong.into(),
                side.choice.algorithm.clone().into(),
                side.choice.transport.clone().into(),
                side.choice.channels.into(),
            ]
        };
        self.sides().map(record).collect()
    }
}

/// The lines above the first row.
pub fn table_head(columns: Columns) -> [String; 3] {
    let stamp = if columns.timestamps { " ".repeat(20) } else { String::new() };
    let line = |left: [&str; 5], cells: [&str; 4], iteration_cells: [&str; 4]| {
        let [size, count, dtype, op, root] = left;
        let side = side_cells(cells, iteration_cells, columns);
        let line = format!("#{stamp}{size:>11}  {count:>12}  {dtype:>8}  {op:>6}  {root:>6}{side}{side}");
        line.trim_end().to_string()
    };
    let side_width = side_cells([""; 4], [""; 4], columns).len();
    let over = format!("#{stamp}{:51}{:^side_width$}{:^side_width$}", "", "out-of-place", "in-place");
    [
        over.trim_end().to_string(),
        line(
            ["size", "count", "type", "redop", "root"],
            ["time", "algbw", "busbw", "#wrong"],
            ["i_min", "i_max", "i_p99", "i_cv"],
        ),
        line(["(B)", "(elements)", "", "", ""], ["(us)", "(GB/s)", "(GB/s)", ""], ["(us)", "(us)", "(us)", ""]),
    ]
}

fn side_cells<T: std::fmt::Display>(cells: [T; 4], iteration_cells: [T; 4], columns: Columns) -> String {
    let [time, algorithm, bus, wrong] = cells;
    let mut text = format!("  {time:>7}  {algorithm:>6}  {bus:>6} {wrong:>6}");
    if columns.iterations {
        let [min, max, p99, variation] = iteration_cells;
        text += &format!("  {min:>7}  {max:>7}  {p99:>7}  {variation:>5}");
    }
    text
}

/// A record as one JSON object.
pub fn json(record: &[Value; FIELDS.len()]) -> String {
    let pairs: Vec<String> = FIELDS.iter().zip(record).map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", pairs.join(","))
}

/// A record as comma-separated values; what is missing stays empty. No value holds a comma or a quote.
pub fn csv(record: &[Value; FIELDS.len()]) -> String {
    let plain = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    record.iter().map(plain).collect::<Vec<_>>().join(",")
}

/// A number with as many decimals, at most two, as fit.
fn fit(value: f64, width: usize) -> String {
    (0..=2)
        .rev()
        .map(|decimals| format!("{value:.decimals$}"))
        .find(|text| text.len() <= width)
        .unwrap_or_else(|| format!("{value:.1e}"))
}

fn thousandths(value: f64) -> Value {
    ((value * 1e3).round() / 1e3).into()
}

/// The date and time in UTC, as in `2026-11-21 12:35:14`.
pub fn time_of_day(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Days to a date in the proleptic Gregorian calendar, counted from 1 March of year 0 so that leap days come last
    // (Howard Hinnant's civil_from_days).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::types::{Collective, DType};

    pub(crate) fn sample(size_bytes: usize, time_us: f64) -> Row {
        let side = |mean| Side {
            stats: Stats::new(mean, vec![mean * 0.9, mean, mean * 1.2]),
            iters: 3,
            wrong: Some(0),
            choice: Choice { algorithm: "ring".into(), transport: "shm".into(), channels: 2 },
        };
        Row {
            geometry: Geometry::new(Collective::AllReduce, DType::F32, 4, size_bytes),
            op: Some(RedOp::Sum),
            root: None,
            began: 1_795_264_514,
            out_of_place: Some(side(time_us)),
            in_place: Some(side(time_us * 1.1)),
        }
    }

    #[test]
    fn the_table_is_that_of_nccl_tests() {
        let mut table = table_head(Columns::default()).join("\n");
        for row in [sample(8, 4.25), sample(64 << 20, 123_456.78)] {
            table += &format!("\n{}", row.text(Columns::default()));
        }
        let mut movement = sample(4096, 10.0);
        (movement.op, movement.root, movement.in_place) = (None, Some(3), None);
        movement.out_of_place.as_mut().unwrap().wrong = None;
        table += &format!("\n{}", movement.text(Columns::default()));
        insta::assert_snapshot!(table);
    }

    #[test]
    fn the_wide_table_lines_up() {
        let columns = Columns { iterations: true, timestamps: true };
        let head = table_head(columns);
        let row = sample(1 << 20, 812.5).text(columns);
        assert_eq!(head[1].len(), row.len(), "\n{}\n{}\n{}\n{row}", head[0], head[1], head[2]);
    }

    #[test]
    fn json_and_csv_hold_the_same_values() {
        let record = &sample(8000, 10.0).records()[0];
        let parsed: Value = serde_json::from_str(&json(record)).unwrap();
        assert_eq!(parsed["op"], "all_reduce");
        assert_eq!(parsed["ranks"], 4);
        assert_eq!(parsed["algbw_GBps"], 0.8);
        assert_eq!(parsed["busbw_GBps"], 1.2);
        assert_eq!(parsed["time_us_p99"], 12.0);
        assert_eq!(parsed["root"], Value::Null);
        assert_eq!(csv(record), "all_reduce,float,sum,,4,8000,2000,false,3,10.0,10.0,9.0,12.0,0.8,1.2,0,ring,shm,2");
    }

    #[test]
    fn numbers_fit_their_columns() {
        assert_eq!(fit(4.256, 7), "4.26");
        assert_eq!(fit(123_456.78, 7), "123457");
        assert_eq!(fit(12_345.678, 7), "12345.7");
        assert_eq!(fit(1e12, 7), "1.0e12");
    }

    #[test]
    fn dates() {
        assert_eq!(time_of_day(0), "1970-01-01 00:00:00");
        assert_eq!(time_of_day(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(time_of_day(1_795_264_514), "2026-11-21 12:35:14");
    }
}
