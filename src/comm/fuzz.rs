//! What ranks tell each other at the start, and what users set, for [`crate::fuzz`].
#![forbid(unsafe_code)]

use super::options::Options;
use super::world::{Card, some_card};
use crate::bootstrap;
use crate::topology::{HostId, Place, detect};
use crate::transport::shm::AreaCard;

/// Everything that is exchanged as a card.
pub(crate) fn cards(bytes: &[u8]) {
    let _ = postcard::from_bytes::<Card>(bytes);
    let _ = postcard::from_bytes::<AreaCard>(bytes);
    let _ = postcard::from_bytes::<Place>(bytes);
    let _ = postcard::from_bytes::<(Option<u32>, i64)>(bytes);
}

pub(crate) fn some_cards() -> Vec<Vec<u8>> {
    let place = Place { host: HostId("a host".into()), pid: 7, process: u64::MAX, cpu_count: 16 };
    let encoded =
        [postcard::to_stdvec(&some_card()), postcard::to_stdvec(&place), postcard::to_stdvec(&(Some(3u32), -5i64))];
    encoded.map(|bytes| bytes.expect("plain data")).into()
}

/// A setting and its value, and everything else that is written as text.
pub(crate) fn settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (name, value) = text.split_once('=').unwrap_or(("iface", &text));
    let mut options = Options::default();
    if options.set(name, value).is_ok() {
        let _ = options.check();
    }
    bootstrap::fuzz::node_lists(value);
    let _ = detect::host_id(&|_| Some(value.to_string()));
}

pub(crate) fn some_settings() -> Vec<Vec<u8>> {
    let mut settings: Vec<Vec<u8>> = Options::NAMES.iter().map(|name| format!("{name}=1").into_bytes()).collect();
    let more = [
        "port_range=20000-20100",
        "algo=ring",
        "transport=tcp",
        "store=etcd://a:1,host-2.lan,[::1]:2379",
        "iface=10.0.0.0/8",
        "nodes=login,node[01-03,7],r[1-2]n[1-2]",
    ];
    settings.extend(more.map(|text| text.as_bytes().to_vec()));
    settings
}
