//! A job under the referee's eyes: who its ranks are, what they say, and whether they are all right.
#![forbid(unsafe_code)]

use crate::chaos::args::Settings;
use crate::chaos::crew::{Crew, Hand, Heard};
use crate::chaos::holdings::Holdings;
use crate::chaos::words::{Entrance, Joint, Order, Said, Standing};
use crate::cluster::network::Network;
use crate::error::Error;
use crate::types::Rank;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A thread that nobody joins ends a moment later: so often is a process that holds more than before asked again.
const SECOND_LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// How long what was struck took to be noticed and mended; the slowest rank counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// From the strike to the error on every rank that lives.
    pub detection: Option<Duration>,
    /// To the first right call without whom was struck, on every rank that lives.
    pub recovery: Option<Duration>,
}

/// When what was struck was noticed and mended.
pub(super) struct Clocks {
    struck: Duration,
    struck_last: Duration,
    told: BTreeMap<Hand, Duration>,
    /// Epoch -> all-or-nothing calls that took effect in it.
    preserved: BTreeMap<u32, u64>,
    recovered: Option<Duration>,
}

impl Clocks {
    pub(super) fn new(struck: Duration) -> Clocks {
        Clocks { struck, struck_last: struck, told: BTreeMap::new(), preserved: BTreeMap::new(), recovered: None }
    }

    /// That is not what anybody waits for.
    pub(super) fn struck_again(&mut self, at: Duration) -> bool {
        self.struck_last = at;
        false
    }

    /// A rank said [`Said::Failed`]. It must accuse none of those who live, and all-or-nothing calls must have taken effect
    /// with it as with all others. Anything else goes on to be judged by others.
    pub(super) fn failed(&mut self, hand: Hand, said: &Said, living: &[Rank]) -> Result<bool, String> {
        let Said::Failed { error, suspects, preserved: (epoch, calls), at } = said else {
            return Err(format!("process {hand} says {said:?}"));
        };
        if let Some(innocent) = suspects.iter().find(|suspect| living.contains(suspect)) {
            return Err(format!("process {hand} accuses rank {innocent}, which lives: {error}"));
        }
        // Aborted: of an all-or-nothing call that was right here and failed elsewhere, before the reason is known here.
        if !matches!(error, Error::PeerLost { .. } | Error::Aborted { .. }) {
            return Err(format!("process {hand} got the wrong error: {error}"));
        }
        self.told(hand, error, (*epoch, *calls), *at)
    }

    /// [`Clocks::failed`] where a bit of what `sender` has sent was turned over: it is named, and it lives.
    pub(super) fn corrupted(&mut self, hand: Hand, said: &Said, sender: Rank) -> Result<bool, String> {
        match said {
            Said::Failed { error: error @ Error::Corrupted { .. }, suspects, preserved, at }
                if *suspects == [sender] =>
            {
                self.told(hand, error, *preserved, *at)
            }
            Said::Failed { error: error @ Error::Aborted { .. }, preserved, at, .. } => {
                self.told(hand, error, *preserved, *at)
            }
            other => Err(format!("rank {sender}'s bytes came changed, and process {hand} says {other:?}")),
        }
    }

    fn told(&mut self, hand: Hand, error: &Error, (epoch, calls): (u32, u64), at: Duration) -> Result<bool, String> {
        let others = *self.preserved.entry(epoch).or_insert(calls);
        if others != calls {
            return Err(format!(
                "in epoch {epoch} {others} all-or-nothing calls took effect, but {calls} with process {hand}: {error}"
            ));
        }
        self.told.entry(hand).or_insert(at);
        Ok(false)
    }

    /// Epochs in which calls have failed.
    fn epochs(&self) -> impl Iterator<Item = u32> {
        self.preserved.keys().copied()
    }

    pub(super) fn recovered(&mut self, at: Duration) {
        self.recovered = self.recovered.max(Some(at));
    }

    pub(super) fn times(&self) -> Times {
        Times {
            detection: self.told.values().max().map(|last| last.saturating_sub(self.struck)),
            recovery: self.recovered.map(|last| last.saturating_sub(self.struck_last)),
        }
    }
}

/// A rank as the referee knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// Its number in the job.
    pub number: Rank,
    /// Its process.
    pub hand: Hand,
}

/// A running job.
pub struct Job {
    pub(super) crew: Crew,
    /// Number -> process, of those who are members.
    members: BTreeMap<Rank, Hand>,
    /// The id that the job began with, and how many ranks.
    pub(super) id: String,
    pub(super) world: usize,
    orders: u64,
    pub(super) bound: Duration,
    /// Processes that were struck, and what they have said since then.
    struck: BTreeSet<Hand>,
    last_words: Vec<(Hand, Heard)>,
    /// What a process held when it first had so many to talk to, and when it was or was not the lowest.
    limits: BTreeMap<(Hand, usize, bool), Holdings>,
    /// Epochs and members with which ranks have gone on after a loss.
    stood: BTreeMap<u32, Option<Vec<Rank>>>,
}

