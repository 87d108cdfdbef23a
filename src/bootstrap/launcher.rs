//! What the launcher left in the environment: rank, world, and where to find the root.
//!
//! | launcher | known by | rank 0's host | the job's name |
//! |---|---|---|---|
//! | Roundel's own | `ROUNDEL_RANK`, `ROUNDEL_WORLD_SIZE` | `ROUNDEL_UNIQUE_ID` or `ROUNDEL_MASTER_ADDR` (and `_PORT`) | these |
//! | torchrun, Ray, PyTorchJob | `RANK`, `WORLD_SIZE`, `MASTER_ADDR` | `MASTER_ADDR` | address, `MASTER_PORT`, `TORCHELASTIC_RUN_ID` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE` | the host of mpirun; loopback where all ranks are on one host | its job id |
//! | MPICH, Intel MPI (Hydra) | `PMI_RANK`, `PMI_SIZE` | loopback where all ranks are on one host | Hydra's process |
//! | Slurm | `SLURM_PROCID`, `SLURM_STEP_NODELIST` | the step's first host | job and step |
//!
//! The first that fits is taken, the innermost first: Slurm starts mpirun's daemons, and mpirun starts torchrun. Whatever
//! the launcher, `ROUNDEL_UNIQUE_ID` or `ROUNDEL_MASTER_ADDR` overrides where the root is.
//!
//! No launcher names a port that is free, so rank 0 listens on one of a few that are derived from the job's name
//! ([`super::RootAddr`]); `MASTER_PORT` itself is torchrun's own. With `ROUNDEL_MASTER_PORT` it is that port and no other.
#![forbid(unsafe_code)]

use super::address::{self, Root, RootAddr};
use super::digest::digest;
use super::nodelist::first_host;
use super::unique_id::{UniqueId, from_hex};
use super::{Config, wire::MAX_WORLD};
use crate::error::{Error, Result};
use crate::transport::tcp::Secret;
use crate::types::Rank;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// The environment, as a function so that tests can have their own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where the secret of a job comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretSource {
    /// The unique id carries it.
    UniqueId,
    /// `ROUNDEL_SECRET` or `ROUNDEL_SECRET_FILE`.
    Configured,
    /// Hashed from the job's name. Whoever can guess the name can join: it keeps jobs apart and keeps nobody out.
    DerivedFromJob,
}

/// How this process was started, as one rank of a job.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Who this is.
    pub rank: Rank,
    /// How many ranks the job has.
    pub world: usize,
    /// Its place among the ranks of its host, if the launcher says so.
    pub local_rank: Option<usize>,
    /// Where the ranks meet.
    pub root: Root,
    /// The job's name, the same on all ranks.
    pub job: String,
    /// Where the secret in `root` comes from.
    pub secret: SecretSource,
    /// The launcher.
    pub name: &'static str,
}

impl Launch {
    /// What [`super::Control::join`] takes. Says once a process if the secret is no secret.
    pub fn config(&self, timeout: Duration, iface: Option<String>) -> Config {
        if self.secret == SecretSource::DerivedFromJob && self.world > 1 {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| {
                tracing::warn!(
                    launcher = self.name,
                    "no ROUNDEL_SECRET or ROUNDEL_SECRET_FILE: the job's secret is derived from its name, which protects \
                     from accidents but not from people on this network"
                );
            });
        }
        Config { root: self.root.clone(), rank: self.rank, world: self.world, timeout, iface }
    }
}

/// What a launcher says.
struct Found {
    name: &'static str,
    rank: Rank,
    world: usize,
    local_rank: Option<usize>,
    /// Rank 0's host; or what is missing, for people.
    hosts: std::result::Result<Vec<String>, &'static str>,
    job: String,
}

