//! Making, asking and ending communicators.

use crate::arguments;
use crate::boundary::{Outcome, boundary};
use crate::handles::Table;
use crate::last_error::Failure;
use crate::names::{roundel_comm_t, roundel_options_t, roundel_result_t};
use crate::unique_id::roundel_unique_id_t;
use crate::{group, options};
use library::Communicator;
use std::ffi::c_char;
use std::sync::Arc;

static COMMS: Table<Communicator> = Table::new(1, "communicator");

/// The communicator behind a handle.
#[inline]
pub fn get(comm: roundel_comm_t) -> Outcome<Arc<Communicator>> {
    COMMS.get(comm.addr() as u64)
}

/// A handle for a new communicator.
pub fn insert(comm: Communicator) -> Outcome<roundel_comm_t> {
    Ok(std::ptr::without_provenance_mut(COMMS.insert(comm)? as usize))
}

/// Joins the job that a launcher started this process in: torchrun, Open MPI, MPICH, Slurm, or the variables
/// `ROUNDEL_RANK`, `ROUNDEL_WORLD_SIZE` and `ROUNDEL_MASTER_ADDR`. Without any of them: a world of one. Blocks until all
/// ranks are there. `options` may be NULL: then the `ROUNDEL_*` variables alone decide.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_init(comm: *mut roundel_comm_t, options: roundel_options_t) -> roundel_result_t {
    boundary("roundel_init", || {
        // SAFETY: the caller promises room for a handle, or NULL.
        let comm = unsafe { arguments::out(comm, "comm") }?;
        *comm = insert(Communicator::from_env_with(options::resolve(options)?)?)?;
        Ok(())
    })
}

/// Joins as `rank` of `world` the job that `id` names. Blocks until all ranks have, at most the option `init_timeout_ms`;
/// then the error says who is missing. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_init_rank(
    comm: *mut roundel_comm_t,
    world: i32,
    id: roundel_unique_id_t,
    rank: i32,
    options: roundel_options_t,
) -> roundel_result_t {
    boundary("roundel_comm_init_rank", || {
        // SAFETY: the caller promises room for a handle, or NULL.
        let comm = unsafe { arguments::out(comm, "comm") }?;
        let (world, rank) = (world_size(world)?, arguments::rank(rank, "rank")?);
        *comm = insert(Communicator::init_with(&id.read()?, rank, world, options::resolve(options)?)?)?;
        Ok(())
    })
}

/// Makes all `world` ranks in this process: `comms[r]` becomes rank r, for a thread of the caller's, or for one thread
/// that calls for all of them inside a group. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_init_threads(
    comms: *mut roundel_comm_t,
    world: i32,
    options: roundel_options_t,
) -> roundel_result_t {
    boundary("roundel_comm_init_threads", || {
        let world = world_size(world)?;
        // SAFETY: the caller promises an array of `world` handles, or NULL.
        unsafe { arguments::array(comms.cast_const(), world, "comms") }?;
        for (rank, made) in Communicator::threads(world, options::resolve(options)?)?.into_iter().enumerate() {
            let made = insert(made)?;
            // SAFETY: neither NULL nor misaligned (checked above), and `rank` is below `world`.
            unsafe { *comms.add(rank) = made };
        }
        Ok(())
    })
}

fn world_size(world: i32) -> Outcome<usize> {
    let size = usize::try_from(world).ok().filter(|&size| size > 0);
    size.ok_or_else(|| Failure::argument(format!("a world of {world}; it has at least one rank")))
}

