//! The communicator: a group of ranks that call collectives together.
//!
//! This is the top floor: it alone knows every backend by name. A world is what a rank has once, a
//! [`Communicator`] is a group of ranks with links, signals and an engine of its own, so that communicators never wait for
//! each other.
#![deny(unsafe_code)]

mod buffer;
mod calls;
pub(crate) mod census;
mod device_buffer;
mod dialler;
mod explain;
mod fabric;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod group;
mod grow;
mod links;
mod options;
mod preserve;
mod probe;
mod shrink;
mod split;
mod start;
mod tuning;
pub(crate) mod watch;
mod work;
mod world;

#[cfg(test)]
mod audit_tests;
#[cfg(test)]
mod tuning_tests;

pub use buffer::{Buffer, Owned};
pub use device_buffer::DeviceBuffer;
pub use explain::Explanation;
pub use group::Group;
pub use options::Options;
pub use tuning::Tune;
pub use work::{Failed, Work};

use crate::bootstrap::{Config, Registration, Root, RootAddr, UniqueId, launcher};
use crate::element::Element;
use crate::engine::{Engine, Fate, Lane, Offload, Patience, Settings};
use crate::error::{Error, Result};
use crate::topology::detect;
use crate::transport::Shared;
use crate::transport::shm::{Area, AreaCard, AreaShape, Member, Neighbours};
use crate::transport::tcp::Secret;
use crate::types::Rank;
use dialler::Dialler;
use links::Links;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use watch::{Herald, Watch};
use world::{Acquaintance, World};

/// The communicator of all ranks.
const WORLD_COMM: u64 = 0x526f_756e_6465_6c31;

/// What tells a communicator from all others of its job.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) comm: u64,
    pub(crate) epoch: u32,
}

/// What each rank tells the others when it becomes a member.
#[derive(Serialize, Deserialize)]
struct Introduction {
    /// Where its part of the shared memory is, or why it cannot take part.
    area: Result<AreaCard>,
    /// How algorithms are to be chosen; the first member's counts.
    intention: tuning::Intention,
}

/// One rank's handle on a group of ranks.
///
/// Every rank of the group makes the same calls in the same order; what a rank passes to a call may differ, what the
/// call is may not, and a difference is an [`Error::Mismatch`] on every rank. After an error other than a refused
/// argument the communicator is finished: later calls repeat the error.
///
/// Dropping it waits for calls in flight and then says goodbye: other ranks are told that this one has left, so that a
/// call that still needs it fails there instead of waiting.
///
/// `Communicator` is `Send` and `Sync`. Threads may share one as long as all ranks see the same order of collectives;
/// messages ([`send`](Communicator::send), [`recv`](Communicator::recv)) are ordered per pair of ranks only.
///
/// ```
/// use roundel::{Communicator, Options, ReduceOp};
///
/// let ranks = Communicator::threads(3, Options::default())?;
/// std::thread::scope(|scope| {
///     for comm in &ranks {
///         scope.spawn(move || {
///             let mut data = [comm.rank() as f32; 4];
///             comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
///             assert_eq!(data, [3.0; 4]);
///         });
///     }
/// });
/// # Ok::<(), roundel::Error>(())
/// ```
pub struct Communicator {
    engine: Arc<Engine>,
    world: Arc<World>,
    comm: u64,
    me: Rank,
    /// Rank of the communicator -> rank of the job.
    members: Vec<Rank>,
    hosts: Vec<Vec<Rank>>,
    fate: Arc<Fate>,
    /// How many times the membership had changed when this was made.
    epoch: u32,
    /// Splits made so far.
    splits: AtomicU64,
    /// Censuses held so far, whatever became of them.
    censuses: AtomicU64,
    /// Subsets made so far, by the digest of their list.
    subsets: Mutex<HashMap<u64, u64>>,
    /// Times that newcomers were looked for.
    growths: AtomicU64,
    /// Keeps the news of the job coming.
    registration: Option<Registration>,
}

