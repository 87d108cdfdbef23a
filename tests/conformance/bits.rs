//! Promises about bits: the same on every rank always; reproducibly, those of the reference tree in rank order, whatever
//! lies between the ranks; and what becomes of NaN, infinities and zeros.

use crate::calls::{self, Case};
use crate::numbers::{Data, contributions, float, for_every_type, operations, own, value};
use crate::room::{Home, same};
use roundel::schedule::catalogue::{Shape, honours_rank_order, supports};
use roundel::{Collective, Communicator, DType, Element, Error, F8E4M3, F8E5M2, ReduceOp, Result};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Every reduction equals the reference tree, on data where every other order gives other bits. The oracle knows neither
/// transport nor algorithm, so all of them agree.
pub fn reproducible(comm: &Communicator) {
    for_every_type!(reproducible_type(comm));
    let mapped =
        |home| Case { data: Data::Rough, input: home, output: home, root: comm.world() / 2, ..Case::new(comm, 0) };
    for home in [Home::Heap, Home::Mapped] {
        for count in [1, 20_000] {
            calls::all_reduce::<f32>(&Case { count, ..mapped(home) }, ReduceOp::Sum);
            calls::reduce::<half::bf16>(&Case { count, ..mapped(home) }, ReduceOp::Avg);
            calls::reduce_scatter::<half::f16>(&Case { count: count / comm.world(), ..mapped(home) }, ReduceOp::Sum);
        }
    }
}

fn reproducible_type<T: Element>(comm: &Communicator) {
    for (index, op) in operations::<T>().into_iter().enumerate() {
        let (root, in_place) = (index % comm.world(), index % 2 == 1);
        calls::reducing::<T>(&Case { data: Data::Rough, root, in_place, ..Case::new(comm, 131) }, op);
    }
}

/// Whatever the bits are, they are the same on all ranks, and again the next time.
pub fn same_bits(comm: &Communicator) {
    same_bits_of::<f32>(comm);
    same_bits_of::<half::f16>(comm);
    same_bits_of::<half::bf16>(comm);
    same_bits_of::<F8E4M3>(comm);
    same_bits_of::<F8E5M2>(comm);
    same_bits_of::<f64>(comm);
}

fn same_bits_of<T: Element>(comm: &Communicator) {
    for op in operations::<T>() {
        for count in [5, 5000] {
            let input: Vec<T> = contributions(Data::Rough, op, comm.rank(), 0..count);
            let run = || {
                let mut output = input.clone();
                comm.all_reduce_in_place(&mut output, own::<T>(op, Data::Rough, comm.rank())).unwrap();
                output
            };
            let what = format!("{op} of {} x {count} on rank {}", T::DTYPE, comm.rank());
            let output = run();
            same(&run(), &output, &format_args!("{what}, again"));
            let mut digest = DefaultHasher::new();
            bytemuck::cast_slice::<T, u8>(&output).hash(&mut digest);
            let mut digests = vec![0; comm.world()];
            comm.all_gather(&[digest.finish()], &mut digests).unwrap();
            assert_eq!(digests, vec![digest.finish(); comm.world()], "{what}, {:?}", comm.options().algorithm);
        }
    }
}

/// Cases whose result does not depend on the order: rank 0 has one value, rank 1 another, the rest the neutral one.
pub fn special_values(comm: &Communicator) {
    if comm.world() == 1 {
        return;
    }
    special::<f32>(comm, 0x7fc0_0000, 0xff81_2345);
    special::<f64>(comm, 0x7ff8 << 48, 0xfff0_0000_0000_0001);
    special::<half::f16>(comm, 0x7e00, 0xfd55);
    special::<half::bf16>(comm, 0x7fc0, 0xff81);
    special::<F8E5M2>(comm, 0x7e, 0xff);
    special::<F8E4M3>(comm, 0x7f, 0xff);
}

