//! Makes a link out of a connection: both sides register a ring and tell each other where it is. Whoever has the
//! connection has proved to belong to the job, so nobody else learns the key to a ring.
#![forbid(unsafe_code)]

use super::control::Control;
use super::hub::{Hub, Wake};
use super::link::{FabricRx, FabricTx};
use crate::error::Result;
use crate::transport::{Interest, Rx, Tx};
use crate::types::Rank;
use std::sync::Arc;

/// A link in the making. Both sides do the same, and neither waits.
pub struct Greeting {
    hub: Arc<Hub>,
    link: u32,
}

impl Greeting {
    /// Begins over a connection to `peer` on which nothing was exchanged so far. `wake` wakes the link's driver.
    pub fn begin(hub: &Arc<Hub>, peer: Rank, connection: (Box<dyn Tx>, Box<dyn Rx>), wake: Wake) -> Result<Greeting> {
        let control = Control::new(peer, connection.0, connection.1);
        let link = hub.shared().lock().open(peer, control, wake)?;
        Ok(Greeting { hub: hub.clone(), link })
    }

    /// Goes on; the link's ends, once it stands.
    pub fn advance(&mut self) -> Result<Option<(FabricTx, FabricRx)>> {
        let stands = self.hub.shared().driven().connect(self.link)?;
        Ok(stands.then(|| {
            // `connect` has counted both ends, besides this greeting's own place, which goes with it.
            (FabricTx::new(self.hub.clone(), self.link), FabricRx::new(self.hub.clone(), self.link))
        }))
    }

    /// What to sleep on until there is more to do.
    pub fn interests(&self) -> Vec<Interest> {
        self.hub.shared().lock().greeting_interests(self.link).collect()
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        self.hub.shared().lock().release_end(self.link);
    }
}
