//! Which transport a link uses: rings between neighbours, TCP to everybody else. The one place that knows both.
#![forbid(unsafe_code)]

use super::dialler::Dialler;
use super::world::World;
use crate::engine::Connector;
use crate::error::Result;
use crate::schedule::Port;
use crate::transport::shm::Neighbours;
use crate::transport::tcp::LinkSide;
use crate::transport::{Rx, Tx};
use crate::types::Rank;
use std::sync::Arc;

/// Makes the links of one communicator when its engine asks for them.
pub(super) struct Links {
    pub(super) world: Arc<World>,
    pub(super) comm: u64,
    pub(super) epoch: u32,
    pub(super) me: Rank,
    /// Rank of the communicator -> rank of the job.
    pub(super) members: Vec<Rank>,
    /// This host's ranks of the communicator, in the order of `neighbours`' positions.
    pub(super) here: Vec<Rank>,
    pub(super) neighbours: Option<Arc<Neighbours>>,
    /// Where there are several hosts.
    pub(super) dialler: Option<Dialler>,
}

impl Connector for Links {
    fn connect(&mut self, port: Port) -> Result<Option<(Box<dyn Tx>, Box<dyn Rx>)>> {
        let position = self.here.iter().position(|&rank| rank == port.peer);
        if let (Some(position), Some(neighbours)) = (position, &self.neighbours) {
            // Channel numbers of schedules count from 0; the one for messages is the last.
            let channel = usize::from(port.channel).min(neighbours.shape().channels - 1);
            return Ok(Some(neighbours.link(position, channel)));
        }
        let (endpoint, options) = (self.world.endpoint(), &self.world.options);
        let side = LinkSide { comm: self.comm, epoch: self.epoch, me: self.me, peer: port.peer, channel: port.channel };
        let sockets = usize::from(options.sockets);
        let ends = match (endpoint, &mut self.dialler) {
            (Some(_), Some(dialler)) if self.me < port.peer => {
                let callee = self.world.callee(self.members[port.peer])?;
                dialler.connect(port, callee, side, sockets, 2 * options.timeout)?
            }
            (Some(endpoint), _) => endpoint.accepted(side, sockets)?,
            (None, _) => unreachable!("a rank without neighbours on every port has an endpoint"),
        };
        Ok(ends.map(|(tx, rx)| (Box::new(tx) as Box<dyn Tx>, Box::new(rx) as Box<dyn Rx>)))
    }

    fn is_dialling(&self, port: Port) -> bool {
        self.dialler.as_ref().is_some_and(|dialler| dialler.is_under_way(port))
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(endpoint) = self.world.endpoint() {
            endpoint.forget(self.comm);
        }
    }
}
