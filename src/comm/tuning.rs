//! How a communicator's ranks come to one table: the first member decides, all others are told.
//!
//! ```text
//!   first member                                  the others
//!   reads the file for this topology
//!   "fixed", "measure" or a table  ────────────>  on its card, with everything else that is exchanged at the start
//!                                                 when a job begins, and only then, on a communicator made for it:
//!   measure costs        <─────────────────────>  measure costs
//!   decide, or doubt the table
//!   the table that holds ────────────────────────> the same
//! ```
//!
//! Whatever other members read or set themselves plays no part. That all have received the same table is checked with their
//! first call: its digest is part of every call's signature.
#![forbid(unsafe_code)]

use super::options::Options;
use super::probe::{self, Thoroughness};
use super::world::World;
use super::{Communicator, Identity, WORLD_COMM};
use crate::device::host::Isa;
use crate::engine::mix;
use crate::error::{Error, Result};
use crate::topology::Place;
use crate::tuner::file::{self, Profile, Unusable};
use crate::tuner::{Costs, LinkClass, Setting, Table, decide};
use crate::types::Rank;
#[cfg(any(test, feature = "fuzzing"))]
use crate::{
    schedule::catalogue::Algorithm,
    tuner::{Origin, Rule, Way},
    types::Collective,
};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

/// Whether the choice of algorithm follows measurements.
///
/// Rank 0 decides for all: it reads what was kept, starts a measurement, and sends its table to everybody, so that all choose
/// alike. What was kept is looked at sceptically: a few quick measurements (some 10 ms) must not contradict it. A measurement
/// takes about 200 ms with 4 ranks, more where ranks outnumber cores, and is not made with more than 16; its outcome is kept for
/// the next job. Both happen once, when the job begins; communicators made from that one by `split`, `shrink` or `grow` use
/// what is kept and measure nothing. A world of one never does either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tune {
    /// `auto`: use what was kept for this topology. Without it nothing is measured, and no job begins later.
    #[default]
    Auto,
    /// `0`: choose by fixed sizes.
    Off,
    /// `1`: use what was kept, and measure where nothing was.
    On,
    /// `force`: measure; what was kept is neither used nor replaced.
    Force,
}

impl FromStr for Tune {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Tune, ()> {
        match text.trim() {
            "auto" => Ok(Tune::Auto),
            "0" => Ok(Tune::Off),
            "1" => Ok(Tune::On),
            "force" => Ok(Tune::Force),
            _ => Err(()),
        }
    }
}

const TUNING: u64 = u64::from_le_bytes(*b"tuning  ");

/// More ranks than this are not simulated while a job waits to begin.
const MOST_RANKS: usize = 16;

/// What the first member is about to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Intention {
    /// Choose by fixed sizes.
    Fixed,
    /// Use this, unless a quick look speaks against it.
    Kept { costs: Costs, table: Table },
    /// Measure.
    Measure,
}

impl Intention {
    /// The table to begin with. An error where the first member sent nonsense.
    pub(super) fn table(&self, hosts: &[Vec<Rank>]) -> Result<Option<Table>> {
        let Intention::Kept { table, .. } = self else { return Ok(None) };
        check(table, hosts)?;
        Ok(Some(table.clone()))
    }
}

/// An intention that makes sense.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn some_intention() -> Intention {
    let costs = Costs { local: None, remote: None, memory_ns_per_byte: 0.1, reduce_ns_per_byte: 0.1, sync_ns: 100.0 };
    let way = Some(Way::plain(Algorithm::Binomial));
    let rule = Rule { collective: Collective::Broadcast, mapped: false, up_to_bytes: 4096, way };
    Intention::Kept { costs, table: Table { origin: Origin::Cache, rules: vec![rule] } }
}

fn check(table: &Table, hosts: &[Vec<Rank>]) -> Result<()> {
    table.check(hosts).map_err(|what| {
        Error::bootstrap(format!("rank 0 sent a table of algorithms with {what}; use the same Roundel on all ranks"))
    })
}

/// What choices depend on here, besides measurements.
pub(super) fn setting(options: &Options, hosts: &[Vec<Rank>]) -> Setting {
    Setting { hosts: hosts.to_vec(), stage_bytes: options.stage_bytes, ring_bytes: options.ring_bytes }
}

