//! What schedules have gone through, counted.
#![forbid(unsafe_code)]

use crate::types::Collective;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Counts of one schedule, or of many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub(super) schedules: u64,
    pub(super) steps: u64,
    pub(super) virtual_time: Duration,
    pub(super) sessions: u64,
    pub(super) links: u64,
    pub(super) calls: BTreeMap<&'static str, u64>,
    pub(super) right: u64,
    pub(super) failed: BTreeMap<&'static str, u64>,
    /// Calls in place that failed and had written to their input, and that had not.
    pub(super) spoilt: u64,
    pub(super) spared: u64,
    /// Timeouts that also name a rank that was itself waiting.
    pub(super) vague: u64,
    pub(super) deaths: u64,
    pub(super) root_deaths: u64,
    /// Ranks that took over as root, and ranks that followed a new one.
    pub(super) takeovers: u64,
    pub(super) successions: u64,
    /// Ranks that the others gave up, or that found no root any more.
    pub(super) expelled: u64,
    pub(super) freezes: u64,
    pub(super) cuts: u64,
    pub(super) unplugged: u64,
    pub(super) aborts: u64,
    pub(super) slips: u64,
    pub(super) left: u64,
    pub(super) censuses: u64,
    /// Ranks that were content and learned that others were not.
    pub(super) disagreed: u64,
    pub(super) shrunk: u64,
    pub(super) gave_up: BTreeMap<&'static str, u64>,
    /// From a rank's death to the last error because of it, where nothing else went wrong.
    pub(super) slowest_error: Duration,
}

impl Tally {
    pub(super) fn called(&mut self, collective: Collective) {
        *self.calls.entry(collective.name()).or_default() += 1;
    }

    /// Adds what other schedules have gone through.
    pub fn add(&mut self, other: &Tally) {
        let Tally {
            schedules,
            steps,
            virtual_time,
            sessions,
            links,
            calls,
            right,
            failed,
            spoilt,
            spared,
            vague,
            deaths,
            root_deaths,
            takeovers,
            successions,
            expelled,
            freezes,
            cuts,
            unplugged,
            aborts,
            slips,
            left,
            censuses,
            disagreed,
            shrunk,
            gave_up,
            slowest_error,
        } = other;
        self.schedules += schedules;
        self.steps += steps;
        self.virtual_time += *virtual_time;
        self.sessions += sessions;
        self.links += links;
        self.right += right;
        self.spoilt += spoilt;
        self.spared += spared;
        self.vague += vague;
        self.deaths += deaths;
        self.root_deaths += root_deaths;
        self.takeovers += takeovers;
        self.successions += successions;
        self.expelled += expelled;
        self.freezes += freezes;
        self.cuts += cuts;
        self.unplugged += unplugged;
        self.aborts += aborts;
        self.slips += slips;
        self.left += left;
        self.censuses += censuses;
        self.disagreed += disagreed;
        self.shrunk += shrunk;
        self.slowest_error = self.slowest_error.max(*slowest_error);
        for (mine, theirs) in [(&mut self.calls, calls), (&mut self.failed, failed), (&mut self.gave_up, gave_up)] {
            theirs.iter().for_each(|(name, count)| *mine.entry(name).or_default() += count);
        }
    }

    /// How many schedules.
    pub fn schedules(&self) -> u64 {
        self.schedules
    }
}

fn list(counts: &BTreeMap<&'static str, u64>) -> String {
    let words: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls: u64 = self.calls.values().sum();
        let failed: u64 = self.failed.values().sum();
        writeln!(
            f,
            "schedules     {} of {} steps, {:.0} s of their time",
            self.schedules,
            self.steps,
            self.virtual_time.as_secs_f64()
        )?;
        writeln!(f, "calls         {calls} ended: {} right to the bit, {failed} with an error", self.right)?;
        writeln!(f, "  by kind     {}", list(&self.calls))?;
        writeln!(
            f,
            "  errors      {}; of the timeouts {} also name one that waits itself",
            list(&self.failed),
            self.vague
        )?;
        writeln!(
            f,
            "  in place    of those {} with the input lost, {} with the input intact",
            self.spoilt, self.spared
        )?;
        writeln!(f, "engines       {}, {} links dialled", self.sessions, self.links)?;
        writeln!(
            f,
            "faults        {} deaths ({} of the root's process), {} freezes, {} cuts, {} hosts unplugged, {} aborts, {} ranks with another call",
            self.deaths, self.root_deaths, self.freezes, self.cuts, self.unplugged, self.aborts, self.slips
        )?;
        writeln!(
            f,
            "membership    {} parts in censuses, {} that all was well and not all agreed; {} ranks went on in a smaller job, {} left; gave up: {}",
            self.censuses,
            self.disagreed,
            self.shrunk,
            self.left,
            list(&self.gave_up)
        )?;
        writeln!(
            f,
            "roots         {} takeovers, {} times a rank followed the next; {} ranks given up by the others",
            self.takeovers, self.successions, self.expelled
        )?;
        write!(f, "slowest error {:.1} ms after a lone death", self.slowest_error.as_secs_f64() * 1e3)
    }
}
