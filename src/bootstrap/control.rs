//! A rank's end of the control plane.
//!
//! [`Control::join`] makes the rank a member of its job. From then on a thread sleeps on the connection to the root and
//! tells the registered [`Listener`]s what the root says: who is gone, which communicator has failed. The last `Arc`
//! dropped says goodbye; a process that dies without is reported to everybody as soon as its connection closes.
#![forbid(unsafe_code)]

use super::address::Root;
use super::gate::Gate;
use super::invitation::Invitation;
use super::knowledge::{Event, Knowledge};
use super::listening::Ear;
use super::member::{Link, Shared};
use super::messages::{self, CONTROL_VERSION, Gone, Hello, MAX_WORLD, Reached, Terms, ToRoot};
use super::roster::Seat;
use super::seats::Patience;
use super::seek::Creed;
use super::standby::Standby;
use super::store::StoreChoice;
use super::vigil::Rhythm;
use super::wire::Caller;
use super::{MAX_CONTRIBUTION_BYTES, UniqueId, deadline_after, enlist, join, lock, root};
use crate::error::{Error, Result, Signature};
use crate::topology::detect::process_id;
use crate::transport::tcp::{Guard, PortRange, Secret, interface};
use crate::types::Rank;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What follows the start may come so much later than the deadline.
const GRACE: Duration = Duration::from_secs(2);
/// For the first word of the job's store.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// What a rank needs to join.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which job.
    pub root: Root,
    /// Who this is.
    pub rank: Rank,
    /// How many ranks the job has.
    pub world: usize,
    /// How long the join may take. All ranks fail together when the first loses its patience.
    pub timeout: Duration,
    /// `ROUNDEL_IFACE`: the interface for this rank's data, where it is not to be the one that leads to the root.
    pub iface: Option<String>,
    /// `ROUNDEL_PORT_RANGE`: where this rank listens for those who look for a root when theirs is gone.
    pub port_range: Option<PortRange>,
    /// How often ranks say that they live, and how long one may be silent.
    pub rhythm: Rhythm,
    /// How its connections are protected, control and data; the same on all ranks.
    pub guard: Guard,
    /// Where the job keeps what it keeps outside itself; the same on all ranks.
    pub store: StoreChoice,
}

impl Config {
    /// With ports, rhythm, guard and store as they are where nothing is set.
    pub fn new(root: Root, rank: Rank, world: usize, timeout: Duration, iface: Option<String>) -> Config {
        Config {
            root,
            rank,
            world,
            timeout,
            iface,
            port_range: None,
            rhythm: Rhythm::default(),
            guard: Guard::Plain,
            store: StoreChoice::Embedded,
        }
    }
}

/// What a newcomer may set.
#[derive(Debug, Clone)]
pub struct Enlisting {
    /// As in [`Config`].
    pub iface: Option<String>,
    /// As in [`Config`].
    pub port_range: Option<PortRange>,
    /// As in [`Config`].
    pub rhythm: Rhythm,
    /// As in [`Config`].
    pub guard: Guard,
    /// As in [`Config`].
    pub store: StoreChoice,
}

/// What a newcomer learns.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The ranks that were admitted together, this one included.
    pub recruits: Vec<Rank>,
    /// What the members said to [`Control::grow`].
    pub offer: Vec<u8>,
}

/// Hears what happens to the job. Called from the control thread, so it must be quick and must not wait for anything that
/// the control plane does.
pub trait Listener: Send + Sync {
    /// A rank is gone without a goodbye, or somebody found it unreachable. It may be this rank itself, if the others have
    /// given it up.
    fn peer_lost(&self, world_rank: Rank, what: &str);
    /// A rank has left in good order.
    fn peer_left(&self, world_rank: Rank);
    /// How far this rank has come on the communicator registered for. Asked with every sign of life.
    fn reached(&self) -> Reached {
        Reached::default()
    }
    /// The communicator has failed; the same error is told to all ranks. Only for the one registered for.
    fn revoked(&self, comm: u64, error: &Error);
}

/// A rank's membership in its job. Cheap to share; usable from any thread.
pub struct Control {
    shared: Arc<Shared>,
    ties: OnceLock<Ties>,
    /// Of a rank that is alone and has invited nobody: how its job would be opened.
    unopened: Mutex<Option<Config>>,
}