impl Communicator {
    /// Joins the job that a launcher started this process in: torchrun, Open MPI, MPICH, Slurm, or `ROUNDEL_RANK` and
    /// `ROUNDEL_WORLD_SIZE` with `ROUNDEL_UNIQUE_ID` or `ROUNDEL_MASTER_ADDR` (see [`launcher`]). Without any of them: a
    /// world of one. Blocks until all ranks are there; options from `ROUNDEL_*`.
    ///
    /// ```no_run
    /// let comm = roundel::Communicator::from_env()?;
    /// println!("rank {} of {}", comm.rank(), comm.world());
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn from_env() -> Result<Communicator> {
        Communicator::from_env_with(Options::from_env()?)
    }

    /// [`Communicator::from_env`] with options of the caller's.
    pub fn from_env_with(options: Options) -> Result<Communicator> {
        let config = match launcher::of_this_process()? {
            Some(launch) => launch.config(options.init_timeout, options.interface.clone()),
            None => config(alone()?, 0, 1, &options),
        };
        Communicator::join(with_options(config, &options), options)
    }

    /// Joins as `rank` of `world` the job that `id` names. Blocks until all ranks have, at most
    /// [`Options::init_timeout`]; then the error says who is missing. Options from `ROUNDEL_*`.
    ///
    /// ```
    /// use roundel::{Communicator, UniqueId};
    /// let id = UniqueId::with_interface("lo")?;
    /// let comm = Communicator::init(&id, 0, 1)?;
    /// assert_eq!(comm.world(), 1);
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn init(id: &UniqueId, rank: Rank, world: usize) -> Result<Communicator> {
        Communicator::init_with(id, rank, world, Options::from_env()?)
    }

    /// [`Communicator::init`] with options of the caller's.
    pub fn init_with(id: &UniqueId, rank: Rank, world: usize, options: Options) -> Result<Communicator> {
        Communicator::join(config(Root::Id(id.clone()), rank, world, &options), options)
    }

    /// All `world` ranks in this process, in order: one for each thread of the caller's.
    pub fn threads(world: usize, options: Options) -> Result<Vec<Communicator>> {
        if world == 0 {
            return Err(Error::invalid("a world of no ranks; it has at least one"));
        }
        options.check()?;
        let id = UniqueId::with_interface("127.0.0.1")?;
        std::thread::scope(|scope| {
            let join = |rank| {
                let (id, options) = (&id, options.clone());
                scope.spawn(move || Communicator::init_with(id, rank, world, options))
            };
            let joining: Vec<_> = (0..world).map(join).collect();
            let joined = joining.into_iter().map(|thread| thread.join().expect("joining does not panic"));
            joined.collect()
        })
    }

    fn join(config: Config, options: Options) -> Result<Communicator> {
        let deadline = Instant::now() + options.init_timeout;
        let (world, acquaintance) = World::join(config, options)?;
        let everybody = (0..world.control.world()).collect();
        Communicator::assemble_after(acquaintance, world, Identity { comm: WORLD_COMM, epoch: 0 }, everybody, deadline)
    }

    /// Makes a communicator of the job's ranks `members`, in that order.
    fn assemble(world: Arc<World>, identity: Identity, members: Vec<Rank>, deadline: Instant) -> Result<Communicator> {
        let nothing_new = Acquaintance { door: None, ready: Ok(()) };
        Communicator::assemble_after(nothing_new, world, identity, members, deadline)
    }

