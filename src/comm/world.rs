//! What a rank has for all communicators of its job: the control plane, its data endpoint, its arena, and where
//! everybody else is.
#![forbid(unsafe_code)]

use super::fabric::{Fabric, Offer};
use super::options::Options;
use crate::bootstrap::{Config, Control};
use crate::engine::mix;
use crate::error::{Error, Result};
use crate::topology::{Place, detect, grouping};
use crate::transport::shm::{Arena, Door, LocalCard, PeerArena, attach};
use crate::transport::tcp::{Callee, Endpoint, Identity, interface};
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What an exchange among the ranks that meet is for; with the number of the meeting it makes its tag.
const PLACES: u64 = 1;
const CARDS: u64 = 2;

/// That a process has ended is known everywhere in much less.
const NEWS_TAKE: Duration = Duration::from_millis(500);

/// How a rank can be reached, once it is known who shares memory with whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Card {
    /// Its data endpoint, where there are several hosts: an address for each rail.
    data: Vec<SocketAddr>,
    /// Its endpoint of libfabric, likewise.
    fabric: Offer,
    /// The door to its arena, where it has neighbours.
    local: Option<LocalCard>,
}

/// A card that makes sense.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn some_card() -> Card {
    let local = LocalCard { arena_id: [1; 16], pid: 7, uid: 1000, door: [2; 16] };
    Card {
        data: vec![([127, 0, 0, 1], 2000).into(), ([127, 0, 0, 2], 2001).into()],
        fabric: Offer::Provider("verbs;ofi_rxm".into()),
        local: Some(local),
    }
}

/// What is known of the ranks that were met, by their numbers in the job.
#[derive(Default)]
struct Met {
    places: BTreeMap<Rank, Place>,
    addresses: BTreeMap<Rank, Vec<SocketAddr>>,
    /// The arenas of this host's ranks, this one's included.
    arenas: BTreeMap<Rank, Arc<PeerArena>>,
}

/// What comes of a meeting on one rank.
pub(super) struct Acquaintance {
    /// Must stay open until everybody has attached.
    pub(super) door: Option<Door>,
    /// Whether this rank reaches everybody. Whoever does not must still say so to all.
    pub(super) ready: Result<()>,
}

/// One rank's part in a job.
pub(super) struct World {
    pub(super) rank: Rank,
    pub(super) options: Options,
    pub(super) arena: Arc<Arena>,
    /// For data from other hosts; made when the first of them is met.
    endpoint: Mutex<Option<Arc<Endpoint>>>,
    met: Mutex<Met>,
    pub(super) fabric: Fabric,
    /// Dropped last: its goodbye tells the others that this rank is done.
    pub(super) control: Arc<Control>,
}

impl World {
    /// Joins the job that begins, and meets all its ranks. Blocks until all have come, or fails on all of them when the time
    /// is over.
    pub(super) fn join(config: Config, options: Options) -> Result<(Arc<World>, Acquaintance)> {
        options.check()?;
        let (rank, world) = (config.rank, config.world);
        if world == 0 || rank >= world {
            return Err(Error::invalid(format!("rank {rank} of a world of {world}")));
        }
        // What is wrong here should not be found out only when all have come.
        detect::place()?;
        let deadline = Instant::now() + options.init_timeout;
        let world = World::of(Control::join(config)?, options)?;
        let everybody: Vec<Rank> = (0..world.control.world()).collect();
        let acquaintance = world.meet(0, &everybody, deadline)?;
        Ok((world, acquaintance))
    }

    /// The world of a rank that has joined and met nobody.
    pub(super) fn of(control: Arc<Control>, options: Options) -> Result<Arc<World>> {
        let arena = Arena::create(options.arena_bytes)?;
        let (endpoint, met) = (Mutex::default(), Mutex::default());
        let fabric = Fabric::default();
        Ok(Arc::new(World { rank: control.rank(), options, arena, endpoint, met, fabric, control }))
    }

    /// All `members` learn how to reach each other, as far as they do not know. All of them make this call with the same
    /// number. It fails for all alike when one of them is gone.
    pub(super) fn meet(&self, number: u64, members: &[Rank], deadline: Instant) -> Result<Acquaintance> {
        let mine = detect::place()?;
        let places: Vec<Place> = self.exchange(mix(number, PLACES), members, &mine, deadline)?;
        let hosts = grouping(&places, self.options.transport)?;
        let me = members.iter().position(|&member| member == self.rank).expect("a rank meets others itself");
        let neighbours = hosts.iter().find(|host| host.contains(&me)).expect("grouping places every rank");
        let (door, card) = match self.card(hosts.len() > 1, neighbours.len() > 1) {
            Ok((door, card)) => (door, Ok(card)),
            Err(error) => (None, Err(error)),
        };
        let cards: Vec<Result<Card>> = self.exchange(mix(number, CARDS), members, &card, deadline)?;
        let cards = cards.into_iter().collect::<Result<Vec<Card>>>()?;
        let offers: Vec<Offer> = cards.iter().map(|card| card.fabric.clone()).collect();
        self.fabric.agree(self.options.transport, members, offers, &places)?;
        let ready = neighbours.iter().try_for_each(|&index| self.attach(members[index], &cards[index], deadline));
        let mut met = lock(&self.met);
        for ((rank, place), card) in members.iter().zip(places).zip(cards) {
            met.places.insert(*rank, place);
            if !card.data.is_empty() {
                met.addresses.insert(*rank, card.data);
            }
        }
        Ok(Acquaintance { door, ready })
    }

