//! Teams: which ranks a device function would reach how. By load and store no rank reaches another here (there are no
//! devices), so such a team is one rank, and the ranks of all hosts are one rail.
//!
//! These return no code: where there is no communicator the team has no ranks, and the rank is -1.

use crate::abi::*;
use crate::comm;
use crate::last_error;
use crate::status::{Result, caught};
use std::ffi::c_int;

const NOBODY: ncclTeam_t = ncclTeam_t { nRanks: 0, rank: 0, stride: 0 };
const ALONE: ncclTeam_t = ncclTeam_t { nRanks: 1, rank: 0, stride: 1 };

fn or<T>(name: &str, otherwise: T, body: impl FnOnce() -> Result<T>) -> T {
    caught(body).unwrap_or_else(|failure| {
        last_error::remember(&format!("{name}: {}", failure.message));
        otherwise
    })
}

fn everybody(comm: ncclComm_t) -> Result<ncclTeam_t> {
    let comm = comm::find(comm)?;
    let communicator = comm.communicator()?;
    Ok(ncclTeam_t { nRanks: communicator.world() as c_int, rank: communicator.rank() as c_int, stride: 1 })
}

/// All ranks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclTeamWorld(comm: ncclComm_t) -> ncclTeam_t {
    or("ncclTeamWorld", NOBODY, || everybody(comm))
}

/// Those whose memory this rank can load from and store to: itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclTeamLsa(comm: ncclComm_t) -> ncclTeam_t {
    or("ncclTeamLsa", NOBODY, || everybody(comm).map(|_| ALONE))
}

/// Those with this rank's number in their own such team: all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclTeamRail(comm: ncclComm_t) -> ncclTeam_t {
    or("ncclTeamRail", NOBODY, || everybody(comm))
}

/// Those on this rank's compute fabric: itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclTeamCft(comm: ncclComm_t, _mode: c_int) -> ncclTeam_t {
    or("ncclTeamCft", NOBODY, || everybody(comm).map(|_| ALONE))
}

/// Those that share multicast memory with this rank: itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclTeamCftMultimem(comm: ncclComm_t) -> ncclTeam_t {
    or("ncclTeamCftMultimem", NOBODY, || everybody(comm).map(|_| ALONE))
}

/// The rank in the communicator of a rank of a team.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclTeamRankToWorld(comm: ncclComm_t, team: ncclTeam_t, rank: c_int) -> c_int {
    or("ncclTeamRankToWorld", -1, || Ok(translated(everybody(comm)?, team, rank)))
}

/// The rank in [`ncclTeamLsa`] of a rank of a team.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclTeamRankToLsa(comm: ncclComm_t, team: ncclTeam_t, rank: c_int) -> c_int {
    or("ncclTeamRankToLsa", -1, || everybody(comm).map(|_| translated(ALONE, team, rank)))
}

/// Counted from the calling rank, which is in both.
fn translated(into: ncclTeam_t, from: ncclTeam_t, rank: c_int) -> c_int {
    into.rank.wrapping_add(rank.wrapping_sub(from.rank).wrapping_mul(from.stride))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted_from_the_caller() {
        let world = ncclTeam_t { nRanks: 8, rank: 5, stride: 1 };
        let odd = ncclTeam_t { nRanks: 4, rank: 2, stride: 2 };
        assert_eq!([0, 1, 2, 3].map(|rank| translated(world, odd, rank)), [1, 3, 5, 7]);
        assert_eq!(translated(ALONE, world, 5), 0);
    }
}
