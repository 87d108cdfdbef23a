//! Event after event: [`run`].
#![forbid(unsafe_code)]

use crate::chaos::args::Settings;
use crate::chaos::event::Kind;
use crate::chaos::job::{Job, Times};
use crate::chaos::random::Random;
use crate::chaos::strikes;
use crate::chaos::tally::Tally;
use crate::launch;
use crate::perf::settings::Sink;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// So many more ranks than at the beginning there may be.
const SPARE: usize = 2;

/// Makes all events happen, prints what came of them, and returns the exit code.
pub fn run(settings: &Settings) -> ExitCode {
    let began = Instant::now();
    let mut referee = Referee { settings, tally: Tally::default(), job: None, rests: 0 };
    let mut errors = Vec::new();
    for number in settings.from..settings.from.saturating_add(settings.events) {
        if let Err(what) = referee.event(number) {
            eprintln!("{what}");
            errors.push(what);
            if settings.fail_fast {
                break;
            }
        }
    }
    if let Some((_, job)) = referee.job.take()
        && let Err(what) = job.finish()
    {
        eprintln!("the last job did not end in good order: {what}");
        errors.push(what);
    }
    let outlived = referee.rests;
    let tally = referee.tally;
    if let Err(error) = print(settings, &tally, outlived, began.elapsed()) {
        eprintln!("roundel-chaos: {error}");
        return ExitCode::from(launch::BAD_NEWS);
    }
    if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(launch::BAD_NEWS) }
}

fn print(settings: &Settings, tally: &Tally, outlived: u64, took: Duration) -> std::io::Result<()> {
    let lines = tally.json().join("\n");
    if settings.json == Some(Sink::Stdout) {
        println!("{lines}");
        return Ok(());
    }
    if let Some(Sink::File(path)) = &settings.json {
        std::fs::write(path, lines + "\n")?;
    }
    println!("{}", tally.table());
    println!(
        "\nseed {}, {} ranks over {}{}, {:.0} s; {outlived} jobs outlived every rank that they began with",
        settings.seed,
        settings.ranks,
        settings.transport,
        if settings.namespaces { ", a network each" } else { "" },
        took.as_secs_f64()
    );
    Ok(())
}

struct Referee<'a> {
    settings: &'a Settings,
    tally: Tally,
    /// The job that runs, and the event that it began with.
    job: Option<(u64, Job)>,
    /// Jobs that have outlived their first ranks.
    rests: u64,
}

impl Referee<'_> {
    fn event(&mut self, number: u64) -> Result<(), String> {
        let mut random = Random::new(&[self.settings.seed, number]);
        let (since, mut job) = match self.job.take() {
            Some(job) => job,
            None => (number, Job::start(self.settings).map_err(|what| format!("a job did not start: {what}"))?),
        };
        let had_an_original = job.has_an_original();
        let kind = self.draw(&job, &mut random);
        let before = job.numbers();
        let outcome = strikes::strike(&mut job, kind, self.settings.heartbeat_timeout, &mut random);
        self.tally.count(kind, outcome.as_ref().ok().copied());
        match outcome {
            Ok(times) => {
                if self.settings.verbose {
                    println!("{number:>6} {:<15} {before:?} -> {:?}{}", kind.name(), job.numbers(), spell(times));
                }
                self.rests += u64::from(had_an_original && !job.has_an_original());
                self.job = Some((since, job));
                Ok(())
            }
            Err(what) => {
                let replay = self.settings.replay(since, number);
                let seed = self.settings.seed;
                let logs: String = job.logs().iter().map(|line| format!("    {line}\n")).collect();
                let kind = kind.name();
                Err(format!(
                    "event {number} ({kind}) of seed {seed}, members {before:?}: {what}\n{logs}  again: {replay}"
                ))
            }
        }
    }

    /// What happens next. Where ranks are missing, newcomers are likely.
    fn draw(&self, job: &Job, random: &mut Random) -> Kind {
        let (members, ranks) = (job.numbers().len(), self.settings.ranks);
        let possible = |kind: &&Kind| kind.needs() <= members && (!kind.grows() || members < ranks + SPARE);
        let kinds: Vec<Kind> = self.settings.kinds.iter().filter(possible).copied().collect();
        let growing: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.grows()).collect();
        let is_short = members < ranks && random.percent(50);
        match (is_short && !growing.is_empty(), kinds.is_empty()) {
            (true, _) => *random.pick(&growing),
            (false, false) => *random.pick(&kinds),
            // Of the kinds asked for none is possible with so few.
            (false, true) => Kind::Join,
        }
    }
}

fn spell(times: Times) -> String {
    let words = |what: &str, time: Option<Duration>| {
        time.map_or(String::new(), |time| format!(", {what} after {:.3} s", time.as_secs_f64()))
    };
    words("noticed", times.detection) + &words("right again", times.recovery)
}
