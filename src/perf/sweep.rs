//! A rank's part of a run: every type, operation, root and size in turn, on all ranks together.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::perf::bench::{Bench, Case, Findings, Layout};
use crate::perf::explain;
use crate::perf::geometry::Geometry;
use crate::perf::measure::{Measured, measure};
use crate::perf::report::Report;
use crate::perf::row::{Row, Side};
use crate::perf::settings::{Explain, Root, Settings};
use crate::types::Rank;
use crate::{Communicator, perf::data::RedOp};
use std::time::{SystemTime, UNIX_EPOCH};

/// How a run ended, on every rank the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was checked was right.
    Right,
    /// Something was not.
    Wrong,
}

/// The cases of one row: out of place and, where the collective can be, in place.
fn rows(settings: &Settings, world: usize) -> Vec<(Geometry, Option<RedOp>, Option<Rank>)> {
    let roots: Vec<Option<Rank>> = match settings.root {
        _ if !settings.collective.has_root() => vec![None],
        Root::Rank(root) => vec![Some(root)],
        Root::All => (0..world).map(Some).collect(),
    };
    let mut rows = Vec::new();
    for &(dtype, op) in &settings.kinds {
        let mut geometries: Vec<Geometry> =
            settings.sizes.iter().map(|&size| Geometry::new(settings.collective, dtype, world, size)).collect();
        // Small sizes may round to the same one.
        geometries.dedup();
        for &root in &roots {
            rows.extend(geometries.iter().map(|&geometry| (geometry, op, root)));
        }
    }
    rows
}

/// Measures, or explains, everything. `report` is rank 0's.
pub fn run(comm: Communicator, settings: &Settings, mut report: Option<&mut Report>) -> Result<Outcome> {
    if let Root::Rank(root) = settings.root
        && root >= comm.world()
    {
        return Err(Error::invalid(format!("-r {root}: there are ranks 0 to {}", comm.world() - 1)));
    }
    let rows = rows(settings, comm.world());
    if let Some(how) = settings.explain {
        explain_all(&comm, settings, &rows, how, report)?;
        return Ok(Outcome::Right);
    }
    let comments = comments(&comm, settings)?;
    write(&mut report, |report| report.head(&comments))?;
    let layout = Layout {
        max_bytes: rows.iter().map(|(geometry, ..)| geometry.size_bytes()).max().unwrap_or(0),
        calls: settings.calls as usize,
        unalign: settings.unalign,
        mapped: settings.mapped,
        reuse_buffers: settings.reuse_buffers,
    };
    let mut bench = Bench::new(comm, layout)?;
    let mut wrong = false;
    let mut cycle = 0;
    while settings.cycles.is_none_or(|cycles| cycle < cycles) {
        for &(geometry, op, root) in &rows {
            let Some((row, findings)) = one_row(&mut bench, settings, (geometry, op, root), rows.len(), &mut report)?
            else {
                return Ok(Outcome::Right);
            };
            wrong |= findings != Findings::default();
            write(&mut report, |report| {
                complain(&row, findings);
                report.row(row)
            })?;
        }
        cycle += 1;
    }
    write(&mut report, Report::foot)?;
    Ok(if wrong { Outcome::Wrong } else { Outcome::Right })
}

/// Both sides of one row. `None`: nobody reads any more.
fn one_row(
    bench: &mut Bench,
    settings: &Settings,
    (geometry, op, root): (Geometry, Option<RedOp>, Option<Rank>),
    row_count: usize,
    report: &mut Option<&mut Report>,
) -> Result<Option<(Row, Findings)>> {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut sides: [Option<Side>; 2] = [None, None];
    let mut findings = Findings::default();
    for in_place in [false, true] {
        if in_place && !geometry.can_be_in_place() {
            continue;
        }
        let case = Case { geometry, op, root: root.unwrap_or(0), in_place };
        let mut stop = false;
        if let Some(report) = report {
            stop = report.nobody_reads();
            let what = op.map_or(String::new(), |op| format!(" {}", op.name()));
            let place = if in_place { "in place" } else { "out of place" };
            report.running(format!("{} of {} {}{what}, {place}", settings.collective, geometry.count, geometry.dtype));
        }
        let Some(Measured { side, findings: found }) = measure(bench, settings, &case, 2 * row_count, stop)? else {
            return Ok(None);
        };
        findings.wrong += found.wrong;
        findings.outside += found.outside;
        findings.input_changed += found.input_changed;
        sides[usize::from(in_place)] = Some(side);
    }
    let [out_of_place, in_place] = sides;
    Ok(Some((Row { geometry, op, root, began, out_of_place, in_place }, findings)))
}