impl Job {
    /// Starts a job and waits until all its ranks are at work.
    pub fn start(settings: &Settings) -> Result<Job, String> {
        let bound_ms = settings.bound.as_millis();
        let heartbeat_timeout_ms = settings.heartbeat_timeout.as_millis();
        let variables = [
            Crew::settings(settings.seed, settings.largest_bytes),
            ("ROUNDEL_TRANSPORT".into(), settings.transport.to_string()),
            // What ends only by these has not ended within the bound.
            ("ROUNDEL_TIMEOUT_MS".into(), (2 * bound_ms).to_string()),
            ("ROUNDEL_INIT_TIMEOUT_MS".into(), (2 * bound_ms).to_string()),
            ("ROUNDEL_HEARTBEAT_TIMEOUT_MS".into(), heartbeat_timeout_ms.to_string()),
        ];
        let variables = variables.into_iter().chain(settings.variables.iter().cloned()).collect();
        let network = settings.namespaces.then(|| Network::new(1)).transpose()?;
        let mut job = Job {
            crew: Crew::new(variables, network),
            members: BTreeMap::new(),
            id: String::new(),
            world: settings.ranks,
            orders: 0,
            bound: settings.bound,
            struck: BTreeSet::new(),
            last_words: Vec::new(),
            limits: BTreeMap::new(),
            stood: BTreeMap::new(),
        };
        let world = job.world;
        let first = job.crew.start(Entrance::Open { world })?;
        let mut id = String::new();
        job.listen(&[first].into(), |_, said| match said {
            Said::Id(text) => {
                id = text;
                Ok(true)
            }
            other => Err(format!("instead of an id: {other:?}")),
        })?;
        job.id = id.clone();
        for rank in 1..world {
            job.crew.start(Entrance::Join { id: id.clone(), rank, world, patience: settings.bound })?;
        }
        let mut members = BTreeMap::new();
        let everybody: BTreeSet<Hand> = job.crew.hands().into_iter().collect();
        job.listen(&everybody, |hand, said| match said {
            Said::Ready(standing) => {
                members.insert(standing.number, hand);
                Ok(true)
            }
            other => Err(format!("process {hand} did not become a rank: {other:?}")),
        })?;
        job.members = members;
        job.roll_call()?;
        Ok(job)
    }

    /// The ranks, from the lowest number.
    pub fn seats(&self) -> Vec<Seat> {
        self.members.iter().map(|(&number, &hand)| Seat { number, hand }).collect()
    }

    /// Their numbers.
    pub fn numbers(&self) -> Vec<Rank> {
        self.members.keys().copied().collect()
    }

    /// True while one of those lives that the job began with.
    pub fn has_an_original(&self) -> bool {
        self.members.keys().any(|number| *number < self.world)
    }

    /// From now on `hand` is rank `number`.
    pub(super) fn admit(&mut self, number: Rank, hand: Hand) {
        self.members.insert(number, hand);
    }

    /// From now on these are not members, and what they say is kept for [`Job::see_off`].
    pub(super) fn strike_off(&mut self, victims: &[Hand]) {
        self.members.retain(|_, hand| !victims.contains(hand));
        self.struck.extend(victims);
    }

    /// Makes sure that these have ended.
    pub(super) fn bury(&mut self, victims: &[Hand]) {
        for victim in victims {
            self.crew.bury(*victim);
            self.struck.remove(victim);
            self.last_words.retain(|(hand, _)| hand != victim);
        }
    }

    pub(super) fn hands(&self) -> BTreeSet<Hand> {
        self.members.values().copied().collect()
    }

    /// The next news of those who were not struck; of these only that they strike themselves.
    fn next(&mut self, deadline: Instant) -> Option<(Hand, Heard)> {
        loop {
            let (hand, heard) = self.crew.next(deadline)?;
            if !self.struck.contains(&hand) || matches!(heard, Heard::Said(Said::Striking(_))) {
                return Some((hand, heard));
            }
            self.last_words.push((hand, heard));
        }
    }

    /// Hears what processes say until `judge` has said of each of `waiting` that this was it. What a process says that
    /// nobody waits for goes to the judge too. An error: what went wrong.
    pub(super) fn listen(
        &mut self,
        waiting: &BTreeSet<Hand>,
        judge: impl FnMut(Hand, Said) -> Result<bool, String>,
    ) -> Result<(), String> {
        self.listen_for(waiting, waiting.len(), judge)
    }

