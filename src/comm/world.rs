//! What a rank has for all communicators of its job: the control plane, its data endpoint, its arena, and where
//! everybody else is.
#![forbid(unsafe_code)]

use super::options::Options;
use crate::bootstrap::{Config, Control};
use crate::error::{Error, Result};
use crate::topology::{Place, detect, grouping};
use crate::transport::shm::{Arena, Door, LocalCard, PeerArena, attach};
use crate::transport::tcp::Endpoint;
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Exchanges of the job's start; those of communicators are tagged by their number.
const PLACES: u64 = 1;
const CARDS: u64 = 2;

/// How a rank can be reached, once it is known who shares memory with whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Card {
    /// Its data endpoint, where there are several hosts.
    data: Option<SocketAddr>,
    /// The door to its arena, where it has neighbours.
    local: Option<LocalCard>,
}

/// One rank's part in a job.
pub(super) struct World {
    pub(super) rank: Rank,
    pub(super) options: Options,
    /// Ranks of the job by who shares memory.
    pub(super) hosts: Vec<Vec<Rank>>,
    pub(super) places: Vec<Place>,
    pub(super) arena: Arc<Arena>,
    /// The arenas of this host's ranks, this one's included.
    pub(super) arenas: HashMap<Rank, Arc<PeerArena>>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    addresses: Vec<Option<SocketAddr>>,
    /// Dropped last: its goodbye tells the others that this rank is done.
    pub(super) control: Arc<Control>,
}

impl World {
    /// Meets the other ranks. Blocks until all have come, or fails on all of them when the time is over.
    /// Returns the door too: it must stay open until everybody has attached.
    pub(super) fn join(config: Config, options: Options) -> Result<(Arc<World>, Option<Door>)> {
        options.check()?;
        let (rank, world) = (config.rank, config.world);
        if world == 0 || rank >= world {
            return Err(Error::invalid(format!("rank {rank} of a world of {world}")));
        }
        let deadline = Instant::now() + options.init_timeout;
        let secret = config.root.secret().clone();
        let place = detect::place()?;
        let control = Control::join(config)?;
        let everybody: Vec<Rank> = (0..world).collect();
        let places: Vec<Place> = exchange(&control, PLACES, &everybody, &place, deadline)?;
        let hosts = grouping(&places, options.transport)?;
        let neighbours = hosts.iter().find(|host| host.contains(&rank)).expect("grouping places every rank");

        let endpoint = match hosts.len() {
            1 => None,
            _ => Some(Endpoint::listen(control.local_ip(), options.port_range, secret)?),
        };
        let arena = Arena::create(options.arena_bytes)?;
        let (door, local) = match neighbours.len() {
            1 => (None, None),
            _ => Door::open(&arena).map(|(door, card)| (Some(door), Some(card)))?,
        };
        let mine = Card { data: endpoint.as_ref().map(|endpoint| endpoint.addr()), local };
        let cards: Vec<Card> = exchange(&control, CARDS, &everybody, &mine, deadline)?;
        let mut arenas = HashMap::new();
        for &neighbour in neighbours {
            let view = match &cards[neighbour].local {
                _ if neighbour == rank => Arc::new(PeerArena::of_this_process(arena.clone())),
                Some(card) => attach(card, deadline)?,
                None => return Err(Error::bootstrap(format!("rank {neighbour} does not share its memory"))),
            };
            arenas.insert(neighbour, view);
        }
        let addresses = cards.into_iter().map(|card| card.data).collect();
        let world = World { rank, options, hosts, places, arena, arenas, endpoint, addresses, control };
        Ok((Arc::new(world), door))
    }

    /// Where `rank`'s data endpoint listens.
    pub(super) fn address(&self, rank: Rank) -> Result<SocketAddr> {
        self.addresses[rank].ok_or_else(|| Error::bootstrap(format!("rank {rank} has no data endpoint")))
    }

    /// Everybody's value, in the order of `members`.
    pub(super) fn exchange<T: Serialize + for<'a> Deserialize<'a>>(
        &self,
        tag: u64,
        members: &[Rank],
        mine: &T,
        deadline: Instant,
    ) -> Result<Vec<T>> {
        exchange(&self.control, tag, members, mine, deadline)
    }
}

fn exchange<T: Serialize + for<'a> Deserialize<'a>>(
    control: &Control,
    tag: u64,
    members: &[Rank],
    mine: &T,
    deadline: Instant,
) -> Result<Vec<T>> {
    let bytes = postcard::to_stdvec(mine).map_err(|error| Error::bootstrap(format!("encoding a card: {error}")))?;
    let all = control.exchange(tag, members, bytes, deadline)?;
    let decode = |(bytes, rank): (&Vec<u8>, &Rank)| {
        postcard::from_bytes(bytes).map_err(|error| {
            Error::bootstrap(format!("rank {rank} sent a card that this version cannot read: {error}"))
        })
    };
    all.iter().zip(members).map(decode).collect()
}
