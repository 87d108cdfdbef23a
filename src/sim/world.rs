//! One schedule from its seed to its end: what happens next, and to whom.
#![forbid(unsafe_code)]

use super::agenda::{Agenda, Event};
use super::climate::{Climate, MS, US};
use super::control::Hub;
use super::dice::Dice;
use super::faults::{self, Fault, Planned};
use super::judge::Judge;
use super::process::{Doing, Life, Process};
use super::script::{STAGE_BYTES, Script, Slip};
use super::session::{Next, Said, Session};
use super::switchboard::{Side, Switchboard};
use super::{Bug, Outcome};
use crate::bootstrap::simulated::{MemberSide, RootSide, Saying};
use crate::engine::{Fate, Lane};
use crate::error::Error;
use crate::transport::sim::{HostMemory, Network, Notice, PipeId};
use crate::transport::{Interest, Shared};
use crate::types::Rank;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The communicator of all ranks.
const FIRST_COMM: u64 = 1;

/// A schedule that is not over by then never will be.
const MAX_STEPS: u64 = 3_000_000;

/// Bytes of each rank that neighbours can reach.
const ARENA_BYTES: usize = 64 << 10;

/// One communicator, as all its members have it.
struct Comm {
    epoch: u32,
    members: Vec<Rank>,
    script: Arc<Script>,
    hosts: Vec<HostMemory>,
}

/// A connection that carries nothing.
struct Cut {
    ways: Vec<(Rank, Rank)>,
    held: Vec<Event>,
    is_healed: bool,
}