/// Reads the environment. `None` when no launcher started this process; an error when one did and what it says makes no
/// sense or is not enough.
pub fn detect(env: Env) -> Result<Option<Launch>> {
    // A variable that is set to nothing is not set.
    let env: Env = &|name| env(name).filter(|value| !value.trim().is_empty());
    let launchers = [own, torch, open_mpi, hydra, slurm];
    let Some(found) = launchers.iter().find_map(|launcher| launcher(env).transpose()).transpose()? else {
        return Ok(None);
    };
    let Found { name, rank, world, local_rank, .. } = found;
    if let Some(id) = env("ROUNDEL_UNIQUE_ID") {
        let id: UniqueId = id.parse().map_err(|error| Error::invalid(format!("ROUNDEL_UNIQUE_ID: {error}")))?;
        let job = format!("id {}", id.address());
        return Ok(Some(Launch {
            rank,
            world,
            local_rank,
            root: Root::Id(id),
            job,
            secret: SecretSource::UniqueId,
            name,
        }));
    }
    let port = match env("ROUNDEL_MASTER_PORT") {
        Some(_) => Some(number::<u16>(env, "ROUNDEL_MASTER_PORT")?),
        None => None,
    };
    if port == Some(0) {
        return Err(Error::invalid("ROUNDEL_MASTER_PORT=0: name a port, or leave it unset"));
    }
    let (hosts, job) = match env("ROUNDEL_MASTER_ADDR") {
        Some(host) => {
            let job = format!("{host} {} {}", port.unwrap_or(0), found.job);
            (vec![host], job)
        }
        // Alone it meets nobody.
        None if world == 1 => (vec!["127.0.0.1".to_string()], found.job),
        None => match found.hosts {
            Ok(hosts) => (hosts, found.job),
            Err(missing) => {
                return Err(Error::bootstrap(format!(
                    "started by {name} as rank {rank} of {world}, but {missing}; set ROUNDEL_MASTER_ADDR on all ranks to \
                     an address of rank 0's host, or ROUNDEL_UNIQUE_ID to an id made beforehand"
                )));
            }
        },
    };
    let job = format!("{name} {job}");
    let ports = match port {
        Some(port) => vec![port],
        None => address::candidate_ports(address::port_range(env)?, &job),
    };
    let (secret, source) = secret(env, &job)?;
    let root = Root::Address(RootAddr { hosts, ports, secret, job: job.clone() });
    Ok(Some(Launch { rank, world, local_rank, root, job, secret: source, name }))
}

fn own(env: Env) -> Result<Option<Found>> {
    match (env("ROUNDEL_RANK"), env("ROUNDEL_WORLD_SIZE")) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(Error::invalid("ROUNDEL_RANK is set, but ROUNDEL_WORLD_SIZE is not")),
        (None, Some(_)) => return Err(Error::invalid("ROUNDEL_WORLD_SIZE is set, but ROUNDEL_RANK is not")),
        (Some(_), Some(_)) => {}
    }
    let (rank, world) = rank_and_world(env, "ROUNDEL_RANK", "ROUNDEL_WORLD_SIZE")?;
    Ok(Some(Found {
        name: "roundel",
        rank,
        world,
        local_rank: optional(env, "ROUNDEL_LOCAL_RANK")?,
        hosts: Err("ROUNDEL_MASTER_ADDR is not set"),
        job: String::new(),
    }))
}

fn torch(env: Env) -> Result<Option<Found>> {
    if env("RANK").is_none() || env("WORLD_SIZE").is_none() {
        return Ok(None);
    }
    let Some(host) = env("MASTER_ADDR") else {
        // Half of it is not torch's doing if somebody else started this process.
        let others = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_STEP_NODELIST"];
        if others.iter().any(|name| env(name).is_some()) || env("WORLD_SIZE").as_deref() == Some("1") {
            return Ok(None);
        }
        return Err(Error::invalid("RANK and WORLD_SIZE are set, but MASTER_ADDR is not"));
    };
    let (rank, world) = rank_and_world(env, "RANK", "WORLD_SIZE")?;
    // Not the restart count: agents of one job may count differently.
    let part = |name| env(name).unwrap_or_default();
    let job = format!("{host} {} {}", part("MASTER_PORT"), part("TORCHELASTIC_RUN_ID"));
    let name = if env("TORCHELASTIC_RUN_ID").is_some() { "torchrun" } else { "RANK and MASTER_ADDR" };
    Ok(Some(Found { name, rank, world, local_rank: optional(env, "LOCAL_RANK")?, hosts: Ok(vec![host]), job }))
}