/// What the first member of a communicator wants, from its options and files. `begins`: it is the first of its job.
pub(super) fn intention(world: &World, members: &[Rank], setting: &Setting, begins: bool) -> Intention {
    let options = &world.options;
    if members.len() == 1 || options.tune == Tune::Off {
        return Intention::Fixed;
    }
    let kept = match options.tune {
        Tune::Force => None,
        _ => kept(&fingerprint(world, members, setting), options, setting, begins),
    };
    match (kept, options.tune) {
        (Some(Profile { costs, table, .. }), _) => Intention::Kept { costs, table },
        (None, Tune::On | Tune::Force) if begins && members.len() <= MOST_RANKS => Intention::Measure,
        (None, Tune::On | Tune::Force) if begins => {
            tracing::info!("{} ranks are too many to measure at the start; roundel-tune can", members.len());
            Intention::Fixed
        }
        _ => Intention::Fixed,
    }
}

/// The file for a topology.
fn path(options: &Options, fingerprint: &str) -> Option<PathBuf> {
    file::path(options.tune_file.as_deref(), fingerprint, &|name| std::env::var(name).ok())
}

/// What was kept for this topology. What cannot be used is told once a job.
fn kept(fingerprint: &str, options: &Options, setting: &Setting, begins: bool) -> Option<Profile> {
    let path = path(options, fingerprint)?;
    match file::load(&path, fingerprint, &setting.hosts) {
        Ok(profile) => return Some(profile),
        // Nobody said that there would be one.
        Err(Unusable::Absent) if options.tune_file.is_none() => {}
        Err(why) if begins => tracing::warn!("measurements in {} are not used: {why}", path.display()),
        Err(why) => tracing::debug!("measurements in {} are not used: {why}", path.display()),
    }
    None
}

/// All that measurements depend on and that is known without measuring.
fn fingerprint(world: &World, members: &[Rank], setting: &Setting) -> String {
    let options = &world.options;
    let places = world.places(members);
    let cores: Vec<usize> = places.iter().map(|place| place.cpu_count).collect();
    let (local, remote) = link_classes(world, members, &places, &setting.hosts);
    let class = |class: Option<LinkClass>| class.map_or("none".to_string(), |class| class.to_string());
    let switch = |on: bool| if on { "on" } else { "off" };
    [
        format!("roundel {}", env!("CARGO_PKG_VERSION")),
        format!("{} {}, {}", std::env::consts::ARCH, Isa::chosen().name(), processor()),
        format!("hosts {:?}", setting.hosts),
        format!("cores {cores:?}"),
        format!("links {}, {}", class(local), class(remote)),
        format!("sockets {}", options.sockets),
        format!("encryption {}, checksums {}", switch(options.encrypt), switch(options.checksum)),
        format!("staging {}, rings {}", options.stage_bytes, options.ring_bytes),
    ]
    .join("; ")
}

/// The processor's name, as the system knows it.
fn processor() -> String {
    // The first processor stands for all, and has its name near the beginning: the whole list takes long to make.
    const BEGINNING_BYTES: u64 = 4096;
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open("/proc/cpuinfo") {
        // What cannot be read has no name.
        let _ = file.take(BEGINNING_BYTES).read_to_string(&mut text);
    }
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("an unknown processor".into(), |(_, name)| name.trim().replace(';', ","))
}

/// What links inside and between hosts are made of.
fn link_classes(
    world: &World,
    members: &[Rank],
    places: &[Place],
    hosts: &[Vec<Rank>],
) -> (Option<LinkClass>, Option<LinkClass>) {
    let neighbours = hosts.iter().find(|host| host.len() > 1);
    let local = neighbours.map(|host| match host.iter().all(|&rank| places[rank].process == places[host[0]].process) {
        true => LinkClass::Threads,
        false => LinkClass::SharedMemory,
    });
    let remote = (hosts.len() > 1).then(|| match places.iter().all(|place| place.host == places[0].host) {
        _ if world.fabric.joins_all(members) => LinkClass::Fabric,
        true => LinkClass::TcpWithinHost,
        false => LinkClass::TcpBetweenHosts,
    });
    (local, remote)
}

impl Communicator {
    /// What links inside and between the hosts of this communicator are made of.
    pub(super) fn link_classes(&self) -> (Option<LinkClass>, Option<LinkClass>) {
        let places = self.world.places(&self.members);
        link_classes(&self.world, &self.members, &places, &self.hosts)
    }

