//! The launchers, one function each: what it reads, and how it is told from the others.
#![forbid(unsafe_code)]

use super::Env;
use crate::bootstrap::messages::MAX_WORLD;
use crate::bootstrap::nodelist::first_host;
use crate::error::{Error, Result};
use crate::types::Rank;
use std::os::fd::RawFd;

/// What a launcher says.
pub(super) struct Found {
    pub name: &'static str,
    pub rank: Rank,
    pub world: usize,
    pub local_rank: Option<usize>,
    /// Rank 0's host; or what is missing, for people.
    pub hosts: std::result::Result<Vec<String>, &'static str>,
    pub job: String,
    /// Where the launcher keeps a board, if it does not say where rank 0 is.
    pub board: Option<RawFd>,
}

/// The launcher that started this process.
pub(super) fn find(env: Env) -> Result<Option<Found>> {
    let launchers = [own, torch, open_mpi, hydra, slurm];
    launchers.iter().find_map(|launcher| launcher(env).transpose()).transpose()
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
        board: None,
    }))
}

fn torch(env: Env) -> Result<Option<Found>> {
    // Half of it is not torch's doing if somebody else started this process.
    let others = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_STEP_NODELIST"];
    let by_another = others.iter().any(|name| env(name).is_some());
    let missing: Vec<&str> = ["RANK", "WORLD_SIZE"].into_iter().filter(|name| env(name).is_none()).collect();
    if let [missing] = missing[..]
        && env("MASTER_ADDR").is_some()
        && !by_another
    {
        // Alone, every process would be rank 0 of a world of its own, and all would be content.
        return Err(Error::invalid(format!(
            "MASTER_ADDR is set, and one of RANK and WORLD_SIZE, but {missing} is not"
        )));
    }
    if !missing.is_empty() {
        return Ok(None);
    }
    let Some(host) = env("MASTER_ADDR") else {
        if by_another || env("WORLD_SIZE").as_deref() == Some("1") {
            return Ok(None);
        }
        return Err(Error::invalid("RANK and WORLD_SIZE are set, but MASTER_ADDR is not"));
    };
    let (rank, world) = rank_and_world(env, "RANK", "WORLD_SIZE")?;
    // Not the restart count: agents of one job may count differently.
    let part = |name| env(name).unwrap_or_default();
    let job = format!("{host} {} {}", part("MASTER_PORT"), part("TORCHELASTIC_RUN_ID"));
    let name = if env("TORCHELASTIC_RUN_ID").is_some() { "torchrun" } else { "RANK and MASTER_ADDR" };
    Ok(Some(Found {
        name,
        rank,
        world,
        local_rank: optional(env, "LOCAL_RANK")?,
        hosts: Ok(vec![host]),
        job,
        board: None,
    }))
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
    Ok(Some(Found { name: "Open MPI", rank, world, local_rank, hosts, job, board: None }))
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
    let local = optional::<usize>(env, "MPI_LOCALNRANKS")?;
    let hosts = match local {
        Some(local) if local == world => Ok(vec!["127.0.0.1".to_string()]),
        Some(_) => Err("its ranks are on several hosts and Hydra names none of them"),
        None => Err("it does not say (MPI_LOCALNRANKS) whether all ranks are on one host"),
    };
    // On several hosts there is no process that all ranks descend from, nor any other name that all know.
    let job = if local == Some(world) { format!("hydra {}", hydra_pid()) } else { "hydra".to_string() };
    let local_rank = optional(env, "MPI_LOCALRANKID")?;
    Ok(Some(Found { name: "MPICH", rank, world, local_rank, hosts, job, board: optional(env, "PMI_FD")? }))
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
    Ok(Some(Found {
        name: "Slurm",
        rank,
        world,
        local_rank: optional(env, "SLURM_LOCALID")?,
        hosts: Ok(hosts),
        job,
        board: None,
    }))
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

/// The number that a variable holds, if it is set.
pub(super) fn optional<N: std::str::FromStr>(env: Env, name: &str) -> Result<Option<N>> {
    let Some(text) = env(name) else { return Ok(None) };
    match text.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(Error::invalid(format!("{name}={text}: not a number that makes sense there"))),
    }
}
