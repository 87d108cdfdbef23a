//! How fast the host reduces: GB/s of destination for every element type, operation and number of operands, with
//! everything in the second-level cache and with everything in main memory, beside memcpy in the same run.
//!
//! `cargo bench --bench reduce [-- WORD...]`: only the rows that contain every word ("float sum", "n=2 L2"), and
//! `ROUNDEL_CPU=portable|avx2|avx512` for the instructions.

use std::time::{Duration, Instant};

use roundel::device::host::{Fold, Isa, Store, copy, reduce};
use roundel::memory::Span;
use roundel::{DType, ReduceOp};

/// All operands and the result together.
const L2_BYTES: usize = 384 << 10;
const DRAM_BYTES: usize = 192 << 20;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    println!("instructions: {}", Isa::chosen().name());
    println!("{:44} {:>8} GB/s of destination, best of several", "row", "");
    let mut memory = vec![0u8; DRAM_BYTES + (1 << 20)];
    // Small positive numbers in every type: no NaN, no subnormal slows the arithmetic down.
    memory.fill(0x21);
    let arena = (memory.as_mut_ptr(), memory.len());
    for (place, total_bytes, store) in [
        ("L2", L2_BYTES, Store::Cached),
        ("DRAM", DRAM_BYTES, Store::Cached),
        ("DRAM streaming", DRAM_BYTES, Store::Streaming),
    ] {
        let row = |name: String, n: usize, work: &dyn Fn(&[Span], Span)| {
            if words.iter().all(|word| name.contains(word.as_str())) {
                let spans = spans(arena, total_bytes, n + 1);
                println!("{name:44} {:8.1}", best(&spans[..n], spans[n], work));
            }
        };
        row(format!("memcpy {place}"), 1, &|from, into| into.copy_from(from[0]));
        row(format!("copy {place}"), 1, &|from, into| copy(from[0], &[into], store));
        for dtype in DType::ALL {
            for op in OPS.into_iter().filter(|op| op.accepts(dtype)) {
                for n in [2, 3, 4, 8, 16] {
                    let fold = Fold::new(dtype, op, n as u32);
                    row(format!("{dtype} {op} n={n} {place}"), n, &|from, into| {
                        reduce(&fold, true, from, &[into], store)
                    });
                }
            }
        }
    }
}

const OPS: [ReduceOp; 6] =
    [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Min, ReduceOp::Max, ReduceOp::Avg, ReduceOp::BitXor];

/// `count` equal spans that make up `total_bytes` of the arena, each a few lines off the page that the last began on.
fn spans(arena: (*mut u8, usize), total_bytes: usize, count: usize) -> Vec<Span> {
    let len_bytes = total_bytes / count / 4096 * 4096;
    let apart = len_bytes + 320;
    assert!(apart * count + 64 <= arena.1);
    let start = arena.0.wrapping_add(arena.0.align_offset(64));
    // SAFETY: inside the arena (asserted above), which lives until the end of `main` and is used through spans only.
    (0..count).map(|k| unsafe { Span::new(start.wrapping_add(k * apart), len_bytes) }).collect()
}

/// Gigabytes of `into` a second, of the fastest of the batches that fit in a moment.
fn best(from: &[Span], into: Span, work: &dyn Fn(&[Span], Span)) -> f64 {
    let batch = ((1 << 21) / into.len()).max(1);
    let mut best = Duration::MAX;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(60) {
        let start = Instant::now();
        for _ in 0..batch {
            work(from, into);
        }
        best = best.min(start.elapsed());
    }
    (into.len() * batch) as f64 / best.as_nanos() as f64
}
