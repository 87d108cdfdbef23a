//! Groups: what a thread asks for between `ncclGroupStart` and `ncclGroupEnd` begins at the end, all at once. So one
//! thread can speak for several ranks, and a send need not come before or after a receive.

use crate::abi::*;
use crate::comm::Comm;
use crate::making::{Making, make_all};
use crate::status::{Done, Failure, Result, answer};
use roundel::Call;
use std::cell::RefCell;
use std::sync::Arc;

/// What one exported function asks of its communicator.
pub(crate) enum Request {
    Call(Call),
    /// Half a message of a rank to itself.
    ToSelf(Call),
    FromSelf(Call),
}

/// This thread's open group.
struct Group {
    /// How many starts have no end yet.
    depth: usize,
    makings: Vec<Making>,
    requests: Vec<(Arc<Comm>, Request)>,
    /// The first call in it that was refused: then nothing runs.
    failure: Option<Failure>,
}

const CLOSED: Group = Group { depth: 0, makings: Vec::new(), requests: Vec::new(), failure: None };

thread_local! {
    static GROUP: RefCell<Group> = const { RefCell::new(CLOSED) };
}

/// Puts `making` into the open group, or makes it.
pub(crate) fn submit_making(making: Making) -> Result<Done> {
    let alone = GROUP.with_borrow_mut(|group| match group.depth {
        0 => Some(making),
        _ => {
            group.makings.push(making);
            None
        }
    });
    alone.map_or(Ok(Done::Now), |making| make_all(vec![making]))
}

/// Puts a request of `comm` into the open group, or runs it.
pub(crate) fn submit(comm: Arc<Comm>, request: Request) -> Result<Done> {
    let communicator = comm.active()?;
    if let Request::Call(call) = &request {
        communicator.check(call)?;
    }
    let alone = GROUP.with_borrow_mut(|group| match group.depth {
        0 => Some((comm, request)),
        _ => {
            group.requests.push((comm, request));
            None
        }
    });
    match alone {
        None => Ok(Done::Now),
        Some((comm, Request::Call(call))) => comm.run(&call),
        Some(_) => Err(Failure::usage("a rank that sends to itself must put the send and the receive into one group")),
    }
}

/// [`answer`] for what may stand in a group: there a refusal is also the group's.
pub(crate) fn answer_in_group<D: Into<Done>>(name: &str, body: impl FnOnce() -> Result<D>) -> ncclResult_t {
    answer(name, || {
        let outcome = crate::status::caught(body);
        if let Err(failure) = &outcome {
            GROUP.with_borrow_mut(|group| {
                if group.depth > 0 {
                    group.failure.get_or_insert(Failure {
                        code: failure.code,
                        message: format!("nothing of the group was done, because of {name}: {}", failure.message),
                    });
                }
            });
        }
        outcome
    })
}

/// Opens a group, or one more level of it.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> ncclResult_t {
    answer("ncclGroupStart", || {
        GROUP.with_borrow_mut(|group| group.depth += 1);
        Ok(())
    })
}

/// Closes a level; with the last one, everything in the group runs. Returns when it has, with the first error.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> ncclResult_t {
    answer("ncclGroupEnd", || {
        let Some(group) = close()? else { return Ok(Done::Now) };
        if let Some(failure) = group.failure {
            group.makings.into_iter().for_each(Making::undo);
            return Err(failure);
        }
        let made = make_all(group.makings)?;
        let ran = run_all(group.requests)?;
        Ok(if made == Done::Later { made } else { ran })
    })
}

/// Closes a level. With the last one the group's contents are dropped: there are no measured costs to tell a time from.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGroupSimulateEnd(simInfo: *mut ncclSimInfo_t) -> ncclResult_t {
    answer("ncclGroupSimulateEnd", || {
        let Some(group) = close()? else { return Ok(()) };
        group.makings.into_iter().for_each(Making::undo);
        if let Some(failure) = group.failure {
            return Err(failure);
        }
        // SAFETY: NULL or a struct of that type (the crate's contract); alignment is checked first.
        if simInfo.is_null() || !simInfo.is_aligned() || unsafe { (*simInfo).magic } != NCCL_SIM_INFO_MAGIC {
            return Err(Failure::argument("simInfo is NULL or was not initialised by NCCL_SIM_INFO_INITIALIZER"));
        }
        Err(Failure::usage("Roundel has no measured costs of this machine to tell a time from; the group was dropped"))
    })
}

