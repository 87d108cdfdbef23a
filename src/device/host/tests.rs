//! Every loop against [`mod@reference`], bit for bit, with every instruction set of this machine.

use proptest::prelude::*;

use super::*;
use crate::device::samples::{Noise, OPS, assert_same, elements, special};

const OPERANDS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 17, 33];
const LENGTHS: [usize; 13] = [0, 1, 3, 15, 16, 17, 31, 63, 64, 65, 1000, 1024, 4097];
const LONGEST: usize = 4097;

/// Calls `body` with every element type, every operation on it, and every instruction set.
fn for_all(mut body: impl FnMut(Isa, DType, ReduceOp)) {
    for isa in Isa::available() {
        for dtype in DType::ALL {
            for op in OPS.into_iter().filter(|op| op.accepts(dtype)) {
                body(isa, dtype, op);
            }
        }
    }
}

fn span_of(bytes: &mut [u8]) -> Span {
    // SAFETY: each test keeps its vectors alive and untouched while it uses their spans.
    unsafe { Span::new(bytes.as_mut_ptr(), bytes.len()) }
}

/// `bytes` at an address that is `misaligned_bytes` past a line.
fn misaligned(bytes: &[u8], misaligned_bytes: usize) -> (Vec<u8>, usize) {
    let mut room = vec![0xa5; bytes.len() + 192];
    let start = room.as_ptr().align_offset(64) + misaligned_bytes;
    room[start..start + bytes.len()].copy_from_slice(bytes);
    (room, start)
}

/// Reduces with `isa` from operands at different misalignments into two outputs, and compares.
fn reduce_and_compare(isa: Isa, fold: &Fold, finish: bool, from: &[&[u8]], wanted: &[u8], shift: usize, store: Store) {
    let mut rooms: Vec<_> = from.iter().enumerate().map(|(k, bytes)| misaligned(bytes, k * shift % 64)).collect();
    let spans: Vec<Span> =
        rooms.iter_mut().zip(from).map(|((room, at), bytes)| span_of(room).cut(*at, bytes.len())).collect();
    let mut outputs: Vec<_> = (0..2).map(|k| misaligned(&vec![0; wanted.len()], (k + 1) * shift % 64)).collect();
    let into: Vec<Span> = outputs.iter_mut().map(|(room, at)| span_of(room).cut(*at, wanted.len())).collect();
    reduce_with(isa, fold, finish, &spans, &into, store);
    let what = format!(
        "{} {} {} n={} len={} finish={finish} shift={shift} {store:?}",
        isa.name(),
        fold.dtype,
        fold.op,
        from.len(),
        wanted.len() / fold.dtype.size_bytes()
    );
    for (room, at) in &outputs {
        assert_same(fold.dtype, &room[*at..at + wanted.len()], wanted, &what);
        let untouched = room[..*at].iter().chain(&room[at + wanted.len()..]);
        assert!(untouched.clone().all(|&byte| byte == 0xa5), "{what}: wrote outside");
    }
}

