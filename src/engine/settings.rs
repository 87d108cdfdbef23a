//! What is the same for every call of a communicator, and what follows from it: the shape that algorithms see, and the
//! choice among them.
#![forbid(unsafe_code)]

use super::audit::Audit;
use super::call::Call;
use super::task::mix;
use crate::error::Result;
use crate::schedule::catalogue::{Algorithm, Shape};
use crate::tuner::{Choice, Situation, Table, Way, choose};
use crate::types::{Collective, Rank};
use std::sync::Arc;
use std::time::Duration;

/// What is the same for every call of a communicator.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) me: Rank,
    /// Ranks that share memory; every rank once.
    pub(crate) hosts: Vec<Vec<Rank>>,
    pub(crate) epoch: u32,
    /// What was set, of the way that calls go; the table says the rest.
    pub(crate) channels: Option<u8>,
    pub(crate) wish: Option<Algorithm>,
    pub(crate) slice_bytes: Option<usize>,
    /// What was measured; the same on all ranks.
    pub(crate) table: Option<Arc<Table>>,
    pub(crate) reproducible: bool,
    /// Results that are the same on all ranks are compared.
    pub(crate) verifies: bool,
    pub(crate) timeout: Duration,
    /// The same for the meeting that a split begins with: ranks may have much to do before they come.
    pub(crate) meeting_timeout: Duration,
    /// Digest of what was set and must agree between ranks.
    pub(crate) digest: u64,
    /// Bytes of one staging half.
    pub(crate) stage_bytes: usize,
}

impl Settings {
    /// Digest of what was set and of what was measured.
    pub(super) fn agreed(&self) -> u64 {
        self.table.as_ref().map_or(self.digest, |table| mix(self.digest, table.digest()))
    }

    pub(crate) fn world(&self) -> usize {
        self.hosts.iter().map(Vec::len).sum()
    }

    /// The ranks of this rank's host, itself included.
    pub(crate) fn neighbours(&self) -> &[Rank] {
        match self.hosts.as_slice() {
            [host] => host,
            hosts => hosts.iter().find(|host| host.contains(&self.me)).map_or(&[], Vec::as_slice),
        }
    }

    /// The audit that follows this call, if one does.
    pub(super) fn audit(&self, call: &Call) -> Option<Audit> {
        let applies = self.verifies && Audit::applies_to(call, self.world());
        applies.then(|| Audit::new(call, self.me, self.world()))
    }

    /// What algorithms need to know of a call.
    pub(crate) fn shape(&self, call: &Call, in_place: bool) -> Shape {
        Shape {
            collective: call.collective,
            hosts: self.hosts.clone(),
            root: if call.collective.has_root() || call.collective == Collective::SendRecv { call.root } else { 0 },
            peer: if call.collective == Collective::SendRecv { call.peer } else { 0 },
            channels: 1,
            in_place,
        }
    }

    /// The way for a call, given whether peers can map its buffers, and why it is that one.
    pub(crate) fn choose(&self, shape: &Shape, call: &Call, mapped: bool) -> Result<Choice> {
        let situation = Situation {
            bytes: call.vector_bytes(self.world()),
            padded_bytes: call.padded_bytes(self.world()),
            mapped,
            uneven_exchange: call.is_exchange(),
            reproducible: self.reproducible,
            wish: self.wish,
            table: self.table.as_deref(),
        };
        let Choice { way, origin } = choose(shape, situation)?;
        let channels = match call.collective {
            // All messages of a pair take one link, so their bytes must come in one run.
            Collective::SendRecv => 1,
            _ => self.channels.unwrap_or(way.channels),
        };
        let slice_bytes = self.slice_bytes.or(way.slice_bytes).filter(|_| !way.algorithm.single_round());
        Ok(Choice { way: Way { channels, slice_bytes, ..way }, origin })
    }
}