/// What binds a rank to others of its job.
struct Ties {
    secret: Secret,
    job: [u8; 16],
    /// The control thread, until it is waited for.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Keeps a [`Listener`] listening until it is dropped. A call that has begun by then may still end after.
pub struct Registration {
    shared: Arc<Shared>,
    id: u64,
}

impl Control {
    /// Joins the job; returns when all ranks have. Rank 0 also opens it, where no unique id did. Of one rank nothing is opened
    /// before it invites somebody.
    pub fn join(config: Config) -> Result<Arc<Control>> {
        let Config { rank, world, iface, .. } = &config;
        let (rank, world) = (*rank, *world);
        if world == 0 || world > MAX_WORLD {
            return Err(Error::invalid(format!("a world of {world} ranks; it has between 1 and {MAX_WORLD}")));
        }
        if rank >= world {
            return Err(Error::invalid(format!("rank {rank} in a world of {world}; ranks count from 0")));
        }
        // Before the others are met: what is wrong here should not be found out only when all have come.
        let chosen_ip = iface.as_deref().map(|iface| interface::resolve(Some(iface))).transpose()?;
        let local_ip = chosen_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let control = Control::new(Shared::new(rank, world, local_ip, Knowledge::new(rank, vec![])));
        if world == 1 {
            *lock(&control.unopened) = Some(config);
        } else {
            control.enter(config, chosen_ip)?;
        }
        Ok(Arc::new(control))
    }

    fn new(shared: Shared) -> Control {
        Control { shared: Arc::new(shared), ties: OnceLock::new(), unopened: Mutex::default() }
    }

    /// Opens the job of a rank that is alone, so that others can find it: on the interface asked for, else on the first that leads
    /// somewhere, where a [`UniqueId`] has not named another.
    fn open(&self) -> Result<()> {
        let mut unopened = lock(&self.unopened);
        let Some(config) = &*unopened else { return Ok(()) };
        let root = match &config.root {
            Root::Id(id) => id.clone(),
            Root::Address(_) => UniqueId::listen(config.iface.as_deref(), config.port_range)?,
        };
        let chosen_ip = config.iface.as_deref().map(|iface| interface::resolve(Some(iface))).transpose()?;
        let entered = self.enter(Config { root: Root::Id(root), ..config.clone() }, chosen_ip);
        if self.ties.get().is_some() {
            *unopened = None;
        }
        entered
    }

    /// Meets the other ranks at the root.
    fn enter(&self, config: Config, chosen_ip: Option<IpAddr>) -> Result<()> {
        let Config { root, rank, world, timeout, iface, port_range, rhythm, guard, store } = config;
        let deadline = deadline_after(timeout);
        store.reach(root.job(), deadline.min(Instant::now() + STORE_PATIENCE))?;
        let door = match &root {
            Root::Address(address) if rank == 0 => {
                let listeners = address.listen(iface.as_deref())?;
                let door = listeners[0].local_addr().map_err(no_link)?;
                root::start(listeners, root.secret(), root.job(), Some((world, Patience { deadline, timeout })))?;
                Some(door)
            }
            _ => None,
        };
        let timeout_ms = timeout.as_millis().try_into().unwrap_or(u64::MAX);
        let process = process_id()?;
        let hello = Hello {
            version: CONTROL_VERSION,
            job: root.job(),
            rank,
            world,
            process,
            nonce: getrandom::u64().map_err(|error| Error::bootstrap(format!("no random bytes: {error}")))?,
            rhythm,
            timeout_ms,
            remaining_ms: timeout_ms,
            guard: guard as u8,
            store: store.to_string(),
        };
        let joined = join::join(&root, door, guard, &hello, deadline)?;

        let reached_from = joined.root.stream.local_addr().map_err(no_link)?.ip();
        let local_ip = match chosen_ip {
            Some(chosen_ip) => chosen_ip,
            // Beside a root that knows itself as loopback, of a job that spans hosts.
            None if reached_from.is_loopback() && !root.is_loopback() => interface::resolve(None)?,
            None => reached_from,
        };
        let listener = interface::listen(local_ip, port_range)?;
        let seat = Seat::here(listener.local_addr().map_err(no_link)?, process)?;
        let creed = Creed { secret: root.secret().clone(), job: root.job(), rhythm, guard, store, process };
        self.shared.know_root(joined.beside_root);
        self.settle(joined.root, listener, creed)?;
        self.shared.link().iter().for_each(|link| link.send(&ToRoot::Seat(seat.clone())));
        self.shared.wait_for_roster(deadline + GRACE)
    }