    /// The same of ranks that have just met.
    fn assemble_after(
        acquaintance: Acquaintance,
        world: Arc<World>,
        identity: Identity,
        members: Vec<Rank>,
        deadline: Instant,
    ) -> Result<Communicator> {
        let Identity { comm, epoch } = identity;
        let me = members.iter().position(|&member| member == world.rank).expect("a rank assembles its own groups");
        let hosts = world.hosts(&members)?;
        let here = hosts.iter().find(|host| host.contains(&me)).expect("every member is on a host").clone();
        let options = world.options.clone();
        let shape = AreaShape {
            ranks: here.len(),
            channels: usize::from(options.channels.unwrap_or(1)) + 1,
            ring_bytes: options.ring_bytes,
            stage_bytes: options.stage_bytes,
        };
        let position = here.iter().position(|&rank| rank == me).expect("this rank is here");
        // Who cannot take part says so to all, or they would wait for it.
        let (made, card) = match acquaintance.ready.and_then(|()| Area::create(&world.arena, shape, position)) {
            Ok((area, bell, card)) => (Some((area, bell)), Ok(card)),
            Err(error) => (None, Err(error)),
        };
        let (begins, setting) = (comm == WORLD_COMM, tuning::setting(&options, &hosts));
        let intention = match me {
            0 => tuning::intention(&world, &members, &setting, begins),
            _ => tuning::Intention::Fixed,
        };
        let introductions: Vec<Introduction> =
            world.exchange(comm, &members, &Introduction { area: card, intention }, deadline)?;
        let intention = introductions[0].intention.clone();
        let cards =
            introductions.into_iter().map(|introduction| introduction.area).collect::<Result<Vec<AreaCard>>>()?;
        // All have taken part in the exchange, so all have attached.
        drop(acquaintance.door);
        let (area, bell) = made.expect("without an error of its own it made them");
        let neighbour = |&rank: &Rank| Member { arena: world.arena_of(members[rank]), card: cards[rank].clone() };
        let neighbours = Neighbours::new(area, &here.iter().map(neighbour).collect::<Vec<_>>())?;
        let neighbours = (here.len() > 1).then(|| Arc::new(neighbours));

        let fate = Arc::new(Fate::new(members.len()));
        let settings = Settings {
            me,
            hosts: hosts.clone(),
            epoch,
            channels: options.channels,
            wish: options.algorithm,
            slice_bytes: options.slice_bytes,
            table: intention.table(&hosts)?.map(Arc::new),
            reproducible: options.reproducible,
            verifies: options.verify_results,
            timeout: options.timeout,
            meeting_timeout: options.init_timeout,
            digest: digest(&options),
            stage_bytes: options.stage_bytes,
        };
        let waker = bell.waker();
        let endpoint = world.endpoint().filter(|_| hosts.len() > 1);
        let dialler = endpoint.as_ref().map(|endpoint| {
            let waker = waker.clone();
            Dialler::new(endpoint.clone(), fate.clone(), Arc::new(move || waker.wake()))
        });
        let links = Links {
            world: world.clone(),
            comm,
            epoch,
            me,
            members: members.clone(),
            here: here.clone(),
            neighbours: neighbours.clone(),
            dialler,
            greetings: HashMap::new(),
            wake: {
                let waker = waker.clone();
                Arc::new(move || waker.wake())
            },
        };
        if let Some(endpoint) = &endpoint {
            let waker = waker.clone();
            endpoint.watch(comm, Box::new(move || waker.wake()));
        }
        let shared = neighbours.map(|neighbours| Box::new(neighbours) as Box<dyn Shared>);
        let mut lane = Lane::new(settings, fate.clone(), shared, Box::new(links));
        lane.offload = options.device.clone().map(Offload::new);
        let pace = lane.pace.clone();
        let herald = Herald { control: Arc::downgrade(&world.control), comm, me };
        let wake = {
            let waker = waker.clone();
            Box::new(move || waker.wake())
        };
        let patience = match &endpoint {
            Some(_) => Patience::over_sockets(),
            None => Patience::new(here.len(), detect::cpu_count()),
        };
        let engine = Engine::new(lane, Box::new(bell), patience, Arc::new(herald), wake);
        let watch = Watch { fate: fate.clone(), pace, members: members.clone(), wake: Box::new(move || waker.wake()) };
        let registration = world.control.register(comm, Arc::new(watch));
        let assembled = Communicator {
            engine,
            world,
            comm,
            me,
            members,
            hosts,
            fate,
            epoch,
            splits: AtomicU64::new(0),
            censuses: AtomicU64::new(0),
            subsets: Mutex::default(),
            growths: AtomicU64::new(0),
            registration: Some(registration),
        };
        if begins {
            tuning::settle(&assembled, &setting, intention, deadline)?;
        }
        Ok(assembled)
    }

    /// This rank's number in the communicator.
    pub fn rank(&self) -> Rank {
        self.me
    }

    /// How many ranks the communicator has.
    pub fn world(&self) -> usize {
        self.members.len()
    }

