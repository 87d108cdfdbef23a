//! What is done to a job, kind by kind, and what must come of it.
#![forbid(unsafe_code)]

use crate::chaos::crew::Hand;
use crate::chaos::event::Kind;
use crate::chaos::flip::{self, Flip};
use crate::chaos::growth;
use crate::chaos::job::{Job, Seat, Times};
use crate::chaos::random::Random;
use crate::chaos::rank::clock;
use crate::chaos::sockets::{self, Socket};
use crate::chaos::strangers;
use crate::chaos::words::{Blow, How, Moment, Order, Said, Standing};
use crate::cluster::network::Cut;
use crate::error::Error;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A strike falls at any time of what the ranks do: up to so long after they were last seen to be well.
pub(super) const ANY_TIME: Duration = Duration::from_millis(40);
/// As long as a shrink or a growth takes, and somewhat longer.
pub(super) const A_CHANGE: Duration = Duration::from_millis(30);

/// Makes an event of this kind happen, and checks all that must hold after it. An error: what does not.
pub fn strike(job: &mut Job, kind: Kind, heartbeat_timeout: Duration, random: &mut Random) -> Result<Times, String> {
    std::thread::sleep(random.up_to(ANY_TIME));
    let seats = job.seats();
    let any = *random.pick(&seats);
    let others: Vec<Seat> = seats.iter().copied().filter(|seat| *seat != any).collect();
    // Where there are no others no kind of event needs one.
    let another = if others.is_empty() { any } else { *random.pick(&others) };
    let times = match kind {
        Kind::Kill => killed(job, &[any])?,
        Kind::KillRoot => killed(job, &seats[..1])?,
        Kind::KillTwo => killed(job, &[any, another])?,
        Kind::KillInShrink => struck_in_shrink(job, any, another, How::Kill, random)?,
        Kind::StopInShrink => {
            let times = struck_in_shrink(job, any, another, How::Stop, random)?;
            woken(job, another)?;
            times
        }
        Kind::Freeze => frozen(job, any, random)?,
        Kind::FreezeRoot => frozen(job, seats[0], random)?,
        Kind::Nap => {
            job.crew.signal(any.hand, Signal::SIGSTOP);
            std::thread::sleep(random.up_to(heartbeat_timeout * 2 / 5));
            job.crew.signal(any.hand, Signal::SIGCONT);
            Times::default()
        }
        Kind::Slow => {
            let how_long = heartbeat_timeout + random.up_to(heartbeat_timeout / 2);
            job.crew.order(any.hand, &Order::Nap(how_long));
            job.listen(&[any.hand].into(), |hand, said| match said {
                Said::Napped => Ok(true),
                other => Err(format!("process {hand} was disturbed: {other:?}")),
            })?;
            Times::default()
        }
        Kind::Stranger => {
            let ports = seats.iter().filter_map(|seat| job.crew.pid(seat.hand)).flat_map(strangers::ports).collect();
            let silent = strangers::besiege(&ports, random);
            // The silent sit at doors, and take a descriptor each.
            job.reports()?;
            drop(silent);
            Times::default()
        }
        Kind::Join => growth::joined(job, random)?,
        Kind::DuplicateJoin => growth::claimed(job, random)?,
        Kind::KillInGrow => growth::member_killed(job, any, random)?,
        Kind::KillNewcomer => growth::newcomer_killed(job, random)?,
        Kind::CutOut => cut(job, any, Cut::Out, random)?,
        Kind::CutIn => cut(job, any, Cut::In, random)?,
        Kind::CutBoth => cut(job, any, Cut::Both, random)?,
        Kind::BitFlip => flipped(job, any, random)?,
    };
    job.roll_call()?;
    Ok(times)
}

fn killed(job: &mut Job, victims: &[Seat]) -> Result<Times, String> {
    let hands: Vec<Hand> = victims.iter().map(|victim| victim.hand).collect();
    let at = clock();
    for &hand in &hands {
        job.crew.signal(hand, Signal::SIGKILL);
    }
    let times = job.go_on_without(&hands, at)?;
    job.bury(&hands);
    Ok(times)
}

pub(super) fn arm(job: &mut Job, hand: Hand, blow: Blow) -> Result<(), String> {
    job.crew.order(hand, &Order::Arm(blow));
    job.listen(&[hand].into(), |_, said| match said {
        Said::Armed => Ok(true),
        other => Err(format!("instead of being armed: {other:?}")),
    })
}

