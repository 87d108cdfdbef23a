//! One schedule from its seed to its end: what happens next, and to whom.
#![forbid(unsafe_code)]

use super::agenda::{Agenda, Event};
use super::climate::{Climate, MS, US};
use super::control::Hub;
use super::dice::Dice;
use super::faults::{self, Planned};
use super::judge::Judge;
use super::mishaps::{Cut, crosses};
use super::process::{Doing, Life, Process};
use super::script::{STAGE_BYTES, Script};
use super::session::{Said, Session};
use super::switchboard::Switchboard;
use super::traffic::closed;
use super::{Bug, Outcome};
use crate::bootstrap::simulated::{MemberSide, RootSide};
use crate::comm::Identity;
use crate::engine::{Fate, Lane};
use crate::transport::Shared;
use crate::transport::sim::{HostMemory, Network, Notice};
use crate::types::Rank;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The communicator of all ranks.
const FIRST_COMM: u64 = 1;

/// What decides about hosts' cables.
const CABLES: u64 = u64::from_le_bytes(*b"cables  ");

/// A schedule that is not over by then never will be.
const MAX_STEPS: u64 = 3_000_000;

/// Bytes of each rank that neighbours can reach.
const ARENA_BYTES: usize = 64 << 10;

/// One communicator, as all its members have it.
pub(super) struct Comm {
    epoch: u32,
    pub(super) members: Vec<Rank>,
    pub(super) script: Arc<Script>,
    pub(super) hosts: Vec<HostMemory>,
}

