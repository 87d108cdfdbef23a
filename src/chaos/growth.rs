//! Newcomers: let in, turned away, struck on the threshold.
#![forbid(unsafe_code)]

use crate::chaos::crew::Hand;
use crate::chaos::job::{Clocks, Job, Seat, Times};
use crate::chaos::random::Random;
use crate::chaos::rank::clock;
use crate::chaos::strikes::{A_CHANGE, ANY_TIME, arm};
use crate::chaos::words::{Blow, Entrance, How, Joint, Moment, Said, Standing};
use crate::error::Error;
use crate::types::Rank;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long an impostor tries.
const IMPOSTOR_TRIES: Duration = Duration::from_secs(3);

/// What a newcomer needs.
fn invitation(job: &mut Job) -> Result<String, String> {
    job.order_all(Joint::Invite);
    let mut invitation = None;
    let lowest = job.seats()[0].hand;
    // The lowest number is rank 0: newcomers are put behind, in the order of their numbers.
    job.listen(&[lowest].into(), |hand, said| match said {
        Said::Invitation(text) => {
            invitation = Some(text);
            Ok(true)
        }
        other => Err(format!("process {hand}, instead of an invitation: {other:?}")),
    })?;
    invitation.ok_or_else(|| "no invitation".into())
}

/// Starts a newcomer and waits until it is about to knock.
fn newcomer(job: &mut Job, invitation: &str) -> Result<Hand, String> {
    let hand = job.crew.start(Entrance::Enlist(invitation.to_string()))?;
    job.listen(&[hand].into(), |from, said| match said {
        Said::Knocking => Ok(true),
        other => Err(format!("process {from}, instead of knocking: {other:?}")),
    })?;
    Ok(hand)
}

/// Lets members grow until all of these newcomers are members.
fn admit(job: &mut Job, newcomers: &BTreeSet<Hand>) -> Result<(), String> {
    let deadline = Instant::now() + job.bound;
    let mut outside = newcomers.clone();
    while !outside.is_empty() {
        if Instant::now() > deadline {
            return Err(format!("processes {outside:?} are not let in within {} s", job.bound.as_secs()));
        }
        let number = job.order_all(Joint::Grow);
        let mut admitted: Vec<(usize, Hand)> = Vec::new();
        let mut sizes = BTreeSet::new();
        let old = job.hands();
        job.listen(&old, |hand, said| match said {
            Said::Grown(standing, _) => {
                sizes.insert(standing.members.len());
                Ok(true)
            }
            Said::NotGrown(of, None) if of == number => {
                sizes.insert(old.len());
                Ok(true)
            }
            Said::NotGrown(_, Some(error)) => Err(format!("process {hand} could not grow: {error}")),
            Said::Ready(standing) => {
                admitted.push((standing.number, hand));
                Ok(false)
            }
            Said::Failed { error, .. } => Err(format!("process {hand} was disturbed: {error}")),
            Said::Expelled(error) => Err(format!("process {hand} was not let in: {error}")),
            _ => Ok(false),
        })?;
        let size = match sizes.len() {
            1 => sizes.first().copied().unwrap_or_default(),
            _ => return Err(format!("after one growth there are {sizes:?} members, depending on whom one asks")),
        };
        // Those who were let in say so, if they have not yet. Nobody else waits at the door.
        if size > old.len() {
            let silent: BTreeSet<Hand> =
                outside.iter().copied().filter(|hand| admitted.iter().all(|(_, known)| known != hand)).collect();
            let missing = size - old.len() - admitted.len();
            job.listen_for(&silent, missing, |hand, said| match said {
                Said::Ready(standing) => {
                    admitted.push((standing.number, hand));
                    Ok(true)
                }
                other => Err(format!("process {hand}, instead of being a rank: {other:?}")),
            })?;
        }
        for (number, hand) in admitted {
            outside.remove(&hand);
            job.admit(number, hand);
        }
    }
    Ok(())
}

/// One newcomer or two, by the same invitation.
pub fn joined(job: &mut Job, random: &mut Random) -> Result<Times, String> {
    let at = clock();
    let invitation = invitation(job)?;
    let mut newcomers = BTreeSet::new();
    for _ in 0..random.within(1..=2) {
        newcomers.insert(newcomer(job, &invitation)?);
    }
    std::thread::sleep(random.up_to(ANY_TIME));
    admit(job, &newcomers)?;
    Ok(Times { detection: None, recovery: Some(clock().saturating_sub(at)) })
}

