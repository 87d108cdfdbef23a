//! Starts the ranks of a job and, one after the other, kills those that began it and starts others in their place. In a real
//! cluster the first half is done by accidents, the second by a scheduler.

use super::digits;
#[cfg(doc)]
use super::rank;
use super::rank::{DOOMED, EPOCHS, FOUNDERS, MARK, PART};
use super::training::Training;
use roundel::elastic::{Policy, run};
use roundel::{Communicator, Error, Options, Rank, Result};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Nothing here takes longer, even on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// Instead of a line, when there will be no more.
const ENDED: &str = "";

/// What is to happen.
pub struct Plan {
    /// Ranks that begin the job.
    pub procs: usize,
    /// Epochs at least.
    pub epochs: u64,
    /// Whether they are killed and replaced.
    pub kills: bool,
}

/// How it ended, on all ranks.
#[derive(Debug, PartialEq)]
pub struct End {
    /// Epochs that were made.
    pub epochs: u64,
    /// A hash of the weights, as text.
    pub digest: String,
    /// Who was there, by the numbers that ranks get as they join.
    pub members: Vec<Rank>,
}

/// Carries out the plan: each rank is the process of a `program`, whose main function is [`rank::play`]. `tell` gets lines for
/// people. An error where ranks end differently, or otherwise than one that nobody disturbs.
pub fn supervise(plan: &Plan, program: impl Fn() -> Command, tell: impl Fn(String)) -> Result<End> {
    if plan.procs < 2 {
        return Err(Error::invalid("at least two ranks, so that one lives when the other dies (--procs)"));
    }
    let (sender, lines) = channel();
    let mut job =
        Job { plan, program, tell, processes: Vec::new(), sender, lines, early: Vec::new(), epochs: BTreeMap::new() };
    job.start("first", &[]);
    let id = job.heard(0, "id")?;
    for rank in 1..plan.procs {
        let rank = rank.to_string();
        let place = [("ROUNDEL_UNIQUE_ID", id.as_str()), ("ROUNDEL_RANK", &rank)];
        job.start("founder", &[place[0], place[1], ("ROUNDEL_WORLD_SIZE", &plan.procs.to_string())]);
    }
    let mut members: Vec<Rank> = (0..plan.procs).collect();
    let mut invitation = job.all_are(&members)?;
    for victim in (0..plan.procs).filter(|_| plan.kills) {
        job.next_epoch()?;
        job.processes[victim].kill().map_err(|error| Error::system("killing a rank", error))?;
        let killed = Instant::now();
        members.retain(|member| *member != victim);
        job.all_are(&members)?;
        (job.tell)(format!(
            "rank {victim} killed; {members:?} have made a step {} ms later",
            killed.elapsed().as_millis()
        ));
        members.push(job.start(&invitation, &[]));
        invitation = job.all_are(&members)?;
        (job.tell)(format!("a newcomer in its place: {members:?}"));
    }
    let ends = members.iter().map(|rank| job.heard(*rank, "done")).collect::<Result<Vec<String>>>()?;
    for rank in &members {
        let status = job.processes[*rank].wait().map_err(|error| Error::system("waiting for a rank", error))?;
        if !status.success() {
            return Err(Error::invalid(format!("rank {rank} is done, but ends with {status}")));
        }
    }
    let different = || Error::invalid(format!("ranks {members:?} end differently: {ends:?}"));
    let (epochs, digest) = ends[0].split_once(' ').ok_or_else(different)?;
    let end =
        End { epochs: epochs.parse().map_err(|_| different())?, digest: digest.to_string(), members: members.clone() };
    if ends.iter().any(|other| *other != ends[0]) {
        return Err(different());
    }
    let alone = undisturbed(end.epochs)?;
    if alone != end.digest {
        return Err(Error::invalid(format!("digest {digest}, but {alone} on one rank that nobody disturbed")));
    }
    (job.tell)(format!("digest {digest} after {epochs} epochs, as on one rank that nobody disturbed"));
    Ok(end)
}

/// The digest of a training in this process.
fn undisturbed(epochs: u64) -> Result<String> {
    let digits = digits::load();
    let mut training = Training::new(&digits, epochs, 0, |_| {}, |_| {});
    let alone = Communicator::threads(1, Options::from_env()?)?.remove(0);
    run(&mut training, alone, Policy { grow_every: 0, min_ranks: 1 })?;
    Ok(format!("{:016x}", training.digest()))
}