    /// The ranks grouped by who shares memory with whom.
    pub fn hosts(&self) -> &[Vec<Rank>] {
        &self.hosts
    }

    /// How many times the membership had changed when this communicator was made ([`shrink`](Communicator::shrink)). It is
    /// part of every call's signature.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The number that each rank had when the job began; new numbers go to those who joined later.
    pub fn members(&self) -> &[Rank] {
        &self.members
    }

    /// The settings in force.
    pub fn options(&self) -> &Options {
        &self.world.options
    }

    /// `Ok` while the communicator works; afterwards the error that ended it. Never blocks.
    pub fn status(&self) -> Result<()> {
        self.engine.check()
    }

    /// Ends the communicator on all ranks: calls in flight and later ones fail there with [`Error::Aborted`] and this
    /// reason.
    pub fn abort(&self, reason: &str) {
        let error = Error::Aborted { by: self.me, reason: reason.to_string(), during: None };
        if !self.engine.is_at_home() {
            return;
        }
        if self.fate.fail(error.clone()) {
            self.world.control.revoke(self.comm, &error);
            self.engine.wake();
        }
    }

    /// Blocks until all calls that this rank has started have ended, well or badly. Dropping a communicator begins with that
    /// too; here another thread can still [`abort`](Communicator::abort) them meanwhile.
    ///
    /// ```
    /// # let comm = roundel::Communicator::threads(1, roundel::Options::default())?.remove(0);
    /// let work = comm.start_all_reduce(vec![1.0f32; 8], roundel::ReduceOp::Sum)?;
    /// comm.drain();
    /// assert!(work.test());
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn drain(&self) {
        if self.engine.is_at_home() {
            self.engine.drain();
        }
    }

    /// Zeroed memory for `count` elements that the other ranks of the host can map. Not collective: each rank allocates
    /// for itself, and calls find out whether all of them did.
    pub fn alloc<T: Element>(&self, count: usize) -> Result<Buffer<T>> {
        let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let bytes = bytes.ok_or_else(|| Error::invalid(format!("{count} elements of {} overflow", T::DTYPE)))?;
        self.engine.check_birthplace()?;
        let block = self.world.arena.alloc_zeroed(bytes.max(1), 4096)?;
        Ok(Buffer::new(block, count))
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.engine.is_at_home() {
            // A forked child: what this was made of is the parent's, down to its threads and goodbyes.
            std::mem::forget((self.engine.clone(), self.world.clone(), self.registration.take()));
            return;
        }
        self.engine.close();
    }
}

impl std::fmt::Debug for Communicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Communicator {{ rank {} of {}, hosts {:?} }}", self.me, self.world(), self.hosts)
    }
}

fn config(root: Root, rank: Rank, world: usize, options: &Options) -> Config {
    let config = Config::new(root, rank, world, options.init_timeout, options.interface.clone());
    with_options(config, options)
}

/// A launcher's or a caller's wish, with what else may be set.
fn with_options(config: Config, options: &Options) -> Config {
    let (rhythm, guard, store) = (options.rhythm(), options.guard(), options.store.clone());
    Config { port_range: options.port_range, rhythm, guard, store, ..config }
}

/// The meeting place of a world of one, which nobody else can find.
fn alone() -> Result<Root> {
    Ok(Root::Address(RootAddr { hosts: vec![], ports: vec![], secret: Secret::random()?, job: "alone".into() }))
}

/// What must be set alike on all ranks; it is part of every call's signature.
fn digest(options: &Options) -> u64 {
    let algorithm = options.algorithm.map_or(0, |algorithm| algorithm as u64 + 1);
    let switches = [options.reproducible, options.encrypt, options.checksum, options.verify_results];
    let switches = switches.into_iter().fold(0, |bits, switch| bits << 1 | u64::from(switch));
    // 0 where it was left open.
    let channels = options.channels.map_or(0, u64::from);
    let slice_bytes = options.slice_bytes.map_or(0, |bytes| bytes as u64);
    let words = [algorithm, channels, switches, options.stage_bytes as u64, slice_bytes];
    words.into_iter().fold(0, crate::engine::mix)
}