fn open_mpi(env: Env) -> Result<Option<Found>> {
    if env("OMPI_COMM_WORLD_RANK").is_none() {
        return Ok(None);
    }
    let (rank, world) = rank_and_world(env, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")?;
    let is_local = optional::<usize>(env, "OMPI_COMM_WORLD_LOCAL_SIZE")? == Some(world);
    let uri = env("OMPI_MCA_orte_hnp_uri");
    let hosts = match uri.as_deref().map(hosts_in_uri) {
        _ if is_local => Ok(vec!["127.0.0.1".to_string()]),
        Some(hosts) if !hosts.is_empty() => Ok(hosts),
        _ => Err("its ranks are on several hosts and this version of Open MPI names none of them"),
    };
    let names = ["OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri"];
    let job: Vec<String> = names.iter().filter_map(|name| env(name)).collect();
    let job = if job.is_empty() { format!("parent {}", nix::unistd::getppid()) } else { job.join(" ") };
    let local_rank = optional(env, "OMPI_COMM_WORLD_LOCAL_RANK")?;
    Ok(Some(Found { name: "Open MPI", rank, world, local_rank, hosts, job }))
}

/// The addresses in `123.0;tcp://10.0.0.1,192.168.1.1:4321;tcp6://[::1]:4321`; not loopback, which leads nowhere else.
fn hosts_in_uri(uri: &str) -> Vec<String> {
    let mut hosts = Vec::new();
    for contact in uri.split(';') {
        let Some((scheme, rest)) = contact.trim().split_once("://") else { continue };
        let Some((addresses, _port)) = rest.rsplit_once(':') else { continue };
        if !scheme.starts_with("tcp") {
            continue;
        }
        let parsed = addresses.split(',').filter_map(|a| a.trim_matches(['[', ']']).parse::<std::net::IpAddr>().ok());
        hosts.extend(parsed.filter(|ip| !ip.is_loopback()).map(|ip| ip.to_string()));
    }
    hosts
}

fn hydra(env: Env) -> Result<Option<Found>> {
    // Slurm's own PMI sets PMI_RANK too, but not Hydra's local counts.
    let is_slurm = env("SLURM_STEP_NODELIST").is_some() && env("MPI_LOCALNRANKS").is_none();
    if env("PMI_RANK").is_none() || is_slurm {
        return Ok(None);
    }
    let (rank, world) = rank_and_world(env, "PMI_RANK", "PMI_SIZE")?;
    let hosts = match optional::<usize>(env, "MPI_LOCALNRANKS")? {
        Some(local) if local == world => Ok(vec!["127.0.0.1".to_string()]),
        Some(_) => Err("its ranks are on several hosts and Hydra names none of them"),
        None => Err("it does not say (MPI_LOCALNRANKS) whether all ranks are on one host"),
    };
    let job = format!("hydra {}", hydra_pid());
    let local_rank = optional(env, "MPI_LOCALRANKID")?;
    Ok(Some(Found { name: "MPICH", rank, world, local_rank, hosts, job }))
}

/// The process of Hydra that all ranks of this host descend from. Between it and a rank there may be shells and wrappers;
/// where it is not found it is taken to be the parent.
fn hydra_pid() -> u32 {
    const GENERATIONS: usize = 32;
    let mut pid = std::process::id();
    for _ in 0..GENERATIONS {
        // "pid (name) state parent ..."; the name may hold anything.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { break };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else { break };
        if name.starts_with("hydra_") {
            return pid;
        }
        let Some(parent) = rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()) else { break };
        pid = parent;
    }
    nix::unistd::getppid().as_raw() as u32
}

