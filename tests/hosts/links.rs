//! Links are made when they are first used; calls that have no use for one must not notice.

use roundel::schedule::catalogue::Algorithm;
use roundel::{Communicator, Error, Options, ReduceOp, TransportChoice};
use std::time::Duration;

fn tcp() -> Options {
    Options { transport: TransportChoice::Tcp, timeout: Duration::from_secs(90), ..Options::default() }
}

/// Runs `body` on every rank, each in a thread of its own.
fn on_all(world: usize, options: Options, body: impl Fn(Communicator) + Sync) {
    let ranks = Communicator::threads(world, options).unwrap();
    std::thread::scope(|scope| {
        for comm in ranks {
            scope.spawn(|| body(comm));
        }
    });
}

/// Every rank waits for a message from its left, and one from its right, that are sent only after the collectives.
fn messages_wait_beside_collectives(options: Options) {
    on_all(3, options, |comm| {
        let (right, left) = ((comm.rank() + 1) % 3, (comm.rank() + 2) % 3);
        let from_left = comm.start_recv(vec![0u32; 4], left).unwrap();
        let from_right = comm.start_recv(vec![0u32; 4], right).unwrap();
        for count in [1usize, 1000, 100_000] {
            let mut data = vec![comm.rank() as i64; count];
            comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
            assert!(data.iter().all(|&sum| sum == 3));
            comm.broadcast(&mut data, 2).unwrap();
        }
        comm.barrier().unwrap();
        assert!(!from_left.test() && !from_right.test());
        // Nobody sends before everybody has looked.
        comm.barrier().unwrap();
        comm.send(&[comm.rank() as u32; 4], right).unwrap();
        comm.send(&[comm.rank() as u32 + 10; 4], left).unwrap();
        assert_eq!(from_left.wait().unwrap(), [left as u32; 4]);
        assert_eq!(from_right.wait().unwrap(), [right as u32 + 10; 4]);
        comm.barrier().unwrap();
    });
}

#[test]
fn a_receive_that_waits_holds_up_no_collective_over_tcp() {
    messages_wait_beside_collectives(tcp());
    messages_wait_beside_collectives(Options { algorithm: Some(Algorithm::DoubleTree), channels: Some(2), ..tcp() });
}

#[test]
fn a_receive_that_waits_holds_up_no_collective_in_shared_memory() {
    let shm = |algorithm, channels: u8| Options {
        transport: TransportChoice::Auto,
        algorithm,
        channels: Some(channels),
        ..tcp()
    };
    messages_wait_beside_collectives(shm(None, 1));
    for algorithm in [Algorithm::DoubleTree, Algorithm::Ring, Algorithm::Chain] {
        messages_wait_beside_collectives(shm(Some(algorithm), 1));
        messages_wait_beside_collectives(shm(Some(algorithm), 3));
    }
}

#[test]
fn waiting_for_different_messages_is_no_mismatch() {
    on_all(3, tcp(), |comm| {
        let (me, peer) = (comm.rank(), 1 - comm.rank().min(1));
        // Ranks 0 and 1 wait for each other's message and rank 2 in a barrier, for longer than a stalled call is overlooked.
        let message = (me < 2).then(|| comm.start_recv(vec![0u8; 8], peer).unwrap());
        if me < 2 {
            std::thread::sleep(Duration::from_millis(200));
            comm.send(&[me as u8; 8], peer).unwrap();
            assert_eq!(message.unwrap().wait().unwrap(), [peer as u8; 8]);
        }
        comm.barrier().unwrap();
    });
}

#[test]
fn messages_in_a_circle_in_opposite_orders() {
    // More than sockets hold, so that nobody's send ends before somebody receives.
    const LEN_BYTES: usize = 6 << 20;
    on_all(3, tcp(), |comm| {
        let (me, right, left) = (comm.rank(), (comm.rank() + 1) % 3, (comm.rank() + 2) % 3);
        let send = || comm.start_send(vec![me as u8; LEN_BYTES], right).unwrap();
        let recv = || comm.start_recv(vec![9u8; LEN_BYTES], left).unwrap();
        let (sent, received) = match me {
            1 => {
                let received = recv();
                (send(), received)
            }
            _ => (send(), recv()),
        };
        sent.wait().unwrap();
        assert!(received.wait().unwrap().iter().all(|&byte| usize::from(byte) == left));
        comm.barrier().unwrap();
    });
}

#[test]
fn many_channels_of_many_sockets_at_once() {
    let options = Options { algorithm: Some(Algorithm::Ring), channels: Some(8), sockets: 4, ..tcp() };
    on_all(3, options, |comm| {
        let mut data: Vec<i64> = (0..50_000).map(|index| index * (comm.rank() as i64 + 1)).collect();
        comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
        assert!(data.iter().enumerate().all(|(index, &sum)| sum == 6 * index as i64));
        comm.barrier().unwrap();
    });
}

#[test]
fn waiting_for_one_who_has_left_is_an_error_whoever_would_have_dialled() {
    for leaver in [0, 1] {
        on_all(2, tcp(), |comm| {
            if comm.rank() == leaver {
                return;
            }
            let failed = comm.start_recv(vec![0u8; 8], leaver).unwrap().wait().unwrap_err();
            let Error::PeerLost { suspects, .. } = &failed.error else { panic!("{failed}") };
            assert_eq!(suspects, &[leaver]);
        });
    }
}

#[test]
fn what_was_sent_before_leaving_arrives() {
    // The first message of a link is the one whose connection may not have been looked at when its sender says goodbye.
    for sender in [0, 1] {
        for _ in 0..30 {
            on_all(2, tcp(), |comm| {
                if comm.rank() == sender {
                    return comm.send(&[5u8; 100], 1 - sender).unwrap();
                }
                let mut data = [0u8; 100];
                comm.recv(&mut data, sender).unwrap();
                assert_eq!(data, [5; 100]);
            });
        }
    }
}

#[test]
fn ranks_that_disagree_about_sockets_are_told() {
    let id = roundel::UniqueId::with_interface("lo").unwrap();
    std::thread::scope(|scope| {
        for rank in 0..2 {
            let (id, options) = (&id, Options { sockets: 2 + rank as u8, ..tcp() });
            scope.spawn(move || {
                let comm = Communicator::init_with(id, rank, 2, options).unwrap();
                let error = comm.barrier().unwrap_err().to_string();
                assert!(error.contains("sockets"), "rank {rank}: {error}");
            });
        }
    });
}