/// Ranks of the same `color`, not negative, become a communicator of their own, ordered by `key` and then by their rank
/// here; a rank with color -1 gets NULL. Collective over all ranks of `comm`, and blocking. The new communicator may be
/// used beside the old one and outlives it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_split(
    comm: roundel_comm_t,
    color: i32,
    key: i64,
    part: *mut roundel_comm_t,
) -> roundel_result_t {
    boundary("roundel_comm_split", || {
        let comm = get(comm)?;
        // SAFETY: the caller promises room for a handle, or NULL.
        let part = unsafe { arguments::out(part, "part") }?;
        let on = |failure: Failure| failure.on(comm.rank());
        group::must_be_closed("a split").map_err(on)?;
        let color = match color {
            -1 => None,
            0.. => Some(color as u32),
            _ => return Err(on(Failure::argument(format!("color {color}; it is not negative, or -1 for none")))),
        };
        let made = comm.split(color, key).map_err(|error| on(error.into()))?;
        *part = made.map_or(Ok(std::ptr::null_mut()), insert)?;
        Ok(())
    })
}

/// The `count` ranks listed in `ranks` (their numbers here, in the new order) become a communicator of their own. Only they
/// make this call, all with the same list; so it also works when other ranks are dead or `comm` has failed. An error when a
/// listed one is dead; where it is not known who lives, `roundel_shrink` finds out. Blocks at most `init_timeout_ms`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_subset(
    comm: roundel_comm_t,
    ranks: *const i32,
    count: usize,
    part: *mut roundel_comm_t,
) -> roundel_result_t {
    boundary("roundel_comm_subset", || {
        let comm = get(comm)?;
        // SAFETY: the caller promises room for a handle, or NULL.
        let part = unsafe { arguments::out(part, "part") }?;
        let on = |failure: Failure| failure.on(comm.rank());
        group::must_be_closed("a subset").map_err(on)?;
        if count > comm.world() {
            return Err(on(Failure::argument(format!("{count} ranks of a world of {}", comm.world()))));
        }
        if ranks.is_null() {
            return Err(on(Failure::argument("ranks is NULL")));
        }
        // SAFETY: not NULL (checked above), and the caller promises `count` ranks there.
        let ranks = unsafe { std::slice::from_raw_parts(ranks, count) };
        let known = |&rank: &i32| usize::try_from(rank).map_err(|_| on(Failure::argument(format!("rank {rank}"))));
        let members = ranks.iter().map(known).collect::<Result<Vec<_>, _>>()?;
        *part = insert(comm.subset(&members).map_err(|error| on(error.into()))?)?;
        Ok(())
    })
}

/// Ends this rank's part of a communicator: waits for its calls in flight and tells the other ranks, where calls that
/// still need this rank then fail. Calls that other threads are in go on to their end; then the handle is invalid. To
/// leave without waiting call `roundel_comm_abort` first, or meanwhile from another thread.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_comm_destroy(comm: roundel_comm_t) -> roundel_result_t {
    boundary("roundel_comm_destroy", || {
        // The handle is good until nothing is in flight, so that another thread can abort what keeps this one.
        get(comm)?.drain();
        COMMS.remove(comm.addr() as u64).map(drop)
    })
}

/// Ends the communicator on all ranks: calls in flight and later ones fail everywhere with `ROUNDEL_ERROR_ABORTED` and
/// this reason, which may be NULL. From any thread, while others are inside calls. The handle stays valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_abort(comm: roundel_comm_t, reason: *const c_char) -> roundel_result_t {
    boundary("roundel_comm_abort", || {
        let comm = get(comm)?;
        let reason = match reason.is_null() {
            true => "no reason was given",
            // SAFETY: the caller promises a text with a NUL at its end.
            false => unsafe { arguments::text(reason, "reason") }?,
        };
        comm.abort(reason);
        Ok(())
    })
}

/// `ROUNDEL_SUCCESS` while the communicator works, afterwards the error that ended it. Never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_comm_status(comm: roundel_comm_t) -> roundel_result_t {
    boundary("roundel_comm_status", || {
        let comm = get(comm)?;
        comm.status().map_err(|error| Failure::from(error).on(comm.rank()))
    })
}

/// This rank's number in the communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_rank(comm: roundel_comm_t, rank: *mut i32) -> roundel_result_t {
    // SAFETY: the caller promises room for a number, or NULL.
    boundary("roundel_comm_rank", || unsafe { answer(comm, rank, "rank", |comm| comm.rank()) })
}

