//! Newcomers: [`Communicator::enlist`] on their side, [`Communicator::grow`] on the members'.
//!
//! ```text
//!   members                        newcomer
//!   invitation() ---(file, environment, whatever)---> enlist()
//!   grow()  <----------- the root puts them together ----------->
//!   a communicator of members and newcomers, on all of them
//! ```
#![forbid(unsafe_code)]

use super::world::World;
use super::{Communicator, Identity};
use crate::bootstrap::{Control, Enlisting, Invitation};
use crate::comm::options::Options;
use crate::engine::{Call, mix};
use crate::error::{Error, Meeting, Result};
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

const GROW: u64 = u64::from_le_bytes(*b"grow    ");

/// What the members tell the newcomers: which communicator is to be made, and who is in it before them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Offer {
    comm: u64,
    epoch: u32,
    members: Vec<Rank>,
}

impl Communicator {
    /// What a process needs to join this job while it runs. Any rank's will do, for as long as one of the ranks lives that
    /// are members now.
    ///
    /// A job of one rank listens nowhere before its first invitation; that opens it as [`UniqueId::new`](crate::UniqueId::new)
    /// would, on [`Options::interface`] or the first interface that leads somewhere.
    ///
    /// ```
    /// # use roundel::{Communicator, Options, ReduceOp};
    /// let options = Options { interface: Some("lo".into()), ..Options::default() };
    /// let alone = Communicator::threads(1, options)?.remove(0);
    /// let invitation = alone.invitation()?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| Communicator::enlist(&invitation).unwrap().barrier().unwrap());
    ///     let two = loop {
    ///         if let Some(grown) = alone.grow().unwrap() {
    ///             break grown;
    ///         }
    ///     };
    ///     two.barrier().unwrap();
    /// });
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn invitation(&self) -> Result<Invitation> {
        self.engine.check_birthplace()?;
        self.world.control.invitation()
    }

    /// Becomes a rank of a job that runs: blocks until its members [`grow`](Communicator::grow), at most
    /// [`Options::init_timeout`]. Options from `ROUNDEL_*`; those that the members share must be theirs.
    ///
    /// ```
    /// # use roundel::{Communicator, Options, ReduceOp};
    /// let ranks = Communicator::threads(2, Options::default())?;
    /// let invitation = ranks[0].invitation()?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| {
    ///         let newcomer = Communicator::enlist(&invitation).unwrap();
    ///         assert_eq!((newcomer.rank(), newcomer.world(), newcomer.epoch()), (2, 3, 1));
    ///         newcomer.all_reduce_in_place(&mut [1u32], ReduceOp::Sum).unwrap();
    ///     });
    ///     for comm in &ranks {
    ///         scope.spawn(move || {
    ///             // A safe point between two steps; the newcomer may take a moment.
    ///             let grown = loop {
    ///                 if let Some(grown) = comm.grow().unwrap() {
    ///                     break grown;
    ///                 }
    ///             };
    ///             let mut sum = [1u32];
    ///             grown.all_reduce_in_place(&mut sum, ReduceOp::Sum).unwrap();
    ///             assert_eq!(sum, [3]);
    ///         });
    ///     }
    /// });
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn enlist(invitation: &Invitation) -> Result<Communicator> {
        Communicator::enlist_with(invitation, Options::from_env()?)
    }

    /// [`Communicator::enlist`] with options of the caller's.
    pub fn enlist_with(invitation: &Invitation, options: Options) -> Result<Communicator> {
        options.check()?;
        let deadline = Instant::now() + options.init_timeout;
        loop {
            let terms = Enlisting {
                iface: options.interface.clone(),
                port_range: options.port_range,
                rhythm: options.rhythm(),
                guard: options.guard(),
                store: options.store.clone(),
            };
            let (control, admitted) = Control::enlist(invitation, terms, deadline)?;
            let offer: Offer = postcard::from_bytes(&admitted.offer).map_err(|_| {
                Error::bootstrap("the members' offer makes no sense; use the same Roundel on all ranks")
            })?;
            let world = World::of(control, options.clone())?;
            match Communicator::met(world, offer, &admitted.recruits, deadline) {
                // Somebody died while all got to know each other. The members may try again, and so does this newcomer.
                Err(error @ Error::PeerLost { .. }) if Instant::now() < deadline => {
                    tracing::info!(%error, "the job did not grow; this newcomer enlists again");
                }
                outcome => return outcome,
            }
        }
    }

    /// Admits everybody who waits to join: the new communicator has this one's ranks, in their order, and then the newcomers.
    /// `None` where nobody waits, at the price of one round through the control plane (some 100 us). This communicator
    /// stays what it is and can be used on.
    ///
    /// All ranks make this call, between two steps of their work. Blocks until all have, at most
    /// [`Options::init_timeout`]. An error, the same on all ranks, when one of them is gone
    /// ([`shrink`](Communicator::shrink) first) or a newcomer dies meanwhile (grow again).
    pub fn grow(&self) -> Result<Option<Communicator>> {
        self.engine.check_birthplace()?;
        // Ranks that call something else, or have found this communicator failed, are not waited for.
        self.run(&Call::meeting(Meeting::Grow))?;
        // Of newcomers that died as they were admitted, the last time.
        self.world.forget_gone();
        let deadline = Instant::now() + self.options().init_timeout;
        // Relaxed: only a count; all ranks grow in the same order.
        let number = self.growths.fetch_add(1, Ordering::Relaxed);
        let tag = mix(mix(self.comm, GROW), number);
        let offer = Offer { comm: mix(tag, 1), epoch: self.epoch + 1, members: self.members.clone() };
        let bytes = postcard::to_stdvec(&offer).map_err(|error| Error::bootstrap(format!("an offer: {error}")))?;
        let recruits = self.world.control.grow(tag, &self.members, bytes, deadline)?;
        if recruits.is_empty() {
            return Ok(None);
        }
        let grown = Communicator::met(self.world.clone(), offer, &recruits, deadline);
        if grown.is_err() {
            self.world.forget_gone();
        }
        grown.map(Some)
    }

    /// Members and newcomers get to know each other and make the communicator of the offer.
    fn met(world: Arc<World>, offer: Offer, recruits: &[Rank], deadline: Instant) -> Result<Communicator> {
        let Offer { comm, epoch, members } = offer;
        let members: Vec<Rank> = members.into_iter().chain(recruits.iter().copied()).collect();
        if !members.contains(&world.rank) {
            return Err(Error::bootstrap("the members' offer leaves this rank out"));
        }
        let acquaintance = world.meet(comm, &members, deadline)?;
        Communicator::assemble_after(acquaintance, world, Identity { comm, epoch }, members, deadline)
    }
}
