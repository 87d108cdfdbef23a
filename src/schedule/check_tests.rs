//! Every algorithm through the checker: all sizes, roots, layouts of hosts, channels, rounds, capacities, in place and
//! out of place; and the costs that the algorithms' docs claim.
#![forbid(unsafe_code)]

use super::catalogue::{self, Algorithm, Shape};
use super::check::{Capacity, Facts, check, check_mixed};
use super::claim::{Claim, Touched, claim};
use super::{Op, Port, Program};
use crate::types::{Collective, Rank};
use proptest::prelude::*;
use std::collections::BTreeMap;

const ONE_BY_THREE: Capacity = Capacity { link_slices: 1, chunk_slices: 3 };
const TWO_BY_THREE: Capacity = Capacity { link_slices: 2, chunk_slices: 3 };

/// The largest world that is tried in full.
const LARGEST: usize = 130;

pub(super) fn programs(algorithm: Algorithm, shape: &Shape) -> Vec<Program> {
    let program = |me| catalogue::program(algorithm, shape, me).expect("`supports` said yes");
    (0..shape.world()).map(program).collect()
}

fn prove(algorithm: Algorithm, shape: &Shape, capacity: Capacity, rounds: u32) -> Facts {
    check(&programs(algorithm, shape), shape, capacity, rounds)
        .unwrap_or_else(|violation| panic!("{algorithm}, {shape:?}, {capacity:?}, {rounds} rounds: {violation}"))
}

/// Every shape of a collective among `world` ranks laid out so: all roots, or all pairs of sender and receiver of which
/// one is rank 0 or the two are neighbours.
fn rooted(collective: Collective, hosts: &[Vec<Rank>]) -> Vec<Shape> {
    let world: usize = hosts.iter().map(Vec::len).sum();
    let base = Shape { hosts: hosts.to_vec(), ..Shape::apart(collective, 0) };
    let roots = if collective.has_root() { world } else { 1 };
    let mut shapes: Vec<Shape> = (0..roots).map(|root| Shape { root, ..base.clone() }).collect();
    if collective == Collective::SendRecv {
        let pairs = (0..world).flat_map(|rank| [(rank, 0), (0, rank), (rank, (rank + 1) % world)]);
        shapes = pairs.map(|(root, peer)| Shape { root, peer, ..base.clone() }).collect();
    }
    shapes
}

/// Both extremes of a layout: all on one host, and no two on one.
fn extremes(world: usize) -> [Vec<Vec<Rank>>; 2] {
    [vec![(0..world).collect()], (0..world).map(|rank| vec![rank]).collect()]
}

/// Algorithms over links do the same on every layout, so each is looked at on the layout that is its own.
fn at_home(shape: &Shape) -> impl Iterator<Item = Algorithm> {
    let mapped = [Algorithm::OneShot, Algorithm::FlatPush, Algorithm::Staged];
    let one_host = shape.is_one_host() && shape.world() > 1;
    catalogue::candidates(shape).into_iter().filter(move |algorithm| mapped.contains(algorithm) == one_host)
}

/// Every size and root, with the least capacity, and the cost against the claim. With `few_roots` and above 24 ranks,
/// programs that take long to prove (those with O(n^2) ops in all) only have some roots, others at every size;
/// [`every_root_of_every_world`] has them all.
fn all_worlds(collective: Collective, few_roots: bool) {
    let mut proved: BTreeMap<Algorithm, usize> = BTreeMap::new();
    for world in 1..=LARGEST {
        for hosts in extremes(world) {
            for shape in rooted(collective, &hosts) {
                let root = shape.root;
                let chosen = [0, world - 1, world * 7 % 24].contains(&root) && shape.peer <= root + 1;
                for algorithm in at_home(&shape) {
                    let linear = matches!(algorithm, Algorithm::Binomial | Algorithm::Chain);
                    if world <= 24 || chosen || linear || !few_roots {
                        let facts = prove(algorithm, &shape, Capacity::LEAST, 1);
                        compare_with_claim(algorithm, &shape, &facts);
                        *proved.entry(algorithm).or_default() += 1;
                    }
                }
            }
        }
    }
    println!("{collective}, worlds of 1 to {LARGEST}: {proved:?}");
    assert!(!proved.is_empty());
}

/// Every combination of channels, rounds, capacity, in place, for small worlds and every root.
fn all_variants(collective: Collective) {
    let mut proved = 0;
    for world in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16] {
        for shape in extremes(world).iter().flat_map(|hosts| rooted(collective, hosts)) {
            if world > 9 && shape.root % 5 != 1 && collective.has_root() {
                continue;
            }
            for algorithm in at_home(&shape) {
                proved += variants(algorithm, &shape);
            }
        }
    }
    println!("{collective}, variants: {proved}");
    assert!(proved > 100);
}