/// Somebody who knows the job's id claims to be one of its ranks.
pub fn claimed(job: &mut Job, random: &mut Random) -> Result<Times, String> {
    let (id, world) = (job.id.clone(), job.world);
    let claim = Entrance::Join { id, rank: random.within(0..=world - 1), world, patience: IMPOSTOR_TRIES };
    let impostor = job.crew.start(claim)?;
    let mut refusal = None;
    job.see_off(impostor, |said| match said {
        Said::Expelled(error) => {
            refusal = Some(error);
            Ok(())
        }
        other => Err(format!("an impostor was let in: {other:?}")),
    })?;
    match refusal {
        Some(_) => Ok(Times::default()),
        None => Err("an impostor ended without an error".into()),
    }
}

/// `victim` is killed while it admits a newcomer. What becomes of that growth is the same for all; in the end the newcomer
/// is a member.
pub fn member_killed(job: &mut Job, victim: Seat, random: &mut Random) -> Result<Times, String> {
    let invitation = invitation(job)?;
    let newcomer = newcomer(job, &invitation)?;
    std::thread::sleep(random.up_to(ANY_TIME));
    arm(job, victim.hand, Blow { during: Moment::Grow, how: How::Kill, after: random.up_to(A_CHANGE) })?;
    let mut clocks = Clocks::new(clock());
    job.order_all(Joint::Grow);
    job.strike_off(&[victim.hand]);
    let numbers = job.numbers();
    let mut last: BTreeMap<Hand, Standing> = BTreeMap::new();
    let judge = |hand: Hand, said: Said, clocks: &mut Clocks, last: &mut BTreeMap<Hand, Standing>| match said {
        Said::Striking(now) => {
            // Nobody can notice earlier.
            *clocks = Clocks::new(now);
            Ok(false)
        }
        Said::Recovered(standing, at) => {
            clocks.recovered(at);
            let is_settled = !standing.members.contains(&victim.number);
            last.insert(hand, standing);
            Ok(is_settled)
        }
        Said::Ready(_) | Said::Grown(..) => Ok(false),
        Said::NotGrown(_, None | Some(Error::PeerLost { .. })) => Ok(false),
        other => clocks.failed(hand, &other, &numbers),
    };
    job.listen(&job.hands(), |hand, said| judge(hand, said, &mut clocks, &mut last))?;
    let members: BTreeSet<Vec<Rank>> = job.hands().iter().map(|hand| last[hand].members.clone()).collect();
    let Some(members) = members.first().filter(|_| members.len() == 1) else {
        return Err(format!("the survivors went on with different members: {members:?}"));
    };
    let is_in = members.len() > numbers.len();
    if is_in && last.get(&newcomer).is_none_or(|standing| standing.members != *members) {
        job.listen(&[newcomer].into(), |hand, said| {
            judge(hand, said, &mut clocks, &mut last)?;
            Ok(last.get(&hand).is_some_and(|standing| standing.members == *members))
        })?;
    }
    job.bury(&[victim.hand]);
    match is_in {
        true => job.admit(last[&newcomer].number, newcomer),
        false => admit(job, &[newcomer].into())?,
    }
    Ok(clocks.times())
}

/// A newcomer is killed while it is admitted. Those who were members before are members in the end.
pub fn newcomer_killed(job: &mut Job, random: &mut Random) -> Result<Times, String> {
    let invitation = invitation(job)?;
    let newcomer = newcomer(job, &invitation)?;
    std::thread::sleep(random.up_to(ANY_TIME));
    let wanted = job.order_all(Joint::Grow);
    std::thread::sleep(random.up_to(A_CHANGE));
    let mut clocks = Clocks::new(job.crew.signal(newcomer, Signal::SIGKILL));
    job.strike_off(&[newcomer]);
    let numbers = job.numbers();
    job.listen(&job.hands(), |hand, said| match said {
        // It died too early or, for this attempt, in the middle.
        Said::NotGrown(of, None | Some(Error::PeerLost { .. })) if of == wanted => Ok(true),
        Said::Grown(..) => Ok(false),
        Said::Recovered(standing, at) => {
            clocks.recovered(at);
            Ok(standing.members == numbers)
        }
        other => clocks.failed(hand, &other, &numbers),
    })?;
    job.bury(&[newcomer]);
    Ok(clocks.times())
}
