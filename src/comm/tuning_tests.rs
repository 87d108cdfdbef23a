//! One table on all ranks, rank 0's, whatever the others read, set or measured.
#![forbid(unsafe_code)]

use super::*;
use crate::schedule::catalogue::Algorithm;
use crate::schedule::cost::LinkCost;
use crate::topology::TransportChoice;
use crate::tuner::costs::MeasuredLink;
use crate::tuner::{Costs, LinkClass, Origin, Rule, Table, Way};
use crate::types::{Collective, DType, ReduceOp};
use std::path::Path;
use std::time::Duration;

fn options(transport: TransportChoice) -> Options {
    let timeout = Duration::from_secs(60);
    Options { transport, timeout, init_timeout: timeout, tune: Tune::Off, ..Options::default() }
}

/// Over TCP, with what is kept in `file`.
fn with(tune: Tune, file: &Path) -> Options {
    Options { tune, tune_file: Some(file.display().to_string()), ..options(TransportChoice::Tcp) }
}

/// Ranks as threads, each with options of its own.
fn on_ranks<T: Send>(options: Vec<Options>, body: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    let id = UniqueId::with_interface("127.0.0.1").unwrap();
    let (world, body, id) = (options.len(), &body, &id);
    std::thread::scope(|scope| {
        let run =
            |(rank, options)| scope.spawn(move || body(Communicator::init_with(id, rank, world, options).unwrap()));
        let running: Vec<_> = options.into_iter().enumerate().map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn sums_are_right(comm: &Communicator) {
    for count in [1, 5000, 200_000] {
        let mut data: Vec<u32> = (0..count).map(|index| index + comm.rank() as u32).collect();
        comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
        let n = comm.world() as u32;
        assert!((0..count).all(|index| data[index as usize] == n * index + n * (n - 1) / 2), "{count} on {comm:?}");
    }
}

fn costs(class: LinkClass) -> Costs {
    let cost = LinkCost { latency_ns: 1e4, ns_per_byte: 0.5 };
    let remote = Some(MeasuredLink { class, cost, step_ns: 1e3 });
    Costs { local: None, remote, memory_ns_per_byte: 0.1, reduce_ns_per_byte: 0.1, sync_ns: 0.0 }
}

fn rule(mapped: bool, up_to_bytes: u64, way: Way) -> Rule {
    Rule { collective: Collective::AllReduce, mapped, up_to_bytes, way: Some(way) }
}

/// No built-in choice looks like this.
fn odd_table() -> Table {
    let tree = Way { channels: 2, ..Way::plain(Algorithm::DoubleTree) };
    let ring = Way { slice_bytes: Some(8 << 10), ..Way::plain(Algorithm::Ring) };
    Table { origin: Origin::Cache, rules: vec![rule(false, 4096, tree), rule(false, u64::MAX, ring)] }
}

/// Writes a file for the topology of `world` ranks over TCP.
fn keep(path: &Path, world: usize) {
    on_ranks(vec![options(TransportChoice::Tcp); world], |comm| {
        if comm.rank() == 0 {
            comm.keep(costs(LinkClass::TcpWithinHost), odd_table(), Some(path.to_path_buf())).unwrap();
        }
        comm.barrier().unwrap();
    });
}

fn chosen(comm: &Communicator, count: usize) -> (&'static str, u8, Origin) {
    let plan = comm.explain(Collective::AllReduce, DType::U32, Some(ReduceOp::Sum), count, 0, true, false).unwrap();
    (plan.algorithm, plan.channels, plan.origin)
}

#[test]
fn the_table_of_rank_0_holds_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let (good, damaged) = (folder.path().join("good"), folder.path().join("damaged"));
    keep(&good, 3);
    std::fs::write(&damaged, b"something else").unwrap();
    let ranks = vec![with(Tune::Auto, &good), with(Tune::Auto, &damaged), with(Tune::Off, &good)];
    on_ranks(ranks, |comm| {
        // A communicator made later takes what is kept without another look at the clock.
        let part = comm.split(Some(0), 0).unwrap().unwrap();
        assert_eq!(part.table(), Some(odd_table()));
        assert_eq!(chosen(&part, 8), ("tree", 2, Origin::Cache));
        assert_eq!(chosen(&part, 1 << 20), ("ring", 1, Origin::Cache));
        sums_are_right(&part);
        // Two of three ranks are another topology.
        let pair = comm.split((comm.rank() < 2).then_some(0), 0).unwrap();
        assert_eq!(pair.and_then(|pair| pair.table()), None);
    });
    // Likewise where rank 0 is the one without.
    let ranks = vec![with(Tune::Auto, &damaged), with(Tune::Auto, &good), with(Tune::Force, &good)];
    on_ranks(ranks, |comm| {
        let part = comm.split(Some(0), 0).unwrap().unwrap();
        assert_eq!((comm.table(), part.table()), (None, None));
        assert_eq!(chosen(&part, 8).2, Origin::BuiltIn);
        sums_are_right(&part);
    });
}

#[test]
fn when_a_job_begins_all_believe_what_was_kept_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    keep(&path, 3);
    let tables = on_ranks(vec![with(Tune::Auto, &path); 3], |comm| {
        sums_are_right(&comm);
        comm.table()
    });
    // Whether the costs in the file are those of this machine at this moment is not for a test to say.
    assert!(tables[0].is_none() || tables[0] == Some(odd_table()), "{:?}", tables[0]);
    assert!(tables.iter().all(|table| *table == tables[0]));
}

#[test]
fn what_was_set_comes_before_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    keep(&path, 2);
    let kept =
        Options { tune: Tune::Auto, tune_file: Some(path.display().to_string()), ..options(TransportChoice::Tcp) };
    let part = |options: Options, expected: (&str, u8, Origin), slot_bytes: Option<usize>| {
        on_ranks(vec![options; 2], |comm| {
            let part = comm.split(Some(0), 0).unwrap().unwrap();
            assert_eq!(chosen(&part, 1 << 20), expected);
            let plan = part.explain(Collective::AllReduce, DType::U32, Some(ReduceOp::Sum), 1 << 20, 0, true, false);
            let plan = plan.unwrap();
            assert!(slot_bytes.is_none_or(|bytes| plan.slot_bytes == bytes || plan.slot_bytes == 0), "{plan}");
            sums_are_right(&part);
        });
    };
    let algorithm = Some(Algorithm::Pat);
    part(Options { algorithm, ..kept.clone() }, ("pat", 1, Origin::Override), None);
    part(Options { channels: Some(3), ..kept.clone() }, ("ring", 3, Origin::Cache), None);
    part(Options { slice_bytes: Some(64 << 10), ..kept }, ("ring", 1, Origin::Cache), Some(64 << 10));
}

