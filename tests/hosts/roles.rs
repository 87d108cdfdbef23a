//! What rank processes do.

use crate::job::join;
use crate::support::suite::{all_collectives, fingerprint};
use crate::support::{heard, say};
use roundel::{Collective, Communicator, DType, Error, ReduceOp};
use std::time::Instant;

pub fn play(role: &str, argument: &str) {
    match role {
        "suite" => suite(argument),
        "big" => big(argument),
        "bits" => bits(argument),
        "until it fails" => until_it_fails(),
        "after the word" => after_the_word(argument),
        "beside a stopped rank" => beside_a_stopped_rank(),
        "ports" => ports(),
        "after a loss" => crate::store::after_a_loss(argument),
        _ => panic!("there is no role {role:?}"),
    }
}

fn numbers(argument: &str) -> Vec<usize> {
    argument.split(',').map(|count| count.parse().unwrap()).collect()
}

fn algorithm(comm: &Communicator, count: usize) -> &'static str {
    comm.explain(Collective::AllReduce, DType::I64, Some(ReduceOp::Sum), count, 0, false, false).unwrap().algorithm
}

/// All collectives at each of these sizes.
fn suite(counts: &str) {
    let comm = join();
    say(format_args!("hosts {:?} {}", comm.hosts(), comm.transport()));
    for count in numbers(counts) {
        say(format_args!("algorithm {}", algorithm(&comm, count)));
        all_collectives(&comm, count);
    }
}

/// One large all-reduce, twice.
fn big(count: &str) {
    let comm = join();
    let count = count.parse().unwrap();
    say(format_args!("algorithm {} over {}", algorithm(&comm, count), comm.transport()));
    for round in 0..2 {
        let mut data: Vec<i64> = (0..count).map(|index| (index + comm.rank() + round) as i64).collect();
        comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
        let n = comm.world();
        let right = |(index, sum): (usize, &i64)| *sum == (n * (index + round) + n * (n - 1) / 2) as i64;
        assert!(data.iter().enumerate().all(right));
    }
}

/// The bits of floating-point sums.
fn bits(counts: &str) {
    let comm = join();
    say(format_args!("hosts {:?}", comm.hosts()));
    say(format_args!("bits {:016x}", fingerprint(&comm, &numbers(counts))));
}

/// Calls until one fails, and says why.
fn until_it_fails() {
    let comm = join();
    let mut calls = 0;
    let error = loop {
        let mut data = vec![1.0f32; 5000];
        match comm.all_reduce_in_place(&mut data, ReduceOp::Sum) {
            Ok(()) if calls == 3 => say("ready"),
            Ok(()) => {}
            Err(error) => break error,
        }
        calls += 1;
    };
    match &error {
        Error::PeerLost { suspects, .. } => say(format_args!("lost {suspects:?}")),
        _ => say(format_args!("other error {error:?}")),
    }
}

/// Makes one call after the test said so, and tells its error and how long it took. `warm`: the links are there before.
fn after_the_word(argument: &str) {
    let comm = join();
    let mut data = vec![1i64; 100_000];
    if argument == "warm" {
        comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
    }
    say("ready");
    heard();
    let start = Instant::now();
    let error = comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap_err();
    let kind = match &error {
        Error::Timeout { waiting_for, .. } => format!("timeout {waiting_for:?}"),
        _ => format!("{error:?}"),
    };
    say(format_args!("error {} {kind}", start.elapsed().as_millis()));
    // Others must find out by themselves, not because this one has gone.
    heard();
    drop(comm);
}

/// Rank 2 is stopped while the others talk: rank 0 has a message for it, to which there is no link yet.
fn beside_a_stopped_rank() {
    let comm = join();
    say("ready");
    heard();
    let for_2 = (comm.rank() == 0).then(|| comm.start_send(vec![7u8; 1000], 2).unwrap());
    if comm.rank() == 2 {
        let mut data = vec![0u8; 1000];
        comm.recv(&mut data, 0).unwrap();
        assert_eq!(data, [7; 1000]);
        return comm.barrier().unwrap();
    }
    let (mine, mut theirs, peer) = ([comm.rank(); 100], [9; 100], 1 - comm.rank());
    let mine = mine.map(|rank| rank as u64);
    comm.group(|group| {
        group.send(&mine, peer)?;
        group.recv(&mut theirs, peer)
    })
    .unwrap();
    assert_eq!(theirs, [peer as u64; 100]);
    say("talked");
    if let Some(work) = for_2 {
        work.wait().unwrap();
    }
    comm.barrier().unwrap();
}

/// Tells the ports at which this process listens.
fn ports() {
    let comm = join();
    comm.barrier().unwrap();
    say(format_args!("ports {}", listening_ports().iter().map(u16::to_string).collect::<Vec<_>>().join(",")));
    comm.barrier().unwrap();
}

/// From the kernel's table of sockets, those that this process has open.
fn listening_ports() -> Vec<u16> {
    const LISTENING: &str = "0A";
    let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let names: Vec<String> =
        files.filter_map(|file| Some(std::fs::read_link(file.path()).ok()?.to_string_lossy().into_owned())).collect();
    let tables =
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let mut ports: Vec<u16> = lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_ours = names.contains(&format!("socket:[{}]", fields[9]));
            let port = fields[1].rsplit_once(':')?.1;
            (is_ours && fields[3] == LISTENING).then(|| u16::from_str_radix(port, 16).unwrap())
        })
        .collect();
    ports.sort_unstable();
    ports
}
