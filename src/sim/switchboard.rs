//! Who is linked with whom: what the real connector, its dialler and its endpoint do, without sockets.
#![forbid(unsafe_code)]

use super::climate::Climate;
use super::{Bug, Mistake};
use crate::engine::Connector;
use crate::error::{Error, Result};
use crate::schedule::Port;
use crate::transport::sim::{Network, PipeId, SimRx, SimTx};
use crate::transport::{Rx, Tx};
use crate::types::Rank;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One side of a link: communicator, this rank, the other, channel. Ranks are the communicator's.
pub(super) type Side = (u64, Rank, Rank, u8);

/// What the simulation knows of a pipe. Ranks are the job's.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) comm: u64,
    channel: u8,
    pub(super) from: Rank,
    pub(super) to: Rank,
    /// The reader, as the communicator counts.
    pub(super) reader: Rank,
    pub(super) sender: Rank,
    pub(super) is_socket: bool,
    /// When the last of what is on its way comes; nothing overtakes it.
    pub(super) arrives_by: u64,
    pub(super) acknowledged_by: u64,
    /// The connection was reset: what is on its way is lost.
    pub(super) is_reset: bool,
}

/// All links of a job.
#[derive(Clone)]
pub(super) struct Switchboard(Arc<Mutex<Links>>);

struct Links {
    network: Network,
    climate: Climate,
    bug: Option<Bug>,
    lines: Vec<Line>,
    ready: BTreeMap<Side, (SimTx, SimRx)>,
    failed: BTreeMap<Side, Error>,
    dialling: BTreeSet<Side>,
    requests: Vec<Side>,
}

impl Switchboard {
    /// Some bugs are its own.
    pub(super) fn new(network: Network, climate: Climate, bug: Option<Bug>) -> Switchboard {
        Switchboard(Arc::new(Mutex::new(Links {
            network,
            climate,
            bug,
            lines: Vec::new(),
            ready: BTreeMap::new(),
            failed: BTreeMap::new(),
            dialling: BTreeSet::new(),
            requests: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connector of one rank on one communicator.
    pub(super) fn connector(&self, comm: u64, me: Rank, members: Vec<Rank>, here: Vec<Rank>) -> Box<dyn Connector> {
        Box::new(SimConnector { board: self.clone(), comm, me, members, here })
    }

    /// Links that were asked for since this was last called.
    pub(super) fn requests(&self) -> Vec<Side> {
        std::mem::take(&mut self.lock().requests)
    }

    /// Both ends of a link stand.
    pub(super) fn connect(&self, side: Side, members: &[Rank]) {
        self.lock().join(side, members, true);
    }

    /// Dialling has failed.
    pub(super) fn fail(&self, side: Side, error: Error) {
        self.lock().failed.insert(side, error);
    }

    pub(super) fn line<R>(&self, id: PipeId, look: impl FnOnce(&mut Line) -> R) -> R {
        look(&mut self.lock().lines[id])
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        self.lock().lines.clone()
    }

    /// Ends that nobody has taken are gone with the rank that they were for.
    pub(super) fn forget(&self, comm: u64, me: Rank) {
        let gone: Vec<(SimTx, SimRx)> = {
            let mut links = self.lock();
            let sides: Vec<Side> =
                links.ready.keys().filter(|(of, rank, ..)| (*of, *rank) == (comm, me)).copied().collect();
            sides.into_iter().filter_map(|side| links.ready.remove(&side)).collect()
        };
        drop(gone);
    }
}

impl Links {
    /// Makes both directions; this side's ends, and the other's, wait to be taken.
    fn join(&mut self, side: Side, members: &[Rank], is_socket: bool) {
        let (comm, me, peer, channel) = side;
        let mut one_way = |sender: Rank, reader: Rank| {
            let mut habit = self.climate.habit(is_socket);
            habit.overtakes = self.bug == Some(Bug::Overtaking);
            let (id, tx, rx) = self.network.pipe(habit);
            debug_assert_eq!(id, self.lines.len());
            let (from, to) = (members[sender], members[reader]);
            if matches!(self.bug, Some(Bug::LinkReused | Bug::Engine(Mistake::OldCallAccepted))) {
                let is_last = |line: &Line| (line.from, line.to, line.channel) == (from, to, channel);
                let last = self.lines.iter().rposition(is_last);
                last.into_iter().for_each(|last| self.network.inherit(id, last));
            }
            self.lines.push(Line {
                comm,
                channel,
                from,
                to,
                reader,
                sender,
                is_socket,
                arrives_by: 0,
                acknowledged_by: 0,
                is_reset: false,
            });
            (tx, rx)
        };
        let ((tx, far_rx), (far_tx, rx)) = (one_way(me, peer), one_way(peer, me));
        self.ready.insert(side, (tx, rx));
        self.ready.insert((comm, peer, me, channel), (far_tx, far_rx));
    }
}

struct SimConnector {
    board: Switchboard,
    comm: u64,
    me: Rank,
    members: Vec<Rank>,
    /// Ranks on this host.
    here: Vec<Rank>,
}

impl SimConnector {
    fn side(&self, port: Port) -> Side {
        (self.comm, self.me, port.peer, port.channel)
    }
}

impl Connector for SimConnector {
    fn connect(&mut self, port: Port) -> Result<Option<(Box<dyn Tx>, Box<dyn Rx>)>> {
        let side = self.side(port);
        let mut links = self.board.lock();
        if self.here.contains(&port.peer) && !links.ready.contains_key(&side) {
            links.join(side, &self.members, false);
        }
        if let Some((tx, rx)) = links.ready.remove(&side) {
            links.dialling.remove(&side);
            return Ok(Some((Box::new(tx), Box::new(rx))));
        }
        if let Some(error) = links.failed.remove(&side) {
            links.dialling.remove(&side);
            return Err(error);
        }
        // The lower rank dials.
        if self.me < port.peer && links.dialling.insert(side) {
            links.requests.push(side);
        }
        Ok(None)
    }

    fn is_dialling(&self, port: Port) -> bool {
        self.board.lock().dialling.contains(&self.side(port))
    }
}