#[test]
fn what_is_measured_is_the_same_on_all_ranks_and_kept_if_wanted() {
    let folder = tempfile::tempdir().unwrap();
    for transport in [TransportChoice::Tcp, TransportChoice::Memory] {
        for (tune, is_kept) in [(Tune::Force, false), (Tune::On, true), (Tune::Auto, true)] {
            let path = folder.path().join(transport.to_string());
            let measuring = Options { tune, tune_file: Some(path.display().to_string()), ..options(transport) };
            let tables = on_ranks(vec![measuring; 3], |comm| {
                sums_are_right(&comm);
                comm.table()
            });
            assert!(tables.iter().all(|table| *table == tables[0]), "{transport} {tune:?}: {tables:?}");
            assert!(tune == Tune::Auto || tables[0].as_ref().is_some_and(|table| table.origin == Origin::Measured));
            assert_eq!(path.exists(), is_kept, "{transport} {tune:?}");
        }
    }
}

/// Ranks whose buffers can be mapped look at other rules than those whose cannot; they settle all the same.
#[test]
fn ranks_with_mapped_buffers_and_without_settle_whatever_the_table_says() {
    let staged = |slice_bytes| Way { slice_bytes, ..Way::plain(Algorithm::Staged) };
    let tables = [
        [staged(Some(4 << 10)), Way::plain(Algorithm::FlatPush)],
        [staged(Some(4 << 10)), staged(Some(32 << 10))],
        [staged(Some(32 << 10)), staged(None)],
        [Way::plain(Algorithm::OneShot), staged(Some(4 << 10))],
    ];
    on_ranks(vec![options(TransportChoice::Auto); 3], |comm| {
        for [private, mapped] in tables {
            let rules = vec![rule(false, u64::MAX, private), rule(true, u64::MAX, mapped)];
            let table = Table { origin: Origin::Measured, rules };
            assert_eq!(table.check(comm.hosts()), Ok(()));
            comm.follow(Some(table));
            for round in 0..3 {
                for count in [100_usize, 6000, 100_000] {
                    let value = comm.rank() as u32 + round;
                    // Two rounds with one rank that differs, one in which all are alike.
                    let mut plain = vec![value; count];
                    let mut shared = comm.alloc::<u32>(count).unwrap();
                    shared.fill(value);
                    let has_mapped = round == 2 || comm.rank() as u32 == round;
                    let data: &mut [u32] = if has_mapped { &mut shared } else { &mut plain };
                    comm.all_reduce_in_place(data, ReduceOp::Sum).unwrap();
                    assert!(data.iter().all(|&sum| sum == 3 + 3 * round), "{private} and {mapped}, {count}");
                }
            }
        }
    });
}

#[test]
fn ranks_with_different_tables_are_found_out() {
    let outcomes = on_ranks(vec![options(TransportChoice::Tcp); 2], |comm| {
        comm.follow((comm.rank() == 1).then(odd_table));
        comm.all_reduce_in_place(&mut [1u32; 4], ReduceOp::Sum)
    });
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Error::Mismatch { .. }))), "{outcomes:?}");
}
