//! Files of measurements, for [`crate::fuzz`].
#![forbid(unsafe_code)]

use super::costs::{Costs, LinkClass, MeasuredLink};
use super::file::{Profile, decode, encode};
use super::table::{Rule, Table, Way};
use super::{Origin, Situation, choose};
use crate::schedule::catalogue::{Algorithm, Shape};
use crate::schedule::cost::LinkCost;
use crate::types::Collective;

/// A file, and the same bytes as the body of one; what passes all checks is used.
pub(crate) fn tuning_files(bytes: &[u8]) {
    let profiles = [decode(bytes).ok(), postcard::from_bytes::<Profile>(bytes).ok()];
    for profile in profiles.into_iter().flatten() {
        for shape in [Shape::one_host(Collective::AllReduce, 3), Shape::apart(Collective::Broadcast, 3)] {
            if profile.costs.check().is_ok() && profile.table.check(&shape.hosts).is_ok() {
                for bytes in [0, 8, 1 << 20, usize::MAX] {
                    let table = Some(&profile.table);
                    let _ = choose(&shape, Situation { table, mapped: bytes == 8, ..Situation::sized(bytes) });
                }
            }
        }
    }
}

pub(crate) fn some_tuning_files() -> Vec<Vec<u8>> {
    let cost = LinkCost { latency_ns: 1e4, ns_per_byte: 0.5 };
    let remote = Some(MeasuredLink { class: LinkClass::TcpBetweenHosts, cost, step_ns: 1e3 });
    let costs = Costs { local: None, remote, memory_ns_per_byte: 0.1, reduce_ns_per_byte: 0.1, sync_ns: 0.0 };
    let way = Way { channels: 2, slice_bytes: Some(1 << 20), ..Way::plain(Algorithm::Binomial) };
    let rule = |up_to_bytes, way| Rule { collective: Collective::Broadcast, mapped: false, up_to_bytes, way };
    let table = Table { origin: Origin::Cache, rules: vec![rule(4096, None), rule(u64::MAX, Some(way))] };
    let profile = Profile { fingerprint: "roundel; 3 ranks".into(), costs, table };
    vec![encode(&profile), postcard::to_stdvec(&profile).expect("plain data")]
}