fn variants(algorithm: Algorithm, shape: &Shape) -> usize {
    let mut proved = 0;
    for channels in 1..=3 {
        for in_place in [false, true] {
            let shape = Shape { channels, in_place, ..shape.clone() };
            for rounds in 1..=if algorithm.single_round() { 1 } else { 3 } {
                for capacity in [Capacity::LEAST, ONE_BY_THREE, TWO_BY_THREE] {
                    // Larger capacities are easier, and all rounds after the second are alike.
                    if rounds < 3 || capacity == Capacity::LEAST {
                        prove(algorithm, &shape, capacity, rounds);
                        proved += 1;
                    }
                }
            }
        }
        proved += wire_compatible(algorithm, &Shape { channels, ..shape.clone() });
    }
    proved
}

/// Ranks may call in place or not as they like (but in all-to-all): programs for both fit each other.
fn wire_compatible(algorithm: Algorithm, shape: &Shape) -> usize {
    if shape.collective == Collective::AllToAll {
        return 0;
    }
    let [apart, in_place] = [false, true].map(|in_place| programs(algorithm, &Shape { in_place, ..shape.clone() }));
    let on_the_wire = |program: &Program| {
        let mut ports: BTreeMap<(bool, Port), usize> = BTreeMap::new();
        for op in &program.ops {
            match op {
                Op::Send { to, .. } => *ports.entry((true, *to)).or_default() += 1,
                Op::Recv { from, .. } | Op::RecvReduce { from, .. } => *ports.entry((false, *from)).or_default() += 1,
                _ => {}
            }
        }
        ports
    };
    let mut mixed = Vec::new();
    let mut flags = Vec::new();
    for (rank, (a, b)) in apart.into_iter().zip(in_place).enumerate() {
        assert_eq!(on_the_wire(&a), on_the_wire(&b), "{algorithm}, {shape:?}, rank {rank}");
        flags.push(rank % 2 == 1);
        mixed.push(if rank % 2 == 1 { b } else { a });
    }
    check_mixed(&mixed, shape, &flags, Capacity::LEAST, 1)
        .unwrap_or_else(|violation| panic!("{algorithm}, {shape:?}, every second rank in place: {violation}"));
    1
}

