//! Who reaches whom through libfabric: every rank says which provider it has, and two that have the same use it.
#![forbid(unsafe_code)]

use super::options::Options;
use crate::error::{Error, Result};
use crate::topology::{Place, TransportChoice};
use crate::transport::fabric::{Hub, provider};
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a rank tells the others of its endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Offer {
    /// It does not use libfabric.
    Nothing,
    /// It has an endpoint of this provider.
    Provider(String),
    /// It was asked for one and has none, for this reason.
    Unavailable(String),
}

/// This rank's endpoint, and what those that it has met have.
#[derive(Default)]
pub(super) struct Fabric {
    /// Opened when it is first wanted.
    hub: Mutex<Option<Arc<Hub>>>,
    /// By rank of the job.
    offers: Mutex<BTreeMap<Rank, Offer>>,
}

impl Fabric {
    /// Opens this rank's endpoint, where one is wanted: `fabric` wants it by all means, `auto` where there is hardware for it.
    pub(super) fn offer(&self, options: &Options, from_afar: bool, source: IpAddr) -> Offer {
        let mut hub = lock(&self.hub);
        if let Some(hub) = &*hub {
            return Offer::Provider(hub.provider().to_string());
        }
        let wish = options.fabric_provider.as_deref();
        let providers = match options.transport {
            // What goes over libfabric is in clear text.
            _ if options.encrypt => Ok(Vec::new()),
            TransportChoice::Fabric => provider::preference(wish),
            TransportChoice::Auto => provider::hardware(wish),
            _ => Ok(Vec::new()),
        };
        let providers = providers.unwrap_or_default();
        if !from_afar || providers.is_empty() {
            return Offer::Nothing;
        }
        match Hub::open(&providers, Some(source)) {
            Ok(opened) => Offer::Provider(hub.insert(opened).provider().to_string()),
            Err(error) if options.transport == TransportChoice::Fabric => Offer::Unavailable(error.to_string()),
            Err(error) => {
                tracing::warn!("this host has RDMA devices, but TCP is used: {error}");
                Offer::Nothing
            }
        }
    }

    /// Looks through the offers of ranks that meet, which are the same on each of them, and so is the error: where
    /// libfabric must be used all must have it.
    pub(super) fn agree(
        &self,
        choice: TransportChoice,
        members: &[Rank],
        offers: Vec<Offer>,
        places: &[Place],
    ) -> Result<()> {
        let mut objections = (0..offers.len()).filter_map(|index| objection(members, index, &offers, places));
        if choice == TransportChoice::Fabric
            && let Some(why) = objections.next()
        {
            return Err(Error::unsupported(format!("ROUNDEL_TRANSPORT=fabric: {why}")));
        }
        drop(objections);
        lock(&self.offers).extend(members.iter().copied().zip(offers));
        Ok(())
    }

    /// The endpoint, if `peer` can be reached through it.
    pub(super) fn hub_to(&self, peer: Rank) -> Option<Arc<Hub>> {
        let hub = lock(&self.hub).clone()?;
        let matches = match lock(&self.offers).get(&peer) {
            Some(Offer::Provider(provider)) => provider == hub.provider(),
            _ => false,
        };
        matches.then_some(hub)
    }