/// Everything there is.
pub(super) struct World {
    base: Instant,
    pub(super) now: u64,
    steps: u64,
    dice: Dice,
    pub(super) climate: Climate,
    pub(super) agenda: Agenda,
    network: Network,
    board: Switchboard,
    pub(super) processes: Vec<Process>,
    hosts: Vec<Vec<Rank>>,
    comms: BTreeMap<u64, Comm>,
    /// The roots that there have been.
    pub(super) hubs: Vec<Hub>,
    /// When the last message of each direction of each control connection comes: nothing overtakes it.
    pub(super) up_by: Vec<u64>,
    pub(super) down_by: Vec<u64>,
    plan: Vec<Planned>,
    cuts: Vec<Cut>,
    leaves_when_done: bool,
    pub(super) bug: Option<Bug>,
    pub(super) judge: Judge,
    said: Vec<Said>,
    notices: Vec<Notice>,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>, is_traced: bool) -> World {
        let dice = Dice::new(seed);
        let mut shape = dice.fork(1);
        let hosts = draw_hosts(&mut shape);
        let world = hosts.iter().map(Vec::len).sum();
        let climate = Climate::draw(dice.fork(2));
        let network = Network::default();
        let board = Switchboard::new(network.clone(), climate.clone(), bug == Some(Bug::Overtaking));
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
            hubs: vec![Hub { side: RootSide::first(world, home, base), home, is_closed: false }],
            up_by: vec![0; world],
            down_by: vec![0; world],
            plan: faults::draw(&mut dice.fork(3), world),
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
            self.assemble(rank, FIRST_COMM, 0, &everybody);
            let phase = self.dice.between(0, 100 * MS);
            self.agenda.put(phase, Event::Pulse(rank));
        }
        self.agenda.put(100 * MS, Event::Watch(0));
        // As a rule faults come when the ranks have found one another.
        let is_introduced = self.dice.permille(750);
        self.introduce(is_introduced);
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
    pub(super) fn assemble(&mut self, rank: Rank, comm: u64, epoch: u32, members: &[Rank]) {
        if !self.comms.contains_key(&comm) {
            let hosts = regroup(&self.hosts, members);
            let script = Script::draw(self.dice.fork(comm), hosts.clone(), true);
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

    // Turns.

    fn turn_in(&mut self, rank: Rank, delay: u64, by_timer: bool) {
        let process = &mut self.processes[rank];
        process.turn += 1;
        let turn = process.turn;
        self.agenda.put(self.now + delay, Event::Turn { rank, turn, by_timer });
    }

    fn turn_soon(&mut self, rank: Rank) {
        self.processes[rank].is_asleep = false;
        let delay = self.climate.turn_delay();
        self.turn_in(rank, delay, false);
    }

    /// Ends a rank's sleep.
    pub(super) fn wake(&mut self, rank: Rank) {
        if self.processes[rank].is_asleep {
            self.turn_soon(rank);
        }
    }

    fn turn(&mut self, rank: Rank, by_timer: bool) {
        let now = self.moment();
        let process = &mut self.processes[rank];
        process.was_woken();
        let Some(session) = &mut process.session else { return };
        if matches!(process.doing, Doing::Recovers(_) | Doing::Out) {
            return;
        }
        let mut said = std::mem::take(&mut self.said);
        let begun = session.begun();
        let turn = session.turn(now, &mut said);
        if by_timer && turn.moved && session.begun() == begun && session.is_underway() {
            self.judge.accuse(format!("rank {rank} slept while there was something to do: a lost wake-up"));
        }
        let comm = session.comm;
        for said in said.drain(..) {
            self.hear(rank, comm, said);
        }
        self.said = said;
        self.after(rank, turn.next);
    }

    /// What a rank's turn has brought forth.
    fn hear(&mut self, rank: Rank, comm: u64, said: Said) {
        match said {
            Said::Failed(error) => {
                self.log(rank, || format!("ends the communicator: {error}"));
                self.revoke(rank, comm, &error);
            }
            Said::Stalled(signature, waiting_for) => {
                self.log(rank, || format!("waits for {waiting_for:?} in {signature}"));
                let me = self.processes[rank].session.as_ref().map_or(0, |session| session.me);
                self.tell_root(rank, Saying::stalled(comm, me, signature, waiting_for));
            }
            Said::Ended(ended) => {
                self.log(rank, || format!("call {} of {comm:x} ended: {:?}", ended.index, ended.outcome));
                let Some(session) = &self.processes[rank].session else { return };
                let took = self.moment().saturating_duration_since(ended.began);
                self.judge.ended(rank, session, *ended, took, self.now);
            }
        }
    }

    fn after(&mut self, rank: Rank, next: Next) {
        match next {
            Next::Again => self.turn_soon(rank),
            Next::In(delay) => {
                let delay = delay.as_nanos() as u64 + self.climate.turn_delay();
                self.turn_in(rank, delay, false);
            }
            Next::Sleep(nap) => {
                let process = &mut self.processes[rank];
                process.is_asleep = true;
                if let Some(session) = &process.session {
                    session.interests(&mut process.interests);
                }
                let ready = |interest: &Interest| interest.writable && self.network.is_writable(interest.fd as usize);
                if process.interests.iter().any(ready) {
                    return self.turn_soon(rank);
                }
                let interests = std::mem::take(&mut self.processes[rank].interests);
                self.log(rank, || format!("sleeps on {interests:?}, at most {nap:?}"));
                self.processes[rank].interests = interests;
                // Now and then for no reason, as sleepers do.
                let nap = nap.as_nanos() as u64 + 1;
                let early = self.dice.permille(20);
                let nap = if early { self.dice.between(1, nap) } else { nap };
                self.turn_in(rank, nap, true);
            }
            Next::Finished => self.finished(rank),
            Next::Failed => self.recover(rank),
        }
    }

    fn finished(&mut self, rank: Rank) {
        let process = &mut self.processes[rank];
        process.is_asleep = true;
        process.interests.clear();
        let was_done = matches!(process.doing, Doing::Done);
        process.doing = Doing::Done;
        let Some(session) = &process.session else { return };
        let slip = session.script.slip.filter(|(who, _, _)| *who == session.me).map(|(_, _, slip)| slip);
        if was_done {
            return;
        }
        if slip == Some(Slip::Leaves) {
            self.judge.blame(rank);
            self.agenda.put(self.now + 10 * US, Event::Leaves(rank));
        } else if self.leaves_when_done {
            let pause = self.dice.between(US, 5 * MS);
            self.agenda.put(self.now + pause, Event::Leaves(rank));
        }
    }

    fn leave(&mut self, rank: Rank) {
        let process = &mut self.processes[rank];
        // Who has learnt meanwhile that the others failed stays with them.
        let goes = match &process.doing {
            Doing::Done => process.session.as_ref().is_none_or(|session| session.fate.check().is_ok()),
            Doing::Out => true,
            _ => false,
        };
        if process.life == Life::Runs && goes {
            self.log(rank, || "leaves".into());
            let process = &mut self.processes[rank];
            process.life = Life::Left;
            self.judge.left(rank);
            self.drop_session(rank);
            self.tell_root(rank, Saying::goodbye());
        }
    }

    pub(super) fn drop_session(&mut self, rank: Rank) {
        if let Some(session) = self.processes[rank].drop_session() {
            self.board.forget(session.comm, session.me);
            drop(session);
        }
    }

    // Events.

    fn happen(&mut self, event: Event) {
        if let Some(rank) = self.addressee(&event)
            && self.processes[rank].life == Life::Frozen
        {
            return self.processes[rank].missed.push(event);
        }
        if let Some(cut) =
            self.cuts.iter_mut().find(|cut| !cut.is_healed && crosses(&self.board, &self.comms, cut, &event))
        {
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
                self.with_root(hub, |side| side.hear(from, saying));
            }
            Event::RankGone(hub, rank) => self.with_root(hub, |side| side.lose(rank)),
            Event::Down(hub, rank, word) => {
                if self.processes[rank].life == Life::Runs {
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

    /// Something has changed at one end of a pipe: wakes who sleeps on it.
    fn stir(&mut self, id: PipeId, at_reader: bool) {
        let (rank, comm, is_socket) =
            self.board.line(id, |line| (if at_reader { line.to } else { line.from }, line.comm, line.is_socket));
        let process = &self.processes[rank];
        let is_awaited = |interest: &Interest| {
            interest.fd as usize == id && (if at_reader { interest.readable } else { interest.writable })
        };
        let is_there = process.session.as_ref().is_some_and(|session| session.comm == comm);
        if is_there && (!is_socket || process.interests.iter().any(|interest| is_awaited(interest))) {
            self.wake(rank);
        }
    }

    fn dial(&mut self, side: Side) {
        let (comm, me, peer, _) = side;
        let members = self.comms[&comm].members.clone();
        let life = self.processes[members[peer]].life;
        let is_there = self.processes[members[me]].session.as_ref().is_some_and(|session| session.comm == comm);
        if !is_there {
            return;
        }
        if matches!(life, Life::Dead | Life::Left) {
            self.board.fail(
                side,
                Error::PeerLost { suspects: vec![peer], what: "can no longer be reached".into(), during: None },
            );
        } else {
            self.judge.tally.links += 1;
            self.board.connect(side, &members);
        }
        self.wake(members[me]);
        self.wake(members[peer]);
    }

    /// Puts on the agenda what follows from what links and hosts have noted.
    fn notice(&mut self) {
        let mut notices = std::mem::take(&mut self.notices);
        self.network.notices(&mut notices);
        for notice in notices.drain(..) {
            match notice {
                Notice::Sent(id, position) => {
                    let at = self.arrival(id);
                    self.agenda.put(at, Event::Arrives(id, position));
                }
                Notice::Released(id, position) => {
                    let delay = self.travel(id);
                    let now = self.now;
                    let at = self.board.line(id, |line| {
                        line.acknowledged_by = line.acknowledged_by.max(now + delay);
                        line.acknowledged_by
                    });
                    self.agenda.put(at, Event::Acknowledged(id, position));
                }
                Notice::SenderGone(id) if self.board.line(id, |line| line.is_socket) => {
                    let at = self.arrival(id);
                    self.agenda.put(at, Event::Ends(id));
                }
                Notice::ReaderGone(id) if self.board.line(id, |line| line.is_socket) => {
                    let delay = self.climate.link_delay();
                    self.agenda.put(self.now + delay, Event::Refused(id));
                }
                Notice::SenderGone(_) | Notice::ReaderGone(_) => {}
            }
        }
        self.notices = notices;
        for side in self.board.requests() {
            let delay = 2 * self.climate.link_delay();
            self.agenda.put(self.now + delay, Event::Dials(side));
        }
        self.show_signals();
    }

    /// How long something takes on a pipe.
    fn travel(&mut self, id: PipeId) -> u64 {
        match self.board.line(id, |line| line.is_socket) {
            true => self.climate.link_delay(),
            false => self.climate.memory_delay(),
        }
    }

    /// When what is sent on a pipe now arrives: after all that was sent before.
    fn arrival(&mut self, id: PipeId) -> u64 {
        let delay = self.travel(id);
        let now = self.now;
        self.board.line(id, |line| {
            line.arrives_by = line.arrives_by.max(now + delay);
            line.arrives_by
        })
    }

    fn show_signals(&mut self) {
        let mut seen = Vec::new();
        for (comm, Comm { hosts, .. }) in &self.comms {
            for (host, memory) in hosts.iter().enumerate() {
                for signal in memory.signals() {
                    let others = (0..memory.ranks()).filter(|observer| *observer != signal.0);
                    seen.extend(others.map(|observer| Event::Seen { comm: *comm, host, observer, signal }));
                }
                if !memory.aborts().is_empty() {
                    // All are woken; they look at the abort word themselves.
                    seen.extend((0..memory.ranks()).map(|observer| Event::Seen {
                        comm: *comm,
                        host,
                        observer,
                        signal: (observer, 0, 0),
                    }));
                }
            }
        }
        for event in seen {
            let delay = self.climate.memory_delay();
            self.agenda.put(self.now + delay, event);
        }
    }

    // Faults.

    /// Does the faults whose time has come.
    fn strike(&mut self) {
        while self.plan.first().is_some_and(|planned| planned.at_step <= self.steps) {
            let Planned { fault, .. } = self.plan.remove(0);
            self.suffer(fault);
        }
    }

    fn suffer(&mut self, fault: Fault) {
        let tally = &mut self.judge.tally;
        match fault {
            Fault::Death { rank, is_reset } if matches!(self.processes[rank].life, Life::Runs | Life::Frozen) => {
                tally.deaths += 1;
                self.log(rank, || "dies".into());
                self.die(rank, is_reset);
            }
            Fault::Freeze { rank, for_ns } if self.processes[rank].life == Life::Runs => {
                tally.freezes += 1;
                self.log(rank, || format!("is frozen for {for_ns:?} ns"));
                self.judge.blame(rank);
                self.processes[rank].life = Life::Frozen;
                self.processes[rank].thaws = for_ns.is_some();
                if let Some(for_ns) = for_ns {
                    self.agenda.put(self.now + for_ns, Event::Thaws(rank));
                }
            }
            Fault::Cut { from, to, both_ways, for_ns } => {
                tally.cuts += 1;
                self.log("net", || format!("cut between {from} and {to}, both ways: {both_ways}, for {for_ns:?} ns"));
                self.judge.blame(from);
                self.judge.blame(to);
                let mut ways = vec![(from, to)];
                ways.extend(both_ways.then_some((to, from)));
                self.cuts.push(Cut { ways, held: Vec::new(), is_healed: false });
                if let Some(for_ns) = for_ns {
                    self.agenda.put(self.now + for_ns, Event::Heals(self.cuts.len() - 1));
                }
            }
            Fault::Abort { rank } if self.processes[rank].life == Life::Runs => {
                let Some(session) = &self.processes[rank].session else { return };
                let (comm, by) = (session.comm, session.me);
                let error = Error::Aborted { by, reason: "it was told to".into() };
                if session.fate.fail(error.clone()) {
                    tally.aborts += 1;
                    self.log(rank, || "aborts".into());
                    self.judge.blame(rank);
                    self.revoke(rank, comm, &error);
                    self.wake(rank);
                }
            }
            Fault::Death { .. } | Fault::Freeze { .. } | Fault::Abort { .. } => {}
        }
    }

    fn die(&mut self, rank: Rank, is_reset: bool) {
        self.judge.blame(rank);
        self.judge.death(rank, self.now);
        self.processes[rank].life = Life::Dead;
        self.processes[rank].missed.clear();
        if is_reset {
            for (id, line) in self.board.lines().iter().enumerate() {
                if line.from == rank && line.is_socket {
                    self.board.line(id, |line| line.is_reset = true);
                }
            }
        }
        self.drop_session(rank);
        self.disconnect(rank);
        for hub in (0..self.hubs.len()).filter(|hub| self.hubs[*hub].home == rank).collect::<Vec<_>>() {
            if !std::mem::replace(&mut self.hubs[hub].is_closed, true) {
                self.judge.tally.root_deaths += 1;
                let guests = self.hubs[hub].side.guests().clone();
                guests.into_iter().for_each(|guest| self.hang_up(hub, guest));
            }
        }
    }

    fn thaw(&mut self, rank: Rank) {
        if self.processes[rank].life != Life::Frozen {
            return;
        }
        self.log(rank, || "goes on".into());
        self.judge.thawed(rank, self.now);
        self.processes[rank].life = Life::Runs;
        let missed = std::mem::take(&mut self.processes[rank].missed);
        for event in missed {
            // In the order in which they came; a timer that ran out meanwhile has company now.
            let event = match event {
                Event::Turn { rank, turn, .. } => Event::Turn { rank, turn, by_timer: false },
                event => event,
            };
            self.agenda.put(self.now + 100, event);
        }
    }
}

/// Whether an event would have to cross a cut.
fn crosses(board: &Switchboard, comms: &BTreeMap<u64, Comm>, cut: &Cut, event: &Event) -> bool {
    let crossed = |from: Rank, to: Rank| cut.ways.contains(&(from, to));
    match event {
        Event::Arrives(id, _) | Event::Ends(id) => {
            board.line(*id, |line| line.is_socket && crossed(line.from, line.to))
        }
        Event::Acknowledged(id, _) | Event::Refused(id) => {
            board.line(*id, |line| line.is_socket && crossed(line.to, line.from))
        }
        Event::Dials((comm, me, peer, _)) => {
            let members = &comms[comm].members;
            crossed(members[*me], members[*peer]) || crossed(members[*peer], members[*me])
        }
        _ => false,
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

fn closed(peer: Rank) -> Error {
    Error::PeerLost { suspects: vec![peer], what: "closed its connection".into(), during: None }
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