macro_rules! for_every_collective {
    ($($name:ident: $collective:ident,)*) => {
        mod worlds {
            $(#[test] fn $name() { super::all_worlds(super::Collective::$collective, true); })*
        }
        mod variants {
            $(#[test] fn $name() { super::all_variants(super::Collective::$collective); })*
        }
        /// Minutes of work: `cargo test --lib every_root -- --ignored`.
        mod every_root_of_every_world {
            $(#[test] #[ignore = "half an hour on two cores; other roots of large worlds are sampled above"] fn $name() { super::all_worlds(super::Collective::$collective, false); })*
        }
    };
}

for_every_collective! {
    all_reduce: AllReduce,
    reduce: Reduce,
    broadcast: Broadcast,
    reduce_scatter: ReduceScatter,
    all_gather: AllGather,
    gather: Gather,
    scatter: Scatter,
    all_to_all: AllToAll,
    barrier: Barrier,
    send_recv: SendRecv,
}

/// The ranks of hosts of these sizes, in order.
pub(super) fn hosts(sizes: &[usize]) -> Vec<Vec<Rank>> {
    let mut next = 0;
    let host = |&size: &usize| {
        next += size;
        (next - size..next).collect()
    };
    sizes.iter().map(host).collect()
}

const HIERARCHICAL: [Collective; 6] = [
    Collective::AllReduce,
    Collective::Reduce,
    Collective::Broadcast,
    Collective::ReduceScatter,
    Collective::AllGather,
    Collective::Barrier,
];

#[test]
fn hierarchies_of_small_hosts() {
    let layouts: [&[usize]; 14] = [
        &[2, 2],
        &[1, 2],
        &[2, 1],
        &[3, 3],
        &[3, 1, 2],
        &[2, 2, 2],
        &[1, 1, 4],
        &[4, 3],
        &[2, 3, 1, 4],
        &[4, 4],
        &[2, 2, 2, 2],
        &[5, 2, 2],
        &[2, 2, 2, 2, 2],
        &[1, 3, 1, 3, 1],
    ];
    let mut proved = 0;
    for sizes in layouts {
        for collective in HIERARCHICAL {
            for shape in rooted(collective, &hosts(sizes)) {
                proved += variants(Algorithm::Hierarchical, &shape);
            }
        }
    }
    println!("hierarchies: {proved}");
}

#[test]
fn hierarchies_of_interleaved_hosts() {
    // Ranks need not be numbered host by host.
    for hosts in [vec![vec![0, 2], vec![1, 3]], vec![vec![0, 3, 5], vec![1, 4], vec![2]]] {
        for collective in HIERARCHICAL {
            rooted(collective, &hosts).iter().for_each(|shape| {
                variants(Algorithm::Hierarchical, shape);
            });
        }
    }
}

#[test]
fn hierarchies_of_many_ranks() {
    let layouts: [&[usize]; 8] =
        [&[8; 16], &[64, 64], &[65, 65], &[12, 12], &[6, 6, 6, 6], &[1, 23], &[10, 8, 9, 7], &[13; 10]];
    for sizes in layouts {
        for collective in HIERARCHICAL {
            let shapes = rooted(collective, &hosts(sizes));
            let world = shapes[0].world();
            for mut shape in shapes {
                if [0, 1, world / 2, world - 1].contains(&shape.root) {
                    prove(Algorithm::Hierarchical, &shape, Capacity::LEAST, 1);
                    shape.channels = 2;
                    shape.in_place = true;
                    prove(Algorithm::Hierarchical, &shape, Capacity::LEAST, 2);
                }
            }
        }
    }
}

fn compare_with_claim(algorithm: Algorithm, shape: &Shape, facts: &Facts) {
    let case = || format!("{algorithm}, {shape:?}");
    match claim(algorithm, shape) {
        Some(claim) => {
            let touched = Touched { loads: facts.loads, stores: facts.stores };
            let found = Claim {
                chunks: facts.chunks,
                sent_max: facts.sent_max(),
                steps: facts.steps,
                meetings: facts.meetings,
                touched: claim.touched.and(Some(touched)),
            };
            assert_eq!(found, claim, "found and claimed for {}", case());
        }
        None => {
            assert_eq!((shape.world(), facts.steps, facts.meetings, facts.sent_total()), (1, 0, 0, 0), "{}", case())
        }
    }
    if catalogue::honours_rank_order(algorithm, shape) {
        assert!(facts.rank_order && facts.rounds_once, "{} adds up in another order than its ranks'", case());
    }
}

#[test]
fn only_those_that_say_so_honour_the_rank_order() {
    // Were every algorithm canonical at 7 ranks, the flag would say nothing.
    let shape = Shape::apart(Collective::AllReduce, 7);
    for algorithm in catalogue::candidates(&shape) {
        let facts = prove(algorithm, &shape, Capacity::LEAST, 1);
        assert_eq!(
            facts.rank_order && facts.rounds_once,
            catalogue::honours_rank_order(algorithm, &shape),
            "{algorithm}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn large_worlds(world in 131_usize..=512, root in 0_usize..131, channels in 1_u8..=2, in_place: bool) {
        let logarithmic = [
            (Algorithm::RecursiveDoubling, Collective::AllReduce),
            (Algorithm::DoubleTree, Collective::AllReduce),
            (Algorithm::Binomial, Collective::Broadcast),
            (Algorithm::Binomial, Collective::Reduce),
            (Algorithm::Binomial, Collective::Gather),
            (Algorithm::Binomial, Collective::Scatter),
            (Algorithm::Chain, Collective::Broadcast),
            (Algorithm::Chain, Collective::Reduce),
            (Algorithm::Dissemination, Collective::Barrier),
        ];
        for (algorithm, collective) in logarithmic {
            let root = if collective.has_root() { root } else { 0 };
            let shape = Shape { root, channels, in_place, ..Shape::apart(collective, world) };
            prove(algorithm, &shape, Capacity::LEAST, 1);
        }
    }

    #[test]
    fn any_layout(sizes in prop::collection::vec(1_usize..7, 2..6), which in 0_usize..6, root in 0_usize..30, channels in 1_u8..=3, in_place: bool, rounds in 1_u32..=3) {
        let world: usize = sizes.iter().sum();
        let collective = HIERARCHICAL[which];
        let root = if collective.has_root() { root % world } else { 0 };
        let shape = Shape { root, channels, in_place, hosts: hosts(&sizes), ..Shape::apart(collective, 0) };
        for algorithm in catalogue::candidates(&shape) {
            prove(algorithm, &shape, ONE_BY_THREE, rounds);
        }
    }
}
