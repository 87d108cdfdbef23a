//! What rank 0 writes as rows finish: the table, JSON, comma-separated values, and a spinner that says what runs.
#![forbid(unsafe_code)]

use crate::perf::row::{Columns, FIELDS, Row, csv, json, table_head};
use crate::perf::settings::{Settings, Sink};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};

/// Where rank 0's results go.
pub struct Report {
    columns: Columns,
    /// Standard output; `None` once nobody reads it.
    stdout: Option<Box<dyn Write + Send>>,
    stdout_has: Contents,
    json_file: Option<BufWriter<File>>,
    csv_file: Option<BufWriter<File>>,
    spinner: ProgressBar,
    bus_bandwidths: Vec<f64>,
    wrong: u64,
    /// Kept for the picture.
    rows: Vec<Row>,
    keep_rows: bool,
}

/// What standard output shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contents {
    Table,
    Json,
    Csv,
}

impl Report {
    /// Opens the files that `settings` names.
    pub fn new(settings: &Settings, stdout: Box<dyn Write + Send>) -> io::Result<Report> {
        let stdout_has = if settings.json == Some(Sink::Stdout) {
            Contents::Json
        } else if settings.csv == Some(Sink::Stdout) {
            Contents::Csv
        } else {
            Contents::Table
        };
        let open = |sink: &Option<Sink>| match sink {
            Some(Sink::File(path)) => {
                let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                File::create(path).map(|file| Some(BufWriter::new(file))).map_err(named)
            }
            _ => Ok(None),
        };
        let spinner = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            spinner.set_style(style);
        }
        Ok(Report {
            columns: Columns { iterations: settings.iteration_columns, timestamps: settings.timestamps },
            stdout: Some(stdout),
            stdout_has,
            json_file: open(&settings.json)?,
            csv_file: open(&settings.csv)?,
            spinner,
            bus_bandwidths: Vec::new(),
            wrong: 0,
            rows: Vec::new(),
            keep_rows: settings.plot.is_some(),
        })
    }

    /// True when the reader of standard output has gone away (as `head` does) and no file is being written either.
    pub fn nobody_reads(&self) -> bool {
        self.stdout.is_none() && self.json_file.is_none() && self.csv_file.is_none() && !self.keep_rows
    }

    /// Comment lines and column names.
    pub fn head(&mut self, comments: &[String]) -> io::Result<()> {
        match self.stdout_has {
            Contents::Table => {
                let lines: Vec<String> =
                    comments.iter().map(|line| format!("# {line}").trim_end().to_string()).collect();
                self.line(&lines.join("\n"))?;
                self.line(&table_head(self.columns).join("\n"))?;
            }
            Contents::Csv => self.line(&FIELDS.join(","))?,
            Contents::Json => {}
        }
        match &mut self.csv_file {
            Some(file) => writeln!(file, "{}", FIELDS.join(",")),
            None => Ok(()),
        }
    }

    /// Says what runs now, on a terminal.
    pub fn running(&self, what: impl Into<std::borrow::Cow<'static, str>>) {
        self.spinner.set_message(what);
        self.spinner.tick();
    }

    /// Writes a finished row wherever rows go.
    pub fn row(&mut self, row: Row) -> io::Result<()> {
        for (_, side) in row.sides() {
            self.bus_bandwidths.push(row.bus_bandwidth(side));
            self.wrong += side.wrong.unwrap_or(0);
        }
        let records = row.records();
        let json_lines = || records.iter().map(json).collect::<Vec<_>>().join("\n");
        let csv_lines = || records.iter().map(csv).collect::<Vec<_>>().join("\n");
        let text = match self.stdout_has {
            Contents::Table => row.text(self.columns),
            Contents::Json => json_lines(),
            Contents::Csv => csv_lines(),
        };
        self.line(&text)?;
        if let Some(file) = &mut self.json_file {
            writeln!(file, "{}", json_lines()).and_then(|()| file.flush())?;
        }
        if let Some(file) = &mut self.csv_file {
            writeln!(file, "{}", csv_lines()).and_then(|()| file.flush())?;
        }
        if self.keep_rows {
            self.rows.push(row);
        }
        Ok(())
    }

    /// The two lines under the table.
    pub fn foot(&mut self) -> io::Result<()> {
        self.spinner.finish_and_clear();
        if self.stdout_has != Contents::Table {
            return Ok(());
        }
        let verdict = if self.wrong == 0 { "OK" } else { "FAILED" };
        let average = self.bus_bandwidths.iter().sum::<f64>() / self.bus_bandwidths.len().max(1) as f64;
        let wrong = self.wrong;
        self.line(&format!("# Out of bounds values : {wrong} {verdict}\n# Avg bus bandwidth    : {average:.6}\n#"))
    }

    /// The rows so far, if a picture of them was asked for.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// One or more whole lines on standard output. That its reader has left is no error: see [`Report::nobody_reads`].
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        let Some(stdout) = &mut self.stdout else { return Ok(()) };
        let written = self.spinner.suspend(|| writeln!(stdout, "{text}").and_then(|()| stdout.flush()));
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.stdout = None;
                Ok(())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::args::parse;
    use crate::perf::row::tests::sample;
    use crate::types::Collective;
    use std::sync::{Arc, Mutex};

    /// Standard output that the test can read, or that breaks after a while.
    #[derive(Clone, Default)]
    struct Page {
        text: Arc<Mutex<Vec<u8>>>,
        breaks_after_bytes: Option<usize>,
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut text = self.text.lock().unwrap();
            if self.breaks_after_bytes.is_some_and(|limit| text.len() >= limit) {
                return Err(ErrorKind::BrokenPipe.into());
            }
            text.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(line: &str, page: &Page) -> Report {
        let words = std::iter::once("perf").chain(line.split_whitespace());
        let settings = parse(Collective::AllReduce, words).unwrap();
        let mut report = Report::new(&settings, Box::new(page.clone())).unwrap();
        report.head(&["roundel".into()]).unwrap();
        for shift in [3, 10] {
            report.running("a row");
            report.row(sample(1 << shift, 10.0)).unwrap();
        }
        report.foot().unwrap();
        report
    }

    fn text(page: &Page) -> String {
        String::from_utf8(page.text.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn table_json_or_csv() {
        let page = Page::default();
        written("", &page);
        assert_eq!(text(&page).lines().count(), 4 + 2 + 3);
        assert!(text(&page).contains("# Out of bounds values : 0 OK"));
        let page = Page::default();
        written("--json", &page);
        assert_eq!(text(&page).lines().count(), 4);
        assert!(text(&page).lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
        let page = Page::default();
        written("--csv", &page);
        let commas: Vec<usize> = text(&page).lines().map(|line| line.matches(',').count()).collect();
        assert_eq!(commas, [FIELDS.len() - 1; 5]);
    }

    #[test]
    fn wrong_elements_are_summed_up() {
        let page = Page::default();
        let mut report = written("", &page);
        let mut bad = sample(8, 1.0);
        bad.in_place.as_mut().unwrap().wrong = Some(3);
        report.row(bad).unwrap();
        report.foot().unwrap();
        assert!(text(&page).contains("# Out of bounds values : 3 FAILED"));
    }

    #[test]
    fn a_reader_that_leaves_is_noticed_but_no_error() {
        let page = Page { breaks_after_bytes: Some(100), ..Page::default() };
        assert!(written("", &page).nobody_reads());
        assert!(!written("--plot x.svg", &page).nobody_reads());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let settings = parse(Collective::AllReduce, ["perf", "--json=/nowhere/rows.json"]).unwrap();
        let error = Report::new(&settings, Box::new(Page::default())).err().unwrap();
        assert!(error.to_string().contains("/nowhere/rows.json"), "{error}");
    }
}