    /// True when all of these ranks reach each other through libfabric.
    pub(super) fn joins_all(&self, members: &[Rank]) -> bool {
        let offers = lock(&self.offers);
        let first = members.first().and_then(|rank| offers.get(rank));
        matches!(first, Some(Offer::Provider(_))) && members.iter().all(|rank| offers.get(rank) == first)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why this member cannot take part.
fn objection(members: &[Rank], index: usize, offers: &[Offer], places: &[Place]) -> Option<String> {
    let (rank, root) = (members[index], members[0]);
    let provider = match (&offers[index], &offers[0]) {
        (Offer::Unavailable(why), _) => return Some(format!("rank {rank}: {why}; unset it to use TCP between hosts")),
        (Offer::Provider(mine), Offer::Provider(first)) if mine != first => {
            return Some(format!(
                "rank {rank} has provider {mine} and rank {root} {first}; choose one with ROUNDEL_FABRIC_PROVIDER"
            ));
        }
        (Offer::Provider(provider), _) => provider,
        (Offer::Nothing, _) => return None,
    };
    if provider != provider::SHARED_MEMORY {
        return None;
    }
    // It finds peers by their process's number on one host, and takes two endpoints of one process for one.
    let place = &places[index];
    if place.host != places[0].host {
        return Some(format!(
            "rank {rank} (host {}) shares no memory with rank {root}; provider shm needs that",
            place.host
        ));
    }
    let twin = members[places[..index].iter().position(|other| other.process == place.process)?];
    Some(format!("ranks {twin} and {rank} are in one process, which provider shm cannot tell apart; use another"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::HostId;

    fn offered(names: &[&str]) -> Vec<Offer> {
        names.iter().map(|name| Offer::Provider(name.to_string())).collect()
    }

    fn places(hosts_and_processes: &[(&str, u64)]) -> Vec<Place> {
        let place = |&(host, process): &(&str, u64)| Place { host: HostId(host.into()), pid: 1, process, cpu_count: 2 };
        hosts_and_processes.iter().map(place).collect()
    }

    fn agree(choice: TransportChoice, offers: &[Offer], places: &[Place]) -> Result<Fabric> {
        let (fabric, members): (_, Vec<Rank>) = (Fabric::default(), (0..offers.len()).collect());
        fabric.agree(choice, &members, offers.to_vec(), places).map(|()| fabric)
    }

    fn refused(offers: &[Offer], places: &[Place]) -> String {
        agree(TransportChoice::Fabric, offers, places).err().expect("it is refused").to_string()
    }

    const APART: &[(&str, u64)] = &[("a", 1), ("b", 2), ("c", 3)];

    #[test]
    fn only_equal_providers_meet() {
        let fabric = agree(TransportChoice::Auto, &offered(&["efa", "efa", "net"]), &places(APART)).unwrap();
        assert!(fabric.joins_all(&[0, 1]) && !fabric.joins_all(&[0, 1, 2]) && !fabric.joins_all(&[]));
        let nothing = agree(TransportChoice::Auto, &[Offer::Nothing, Offer::Nothing], &places(APART)).unwrap();
        assert!(!nothing.joins_all(&[0, 1]));
    }

    #[test]
    fn who_must_have_it_and_has_not_is_named() {
        let mut offers = offered(&["efa", "efa", "net"]);
        let error = refused(&offers, &places(APART));
        assert!(error.contains("rank 2 has provider net") && error.contains("ROUNDEL_FABRIC_PROVIDER"), "{error}");
        offers[1] = Offer::Unavailable("no library".into());
        let error = refused(&offers, &places(APART));
        assert!(error.contains("rank 1: no library") && error.contains("TCP"), "{error}");
    }

    #[test]
    fn shared_memory_joins_processes_of_one_host_only() {
        let offers = offered(&["shm"; 3]);
        assert!(agree(TransportChoice::Fabric, &offers, &places(&[("a", 1), ("a", 2), ("a", 3)])).is_ok());
        assert!(refused(&offers, &places(APART)).contains("rank 1 (host b)"));
        assert!(refused(&offers, &places(&[("a", 1), ("a", 2), ("a", 1)])).contains("ranks 0 and 2"));
        // What crashes there works elsewhere.
        assert!(agree(TransportChoice::Fabric, &offered(&["net"; 2]), &places(&[("a", 1), ("a", 1)])).is_ok());
    }

    #[test]
    fn who_does_not_want_it_never_opens_it() {
        let source = IpAddr::from([127, 0, 0, 1]);
        use TransportChoice::*;
        for (transport, from_afar) in [(Tcp, true), (Shm, false), (Fabric, false)] {
            let options = Options { transport, ..Options::default() };
            assert_eq!(super::Fabric::default().offer(&options, from_afar, source), Offer::Nothing);
        }
    }
}