/// Everything there is.
pub(super) struct World {
    base: Instant,
    pub(super) now: u64,
    pub(super) steps: u64,
    pub(super) dice: Dice,
    pub(super) climate: Climate,
    pub(super) agenda: Agenda,
    pub(super) network: Network,
    pub(super) board: Switchboard,
    pub(super) processes: Vec<Process>,
    pub(super) hosts: Vec<Vec<Rank>>,
    pub(super) comms: BTreeMap<u64, Comm>,
    /// The roots that there have been.
    pub(super) hubs: Vec<Hub>,
    /// When the last message of each direction of each control connection comes: nothing overtakes it.
    pub(super) up_by: Vec<u64>,
    pub(super) down_by: Vec<u64>,
    pub(super) plan: Vec<Planned>,
    pub(super) cuts: Vec<Cut>,
    pub(super) leaves_when_done: bool,
    pub(super) bug: Option<Bug>,
    pub(super) judge: Judge,
    pub(super) said: Vec<Said>,
    pub(super) notices: Vec<Notice>,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>, is_traced: bool) -> World {
        let dice = Dice::new(seed);
        let mut shape = dice.fork(1);
        let hosts = draw_hosts(&mut shape);
        let world = hosts.iter().map(Vec::len).sum();
        let climate = Climate::draw(dice.fork(2));
        let network = Network::default();
        let board = Switchboard::new(network.clone(), climate.clone(), bug);
        let (base, home) = (Instant::now(), shape.below(world));
        World {
            base,
            now: 0,
            steps: 0,
            agenda: Agenda::default(),
            board,
            network,
            processes: (0..world).map(|rank| Process::new(MemberSide::new(rank, home, base), 0)).collect(),
            hosts,
            comms: BTreeMap::new(),
            hubs: vec![Hub::new(RootSide::first(world, home, base), home)],
            up_by: vec![0; world],
            down_by: vec![0; world],
            plan: faults::draw(&mut dice.fork(3), &mut dice.fork(CABLES), world),
            cuts: Vec::new(),
            leaves_when_done: shape.permille(500),
            bug,
            judge: Judge::new(is_traced),
            said: Vec::new(),
            notices: Vec::new(),
            climate,
            dice,
        }
    }

    pub(super) fn moment(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    pub(super) fn log(&mut self, who: impl Display, what: impl FnOnce() -> String) {
        self.judge.log(self.now, who, what);
    }

    /// Runs to the end. A panic is one.
    pub(super) fn run(mut self) -> Outcome {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.go())) {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| words.to_string()));
            self.judge.accuse(format!("panicked: {}", words.unwrap_or_default()));
        }
        self.close()
    }

    fn go(&mut self) {
        let everybody: Vec<Rank> = (0..self.processes.len()).collect();
        let plan = self.plan.clone();
        let (hosts, home) = (self.hosts.clone(), self.hubs[0].home);
        self.log("job", || format!("hosts {hosts:?}, root with rank {home}, faults {plan:?}"));
        for rank in everybody.clone() {
            self.assemble(rank, Identity { comm: FIRST_COMM, epoch: 0 }, &everybody, None);
            let phase = self.dice.between(0, 100 * MS);
            self.agenda.put(phase, Event::Pulse(rank));
        }
        self.agenda.put(100 * MS, Event::Watch(0));
        self.introduce();
        while let Some((at, event)) = self.agenda.take() {
            self.now = at;
            self.steps += 1;
            self.judge.step(at, &event);
            self.strike();
            self.happen(event);
            self.notice();
            if self.steps > MAX_STEPS {
                self.judge.accuse(format!("no end after {MAX_STEPS} steps"));
            }
            if self.judge.is_convicted() || self.is_quiet() {
                break;
            }
        }
    }

    /// What must hold when nothing more happens.
    fn close(mut self) -> Outcome {
        if !self.judge.is_convicted() {
            for (rank, process) in self.processes.iter().enumerate() {
                if process.life == Life::Runs && !process.is_at_rest() {
                    let open = process.session.as_ref().map_or(0, Session::open_calls);
                    self.judge.accuse(format!("rank {rank} waits for ever, in {open} calls"));
                }
            }
            self.judge.agree_on_failure(&self.processes);
            self.judge.agree_on_counts(&self.processes);
            self.drained();
        }
        for process in &mut self.processes {
            process.drop_session();
        }
        let World { network, board, judge, .. } = self;
        drop(board);
        let holders = network.holders();
        judge.sentence(self.steps, Duration::from_nanos(self.now), holders)
    }

    /// Between ranks that had all calls end well, every byte that was sent was read, unless one of them erred: a sender does
    /// not learn that nobody receives.
    fn drained(&mut self) {
        let is_well = |rank: Rank, comm: u64| {
            if self.comms[&comm].script.slip.is_some() {
                return false;
            }
            let process = &self.processes[rank];
            let session = process.session.as_ref();
            matches!(process.doing, Doing::Done) && session.is_some_and(|it| it.comm == comm && !it.has_failed)
        };
        for (id, line) in self.board.lines().iter().enumerate() {
            let left_bytes = self.network.unread_bytes(id);
            if left_bytes > 0 && is_well(line.from, line.comm) && is_well(line.to, line.comm) {
                self.judge.accuse(format!("{left_bytes} bytes from rank {} to {} were never read", line.from, line.to));
            }
        }
    }

    // Communicators.

    /// `rank` becomes a member of a communicator, which the first of them draws.
    /// `before`: which it was a member of.
    pub(super) fn assemble(&mut self, rank: Rank, identity: Identity, members: &[Rank], before: Option<u64>) {
        let Identity { comm, epoch } = identity;
        if !self.comms.contains_key(&comm) {
            let hosts = regroup(&self.hosts, members);
            let before = before.map(|before| self.comms[&before].script.clone());
            let script = Script::draw(self.dice.fork(comm), hosts.clone(), before.as_deref());
            let hosts = hosts.iter().map(|host| HostMemory::new(host.len(), STAGE_BYTES, ARENA_BYTES)).collect();
            self.log("job", || format!("communicator {comm:x} of {members:?}, epoch {epoch}: {script:?}"));
            let comm_of_all = Comm { epoch, members: members.to_vec(), script: Arc::new(script), hosts };
            self.comms.insert(comm, comm_of_all);
        }
        let Comm { script, hosts, members: agreed, epoch: agreed_epoch, .. } = &self.comms[&comm];
        if agreed != members || *agreed_epoch != epoch {
            // Who was frozen until all that had gone on without it had ended finds only closed doors, and takes them for
            // deaths.
            let has_ended = |other: &Rank| matches!(self.processes[*other].life, Life::Dead | Life::Left);
            if members == [rank] && agreed.iter().all(has_ended) && self.judge.may_name(rank) {
                return self.give_up(rank, "woke up when all others had ended");
            }
            let what = format!("survivors disagree: {agreed:?} epoch {agreed_epoch}, or {members:?} epoch {epoch}");
            return self.judge.accuse(what);
        }
        if let Some(other) = self.part_beside(members) {
            let what = format!("two parts of the job went on: {other:?}, and now {members:?} epoch {epoch}");
            return self.judge.accuse(what);
        }
        let me = members.iter().position(|member| *member == rank).expect("it is among them");
        let host = script.hosts.iter().position(|host| host.contains(&me)).expect("every rank is on a host");
        let here = script.hosts[host].clone();
        let position = here.iter().position(|other| *other == me).expect("this rank is here");
        let fate = Arc::new(Fate::new(members.len()));
        let memory = (here.len() > 1).then(|| (hosts[host].clone(), position));
        let shared = memory.as_ref().map(|(host, me)| Box::new(host.of(*me)) as Box<dyn Shared>);
        let connector = self.board.connector(comm, me, members.to_vec(), here);
        let lane = Lane::new(script.settings(me, epoch), fate.clone(), shared, connector);
        let dice = self.dice.fork(comm).fork(me as u64);
        let (script, now) = (script.clone(), self.moment());
        let session = Session::new(comm, epoch, me, members.to_vec(), fate, script, lane, memory, dice, now);
        self.processes[rank].enter(session);
        self.judge.tally.sessions += 1;
        self.turn_soon(rank);
    }

    /// Others who went on without any of these, and some of them still do.
    fn part_beside(&self, members: &[Rank]) -> Option<Vec<Rank>> {
        let is_in = |rank: Rank, comm: u64| {
            let process = &self.processes[rank];
            let is_of_the_job = matches!(process.life, Life::Runs | Life::Frozen) && !process.is_alone;
            let follows = process.session.as_ref().is_some_and(|session| session.comm == comm);
            is_of_the_job && follows && !matches!(process.doing, Doing::Out)
        };
        let parts = self.comms.iter().filter(|(_, part)| part.members.iter().all(|member| !members.contains(member)));
        let mut beside = parts.filter(|(comm, part)| part.members.iter().any(|member| is_in(*member, **comm)));
        beside.next().map(|(_, part)| part.members.clone())
    }

    // Events.

    fn happen(&mut self, event: Event) {
        if let Some(rank) = self.addressee(&event)
            && self.processes[rank].life == Life::Frozen
        {
            return self.processes[rank].missed.push(event);
        }
        let crossed = |cut: &Cut| !cut.is_healed && crosses(&self.board, &self.comms, &self.hubs, cut, &event);
        if let Some(cut) = self.cuts.iter_mut().find(|cut| crossed(cut)) {
            return cut.held.push(event);
        }
        match event {
            Event::Turn { rank, turn, by_timer } => {
                let process = &self.processes[rank];
                if process.turn == turn && process.life == Life::Runs {
                    self.turn(rank, by_timer && process.is_asleep);
                }
            }
            Event::Arrives(id, position) => {
                if !self.board.line(id, |line| line.is_reset) {
                    self.network.arrive(id, position);
                    self.stir(id, true);
                }
            }
            Event::Acknowledged(id, position) => {
                self.network.acknowledge(id, position);
                self.stir(id, false);
            }
            Event::Ends(id) => {
                let peer = self.board.line(id, |line| line.sender);
                self.network.end(id, closed(peer));
                self.stir(id, true);
            }
            Event::Refused(id) => {
                let peer = self.board.line(id, |line| line.reader);
                self.network.refuse(id, closed(peer));
                self.stir(id, false);
            }
            Event::Seen { comm, host, observer, signal } => {
                let Comm { hosts, script, members, .. } = &self.comms[&comm];
                hosts[host].show(observer, signal);
                let rank = members[script.hosts[host][observer]];
                if self.processes[rank].session.as_ref().is_some_and(|session| session.comm == comm) {
                    self.wake(rank);
                }
            }
            Event::Dials(side) => self.dial(side),
            Event::Up(hub, from, saying) => {
                if !saying.is_alive() {
                    self.log(format!("root {hub}"), || format!("hears from {from} {saying:?}"));
                }
                if self.hubs[hub].is_closed && saying.is_goodbye() {
                    // A goodbye that nobody hears: it looks like a death.
                    self.judge.blame(from);
                }
                self.with_root(hub, |side| side.hear(from, saying));
            }
            Event::RankGone(hub, rank) => self.with_root(hub, |side| side.lose(rank)),
            Event::Down(hub, rank, word) => {
                if self.processes[rank].life == Life::Runs && !self.hubs[hub].unheard_by.contains(&rank) {
                    self.read(hub, rank, word);
                }
            }
            Event::RootGone(hub, rank) => self.root_gone(hub, rank),
            Event::Pulse(rank) => self.pulse(rank),
            Event::Watch(hub) => self.watch(hub),
            Event::Knock { rank, at, attempt } => self.knock(rank, at, attempt),
            Event::Answer { rank, attempt, answer } => {
                if self.processes[rank].life == Life::Runs {
                    self.answered(rank, attempt, answer);
                }
            }
            Event::Deadline { rank, exchange, is_final } => self.deadline(rank, exchange, is_final),
            Event::Leaves(rank) => self.leave(rank),
            Event::Thaws(rank) => self.thaw(rank),
            Event::Heals(cut) => {
                self.log("net", || format!("cut {cut} is healed"));
                self.cuts[cut].is_healed = true;
                let held = std::mem::take(&mut self.cuts[cut].held);
                held.into_iter().for_each(|event| self.agenda.put(self.now + US, event));
            }
        }
    }

    /// The rank whose process must run for this to happen.
    fn addressee(&self, event: &Event) -> Option<Rank> {
        match event {
            Event::Turn { rank, .. } | Event::Leaves(rank) | Event::Deadline { rank, .. } => Some(*rank),
            Event::Down(_, rank, _) | Event::RootGone(_, rank) | Event::Pulse(rank) => Some(*rank),
            Event::Answer { rank, .. } => Some(*rank),
            Event::Knock { at, .. } => Some(*at),
            Event::Up(hub, ..) | Event::RankGone(hub, _) | Event::Watch(hub) => Some(self.hubs[*hub].home),
            // Its endpoint's thread shakes hands.
            Event::Dials((comm, _, peer, _)) => Some(self.comms[comm].members[*peer]),
            _ => None,
        }
    }
}