    /// [`Job::listen`], until it was so of this many of them.
    pub(super) fn listen_for(
        &mut self,
        waiting: &BTreeSet<Hand>,
        how_many: usize,
        mut judge: impl FnMut(Hand, Said) -> Result<bool, String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + self.bound;
        let enough = waiting.len() - how_many;
        let mut waiting = waiting.clone();
        while waiting.len() > enough {
            match self.next(deadline) {
                None => {
                    let bound = self.bound.as_secs();
                    return Err(format!("after {bound} s there is still nothing from processes {waiting:?}"));
                }
                Some((hand, Heard::Said(Said::Wrong(what)))) => return Err(format!("process {hand}: {what}")),
                Some((hand, Heard::Gone)) => return Err(format!("process {hand} ended where it was to go on")),
                Some((hand, Heard::Said(said))) => {
                    if judge(hand, said)? {
                        waiting.remove(&hand);
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until a process that was struck, or never was a rank, has ended by itself; what it says till then goes to
    /// `judge`.
    pub(super) fn see_off(
        &mut self,
        hand: Hand,
        mut judge: impl FnMut(Said) -> Result<(), String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + self.bound;
        self.struck.insert(hand);
        let mut kept = std::mem::take(&mut self.last_words).into_iter();
        loop {
            let news = kept.next().or_else(|| self.crew.next(deadline));
            match news {
                None => return Err(format!("process {hand} does not end within {} s", self.bound.as_secs())),
                Some((from, Heard::Gone)) if from == hand => break,
                Some((from, heard)) if from != hand && self.struck.contains(&from) => {
                    self.last_words.push((from, heard));
                }
                Some((from, Heard::Gone)) => return Err(format!("process {from} ended where it was to go on")),
                Some((from, Heard::Said(Said::Wrong(what)))) => return Err(format!("process {from}: {what}")),
                Some((from, Heard::Said(said))) if from == hand => judge(said)?,
                Some((from, Heard::Said(said))) => return Err(format!("process {from} was disturbed: {said:?}")),
            }
        }
        self.last_words.extend(kept);
        self.bury(&[hand]);
        Ok(())
    }

    /// All members do this at their next safe point.
    pub(super) fn order_all(&mut self, joint: Joint) -> u64 {
        self.orders += 1;
        for hand in self.hands() {
            self.crew.order(hand, &Order::Together(self.orders, joint));
        }
        self.orders
    }

    /// All members make every kind of call; they must agree on who they are, be those that the referee has in its book, and
    /// hold no more than they did before. Nobody may be given up meanwhile.
    pub fn roll_call(&mut self) -> Result<(), String> {
        for look in 0.. {
            let reports = self.reports()?;
            let mut excess = None;
            let members = self.members.len();
            let lowest = self.members.keys().next().copied();
            for (hand, (standing, holdings)) in reports {
                let situation = (hand, members, Some(standing.number) == lowest);
                let limit = *self.limits.entry(situation).or_insert(holdings);
                if !holdings.is_within(&limit) {
                    excess = Some(format!("rank {} holds {holdings}; it was {limit}", standing.number));
                }
            }
            match excess {
                None => break,
                Some(what) if look >= SECOND_LOOKS => return Err(what),
                Some(_) => std::thread::sleep(BETWEEN_LOOKS),
            }
        }
        Ok(())
    }

    /// [`Job::roll_call`], whatever the processes hold: what all of them report.
    pub(super) fn reports(&mut self) -> Result<BTreeMap<Hand, (Standing, Holdings)>, String> {
        let wanted = self.order_all(Joint::Report);
        let (hands, numbers) = (self.hands(), self.numbers());
        let mut reports: BTreeMap<Hand, (Standing, Holdings)> = BTreeMap::new();
        self.listen(&hands, |hand, said| match said {
            Said::Report(number, standing, holdings) if number == wanted => {
                reports.insert(hand, (standing, holdings));
                Ok(true)
            }
            Said::Failed { error, .. } => Err(format!("process {hand} was disturbed: {error}")),
            Said::Expelled(error) => Err(format!("process {hand} was expelled: {error}")),
            // A nap or a late word of what came before.
            _ => Ok(false),
        })?;
        let epochs: BTreeSet<u32> = reports.values().map(|(standing, _)| standing.epoch).collect();
        for (standing, _) in reports.values() {
            let mut theirs = standing.members.clone();
            theirs.sort_unstable();
            if theirs != numbers || epochs.len() != 1 {
                return Err(format!("the members are {numbers:?}, but rank {} has {standing:?}", standing.number));
            }
        }
        Ok(reports)
    }

    /// `victims` were struck (`at`), and are members no more. Waits until all others have gone on without them.
    pub(super) fn go_on_without(&mut self, victims: &[Hand], at: Duration) -> Result<Times, String> {
        self.strike_off(victims);
        let (hands, numbers) = (self.hands(), self.numbers());
        let mut clocks = Clocks::new(at);
        let mut stood = BTreeMap::new();
        self.listen(&hands, |hand, said| match said {
            Said::Striking(now) => Ok(clocks.struck_again(now)),
            Said::Recovered(standing, at) => {
                clocks.recovered(at);
                stood.insert(standing.epoch, Some(standing.members.clone()));
                match numbers.iter().find(|number| !standing.members.contains(number)) {
                    Some(lost) => Err(format!("process {hand} went on without rank {lost}, which lives")),
                    None => Ok(standing.members.len() == numbers.len()),
                }
            }
            other => clocks.failed(hand, &other, &numbers),
        })?;
        // Epochs that they were in, and failed in before any of them could say so.
        clocks.epochs().for_each(|epoch| _ = stood.entry(epoch).or_insert(None));
        self.stood.extend(stood);
        Ok(clocks.times())
    }

    /// A bit of what `sender` has sent was turned over (`at`). Waits until all have been told so, and have gone on with all.
    pub(super) fn go_on_with_all(&mut self, sender: Rank, at: Duration) -> Result<Times, String> {
        let (hands, numbers) = (self.hands(), self.numbers());
        let mut clocks = Clocks::new(at);
        self.listen(&hands, |hand, said| match said {
            Said::Recovered(standing, at) => {
                clocks.recovered(at);
                let mut theirs = standing.members.clone();
                theirs.sort_unstable();
                match theirs == numbers {
                    true => Ok(true),
                    false => Err(format!("process {hand} went on with {theirs:?} only, and all live")),
                }
            }
            other => clocks.corrupted(hand, &other, sender),
        })?;
        Ok(clocks.times())
    }

    /// The epochs that ranks have been in, and with which members, where they said so.
    pub(super) fn stood(&self) -> BTreeMap<u32, Option<Vec<Rank>>> {
        self.stood.clone()
    }

    /// Ends the job in good order; every rank must end well.
    pub fn finish(mut self) -> Result<(), String> {
        self.order_all(Joint::Finish);
        for hand in self.hands() {
            let deadline = Instant::now() + self.bound;
            loop {
                match self.crew.next(deadline) {
                    None => return Err(format!("process {hand} does not finish")),
                    Some((_, Heard::Said(Said::Wrong(what)))) => return Err(what),
                    Some((_, Heard::Said(_))) => {}
                    Some((gone, Heard::Gone)) => {
                        self.crew.bury(gone);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// What everybody logged, for when something went wrong.
    pub fn logs(&self) -> Vec<String> {
        let hands = self.crew.hands();
        let lines = |hand: Hand| self.crew.log(hand).into_iter().map(move |line| format!("process {hand}: {line}"));
        hands.into_iter().flat_map(lines).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: Error, suspects: &[Rank], preserved: (u32, u64)) -> Said {
        Said::Failed { error, suspects: suspects.to_vec(), preserved, at: Duration::from_millis(7) }
    }

    #[test]
    fn what_may_not_be_is_noticed() {
        let mut clocks = Clocks::new(Duration::from_millis(5));
        let lost =
            |suspects: &[Rank]| Error::PeerLost { suspects: suspects.to_vec(), what: "died".into(), during: None };
        let living = [0, 2];
        assert_eq!(clocks.failed(10, &failed(lost(&[1]), &[1], (3, 8)), &living), Ok(false));
        assert_eq!(clocks.failed(11, &failed(lost(&[1]), &[1], (3, 8)), &living), Ok(false));
        assert_eq!(clocks.times().detection, Some(Duration::from_millis(2)));
        for (said, word) in [
            (failed(lost(&[2]), &[2], (3, 8)), "accuses rank 2"),
            (failed(Error::invalid("lengths"), &[], (3, 8)), "wrong error"),
            (failed(lost(&[1]), &[1], (3, 9)), "8 all-or-nothing calls"),
            (Said::Napped, "Napped"),
        ] {
            let complaint = clocks.failed(12, &said, &living).unwrap_err();
            assert!(complaint.contains(word), "{complaint}");
        }
        let changed = |suspects: &[Rank]| {
            let error = Error::Corrupted { suspects: suspects.to_vec(), what: "sent".into(), during: None };
            failed(error, suspects, (3, 8))
        };
        assert_eq!(clocks.corrupted(12, &changed(&[2]), 2), Ok(false));
        for said in [changed(&[0]), changed(&[]), failed(lost(&[2]), &[2], (3, 8))] {
            assert!(clocks.corrupted(12, &said, 2).unwrap_err().contains("rank 2's bytes"));
        }
        assert_eq!(
            clocks.failed(12, &failed(lost(&[1]), &[1], (4, 0)), &living),
            Ok(false),
            "another epoch counts anew"
        );
    }
}