struct Job<'a, P, T> {
    plan: &'a Plan,
    program: P,
    tell: T,
    /// The process of each rank, by the number that it has or had.
    processes: Vec<Child>,
    sender: Sender<(Rank, String)>,
    lines: Receiver<(Rank, String)>,
    /// Lines that were read while another one was waited for.
    early: Vec<(Rank, String)>,
    /// How each epoch ended: the same on all ranks.
    epochs: BTreeMap<u64, String>,
}

impl<P: Fn() -> Command, T: Fn(String)> Job<'_, P, T> {
    /// Starts a process and gives the number that its rank will have.
    fn start(&mut self, part: &str, settings: &[(&str, &str)]) -> Rank {
        let rank = self.processes.len();
        let mut command = (self.program)();
        command.env(PART, part).env(FOUNDERS, self.plan.procs.to_string()).env(EPOCHS, self.plan.epochs.to_string());
        command.env(DOOMED, if self.plan.kills { self.plan.procs } else { 0 }.to_string());
        command.envs(settings.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("what runs can be started again");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(std::io::Result::ok) {
                if let Some((_, line)) = line.split_once(MARK) {
                    let _ = sender.send((rank, line.to_string()));
                }
            }
            let _ = sender.send((rank, ENDED.to_string()));
        });
        self.processes.push(child);
        rank
    }

    /// Waits until all these have made a step together, and nobody else with them. An invitation of the first.
    fn all_are(&mut self, members: &[Rank]) -> Result<String> {
        let names: Vec<String> = members.iter().map(Rank::to_string).collect();
        let wanted = format!("members {}", names.join(","));
        let invitations = members.iter().map(|rank| self.heard(*rank, &wanted)).collect::<Result<Vec<String>>>()?;
        Ok(invitations.into_iter().next().expect("some ranks live"))
    }

    /// The rest of the next line of `rank` that begins with these words.
    fn heard(&mut self, rank: Rank, words: &str) -> Result<String> {
        let wanted = |(from, line): &(Rank, String)| {
            let rest = line.strip_prefix(words)?.strip_prefix(' ')?;
            (*from == rank).then(|| rest.to_string())
        };
        if let Some(at) = self.early.iter().position(|line| wanted(line).is_some()) {
            return Ok(wanted(&self.early.remove(at)).expect("it was just found"));
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.early.contains(&(rank, ENDED.to_string())) {
            let late = || Error::invalid(format!("rank {rank} never said {words:?}"));
            let Some(line) = self.next_line(deadline).ok_or_else(late)?? else { continue };
            match wanted(&line) {
                Some(rest) => return Ok(rest),
                None => self.early.push(line),
            }
        }
        Err(Error::invalid(format!("rank {rank} ended without saying {words:?}")))
    }

    /// Waits until one epoch more has ended.
    fn next_epoch(&mut self) -> Result<()> {
        let (before, deadline) = (self.epochs.len(), Instant::now() + PATIENCE);
        while self.epochs.len() == before {
            let late = || Error::invalid(format!("epoch {} never ends", before + 1));
            let line = self.next_line(deadline).ok_or_else(late)??;
            self.early.extend(line);
        }
        Ok(())
    }

    /// What a rank says next, but of epochs, which are noted; none when the deadline passes.
    fn next_line(&mut self, deadline: Instant) -> Option<Result<Option<(Rank, String)>>> {
        let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
        Some(match line.1.strip_prefix("epoch ") {
            Some(epoch) => self.note(line.0, epoch).map(|()| None),
            None => Ok(Some(line)),
        })
    }

    /// An epoch has ended, as a rank says; all say the same, and one of them is enough to tell.
    fn note(&mut self, rank: Rank, epoch: &str) -> Result<()> {
        let nonsense = || Error::invalid(format!("rank {rank} says {epoch:?} of an epoch"));
        let words: Vec<f64> = epoch.split(' ').map_while(|word| word.parse().ok()).collect();
        let [number, loss, accuracy] = words[..] else { return Err(nonsense()) };
        match self.epochs.get(&(number as u64)) {
            None => {
                (self.tell)(format!("epoch {number:>3}  loss {loss:.4}  held-out accuracy {:.2} %", accuracy * 100.0))
            }
            Some(known) if known == epoch => return Ok(()),
            Some(known) => {
                return Err(Error::invalid(format!("rank {rank} ends an epoch with {epoch}, another with {known}")));
            }
        }
        self.epochs.insert(number as u64, epoch.to_string());
        Ok(())
    }
}

impl<P, T> Drop for Job<'_, P, T> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