    /// What choices depend on here, besides measurements.
    pub(crate) fn setting(&self) -> Setting {
        setting(self.options(), &self.hosts)
    }

    /// From now on calls go the ways of this table, or of none. Collective: all ranks do this between the same two calls.
    pub(crate) fn follow(&self, table: Option<Table>) {
        self.engine.with_lane(|lane| lane.follow(table.map(Arc::new)));
    }

    /// The table in force.
    #[cfg(any(test, feature = "tools"))]
    pub(crate) fn table(&self) -> Option<Table> {
        self.engine.with_lane(|lane| lane.settings.table.as_deref().cloned())
    }

    /// What things cost here. Collective; rank 0's answer is the one that counts.
    #[cfg(any(test, feature = "tools"))]
    pub(crate) fn measure_costs(&self) -> Result<Costs> {
        probe::costs(self, Thoroughness::Measure)
    }

    /// Keeps measurements for jobs to come: in this file, or where such jobs look for it.
    pub(crate) fn keep(&self, costs: Costs, table: Table, at: Option<PathBuf>) -> Result<PathBuf> {
        let path = at.or_else(|| path(self.options(), &self.fingerprint()));
        let path =
            path.ok_or_else(|| Error::invalid("there is no cache to write to; set ROUNDEL_TUNE_FILE or HOME"))?;
        let profile = Profile { fingerprint: self.fingerprint(), costs, table };
        file::store(&path, &profile).map_err(|error| Error::system(format!("writing {}", path.display()), error))?;
        Ok(path)
    }

    fn fingerprint(&self) -> String {
        fingerprint(&self.world, &self.members, &self.setting())
    }
}

/// When a job begins: measures, or makes sure that what was kept still holds, and installs what follows on all ranks.
pub(super) fn settle(comm: &Communicator, setting: &Setting, intention: Intention, deadline: Instant) -> Result<()> {
    let thoroughness = match intention {
        Intention::Fixed => return Ok(()),
        Intention::Kept { .. } => Thoroughness::Glance,
        Intention::Measure => Thoroughness::Measure,
    };
    // Calls of its own, so that the user's first one is the first.
    let identity = Identity { comm: mix(WORLD_COMM, TUNING), epoch: 0 };
    let aside = Communicator::assemble(comm.world.clone(), identity, comm.members.clone(), deadline)?;
    aside.follow(None);
    let time_left = deadline.saturating_duration_since(Instant::now());
    aside.engine.with_lane(|lane| lane.settings.timeout = lane.settings.timeout.min(time_left));
    let began = Instant::now();
    let seen = probe::costs(&aside, thoroughness)?;
    tracing::debug!("measured in {:?}: {seen:?}", began.elapsed());
    let decided = (comm.rank() == 0).then(|| match intention {
        Intention::Kept { costs, table } => match costs.contradiction(&seen) {
            None => Some(table),
            Some(what) => {
                tracing::warn!("measurements that were kept are not used, they do not fit: {what}");
                None
            }
        },
        _ => {
            let began = Instant::now();
            let table = decide(setting, &seen, &[]);
            tracing::debug!("decided in {:?}", began.elapsed());
            if comm.options().tune == Tune::On
                && let Err(error) = comm.keep(seen, table.clone(), None)
            {
                tracing::warn!("measurements are not kept: {error}");
            }
            Some(table)
        }
    });
    let table: Option<Table> = aside.told(decided.as_ref())?;
    if let Some(table) = &table {
        check(table, &comm.hosts)?;
    }
    comm.follow(table);
    Ok(())
}

impl Communicator {
    /// Rank 0's value, on all ranks. Collective.
    fn told<T: Serialize + for<'a> Deserialize<'a>>(&self, mine: Option<&T>) -> Result<T> {
        let nonsense = |error: postcard::Error| Error::bootstrap(format!("rank 0's decision cannot be read: {error}"));
        let mut bytes = match mine {
            Some(value) => postcard::to_stdvec(value).map_err(nonsense)?,
            None => Vec::new(),
        };
        let mut len_bytes = [bytes.len() as u64];
        self.broadcast(&mut len_bytes, 0)?;
        bytes.resize(len_bytes[0] as usize, 0);
        self.broadcast(&mut bytes, 0)?;
        // All have it before the first of them leaves.
        self.barrier()?;
        postcard::from_bytes(&bytes).map_err(nonsense)
    }
}