/// How many ranks the communicator has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_world(comm: roundel_comm_t, world: *mut i32) -> roundel_result_t {
    // SAFETY: the caller promises room for a number, or NULL.
    boundary("roundel_comm_world", || unsafe { answer(comm, world, "world", |comm| comm.world()) })
}

/// How many times the membership had changed (`roundel_shrink`, `roundel_grow`) when the communicator was made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_epoch(comm: roundel_comm_t, epoch: *mut i32) -> roundel_result_t {
    // SAFETY: the caller promises room for a number, or NULL.
    boundary("roundel_comm_epoch", || unsafe { answer(comm, epoch, "epoch", |comm| comm.epoch() as usize) })
}

/// The number that each rank had when the job began, in the order of ranks; new numbers go to those who joined later. `members`
/// has room for `count` of them, at least as many as ranks; what is beyond stays as it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_members(
    comm: roundel_comm_t,
    members: *mut i32,
    count: usize,
) -> roundel_result_t {
    boundary("roundel_comm_members", || {
        let comm = get(comm)?;
        let world = comm.world();
        if count < world {
            return Err(Failure::argument(format!("room for {count} members of {world}")).on(comm.rank()));
        }
        // SAFETY: the caller promises room for `count` numbers, or NULL.
        unsafe { arguments::array(members.cast_const(), world, "members") }?;
        for (rank, &member) in comm.members().iter().enumerate() {
            // SAFETY: neither NULL nor misaligned (checked above), and `rank` is below `count`.
            unsafe { members.add(rank).write(i32::try_from(member).unwrap_or(i32::MAX)) };
        }
        Ok(())
    })
}

/// Over how many hosts the communicator's ranks are spread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_host_count(comm: roundel_comm_t, hosts: *mut i32) -> roundel_result_t {
    // SAFETY: the caller promises room for a number, or NULL.
    boundary("roundel_comm_host_count", || unsafe { answer(comm, hosts, "hosts", |comm| comm.hosts().len()) })
}

/// The number of the host, from 0, on which a rank is: ranks with the same number share memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_host_of(comm: roundel_comm_t, rank: i32, host: *mut i32) -> roundel_result_t {
    boundary("roundel_comm_host_of", || {
        let asked = arguments::rank(rank, "rank")?;
        let world = get(comm)?.world();
        if asked >= world {
            return Err(Failure::argument(format!("rank {rank} in a world of {world}")));
        }
        let host_of = |comm: &Communicator| comm.hosts().iter().position(|host| host.contains(&asked)).unwrap_or(0);
        // SAFETY: the caller promises room for a number, or NULL.
        unsafe { answer(comm, host, "host", host_of) }
    })
}

/// What the ranks' links are made of: "memory" (threads of one process), "shm", "tcp", "fabric"
/// (RDMA), "shm+tcp" or "shm+fabric". The text is static.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_comm_transport(
    comm: roundel_comm_t,
    transport: *mut *const c_char,
) -> roundel_result_t {
    boundary("roundel_comm_transport", || {
        let comm = get(comm)?;
        // SAFETY: the caller promises room for a pointer, or NULL.
        let transport = unsafe { arguments::out(transport, "transport") }?;
        let names = [c"memory", c"shm", c"tcp", c"fabric", c"shm+tcp", c"shm+fabric"];
        let name = names.into_iter().find(|name| name.to_bytes() == comm.transport().as_bytes());
        *transport = name.unwrap_or(c"other").as_ptr();
        Ok(())
    })
}

/// Writes one number about a communicator.
///
/// # Safety
/// `to` is NULL or has room for the number.
unsafe fn answer(comm: roundel_comm_t, to: *mut i32, name: &str, ask: impl FnOnce(&Communicator) -> usize) -> Outcome {
    let comm = get(comm)?;
    // SAFETY: promised by the caller.
    let to = unsafe { arguments::out(to, name) }?;
    *to = i32::try_from(ask(&comm)).unwrap_or(i32::MAX);
    Ok(())
}
