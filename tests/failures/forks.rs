//! A forked child has its parent's communicators in its memory, and must keep its hands off them.

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use roundel::{Communicator, Options, ReduceOp};

/// Seconds after which a child that hangs is ended, and the test with it.
const ALARM: u32 = 60;

#[test]
fn a_forked_child_is_refused_and_its_parent_goes_on() {
    let ranks = Communicator::threads(2, Options::default()).unwrap();
    let pending = ranks[0].start_all_reduce(vec![1u32; 8], ReduceOp::Sum).unwrap();
    // SAFETY: the child makes no use of other threads' state but the allocator, which the C library keeps usable, and
    // leaves by `_exit`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: sets this process's timer.
            unsafe { libc::alarm(ALARM) };
            let refuses = |outcome: roundel::Result<()>| outcome.is_err_and(|e| e.to_string().contains("forked"));
            let refused = refuses(ranks[0].barrier())
                && refuses(ranks[0].status())
                && refuses(ranks[1].alloc::<u8>(1).map(drop))
                && refuses(ranks[1].split(Some(0), 0).map(drop))
                && refuses(pending.wait().map(drop).map_err(Into::into));
            ranks[1].abort("nobody may hear this");
            drop(ranks);
            // SAFETY: ends this process, without what its parent would do at its own exit.
            unsafe { libc::_exit(i32::from(!refused)) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
    let mut seven = vec![6u32; 8];
    ranks[1].all_reduce_in_place(&mut seven, ReduceOp::Sum).unwrap();
    assert_eq!(seven, [7; 8]);
    assert_eq!(pending.wait().unwrap(), [7; 8]);
}