/// What the table has no column for.
fn complain(row: &Row, findings: Findings) {
    if findings.outside > 0 {
        tracing::error!(
            "at {} bytes: {} bytes beside the output were overwritten",
            row.geometry.size_bytes(),
            findings.outside
        );
    }
    if findings.input_changed > 0 {
        tracing::error!(
            "at {} bytes: {} elements of the input were changed",
            row.geometry.size_bytes(),
            findings.input_changed
        );
    }
}

fn explain_all(
    comm: &Communicator,
    settings: &Settings,
    rows: &[(Geometry, Option<RedOp>, Option<Rank>)],
    how: Explain,
    mut report: Option<&mut Report>,
) -> Result<()> {
    write(&mut report, |report| report.line(&explain::head()))?;
    for &(geometry, op, root) in rows {
        let case = Case { geometry, op, root: root.unwrap_or(0), in_place: false };
        let text = explain::text(comm, settings, &case, how)?;
        write(&mut report, |report| report.line(&text))?;
    }
    Ok(())
}

fn write(report: &mut Option<&mut Report>, body: impl FnOnce(&mut Report) -> std::io::Result<()>) -> Result<()> {
    match report {
        Some(report) => body(report).map_err(|error| Error::system("writing results", error)),
        None => Ok(()),
    }
}

/// The lines above the table: what runs, with which settings, and who takes part. Every rank must call it.
fn comments(comm: &Communicator, settings: &Settings) -> Result<Vec<String>> {
    let (first, last) = (settings.sizes.first().unwrap_or(&0), settings.sizes.last().unwrap_or(&0));
    let mut lines = vec![
        format!("roundel {} {}", env!("CARGO_PKG_VERSION"), crate::perf::args::binary_name(settings.collective)),
        format!(
            "nThread {} nGpus 1 minBytes {first} maxBytes {last} step: {} warmup iters: {} iters: {} agg iters: {} validation: {}",
            settings.threads,
            settings.step,
            settings.warmup,
            settings.iters.map_or("auto".to_string(), |iters| iters.to_string()),
            settings.calls,
            settings.checks
        ),
        format!(
            "{} on {}, transport {}, {}{}",
            plural(comm.world(), "rank"),
            plural(comm.hosts().len(), "host"),
            comm.transport(),
            match &comm.options().device {
                Some(device) => format!("buffers on {}", device.name()),
                None if settings.mapped => "mapped buffers".to_string(),
                None => "ordinary buffers".to_string(),
            },
            if comm.options().reproducible { ", reproducible" } else { "" }
        ),
        String::new(),
    ];
    for (rank, who) in everybody(comm)?.into_iter().enumerate() {
        lines.push(format!(" Rank {rank:>3} {who}"));
    }
    lines.push(String::new());
    Ok(lines)
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Process and host of every rank, in words.
fn everybody(comm: &Communicator) -> Result<Vec<String>> {
    const CARD_BYTES: usize = 64;
    let host =
        nix::sys::utsname::uname().map_or(String::new(), |names| names.nodename().to_string_lossy().into_owned());
    let card = format!("Pid {:>7} on {host}", std::process::id());
    let mut mine = [b' '; CARD_BYTES];
    let len = card.len().min(CARD_BYTES);
    mine[..len].copy_from_slice(&card.as_bytes()[..len]);
    let mut all = vec![0; CARD_BYTES * comm.world()];
    comm.all_gather(&mine, &mut all)?;
    Ok(all.chunks(CARD_BYTES).map(|card| String::from_utf8_lossy(card).trim_end().to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::args::parse;
    use crate::types::Collective;

    fn rows_of(collective: Collective, line: &str, world: usize) -> usize {
        rows(&parse(collective, std::iter::once("perf").chain(line.split_whitespace())).unwrap(), world).len()
    }

    #[test]
    fn every_kind_root_and_size_gets_a_row() {
        assert_eq!(rows_of(Collective::AllReduce, "", 4), 12);
        assert_eq!(rows_of(Collective::AllReduce, "-d all -o all -b 1K -e 4K", 4), 90 * 2);
        assert_eq!(rows_of(Collective::Broadcast, "-r all -b 1K -e 4K -d int8", 3), 3 * 2);
    }

    #[test]
    fn sizes_that_round_to_the_same_run_once() {
        assert_eq!(rows_of(Collective::AllGather, "-b 1 -e 16 -f 2", 4), 1);
        assert_eq!(rows_of(Collective::AllGather, "-b 1 -e 64 -f 2", 4), 3);
    }
}