fn special<T: Element>(comm: &Communicator, canonical_nan: u64, other_nan: u64) {
    use ReduceOp::*;
    let (nan, odd) = (value::<T>(canonical_nan), value::<T>(other_nan));
    let number = float::<T>;
    let (inf, zero, minus_zero) = (number(f64::INFINITY), number(0.0), number(-0.0));
    let largest = match T::DTYPE {
        DType::F64 => number(f64::MAX),
        DType::F32 => number(f64::from(f32::MAX)),
        DType::F16 => value(0x7bff),
        DType::Bf16 => value(0x7f7f),
        DType::F8E4M3 => value(0x7e),
        _ => value(0x7b),
    };
    // e4m3 has no infinity: what would be one is no number.
    let has_inf = T::DTYPE != DType::F8E4M3;
    let beyond = if has_inf { inf } else { nan };
    let mut table = vec![
        (Sum, odd, number(1.0), minus_zero, nan),
        (Prod, number(2.0), odd, number(1.0), nan),
        (Min, odd, number(1.0), number(3.0), nan),
        (Max, number(1.0), odd, number(-3.0), nan),
        (Avg, odd, nan, zero, nan),
        (Sum, minus_zero, minus_zero, minus_zero, minus_zero),
        (Sum, minus_zero, zero, minus_zero, zero),
        (Min, zero, minus_zero, zero, minus_zero),
        (Max, minus_zero, zero, minus_zero, zero),
        (Sum, largest, largest, zero, beyond),
        (Prod, minus_zero, number(2.0), number(1.0), minus_zero),
    ];
    if has_inf {
        table.extend([
            (Sum, inf, number(f64::NEG_INFINITY), zero, nan),
            (Sum, inf, largest, zero, inf),
            (Prod, inf, zero, number(1.0), nan),
            (Min, inf, number(f64::NEG_INFINITY), zero, number(f64::NEG_INFINITY)),
            (Max, inf, number(f64::NEG_INFINITY), zero, inf),
        ]);
    }
    for (op, first, second, rest, wanted) in table {
        let mine = [first, second].get(comm.rank()).copied().unwrap_or(rest);
        for count in [1, 2000] {
            let mut data = vec![mine; count];
            comm.all_reduce_in_place(&mut data, op).unwrap();
            let bits = |x: T| x.scalar().bits;
            let what = format!("{op} of {}: {:#x}, {:#x}, {:#x}...", T::DTYPE, bits(first), bits(second), bits(rest));
            same(&data, &vec![wanted; count], &what);
        }
    }
}

/// A wish that cannot keep the order is refused, on all ranks alike; the communicator goes on. All others are right.
pub fn refused_wishes(comm: &Communicator) {
    let wish = comm.options().algorithm.expect("this suite runs with wishes");
    let shape = |collective| Shape { hosts: comm.hosts().to_vec(), ..Shape::one_host(collective, comm.world()) };
    let refused = |collective| {
        let shape = shape(collective);
        supports(wish, &shape) && !honours_rank_order(wish, &shape)
    };
    let case = Case { data: Data::Rough, ..Case::new(comm, 500) };
    let (op, input) = (ReduceOp::Sum, vec![1.0f32; 3 * comm.world()]);
    let mut output = vec![0.0; 3 * comm.world()];
    let check = |outcome: Result<()>| match outcome {
        Err(Error::Unsupported { what }) => assert!(what.contains(wish.name()), "{what}"),
        other => panic!("{wish} keeps no order here, but: {other:?}"),
    };
    match refused(Collective::AllReduce) {
        true => check(comm.all_reduce(&input, &mut output, op)),
        false => calls::all_reduce::<f32>(&case, op),
    }
    comm.barrier().unwrap();
    match refused(Collective::Reduce) {
        true => check(comm.reduce(&input, &mut output, op, 0)),
        false => calls::reduce::<f32>(&case, op),
    }
    comm.barrier().unwrap();
    match refused(Collective::ReduceScatter) {
        true => check(comm.reduce_scatter(&input, &mut output[..3], op)),
        false => calls::reduce_scatter::<f32>(&case, op),
    }
    comm.status().unwrap();
    calls::moving::<u32>(&case);
}
