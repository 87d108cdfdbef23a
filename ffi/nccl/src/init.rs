//! New communicators, from an id that the ranks share.

use crate::abi::*;
use crate::comm::{self, COMMS, Comm, NO_DEVICE};
use crate::config::{Wishes, wishes};
use crate::group::{answer_in_group, submit_making};
use crate::making::{Making, Meeting};
use crate::status::{Done, Failure, Result, answer, out, put, rank};
use roundel::{Communicator, Options, UniqueId};
use std::ffi::c_int;

impl ncclUniqueId {
    fn bytes(&self) -> [u8; NCCL_UNIQUE_ID_BYTES] {
        self.internal.map(|byte| byte as u8)
    }

    fn read(&self) -> Result<UniqueId> {
        Ok(UniqueId::from_bytes(&self.bytes())?)
    }
}

/// How many ranks, out of C's integers.
fn world(what: &str, count: c_int) -> Result<usize> {
    let world = usize::try_from(count).ok().filter(|world| *world > 0);
    world.ok_or_else(|| Failure::argument(format!("{what} is {count}; there is at least one")))
}

/// Joins, or in a group promises to join, the ranks that hold `id`.
///
/// # Safety
/// `place` may be written, and until the making has ended.
unsafe fn join(place: *mut ncclComm_t, nranks: c_int, id: &ncclUniqueId, me: c_int, wishes: Wishes) -> Result<Done> {
    let place = out(place, "comm")?;
    let world = world("nranks", nranks)?;
    let me = rank("rank", me, world)?;
    let unique = id.read()?;
    roundel::log::to_stderr();
    let options = Options::from_env()?;
    let meeting: Meeting = Box::new(move || Ok(Some(Communicator::init_with(&unique, me, world, options)?)));
    let child = Comm::new(wishes, NO_DEVICE, comm::hash(&[&id.bytes()]));
    // SAFETY: promised by the caller.
    submit_making(unsafe { Making::new(place, Some(child), None, meeting) })
}

/// A new id. The root that its ranks meet at is a thread of this process, which should live as long as they do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(uniqueId: *mut ncclUniqueId) -> ncclResult_t {
    answer("ncclGetUniqueId", || {
        out(uniqueId, "uniqueId")?;
        let id = ncclUniqueId { internal: UniqueId::new()?.to_bytes().map(|byte| byte as _) };
        // SAFETY: the crate's contract.
        unsafe { put(uniqueId, "uniqueId", id) }
    })
}

/// Becomes rank `rank` of `nranks`. Blocks until all have come, at most `ROUNDEL_INIT_TIMEOUT_MS`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(
    comm: *mut ncclComm_t,
    nranks: c_int,
    commId: ncclUniqueId,
    rank: c_int,
) -> ncclResult_t {
    answer_in_group("ncclCommInitRank", || {
        // SAFETY: the crate's contract.
        unsafe { join(comm, nranks, &commId, rank, Wishes::default()) }
    })
}

/// [`ncclCommInitRank`] with a config, or NULL. With `blocking = 0` it goes on in the background.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut ncclComm_t,
    nranks: c_int,
    commId: ncclUniqueId,
    rank: c_int,
    config: *mut ncclConfig_t,
) -> ncclResult_t {
    answer_in_group("ncclCommInitRankConfig", || {
        // SAFETY: the crate's contract.
        unsafe { join(comm, nranks, &commId, rank, wishes(config)?.unwrap_or_default()) }
    })
}

/// [`ncclCommInitRankConfig`] with several ids, the same list on all ranks. The first is enough for Roundel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankScalable(
    newcomm: *mut ncclComm_t,
    nranks: c_int,
    myrank: c_int,
    nId: c_int,
    commIds: *mut ncclUniqueId,
    config: *mut ncclConfig_t,
) -> ncclResult_t {
    answer_in_group("ncclCommInitRankScalable", || {
        let count = world("nId", nId)?;
        if commIds.is_null() || count > world("nranks", nranks)? {
            return Err(Failure::argument(format!(
                "commIds at {commIds:p}, nId {nId}; at least one id, at most {nranks}"
            )));
        }
        // SAFETY: as many ids as `nId` says (the crate's contract), at least one (checked above), of alignment 1.
        let ids = unsafe { std::slice::from_raw_parts(commIds, count) };
        ids.iter().try_for_each(|id| id.read().map(drop))?;
        // SAFETY: the crate's contract.
        unsafe { join(newcomm, nranks, &ids[0], myrank, wishes(config)?.unwrap_or_default()) }
    })
}

/// All `ndev` ranks in this process. `devlist` may name a device several times; all of them have host memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitAll(comm: *mut ncclComm_t, ndev: c_int, devlist: *const c_int) -> ncclResult_t {
    answer("ncclCommInitAll", || {
        let places = out(comm, "comm")?;
        let world = world("ndev", ndev)?;
        // SAFETY: NULL or a list of that length (the crate's contract), of integers.
        let devices = (!devlist.is_null()).then(|| unsafe { std::slice::from_raw_parts(devlist, world) });
        if let Some(wrong) = devices.and_then(|devices| devices.iter().find(|device| **device < 0)) {
            return Err(Failure::argument(format!("devlist has device {wrong}")));
        }
        roundel::log::to_stderr();
        let made = Communicator::threads(world, Options::from_env()?)?;
        let hash = comm::hash(&[b"all", &std::process::id().to_le_bytes(), &made.as_ptr().addr().to_le_bytes()]);
        for (rank, communicator) in made.into_iter().enumerate() {
            let device = devices.map_or(NO_DEVICE, |devices| devices[rank]);
            let one = Comm::new(Wishes::default(), device, hash);
            one.finish_making(Ok(communicator));
            // SAFETY: room for `ndev` handles (the crate's contract).
            unsafe { places.add(rank).write(COMMS.add(one)) };
        }
        Ok(())
    })
}
