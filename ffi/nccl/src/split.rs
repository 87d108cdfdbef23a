//! Communicators from communicators.

use crate::abi::*;
use crate::comm::{self, Comm, Phase};
use crate::config::wishes;
use crate::ending::interrupt;
use crate::group::{answer_in_group, submit_making};
use crate::making::{Making, Meeting};
use crate::status::{Failure, Result, answer, out, rank};
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::sync::Arc;

/// The new one inherits what the caller does not say.
///
/// # Safety
/// As for [`wishes`].
unsafe fn child_of(parent: &Comm, config: *const ncclConfig_t, word: &[u8]) -> Result<Arc<Comm>> {
    // SAFETY: promised by the caller.
    let wishes = unsafe { wishes(config)? }.unwrap_or_else(|| parent.wishes.clone());
    Ok(Comm::new(wishes, parent.device, comm::hash(&[&parent.hash.to_le_bytes(), word])))
}

/// Ranks of one color become a communicator, ordered by key and rank. All ranks of `comm` call it; `NCCL_SPLIT_NOCOLOR` gives
/// NULL. Where `comm` does not block it goes on in the background, and `comm` is busy until it has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommSplit(
    comm: ncclComm_t,
    color: c_int,
    key: c_int,
    newcomm: *mut ncclComm_t,
    config: *mut ncclConfig_t,
) -> ncclResult_t {
    answer_in_group("ncclCommSplit", || {
        let parent = comm::find(comm)?;
        let place = out(newcomm, "newcomm")?;
        parent.active()?;
        if color < NCCL_SPLIT_NOCOLOR {
            return Err(Failure::argument(format!("color {color}; it is NCCL_SPLIT_NOCOLOR (-1) or not negative")));
        }
        let color = u32::try_from(color).ok();
        // SAFETY: the crate's contract.
        let child = unsafe { child_of(&parent, config, &[b"split", &color.unwrap_or(0).to_le_bytes()[..]].concat())? };
        let child = color.map(|_| child);
        let meeting: Meeting = {
            let parent = parent.clone();
            Box::new(move || {
                let (_inside, communicator) = parent.enter()?;
                Ok(communicator.split(color, key.into())?)
            })
        };
        // SAFETY: the crate's contract.
        submit_making(unsafe { Making::new(place, child, Some(parent), meeting) })
    })
}

/// The ranks that are not listed become a communicator, in the order of their ranks. Only they call it; those that are listed
/// may be dead, and `comm` may have failed. With `NCCL_SHRINK_ABORT` calls in flight on `comm` are interrupted first. A dead
/// rank that is not listed is an error on all others, who may shrink again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommShrink(
    comm: ncclComm_t,
    excludeRanksList: *mut c_int,
    excludeRanksCount: c_int,
    newcomm: *mut ncclComm_t,
    config: *mut ncclConfig_t,
    shrinkFlags: c_int,
) -> ncclResult_t {
    answer_in_group("ncclCommShrink", || {
        let parent = comm::find(comm)?;
        let place = out(newcomm, "newcomm")?;
        let communicator = parent.communicator()?;
        if !matches!(shrinkFlags, NCCL_SHRINK_DEFAULT | NCCL_SHRINK_ABORT) {
            return Err(Failure::argument(format!("shrinkFlags {shrinkFlags}; they are 0 or NCCL_SHRINK_ABORT (1)")));
        }
        if matches!(parent.phase(), Phase::Finalized | Phase::Suspended) {
            parent.active()?;
        }
        let (me, world) = (communicator.rank(), communicator.world());
        let count = usize::try_from(excludeRanksCount).ok().filter(|count| (1..world).contains(count));
        let Some(count) = count.filter(|_| !excludeRanksList.is_null() && excludeRanksList.is_aligned()) else {
            return Err(Failure::argument(format!(
                "excludeRanksList at {excludeRanksList:p} of {excludeRanksCount} ranks; at least one, and not all {world}"
            )));
        };
        // SAFETY: a list of that length (the crate's contract), aligned (checked above).
        let list = unsafe { std::slice::from_raw_parts(excludeRanksList, count) };
        let excluded = list.iter().map(|one| rank("excluded rank", *one, world)).collect::<Result<BTreeSet<_>>>()?;
        if excluded.len() < count || excluded.contains(&me) {
            return Err(Failure::argument(format!(
                "excludeRanksList is {list:?} on rank {me}; it names each rank once, and not the one that calls"
            )));
        }
        if shrinkFlags == NCCL_SHRINK_DEFAULT && parent.is_in_use() {
            return Err(Failure::usage(
                "calls are in flight on the communicator; wait for them, or use NCCL_SHRINK_ABORT",
            ));
        }
        let members: Vec<usize> = (0..world).filter(|rank| !excluded.contains(rank)).collect();
        let words: Vec<u8> = members.iter().flat_map(|member| member.to_le_bytes()).collect();
        // SAFETY: the crate's contract.
        let child = unsafe { child_of(&parent, config, &words)? };
        if shrinkFlags == NCCL_SHRINK_ABORT {
            interrupt(&parent, communicator, "ncclCommShrink with NCCL_SHRINK_ABORT");
        }
        let meeting: Meeting = {
            let parent = parent.clone();
            Box::new(move || Ok(Some(parent.communicator()?.subset(&members)?)))
        };
        // SAFETY: the crate's contract.
        submit_making(unsafe { Making::new(place, Some(child), Some(parent), meeting) })
    })
}

/// Not yet: no communicator of this build takes new ranks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetUniqueId(_comm: ncclComm_t, _uniqueId: *mut ncclUniqueId) -> ncclResult_t {
    answer("ncclCommGetUniqueId", no_growth)
}

/// Not yet: no communicator of this build takes new ranks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGrow(
    _comm: ncclComm_t,
    _nRanks: c_int,
    _uniqueId: *const ncclUniqueId,
    _rank: c_int,
    _newcomm: *mut ncclComm_t,
    _config: *mut ncclConfig_t,
) -> ncclResult_t {
    answer("ncclCommGrow", no_growth)
}

fn no_growth() -> Result<()> {
    Err(Failure::usage(
        "Roundel's communicators do not take new ranks yet; make a new one of all ranks with ncclGetUniqueId and \
         ncclCommInitRank",
    ))
}