/// The job's hosts, as the members of a communicator number themselves, by lowest rank.
fn regroup(hosts: &[Vec<Rank>], members: &[Rank]) -> Vec<Vec<Rank>> {
    let here = |host: &Vec<Rank>| {
        let ranks = members.iter().enumerate().filter(|(_, member)| host.contains(member));
        ranks.map(|(rank, _)| rank).collect::<Vec<_>>()
    };
    let mut groups: Vec<Vec<Rank>> = hosts.iter().map(here).filter(|group| !group.is_empty()).collect();
    groups.sort_unstable_by_key(|group| group[0]);
    groups
}

/// One to four hosts with one to four ranks each, at most eight ranks in all.
fn draw_hosts(dice: &mut Dice) -> Vec<Vec<Rank>> {
    let world = dice.between(1, 8) as usize;
    let per_host = match dice.below(4) {
        0 | 1 => 1,
        2 => dice.between(1, 4) as usize,
        _ => world,
    };
    let mut hosts: Vec<Vec<Rank>> = Vec::new();
    for rank in 0..world {
        // Full hosts, except that now and then one begins early.
        match hosts.last_mut() {
            Some(host) if host.len() < per_host && !dice.permille(100) => host.push(rank),
            _ => hosts.push(vec![rank]),
        }
    }
    hosts
}
