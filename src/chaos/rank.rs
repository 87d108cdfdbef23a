//! A rank of the job that is being struck: makes checked calls without end, and after an error goes on with those who live.
//!
//! ```text
//!   step:  rank 0 broadcasts what all do together, if anything; then a few checked calls
//!   error: say so; shrink; a checked all-reduce with those who live; say so; next step
//! ```
#![forbid(unsafe_code)]

use crate::chaos::holdings::Holdings;
use crate::chaos::random::Random;
use crate::chaos::task::{Examiner, Task, Trouble};
use crate::chaos::words::{Blow, Entrance, How, Joint, Moment, Order, Said, Standing};
use crate::comm::{Communicator, Options};
use crate::error::{Error, Result};
use crate::types::Rank;
use crate::{UniqueId, launch};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Set in processes that are to be ranks: the run's seed, and the largest vector in bytes.
pub const SETTINGS: &str = "ROUNDEL_CHAOS_RANK";

/// The clock that all processes of a machine share.
pub fn clock() -> Duration {
    // Linux has it always.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// How a rank's story ends before the referee ends it.
enum End {
    /// It has left, as ordered.
    Finished,
    /// The others have given it up.
    Expelled(Error),
    /// What never may happen did.
    Wrong(String),
}

/// The whole of a rank's process.
pub fn main(settings: &str) -> ExitCode {
    match run(settings) {
        End::Finished => ExitCode::SUCCESS,
        End::Expelled(error) => {
            say(&Said::Expelled(error));
            ExitCode::SUCCESS
        }
        End::Wrong(text) => {
            say(&Said::Wrong(text));
            ExitCode::from(launch::BAD_NEWS)
        }
    }
}

fn run(settings: &str) -> End {
    let numbers =
        settings.split_once(' ').and_then(|(seed, largest)| Some((seed.parse().ok()?, largest.parse().ok()?)));
    let Some((seed, largest_bytes)) = numbers else { return End::Wrong(format!("settings {settings:?}")) };
    let (orders, entrance) = match launch::die_with_parent().and_then(|()| listen()) {
        Ok(heard) => heard,
        Err(error) => return End::Wrong(error.to_string()),
    };
    let comm = match entrance.recv().map_err(|_| Error::invalid("no order to begin")).and_then(enter) {
        Ok(comm) => comm,
        Err(error) => return End::Expelled(error),
    };
    let examiner = Examiner::new(seed, &standing(&comm));
    let mut rank = Rankling { seed, largest_bytes, orders, comm, examiner, done: 0, steps: 0 };
    let mut outcome = match rank.first_call() {
        Ok(()) => {
            say(&Said::Ready(rank.standing()));
            Ok(())
        }
        Err(trouble) => rank.recover(trouble),
    };
    loop {
        match outcome {
            Ok(()) => outcome = rank.go_on(),
            Err(end) => return end,
        }
    }
}

fn enter(entrance: Entrance) -> Result<Communicator> {
    match entrance {
        Entrance::Open { world } => {
            let id = UniqueId::new()?;
            say(&Said::Id(id.to_string()));
            Communicator::init(&id, 0, world)
        }
        Entrance::Join { id, rank, world, patience } => {
            let options = Options { init_timeout: patience, ..Options::from_env()? };
            Communicator::init_with(&id.parse()?, rank, world, options)
        }
        Entrance::Enlist(invitation) => {
            let invitation = invitation.parse()?;
            say(&Said::Knocking);
            Communicator::enlist(&invitation)
        }
    }
}

/// What the referee wants of this rank.
#[derive(Default)]
struct Wishes {
    /// The latest thing to do together.
    together: Option<(u64, Joint)>,
    nap: Option<Duration>,
    blow: Option<Blow>,
}

type Orders = Arc<Mutex<Wishes>>;

/// Hears the referee from now on. When the referee is gone the process ends.
fn listen() -> Result<(Orders, Receiver<Entrance>)> {
    let orders = Orders::default();
    let (begin, entrance) = channel();
    let heard = orders.clone();
    let hear = move || {
        for line in std::io::stdin().lines().map_while(std::result::Result::ok) {
            let order = serde_json::from_str(&line);
            let mut wishes = heard.lock().unwrap_or_else(PoisonError::into_inner);
            match order {
                Ok(Order::Begin(entrance)) => drop(begin.send(entrance)),
                Ok(Order::Together(number, joint)) => wishes.together = Some((number, joint)),
                Ok(Order::Nap(how_long)) => wishes.nap = Some(how_long),
                Ok(Order::Arm(blow)) => {
                    wishes.blow = Some(blow);
                    say(&Said::Armed);
                }
                Err(error) => say(&Said::Wrong(format!("an order {line:?} that is none: {error}"))),
            }
        }
        std::process::exit(0);
    };
    let named = std::thread::Builder::new().name("orders".into());
    named.spawn(hear).map_err(|error| Error::system("starting a thread", error))?;
    Ok((orders, entrance))
}

/// Tells the referee. If it is gone, this process is about to be as well.
fn say(said: &Said) {
    if let Ok(line) = serde_json::to_string(said) {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}

fn standing(comm: &Communicator) -> Standing {
    let members = comm.members().to_vec();
    Standing { number: members[comm.rank()], epoch: comm.epoch(), members }
}

struct Rankling {
    seed: u64,
    largest_bytes: usize,
    orders: Orders,
    comm: Communicator,
    examiner: Examiner,
    /// The last thing that was done together.
    done: u64,
    /// Since the last change of the membership.
    steps: u64,
}

impl Rankling {
    fn standing(&self) -> Standing {
        standing(&self.comm)
    }

    /// From now on this is the communicator; a call that no random number decides on must be right.
    fn move_to(&mut self, comm: Communicator) -> std::result::Result<(), Trouble> {
        self.comm = comm;
        self.first_call()
    }

    /// Numbers that all members draw alike.
    fn random(&self, purpose: u64) -> Random {
        Random::new(&[self.seed, purpose, self.comm.epoch().into(), self.steps])
    }

    fn wish<T>(&self, take: impl FnOnce(&mut Wishes) -> T) -> T {
        take(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A step; and if it fails, what comes after.
    fn go_on(&mut self) -> std::result::Result<(), End> {
        match self.step() {
            Ok(None) => Ok(()),
            Ok(Some((number, joint))) => {
                self.done = number;
                match self.together(number, joint) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(End::Finished),
                    Err(trouble) => self.recover(trouble),
                }
            }
            Err(trouble) => self.recover(trouble),
        }
    }

    fn step(&mut self) -> std::result::Result<Option<(u64, Joint)>, Trouble> {
        if let Some(how_long) = self.wish(|wishes| wishes.nap.take()) {
            std::thread::sleep(how_long);
            say(&Said::Napped);
        }
        let wanted = self.wish(|wishes| wishes.together).filter(|(number, _)| *number > self.done);
        let mut word = wanted.map_or([0, 0], |(number, joint)| [number, joint.code()]);
        self.comm.broadcast(&mut word, 0)?;
        if let Some(joint) = Joint::from_code(word[1]) {
            return Ok(Some((word[0], joint)));
        }
        let mut random = self.random(1);
        self.steps += 1;
        for _ in 0..random.within(1..=6) {
            self.examiner.run(&self.comm, &Task::draw(&mut random, self.comm.world(), self.largest_bytes))?;
        }
        Ok(None)
    }

    /// What the referee wanted. False: that was all.
    fn together(&mut self, number: u64, joint: Joint) -> std::result::Result<bool, Trouble> {
        match joint {
            Joint::Report => {
                let mut random = self.random(2);
                for task in Task::all_kinds(&mut random) {
                    self.examiner.run(&self.comm, &task)?;
                }
                let holdings = Holdings::now().map_err(|error| Error::system("looking into /proc", error))?;
                say(&Said::Report(number, self.standing(), holdings));
                Ok(true)
            }
            Joint::Invite => {
                if self.comm.rank() == 0 {
                    say(&Said::Invitation(self.comm.invitation()?.to_string()));
                }
                Ok(true)
            }
            Joint::Grow => {
                self.strike_oneself(Moment::Grow)?;
                match self.comm.grow() {
                    Ok(Some(grown)) => {
                        self.move_to(grown)?;
                        say(&Said::Grown(self.standing(), clock()));
                    }
                    Ok(None) => say(&Said::NotGrown(number, None)),
                    // If a member is gone the next call says so; if it was a newcomer, all is as before.
                    Err(error) => say(&Said::NotGrown(number, Some(error))),
                }
                Ok(true)
            }
            Joint::Finish => {
                // Whoever leaves this has seen everybody enter it, so all know that they finish; how it ends matters no more.
                let _ = self.comm.barrier();
                Ok(false)
            }
        }
    }

    /// A checked call that is the same whatever else was drawn.
    fn first_call(&mut self) -> std::result::Result<(), Trouble> {
        self.steps = 0;
        let task = Task::first_of_an_epoch(&mut self.random(3));
        self.examiner = Examiner::new(self.seed, &self.standing());
        self.examiner.run(&self.comm, &task)
    }

    /// After `trouble`: goes on with those who live.
    fn recover(&mut self, trouble: Trouble) -> std::result::Result<(), End> {
        let mut trouble = trouble;
        loop {
            let error = match trouble {
                Trouble::Failed(error) => error,
                wrong => return Err(self.worst(wrong)),
            };
            let preserved = (self.comm.epoch(), self.examiner.preserved());
            say(&Said::Failed { suspects: self.suspects(&error), error, preserved, at: clock() });
            if let Err(error) = self.strike_oneself(Moment::Shrink) {
                return Err(self.worst(error.into()));
            }
            let rest = match self.comm.shrink() {
                Ok(rest) => rest,
                Err(error) => return Err(End::Expelled(error)),
            };
            match self.move_to(rest) {
                Ok(()) => {
                    say(&Said::Recovered(self.standing(), clock()));
                    return Ok(());
                }
                Err(next) => trouble = next,
            }
        }
    }

    /// Whom an error accuses, by their numbers in the job.
    fn suspects(&self, error: &Error) -> Vec<Rank> {
        match error {
            Error::PeerLost { suspects, .. } | Error::Corrupted { suspects, .. } => {
                suspects.iter().filter_map(|&rank| self.comm.members().get(rank).copied()).collect()
            }
            _ => Vec::new(),
        }
    }

    fn worst(&self, trouble: Trouble) -> End {
        let Standing { number, epoch, members } = self.standing();
        let what = match trouble {
            Trouble::Failed(error) => error.to_string(),
            Trouble::Wrong(what) => what,
        };
        End::Wrong(format!("rank {number} in epoch {epoch} of {members:?}: {what}"))
    }

    /// As ordered for this moment: in a little while, whatever this process does then.
    fn strike_oneself(&self, now: Moment) -> Result<()> {
        let ordered = |wishes: &mut Wishes| wishes.blow.take_if(|blow| blow.during == now);
        let Some(Blow { how, after, .. }) = self.wish(ordered) else { return Ok(()) };
        let strike = move || {
            std::thread::sleep(after);
            say(&Said::Striking(clock()));
            let signal = match how {
                How::Kill => Signal::SIGKILL,
                How::Stop => Signal::SIGSTOP,
            };
            // A process may always signal itself.
            let _ = kill(Pid::this(), signal);
        };
        let named = std::thread::Builder::new().name("blow".into());
        named.spawn(strike).map(drop).map_err(|error| Error::system("starting a thread", error))
    }
}
