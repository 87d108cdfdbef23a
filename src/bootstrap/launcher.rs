//! What the launcher left in the environment: rank, world, and where to find the root.
//!
//! | launcher | known by | rank 0's host | the job's name |
//! |---|---|---|---|
//! | Roundel's own | `ROUNDEL_RANK`, `ROUNDEL_WORLD_SIZE` | `ROUNDEL_UNIQUE_ID` or `ROUNDEL_MASTER_ADDR` (and `_PORT`) | these |
//! | torchrun, Ray, PyTorchJob | `RANK`, `WORLD_SIZE`, `MASTER_ADDR` | `MASTER_ADDR` | address, `MASTER_PORT`, `TORCHELASTIC_RUN_ID` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE` | the host of mpirun; loopback where all ranks are on one host | its job id |
//! | MPICH, Intel MPI (Hydra) | `PMI_RANK`, `PMI_SIZE` | loopback where all ranks are on one host; else rank 0 says it through PMI | Hydra's process, or PMI's name |
//! | Slurm | `SLURM_PROCID`, `SLURM_STEP_NODELIST` | the step's first host | job and step |
//!
//! The first that fits is taken, the innermost first: Slurm starts mpirun's daemons, and mpirun starts torchrun. Whatever
//! the launcher, `ROUNDEL_UNIQUE_ID` or `ROUNDEL_MASTER_ADDR` overrides where the root is.
//!
//! No launcher names a port that is free, so rank 0 listens on one of a few that are derived from the job's name
//! ([`super::RootAddr`]); `MASTER_PORT` itself is torchrun's own. With `ROUNDEL_MASTER_PORT` it is that port and no other.
#![forbid(unsafe_code)]

use super::address::{self, Root, RootAddr};
use super::{Config, UniqueId};
use crate::error::{Error, Result};
use crate::types::Rank;
use known::Found;
use pmi::Board;
use std::os::fd::RawFd;
use std::time::Duration;

mod known;
mod pmi;
mod secret;
#[cfg(test)]
mod tests;

pub use secret::SecretSource;

/// The environment, as a function so that tests can have their own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Meets the other ranks at a launcher's board.
type Meet<'a> = &'a dyn Fn(RawFd, Rank) -> Result<Board>;

/// How long to wait for them, where `ROUNDEL_INIT_TIMEOUT_MS` does not say.
const BOARD_PATIENCE: Duration = Duration::from_secs(120);

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
        Config::new(self.root.clone(), self.rank, self.world, timeout, iface)
    }
}

/// How this process was started. Where the launcher does not say where rank 0 is, but lets ranks leave notes for each other
/// (Hydra on several hosts), this blocks until all ranks have come. See [`detect`].
pub fn of_this_process() -> Result<Option<Launch>> {
    let env: Env = &|name| std::env::var(name).ok();
    let patience = known::optional(env, "ROUNDEL_INIT_TIMEOUT_MS")?.map_or(BOARD_PATIENCE, Duration::from_millis);
    complete(env, Some(&|board, rank| pmi::meet(board, rank, env("ROUNDEL_IFACE").as_deref(), patience)))
}

/// Reads the environment, and nothing else. `None` when no launcher started this process; an error when one did and what it says makes no
/// sense or is not enough.
pub fn detect(env: Env) -> Result<Option<Launch>> {
    complete(env, None)
}

fn complete(env: Env, meet: Option<Meet>) -> Result<Option<Launch>> {
    // A variable that is set to nothing is not set.
    let env: Env = &|name| env(name).filter(|value| !value.trim().is_empty());
    let Some(found) = known::find(env)? else { return Ok(None) };
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
    let port = known::optional::<u16>(env, "ROUNDEL_MASTER_PORT")?;
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
        None => match (found.hosts, found.board, meet) {
            (Ok(hosts), ..) => (hosts, found.job),
            (Err(_), Some(board), Some(meet)) => {
                let Board { host, job } = meet(board, rank)?;
                (vec![host], job)
            }
            (Err(missing), ..) => {
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
        None => {
            let taken = env("MASTER_PORT").and_then(|port| port.trim().parse().ok());
            address::candidate_ports(address::port_range(env)?, &job, taken)
        }
    };
    let (secret, source) = secret::find(env, &job)?;
    let root = Root::Address(RootAddr { hosts, ports, secret, job: job.clone() });
    Ok(Some(Launch { rank, world, local_rank, root, job, secret: source, name }))
}