    /// Joins a job that runs: waits until its members admit this newcomer. The rank that it is then, all who were admitted
    /// with it, and the members' offer. After a failure that another attempt may mend it is tried again until the deadline.
    pub fn enlist(invitation: &Invitation, terms: Enlisting, deadline: Instant) -> Result<(Arc<Control>, Admitted)> {
        let Enlisting { iface, port_range, rhythm, guard, store } = terms;
        let chosen_ip = iface.as_deref().map(|iface| interface::resolve(Some(iface))).transpose()?;
        let process = process_id()?;
        store.reach(invitation.job, deadline.min(Instant::now() + STORE_PATIENCE))?;
        let creed = Creed { secret: invitation.secret.clone(), job: invitation.job, rhythm, guard, store, process };
        let enlisted = enlist::enlist(invitation, &creed, chosen_ip, port_range, deadline)?;
        let admission = enlisted.admission;
        let (rank, world) = (admission.rank, admission.roster.len());
        let local_ip = enlisted.listener.local_addr().map_err(no_link)?.ip();
        let control = Control::new(Shared::new(rank, world, local_ip, Knowledge::of_recruit(&admission)));
        control.settle(enlisted.caller, enlisted.listener, creed)?;
        Ok((Arc::new(control), Admitted { recruits: admission.recruits, offer: admission.offer }))
    }

    /// Starts to listen, on a connection to a root that knows this rank.
    fn settle(&self, root: Caller, listener: TcpListener, creed: Creed) -> Result<()> {
        let local_ip = listener.local_addr().map_err(no_link)?.ip();
        let Caller { stream, inbox, outbox } = root;
        let stream = Arc::new(stream);
        let (link, woken) = Link::new(stream.clone(), outbox).map_err(no_link)?;
        let gate = Gate::new(vec![listener], &creed.secret, &creed.job).map_err(no_link)?;
        self.shared.attach(link, local_ip);
        let standby = Standby::new(gate, creed.job);
        let (secret, job) = (creed.secret.clone(), creed.job);
        let ear = Ear { shared: self.shared.clone(), stream, inbox, woken, standby, creed, leave_by: None };
        let thread =
            std::thread::Builder::new().name("roundel-control".into()).spawn(move || ear.run()).map_err(no_link)?;
        let is_first = self.ties.set(Ties { secret, job, thread: Mutex::new(Some(thread)) }).is_ok();
        debug_assert!(is_first, "a rank joins once");
        Ok(())
    }

    /// Who this is.
    pub fn rank(&self) -> Rank {
        self.shared.rank
    }

    /// How many ranks the job had when this one joined.
    pub fn world(&self) -> usize {
        self.shared.world
    }

    /// The address for this rank's data: of the interface asked for, else of the one that leads to the root.
    pub fn local_ip(&self) -> IpAddr {
        self.shared.local_ip()
    }