fn slurm(env: Env) -> Result<Option<Found>> {
    // A batch script has SLURM_PROCID as well, without being a task of a step.
    let (Some(_), Some(nodes)) = (env("SLURM_PROCID"), env("SLURM_STEP_NODELIST")) else { return Ok(None) };
    let size = if env("SLURM_STEP_NUM_TASKS").is_some() { "SLURM_STEP_NUM_TASKS" } else { "SLURM_NTASKS" };
    let (rank, world) = rank_and_world(env, "SLURM_PROCID", size)?;
    let is_local = optional::<usize>(env, "SLURM_STEP_NUM_NODES")? == Some(1);
    let hosts = if is_local {
        vec!["127.0.0.1".to_string()]
    } else {
        // The launching node is a second chance: usually the step's first, and an address where that is but a name.
        std::iter::once(first_host(&nodes)?).chain(env("SLURM_LAUNCH_NODE_IPADDR")).collect()
    };
    let part = |names: [&str; 2]| names.iter().find_map(|name| env(name)).unwrap_or_default();
    let job = format!("{}.{}", part(["SLURM_JOB_ID", "SLURM_JOBID"]), part(["SLURM_STEP_ID", "SLURM_STEPID"]));
    Ok(Some(Found { name: "Slurm", rank, world, local_rank: optional(env, "SLURM_LOCALID")?, hosts: Ok(hosts), job }))
}

fn rank_and_world(env: Env, rank_name: &str, world_name: &str) -> Result<(Rank, usize)> {
    let (rank, world) = (number(env, rank_name)?, number(env, world_name)?);
    if world == 0 || world > MAX_WORLD {
        return Err(Error::invalid(format!("{world_name}={world}: a world has between 1 and {MAX_WORLD} ranks")));
    }
    if rank >= world {
        return Err(Error::invalid(format!("{rank_name}={rank} with {world_name}={world}: ranks count from 0")));
    }
    Ok((rank, world))
}

fn number<N: std::str::FromStr>(env: Env, name: &str) -> Result<N> {
    optional(env, name)?.ok_or_else(|| Error::invalid(format!("{name} is not set")))
}

fn optional<N: std::str::FromStr>(env: Env, name: &str) -> Result<Option<N>> {
    let Some(text) = env(name) else { return Ok(None) };
    match text.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(Error::invalid(format!("{name}={text}: not a number that makes sense there"))),
    }
}

fn secret(env: Env, job: &str) -> Result<(Secret, SecretSource)> {
    if let Some(digits) = env("ROUNDEL_SECRET") {
        // The value is not repeated: errors end up in logs.
        let secret = secret_of_digits(&digits)
            .ok_or_else(|| Error::invalid("ROUNDEL_SECRET: a secret is written as 64 hexadecimal digits"))?;
        return Ok((secret, SecretSource::Configured));
    }
    if let Some(path) = env("ROUNDEL_SECRET_FILE") {
        return Ok((secret_of_file(&path)?, SecretSource::Configured));
    }
    Ok((Secret::from_bytes(digest("roundel job secret", &[job.as_bytes()])), SecretSource::DerivedFromJob))
}

fn secret_of_digits(digits: &str) -> Option<Secret> {
    Some(Secret::from_bytes(from_hex(digits.trim())?.try_into().ok()?))
}

fn secret_of_file(path: &str) -> Result<Secret> {
    use std::io::Read;
    /// 64 digits and a generous end of line; a device that never ends is not read to its end.
    const MAX_FILE_BYTES: u64 = 256;
    let unreadable = |error| Error::system(format!("reading ROUNDEL_SECRET_FILE={path}"), error);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path, "ROUNDEL_SECRET_FILE is readable by others than its owner; chmod 600 it");
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    if let Ok(raw) = <[u8; 32]>::try_from(bytes.as_slice()) {
        return Ok(Secret::from_bytes(raw));
    }
    std::str::from_utf8(&bytes).ok().and_then(secret_of_digits).ok_or_else(|| {
        Error::invalid(format!(
            "ROUNDEL_SECRET_FILE={path} holds neither 32 bytes nor 64 hexadecimal digits; make one with: head -c 32 \
             /dev/urandom > {path}"
        ))
    })
}