#[test]
fn equals_the_reference_at_any_length_alignment_and_number_of_operands() {
    for dtype in DType::ALL {
        let size = dtype.size_bytes();
        let mut noise = Noise(dtype as u64);
        let operands: Vec<Vec<u8>> = (0..33).map(|_| elements(dtype, LONGEST, &mut noise)).collect();
        for op in OPS.into_iter().filter(|op| op.accepts(dtype)) {
            for (case, n) in OPERANDS.into_iter().enumerate() {
                let fold = Fold::new(dtype, op, n as u32 + 2);
                for finish in [false, true] {
                    if finish && op != ReduceOp::Avg {
                        continue;
                    }
                    let all: Vec<&[u8]> = operands[..n].iter().map(Vec::as_slice).collect();
                    let wanted = reference::reduce(&fold, finish, &all);
                    for isa in Isa::available() {
                        for (turn, len) in LENGTHS.into_iter().enumerate() {
                            // Not the front every time: a result must not depend on the position either.
                            let cut = (LONGEST - len) / 2 * size..((LONGEST - len) / 2 + len) * size;
                            let from: Vec<&[u8]> = all.iter().map(|bytes| &bytes[cut.clone()]).collect();
                            let shift = [0, size, 1, 33][(turn + case) % 4];
                            let store = [Store::Cached, Store::Streaming][(turn + case / 2) % 2];
                            reduce_and_compare(isa, &fold, finish, &from, &wanted[cut], shift, store);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_shift_and_store_gives_the_same_bits() {
    for_all(|isa, dtype, op| {
        let mut noise = Noise(7);
        let operands: Vec<Vec<u8>> = (0..3).map(|_| elements(dtype, 1100, &mut noise)).collect();
        let from: Vec<&[u8]> = operands.iter().map(Vec::as_slice).collect();
        let fold = Fold::new(dtype, op, 3);
        let wanted = reference::reduce(&fold, true, &from);
        for shift in [0, dtype.size_bytes(), 1, 7, 63] {
            for store in [Store::Cached, Store::Streaming] {
                reduce_and_compare(isa, &fold, true, &from, &wanted, shift, store);
            }
        }
    });
}

/// Two operands whose elements are all the pairs of `values`.
fn pairs(dtype: DType, values: &[u64]) -> (Vec<u8>, Vec<u8>) {
    let size = dtype.size_bytes();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for a in values {
        for b in values {
            left.extend_from_slice(&a.to_le_bytes()[..size]);
            right.extend_from_slice(&b.to_le_bytes()[..size]);
        }
    }
    (left, right)
}

#[test]
fn all_pairs_of_special_values_agree_and_commute() {
    for_all(|isa, dtype, op| {
        let values: Vec<u64> = match dtype.size_bytes() {
            1 => (0..256).collect(),
            _ => special(dtype),
        };
        let (left, right) = pairs(dtype, &values);
        let fold = Fold::new(dtype, op, 2);
        let wanted = reference::reduce(&fold, true, &[&left, &right]);
        reduce_and_compare(isa, &fold, true, &[&left, &right], &wanted, 0, Store::Cached);
        reduce_and_compare(isa, &fold, true, &[&right, &left], &wanted, 0, Store::Cached);
    });
}

#[test]
fn results_that_the_table_promises() {
    let nan = u64::from(f32::NAN.to_bits() | 5);
    let f = |x: f32| u64::from(x.to_bits());
    let rows: [(DType, ReduceOp, u32, [u64; 2], u64); 16] = [
        (DType::I8, ReduceOp::Sum, 2, [127, 1], 0x80),
        (DType::U64, ReduceOp::Prod, 2, [1 << 63, 2], 0),
        (DType::I32, ReduceOp::Avg, 2, [0xffff_fffc, 1], 0xffff_ffff),
        (DType::I64, ReduceOp::Avg, 2, [i64::MIN as u64, 1], (i64::MIN / 2 + 1) as u64),
        (DType::U8, ReduceOp::Avg, 300, [200, 50], 0),
        (DType::F32, ReduceOp::Min, 2, [f(0.0), f(-0.0)], f(-0.0)),
        (DType::F32, ReduceOp::Max, 2, [f(0.0), f(-0.0)], f(0.0)),
        (DType::F32, ReduceOp::Min, 2, [nan, f(1.0)], 0x7fc0_0000),
        (DType::F32, ReduceOp::Max, 2, [f(f32::INFINITY), nan | 1 << 31], 0x7fc0_0000),
        (DType::F32, ReduceOp::Sum, 2, [f(f32::INFINITY), f(f32::NEG_INFINITY)], 0x7fc0_0000),
        (DType::F64, ReduceOp::Avg, 3, [1f64.to_bits(), 0], (1.0 / 3.0f64).to_bits()),
        (DType::F16, ReduceOp::Sum, 2, [0x7bff, 0x7bff], 0x7c00),
        (DType::Bf16, ReduceOp::Sum, 2, [0x0001, 0x0001], 0x0002),
        (DType::F8E4M3, ReduceOp::Sum, 2, [0x7e, 0x58], 0x7e), // 448 + 16 is the tie; even wins
        (DType::F8E4M3, ReduceOp::Sum, 2, [0x7e, 0x59], 0x7f),
        (DType::F8E5M2, ReduceOp::Sum, 2, [0xfb, 0xfb], 0xfc),
    ];
    for (dtype, op, world, [a, b], wanted) in rows {
        let size = dtype.size_bytes();
        let [a, b, wanted] = [a, b, wanted].map(|bits| bits.to_le_bytes()[..size].to_vec());
        let fold = Fold::new(dtype, op, world);
        assert_same(dtype, &reference::reduce(&fold, true, &[&a, &b]), &wanted, &format!("reference, {dtype} {op}"));
        for isa in Isa::available() {
            reduce_and_compare(isa, &fold, true, &[&a, &b], &wanted, 0, Store::Cached);
        }
    }
}

#[test]
fn small_floats_round_once_over_all_operands() {
    // 256 + 1 + 1 in bf16 (8 bits of mantissa): rounded after each step it stays 256; in f32 it is 258.
    let operands = [0x4380u16, 0x3f80, 0x3f80].map(u16::to_le_bytes);
    let from: Vec<&[u8]> = operands.iter().map(|bytes| bytes.as_slice()).collect();
    let fold = Fold::new(DType::Bf16, ReduceOp::Sum, 3);
    for isa in Isa::available() {
        reduce_and_compare(isa, &fold, true, &from, &0x4381u16.to_le_bytes(), 0, Store::Cached);
    }
}

#[test]
fn an_output_may_be_any_of_the_operands() {
    for_all(|isa, dtype, op| {
        let mut noise = Noise(11);
        for n in [2, 3, 5, 9] {
            let operands: Vec<Vec<u8>> = (0..n).map(|_| elements(dtype, 777, &mut noise)).collect();
            let from: Vec<&[u8]> = operands.iter().map(Vec::as_slice).collect();
            let fold = Fold::new(dtype, op, 4);
            let wanted = reference::reduce(&fold, true, &from);
            for store in [Store::Cached, Store::Streaming] {
                let mut rooms = operands.clone();
                let spans: Vec<Span> = rooms.iter_mut().map(|room| span_of(room)).collect();
                // Into the first and the last.
                reduce_with(isa, &fold, true, &spans, &[spans[0], spans[n - 1]], store);
                for k in [0, n - 1] {
                    assert_same(dtype, &rooms[k], &wanted, &format!("{} {dtype} {op} in place {k}/{n}", isa.name()));
                }
                for k in 1..n - 1 {
                    assert_eq!(rooms[k], operands[k], "an operand changed");
                }
            }
        }
    });
}

#[test]
fn hundreds_of_operands() {
    for isa in Isa::available() {
        for dtype in [DType::F32, DType::Bf16, DType::F64] {
            let mut noise = Noise(13);
            let operands: Vec<Vec<u8>> = (0..300).map(|_| elements(dtype, 70, &mut noise)).collect();
            let from: Vec<&[u8]> = operands.iter().map(Vec::as_slice).collect();
            let fold = Fold::new(dtype, ReduceOp::Avg, 300);
            let wanted = reference::reduce(&fold, true, &from);
            reduce_and_compare(isa, &fold, true, &from, &wanted, 1, Store::Cached);
        }
    }
}

#[test]
fn copies_reach_every_place_and_nothing_else() {
    for len_bytes in [0, 1, 63, 64, 65, 8191, 8192, 8193, 20_000] {
        let mut source: Vec<u8> = (0..len_bytes).map(|i| (i * 7 % 251) as u8).collect();
        let wanted = source.clone();
        for store in [Store::Cached, Store::Streaming] {
            for places in 0..4 {
                let mut rooms: Vec<_> = (0..places).map(|k| misaligned(&vec![0; len_bytes], k * 13)).collect();
                let from = span_of(&mut source);
                let mut into: Vec<Span> =
                    rooms.iter_mut().map(|(room, at)| span_of(room).cut(*at, len_bytes)).collect();
                into.push(from);
                copy(from, &into[..places + usize::from(places > 1)], store);
                for (room, at) in &rooms {
                    assert_eq!(&room[*at..at + len_bytes], wanted);
                    assert!(room[..*at].iter().chain(&room[at + len_bytes..]).all(|&byte| byte == 0xa5));
                }
                assert_eq!(source, wanted);
            }
        }
    }
}

#[test]
fn scaling_equals_the_reference() {
    for isa in Isa::available() {
        for dtype in DType::ALL {
            let mut noise = Noise(17);
            let factors = special(dtype).into_iter().take(40).chain((0..10).map(|_| noise.next())).collect::<Vec<_>>();
            let from = elements(dtype, 1111, &mut noise);
            for factor in factors {
                let wanted = reference::scale(dtype, factor, &from);
                let (mut room, at) = misaligned(&from, 1);
                let mut apart = vec![0; from.len()];
                let span = span_of(&mut room).cut(at, from.len());
                scale_with(isa, dtype, factor, span, span_of(&mut apart));
                scale_with(isa, dtype, factor, span, span);
                let what = format!("{} {dtype} times {factor:x}", isa.name());
                assert_same(dtype, &apart, &wanted, &what);
                assert_same(dtype, &room[at..at + from.len()], &wanted, &what);
            }
        }
    }
}

#[test]
fn a_single_operand_is_copied_bit_for_bit_and_an_average_divides_it() {
    let mut payload = 0x7fc1_2345u32.to_le_bytes();
    let mut result = [0; 4];
    reduce(
        &Fold::new(DType::F32, ReduceOp::Sum, 1),
        true,
        &[span_of(&mut payload)],
        &[span_of(&mut result)],
        Store::Cached,
    );
    assert_eq!(result, payload);
    let mut nine = 9i32.to_le_bytes();
    let fold = Fold::new(DType::I32, ReduceOp::Avg, 4);
    reduce(&fold, false, &[span_of(&mut nine)], &[span_of(&mut result)], Store::Cached);
    assert_eq!(result, 9i32.to_le_bytes());
    reduce(&fold, true, &[span_of(&mut nine)], &[span_of(&mut result)], Store::Cached);
    assert_eq!(result, 2i32.to_le_bytes());
}

/// The scalar conversions against their definitions: all codes up; down, all codes, the ties between them and the
/// values just beside the ties.
#[test]
fn conversions_are_exact_up_and_nearest_down() {
    type Up = fn(u64) -> f32;
    type Down = fn(f32) -> u64;
    let formats: [(DType, Up, Down); 4] = [
        (DType::F16, |b| convert::f32_from_f16(b as u16), |x| convert::f16_from_f32(x).into()),
        (DType::Bf16, |b| convert::f32_from_bf16(b as u16), |x| convert::bf16_from_f32(x).into()),
        (DType::F8E4M3, |b| convert::f32_from_e4m3(b as u8), |x| convert::e4m3_from_f32(x).into()),
        (DType::F8E5M2, |b| convert::f32_from_e5m2(b as u8), |x| convert::e5m2_from_f32(x).into()),
    ];
    for (dtype, up, down) in formats {
        let check = |x: f32| {
            assert_eq!(down(x), reference::encode(dtype, f64::from(x)), "{dtype} from {x:e} ({:08x})", x.to_bits());
        };
        for code in 0..1u64 << (8 * dtype.size_bytes()) {
            let (value, wanted) = (up(code), reference::decode(dtype, code) as f32);
            if wanted.is_nan() {
                assert!(value.is_nan(), "{dtype} {code:x}");
                assert_eq!(down(value), reference::encode(dtype, f64::NAN));
                continue;
            }
            assert_eq!(value.to_bits(), wanted.to_bits(), "{dtype} {code:x}");
            assert_eq!(down(value), code, "{dtype} {code:x} is not kept");
            let next = up(code + 1);
            let tie = if next.is_finite() { value / 2.0 + next / 2.0 } else { value * (1.0 + f32::EPSILON) };
            for x in [tie, tie.next_up(), tie.next_down(), value.next_up(), value.next_down()] {
                check(x);
            }
        }
        for x in [464.0, 464.00003, 480.0, 61440.0, 61439.99, 65519.99, 65520.0, 1e30, f32::MAX, f32::INFINITY] {
            check(x);
            check(-x);
        }
        let mut noise = Noise(19);
        for _ in 0..20_000 {
            check(f32::from_bits(noise.next() as u32));
        }
    }
}

/// `half` knows two of the formats; where it does, it must agree with the definitions here.
#[test]
fn the_reference_agrees_with_half() {
    for code in 0..=u16::MAX {
        for (dtype, theirs) in
            [(DType::F16, half::f16::from_bits(code).to_f64()), (DType::Bf16, half::bf16::from_bits(code).to_f64())]
        {
            let ours = reference::decode(dtype, code.into());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{dtype} {code:04x}");
        }
    }
    let mut noise = Noise(23);
    for _ in 0..20_000 {
        let x = f32::from_bits(noise.next() as u32);
        if !x.is_nan() {
            assert_eq!(reference::encode(DType::F16, x.into()), u64::from(half::f16::from_f32(x).to_bits()), "{x:e}");
            assert_eq!(reference::encode(DType::Bf16, x.into()), u64::from(half::bf16::from_f32(x).to_bits()), "{x:e}");
        }
    }
}

#[test]
#[should_panic(expected = "differ in length")]
fn lengths_must_agree() {
    let (mut a, mut b, mut c) = ([0u8; 8], [0u8; 8], [0u8; 4]);
    let fold = Fold::new(DType::F32, ReduceOp::Sum, 2);
    reduce(&fold, true, &[span_of(&mut a), span_of(&mut b)], &[span_of(&mut c)], Store::Cached);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bits, any shape, cut anywhere: the pieces make up the reference's whole.
    #[test]
    fn any_bits_in_any_pieces(
        seed: u64,
        dtype in prop::sample::select(&DType::ALL[..]),
        op in prop::sample::select(&OPS[..]),
        n in 1..20usize,
        len in 0..600usize,
        cut in 0.0..1.0f64,
        shift in 0..64usize,
        world in 1..1000u32,
        finish: bool,
    ) {
        prop_assume!(op.accepts(dtype));
        let mut noise = Noise(seed);
        let operands: Vec<Vec<u8>> = (0..n).map(|_| elements(dtype, len, &mut noise)).collect();
        let from: Vec<&[u8]> = operands.iter().map(Vec::as_slice).collect();
        let fold = Fold::new(dtype, op, world);
        let wanted = reference::reduce(&fold, finish, &from);
        let cut_bytes = (len as f64 * cut) as usize * dtype.size_bytes();
        for isa in Isa::available() {
            for piece in [0..cut_bytes, cut_bytes..wanted.len()] {
                let from: Vec<&[u8]> = from.iter().map(|bytes| &bytes[piece.clone()]).collect();
                reduce_and_compare(isa, &fold, finish, &from, &wanted[piece], shift, Store::Cached);
            }
        }
    }
}