    /// All members give bytes (at most [`MAX_CONTRIBUTION_BYTES`] each) and get everybody's, in the order of `members`,
    /// which with `tag` names the exchange and is the same on all. It succeeds for all or fails for all: at the first
    /// deadline that passes, or as soon as a member is gone that has not contributed. A tag that failed stays failed.
    pub fn exchange(&self, tag: u64, members: &[Rank], mine: Vec<u8>, deadline: Instant) -> Result<Vec<Vec<u8>>> {
        let parts = self.gather(tag, members, Terms::All, mine, deadline)?;
        Ok(parts.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// [`Control::exchange`] among those of the members that live: what the others would have given is `None`, and everybody
    /// sees the same. Members that live and do not take part are waited for until the deadline. It fails where those
    /// that cannot be reached, but may live, are at least as many as those that can: they may be doing the same.
    pub fn census(&self, tag: u64, members: &[Rank], mine: Vec<u8>, deadline: Instant) -> Result<Vec<Option<Vec<u8>>>> {
        self.gather(tag, members, Terms::Living, mine, deadline)
    }

    /// [`Control::exchange`] by which all who wait to join become ranks. Their numbers, the same on all members; none where
    /// nobody waits. What the first of `members` gives is what the newcomers are told.
    pub fn grow(&self, tag: u64, members: &[Rank], offer: Vec<u8>, deadline: Instant) -> Result<Vec<Rank>> {
        // Alone, and nobody was invited.
        if self.shared.link().is_none() {
            return Ok(Vec::new());
        }
        let parts = self.gather(tag, members, Terms::Growing, offer, deadline)?;
        Ok(messages::decode_ranks(parts.last().and_then(Option::as_deref).unwrap_or_default()))
    }

    /// The job's secret and name; none of a rank that is alone and has invited nobody.
    pub(crate) fn creed(&self) -> Option<(Secret, [u8; 16])> {
        self.ties.get().map(|ties| (ties.secret.clone(), ties.job))
    }

    /// What a newcomer needs to find this job, whichever of its ranks is the root then. The first one of a rank that is alone
    /// opens its job: blocks, at most as long as a join may.
    pub fn invitation(&self) -> Result<Invitation> {
        self.open()?;
        let ties = self.ties.get().ok_or_else(|| Error::bootstrap("this rank is of no job"))?;
        let (doors, run) = self.shared.knows(|known| {
            let doors = known.heirs().into_iter().map(|(_, seat)| seat.door).collect();
            (doors, known.roster().get(&0).map_or(0, |seat| seat.process))
        });
        Ok(Invitation { secret: ties.secret.clone(), job: ties.job, run, doors })
    }

    fn gather(
        &self,
        tag: u64,
        members: &[Rank],
        terms: Terms,
        mine: Vec<u8>,
        deadline: Instant,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let shared = &self.shared;
        let distinct: HashSet<Rank> = members.iter().copied().collect();
        if distinct.len() != members.len() || !distinct.contains(&shared.rank) {
            return Err(Error::invalid(format!("an exchange of rank {} among {members:?}", shared.rank)));
        }
        let is_known = |rank: Rank| rank < shared.world || shared.knows(|known| known.roster().contains_key(&rank));
        if let Some(stranger) = members.iter().find(|member| !is_known(**member)) {
            return Err(Error::invalid(format!("an exchange with rank {stranger} in a world of {}", shared.world)));
        }
        if mine.len() > MAX_CONTRIBUTION_BYTES {
            return Err(Error::invalid(format!(
                "an exchange of {} bytes; at most {MAX_CONTRIBUTION_BYTES} a rank",
                mine.len()
            )));
        }
        match shared.link() {
            Some(link) if members.len() > 1 || terms == Terms::Growing => {
                shared.exchange(link, tag, members, terms, mine, deadline)
            }
            _ => Ok(vec![Some(mine)]),
        }
    }

    /// Ranks that are gone, in whatever way.
    pub fn gone(&self) -> Vec<Rank> {
        self.shared.knows(|known| known.gone().keys().copied().collect())
    }

    /// Tells all ranks that communicator `comm` has failed. If several say so, the first is heard, by everybody. Where the
    /// root is gone it is told to this rank's own listeners.
    pub fn revoke(&self, comm: u64, error: &Error) {
        self.shared.revoke(comm, error);
    }

    /// Tells the root that this rank (`rank_in_comm` of communicator `comm`) has been waiting inside this call for a
    /// while, for these ranks of the communicator. When two ranks wait in different calls of the same number, the
    /// communicator is revoked with [`Error::Mismatch`]; when it is revoked with [`Error::Timeout`], that names those
    /// who keep others waiting and do not wait themselves.
    pub fn report_stalled(&self, comm: u64, rank_in_comm: Rank, signature: Signature, waiting_for: &[Rank]) {
        if let Some(link) = self.shared.link() {
            let waiting_for = waiting_for.to_vec();
            link.send(&ToRoot::Stalled { comm, rank: rank_in_comm, signature, waiting_for });
        }
    }

    /// Tells all ranks that the data link to `world_rank` broke, unless it has left in good order.
    pub fn report_lost(&self, world_rank: Rank, what: &str) {
        match self.shared.living_link() {
            Some(link) => link.send(&ToRoot::Lost { rank: world_rank, what: what.to_string() }),
            None if world_rank < self.shared.world => {
                self.shared.announce(Event::Gone(world_rank, Gone::Silent(what.to_string())));
            }
            None => {}
        }
    }

    /// Lets `listener` hear of ranks that go, and of the failure of communicator `comm`. What has happened already is told
    /// before this returns.
    pub fn register(&self, comm: u64, listener: Arc<dyn Listener>) -> Registration {
        let id = self.shared.register(comm, listener);
        Registration { shared: self.shared.clone(), id }
    }

    /// Cuts the connection as the death of the process would.
    #[cfg(test)]
    pub(crate) fn sever(&self) {
        if let Some(link) = self.shared.link() {
            link.sever();
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control(rank {} of {}, {})", self.shared.rank, self.shared.world, self.shared.local_ip())
    }
}

impl Drop for Control {
    /// Says goodbye. Returns when the root has heard it, or has been given a moment to.
    fn drop(&mut self) {
        let Some(thread) = self.ties.get().and_then(|ties| lock(&ties.thread).take()) else { return };
        self.shared.leave();
        // A listener may hold the last handle; its thread cannot wait for itself, and ends by itself.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.unregister(self.id);
    }
}

fn no_link(error: std::io::Error) -> Error {
    Error::system("setting up the control connection", error)
}