/// `first` is killed, and `second` is struck while it shrinks.
fn struck_in_shrink(job: &mut Job, first: Seat, second: Seat, how: How, random: &mut Random) -> Result<Times, String> {
    arm(job, second.hand, Blow { during: Moment::Shrink, how, after: random.up_to(A_CHANGE) })?;
    let at = job.crew.signal(first.hand, Signal::SIGKILL);
    let times = job.go_on_without(&[first.hand, second.hand], at)?;
    job.bury(&[first.hand]);
    if how == How::Kill {
        job.bury(&[second.hand]);
    }
    Ok(times)
}

fn frozen(job: &mut Job, victim: Seat, random: &mut Random) -> Result<Times, String> {
    let at = job.crew.signal(victim.hand, Signal::SIGSTOP);
    let times = job.go_on_without(&[victim.hand], at)?;
    std::thread::sleep(random.up_to(ANY_TIME));
    woken(job, victim)?;
    Ok(times)
}

/// A rank that the others have given up wakes, is told so, and leaves.
fn woken(job: &mut Job, victim: Seat) -> Result<(), String> {
    let woken_at = job.crew.signal(victim.hand, Signal::SIGCONT);
    let mut accused = BTreeSet::new();
    let mut last_words = None;
    let stood = job.stood();
    let has_stood = |standing: &Standing| match stood.get(&standing.epoch) {
        Some(members) => members.as_ref().is_none_or(|members| *members == standing.members),
        None => false,
    };
    job.see_off(victim.hand, |said| {
        match said {
            Said::Failed { suspects, .. } => accused.extend(suspects),
            Said::Expelled(error) => {
                if let Error::PeerLost { suspects, .. } = &error {
                    accused.extend(suspects);
                }
                last_words = Some(error);
            }
            // It may have been struck when it was about to go on with the others, had contributed all that they needed for
            // their first call, and now ends it too.
            Said::Recovered(standing, at) if at >= woken_at && !has_stood(&standing) => {
                return Err(format!("rank {} woke and went on by itself, with {:?}", victim.number, standing.members));
            }
            _ => {}
        }
        Ok(())
    })?;
    match last_words {
        Some(_) if accused.contains(&victim.number) => Ok(()),
        Some(error) => Err(format!("rank {} woke and was not told that it is the one: {error}", victim.number)),
        None => Err(format!("rank {} woke and ended without a word", victim.number)),
    }
}

/// A bit of what `victim` receives is turned over. All are told whose bytes these were, and go on with all.
fn flipped(job: &mut Job, victim: Seat, random: &mut Random) -> Result<Times, String> {
    let pid = job.crew.pid(victim.hand).ok_or("there is no such process")?;
    // All links are there since the last roll call, and will not be for long once one of them is found out.
    let sockets_of = |seat: Seat| job.crew.pid(seat.hand).map(sockets::of).unwrap_or_default();
    let ends: Vec<(Seat, Vec<Socket>)> = job.seats().into_iter().map(|seat| (seat, sockets_of(seat))).collect();
    let Flip { at, sender } = flip::flip(pid, random, Instant::now() + job.bound)?;
    let sends = |(_, sockets): &&(Seat, Vec<Socket>)| sockets.iter().any(|socket| socket.local == sender);
    let (sender, _) = ends.iter().find(sends).ok_or_else(|| format!("nobody is at {sender}"))?;
    job.go_on_with_all(sender.number, at)
}

/// Cuts a rank off. The others are more and go on; it may not, and is told so, at the latest when the cut is mended.
fn cut(job: &mut Job, victim: Seat, how: Cut, random: &mut Random) -> Result<Times, String> {
    job.crew.network().ok_or("there are no cables")?.cut(victim.hand, 0, how)?;
    let at = clock();
    let times = job.go_on_without(&[victim.hand], at)?;
    if random.percent(50) {
        std::thread::sleep(random.up_to(ANY_TIME));
        job.crew.network().ok_or("there are no cables")?.mend(victim.hand, 0, how)?;
    }
    let mut last_words = None;
    job.see_off(victim.hand, |said| match said {
        Said::Recovered(standing, _) => {
            Err(format!("rank {} is cut off and goes on by itself, with {:?}", victim.number, standing.members))
        }
        Said::Expelled(error) => {
            last_words = Some(error);
            Ok(())
        }
        _ => Ok(()),
    })?;
    match last_words {
        Some(_) => Ok(times),
        None => Err(format!("rank {} was cut off and ended without a word", victim.number)),
    }
}