    /// How this rank can be reached from other hosts, and by neighbours.
    fn card(&self, from_afar: bool, by_neighbours: bool) -> Result<(Option<Door>, Card)> {
        let data = if from_afar { self.open_endpoint()?.addrs().to_vec() } else { Vec::new() };
        let fabric = self.fabric.offer(&self.options, from_afar, self.control.local_ip());
        let (door, local) = match by_neighbours {
            true => Door::open(&self.arena).map(|(door, card)| (Some(door), Some(card)))?,
            false => (None, None),
        };
        Ok((door, Card { data, fabric, local }))
    }

    fn attach(&self, rank: Rank, card: &Card, deadline: Instant) -> Result<()> {
        if lock(&self.met).arenas.contains_key(&rank) {
            return Ok(());
        }
        let view = match &card.local {
            _ if rank == self.rank => Arc::new(PeerArena::of_this_process(self.arena.clone())),
            Some(card) => attach(card, deadline).map_err(|error| self.lost_or(rank, error))?,
            None => return Err(Error::bootstrap(format!("rank {rank} does not share its memory"))),
        };
        lock(&self.met).arenas.insert(rank, view);
        Ok(())
    }

    /// Memory that cannot be attached to is, as a rule, that of a process that has just ended; the news of that is on its way.
    fn lost_or(&self, rank: Rank, error: Error) -> Error {
        let until = Instant::now() + NEWS_TAKE;
        while !self.control.gone().contains(&rank) {
            if Instant::now() >= until {
                return error;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let what = "ended before the others had attached to its memory".to_string();
        Error::PeerLost { suspects: vec![rank], what, during: None }
    }

    /// Gives back what is held for ranks that are gone; communicators that have them as members keep theirs.
    pub(super) fn forget_gone(&self) {
        let gone = self.control.gone();
        let mut met = lock(&self.met);
        gone.iter().for_each(|rank| {
            met.addresses.remove(rank);
            met.arenas.remove(rank);
        });
    }

    fn open_endpoint(&self) -> Result<Arc<Endpoint>> {
        let mut endpoint = lock(&self.endpoint);
        if let Some(endpoint) = &*endpoint {
            return Ok(endpoint.clone());
        }
        let unbound = || Error::bootstrap("a rank that is alone has nobody to exchange data with");
        let (secret, job) = self.control.creed().ok_or_else(unbound)?;
        let identity =
            Identity { secret, job, rank: self.rank, process: detect::process_id()?, guard: self.options.guard() };
        let mut addresses = vec![self.control.local_ip()];
        if let Some(interfaces) = self.options.interface.as_deref() {
            addresses.extend(interface::resolve_all(Some(interfaces))?.into_iter().skip(1));
        }
        let made = Endpoint::listen(&addresses, self.options.port_range, identity)?;
        *endpoint = Some(made.clone());
        Ok(made)
    }

    /// The way for data from and to other hosts, if one of them was met.
    pub(super) fn endpoint(&self) -> Option<Arc<Endpoint>> {
        lock(&self.endpoint).clone()
    }

    /// How `rank`'s data endpoint is called.
    pub(super) fn callee(&self, rank: Rank) -> Result<Callee> {
        let met = lock(&self.met);
        match (met.addresses.get(&rank), met.places.get(&rank)) {
            (Some(addrs), Some(place)) => Ok(Callee { addrs: addrs.clone(), rank, process: place.process }),
            _ => Err(Error::bootstrap(format!("rank {rank} has no data endpoint"))),
        }
    }

    /// The memory of a rank of this host.
    pub(super) fn arena_of(&self, rank: Rank) -> Arc<PeerArena> {
        lock(&self.met).arenas[&rank].clone()
    }

    /// Where these ranks of the job are.
    pub(super) fn places(&self, members: &[Rank]) -> Vec<Place> {
        let met = lock(&self.met);
        members.iter().map(|member| met.places[member].clone()).collect()
    }

    /// These ranks of the job by who shares memory, numbered as in the list, by lowest number.
    pub(super) fn hosts(&self, members: &[Rank]) -> Result<Vec<Vec<Rank>>> {
        grouping(&self.places(members), self.options.transport)
    }

    /// Everybody's value, in the order of `members`.
    pub(super) fn exchange<T: Serialize + for<'a> Deserialize<'a>>(
        &self,
        tag: u64,
        members: &[Rank],
        mine: &T,
        deadline: Instant,
    ) -> Result<Vec<T>> {
        let bytes = postcard::to_stdvec(mine).map_err(|error| Error::bootstrap(format!("encoding a card: {error}")))?;
        let all = self.control.exchange(tag, members, bytes, deadline)?;
        let decode = |(bytes, rank): (&Vec<u8>, &Rank)| {
            postcard::from_bytes(bytes).map_err(|error| {
                Error::bootstrap(format!("rank {rank} sent a card that this version cannot read: {error}"))
            })
        };
        all.iter().zip(members).map(decode).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
