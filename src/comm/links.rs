//! Which transport a link uses: rings between neighbours; to everybody else RDMA where both have it, and TCP. The one place
//! that knows them all.
#![forbid(unsafe_code)]

use super::dialler::Dialler;
use super::world::World;
use crate::engine::Connector;
use crate::error::Result;
use crate::schedule::Port;
use crate::transport::fabric::{Greeting, Wake};
use crate::transport::shm::Neighbours;
use crate::transport::tcp::{Callee, Endpoint, LinkSide, Strands};
use crate::transport::{Interest, Rx, Tx};
use crate::types::Rank;
use std::collections::HashMap;
use std::sync::Arc;

/// What a link is to the engine.
type Ends = (Box<dyn Tx>, Box<dyn Rx>);

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
    /// Links over libfabric whose connection stands.
    pub(super) greetings: HashMap<Port, Greeting>,
    /// Makes the engine look around.
    pub(super) wake: Wake,
}

impl Connector for Links {
    fn connect(&mut self, port: Port) -> Result<Option<Ends>> {
        let position = self.here.iter().position(|&rank| rank == port.peer);
        if let (Some(position), Some(neighbours)) = (position, &self.neighbours) {
            // Channel numbers of schedules count from 0; the one for messages is the last.
            let channel = usize::from(port.channel).min(neighbours.shape().channels - 1);
            return Ok(Some(neighbours.link(position, channel)));
        }
        if self.greetings.contains_key(&port) {
            return self.greet(port);
        }
        let (endpoint, options) = (self.world.endpoint(), &self.world.options);
        let hub = self.world.fabric.hub_to(self.members[port.peer]);
        let side = LinkSide { comm: self.comm, epoch: self.epoch, me: self.me, peer: port.peer, channel: port.channel };
        let strands = |endpoint: &Endpoint, callee: &Callee| match hub {
            Some(_) => Strands::sockets(1),
            // As many rails as both have.
            None => Strands { rails: endpoint.addrs().len().min(callee.addrs.len()) as u8, sockets: options.sockets },
        };
        let ends = match (endpoint, &mut self.dialler) {
            (Some(endpoint), Some(dialler)) if self.me < port.peer => {
                let callee = self.world.callee(self.members[port.peer])?;
                let strands = strands(&endpoint, &callee);
                dialler.connect(port, callee, side, strands, 2 * options.timeout)?
            }
            (Some(endpoint), _) => {
                let callee = self.world.callee(self.members[port.peer])?;
                endpoint.accepted(side, strands(&endpoint, &callee))?
            }
            (None, _) => unreachable!("a rank without neighbours on every port has an endpoint"),
        };
        let ends = ends.map(|(tx, rx)| (Box::new(tx) as Box<dyn Tx>, Box::new(rx) as Box<dyn Rx>));
        match (ends, hub) {
            (Some(connection), Some(hub)) => {
                let greeting = Greeting::begin(&hub, port.peer, connection, self.wake.clone())?;
                self.greetings.insert(port, greeting);
                self.greet(port)
            }
            (ends, _) => Ok(ends),
        }
    }

    fn is_dialling(&self, port: Port) -> bool {
        self.greetings.contains_key(&port) || self.dialler.as_ref().is_some_and(|dialler| dialler.is_under_way(port))
    }

    fn interests(&self, into: &mut Vec<Interest>) {
        into.extend(self.greetings.values().flat_map(Greeting::interests));
    }
}

impl Links {
    /// Goes on making a link over libfabric.
    fn greet(&mut self, port: Port) -> Result<Option<Ends>> {
        let Some((tx, rx)) = self.greetings.get_mut(&port).map_or(Ok(None), Greeting::advance)? else {
            return Ok(None);
        };
        self.greetings.remove(&port);
        Ok(Some((Box::new(tx), Box::new(rx))))
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(endpoint) = self.world.endpoint() {
            endpoint.forget(self.comm);
        }
    }
}