/// Closes a level; the group, if that was the last.
fn close() -> Result<Option<Group>> {
    GROUP.with_borrow_mut(|group| match group.depth {
        0 => Err(Failure::usage("there is no open group in this thread; call ncclGroupStart first")),
        1 => Ok(Some(std::mem::replace(group, CLOSED))),
        _ => {
            group.depth -= 1;
            Ok(None)
        }
    })
}

/// What a group asks of one communicator, in order.
struct Share {
    comm: Arc<Comm>,
    calls: Vec<Call>,
    to_self: Vec<Call>,
    from_self: Vec<Call>,
}

impl Share {
    /// Does the messages of the rank to itself, which are copies: the k-th send meets the k-th receive.
    fn copy_to_self(&mut self) -> Result<()> {
        let (sends, recvs) = (std::mem::take(&mut self.to_self), std::mem::take(&mut self.from_self));
        if sends.len() != recvs.len() {
            let (sends, recvs) = (sends.len(), recvs.len());
            return Err(Failure::usage(format!(
                "a group in which a rank sends itself {sends} messages and receives {recvs}"
            )));
        }
        for (send, recv) in sends.into_iter().zip(recvs) {
            if send.dtype != recv.dtype || send.counts != recv.counts {
                return Err(Failure::usage(format!(
                    "a rank sends itself {:?} of {} but receives {:?} of {}",
                    send.counts, send.dtype, recv.counts, recv.dtype
                )));
            }
            let message = Call { output: recv.output, ..send };
            if message.input != message.output {
                self.comm.active()?.check(&message)?;
                message.output.copy_from(message.input);
            }
        }
        Ok(())
    }
}

/// Runs requests to any number of communicators of this process, all at once.
fn run_all(requests: Vec<(Arc<Comm>, Request)>) -> Result<Done> {
    let mut shares: Vec<Share> = Vec::new();
    for (comm, request) in requests {
        let index = shares.iter().position(|share| Arc::ptr_eq(&share.comm, &comm)).unwrap_or_else(|| {
            shares.push(Share { comm, calls: Vec::new(), to_self: Vec::new(), from_self: Vec::new() });
            shares.len() - 1
        });
        let share = &mut shares[index];
        match request {
            Request::Call(call) => share.calls.push(call),
            Request::ToSelf(call) => share.to_self.push(call),
            Request::FromSelf(call) => share.from_self.push(call),
        }
    }
    for share in &mut shares {
        share.copy_to_self()?;
    }
    match &shares[..] {
        [Share { comm, calls, .. }] if comm.wishes.blocking => {
            // Driven by this thread, which costs no switch to another.
            let (_inside, communicator) = comm.enter()?;
            communicator.group(|group| calls.iter().try_for_each(|call| group.call(call.clone())))?;
            Ok(Done::Now)
        }
        shares => start_all(shares),
    }
}

/// Starts everything, then waits for what the caller is to wait for. A failure ends its communicator and with it the waits
/// of the others; none is left behind.
fn start_all(shares: &[Share]) -> Result<Done> {
    let (mut done, mut outcome) = (Done::Now, Ok(()));
    let (mut guards, mut works) = (Vec::new(), Vec::new());
    for Share { comm, calls, .. } in shares {
        let started = if comm.wishes.blocking {
            comm.enter().and_then(|(inside, communicator)| {
                guards.push(inside);
                calls.iter().try_for_each(|call| {
                    works.push(communicator.start(call)?);
                    Ok(())
                })
            })
        } else {
            done = Done::Later;
            calls.iter().try_for_each(|call| comm.start(call))
        };
        outcome = outcome.and(started);
    }
    for work in works {
        let ended = work.wait().map_err(|failed| Failure::from(failed.error));
        outcome = outcome.and(ended);
    }
    outcome.map(|()| done)
}
