//! `--explain`: what the library would run at each size, without running it.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::perf::bench::Case;
use crate::perf::data::RedOp;
use crate::perf::settings::{Explain, Settings};
use crate::{Communicator, Explanation};

/// All programs together are printed up to this length; beyond it rank 0's stands for the others.
const ALL_PROGRAMS_BYTES: u64 = 64 << 10;

/// The library's answer for a case.
pub fn ask(comm: &Communicator, settings: &Settings, case: &Case) -> Result<Explanation> {
    let geometry = case.geometry;
    let op = case.op.map(|op| op.for_rank(comm.rank(), geometry.dtype));
    comm.explain(geometry.collective, geometry.dtype, op, geometry.count, case.root, case.in_place, settings.mapped)
}

/// The line above the first answer.
pub fn head() -> String {
    format!(
        "#{:>11}  {:>12}  {:>8}  {:>6}  {:>6}  {:<14}  {:<9}  {:<9}  {:>8}  {:>6}  {:>10}  {:>10}  {:>6}",
        "size(B)",
        "count",
        "type",
        "redop",
        "root",
        "algorithm",
        "chosen by",
        "transport",
        "channels",
        "chunks",
        "chunk(B)",
        "slot(B)",
        "rounds"
    )
}

/// The answer for one case as text, on rank 0; the other ranks take part where their programs are wanted.
pub fn text(comm: &Communicator, settings: &Settings, case: &Case, how: Explain) -> Result<String> {
    let answer = ask(comm, settings, case)?;
    let geometry = case.geometry;
    let root = if geometry.collective.has_root() { case.root.to_string() } else { "-1".into() };
    let mut text = format!(
        "{:>12}  {:>12}  {:>8}  {:>6}  {:>6}  {:<14}  {:<9}  {:<9}  {:>8}  {:>6}  {:>10}  {:>10}  {:>6}",
        geometry.size_bytes(),
        geometry.count,
        geometry.dtype,
        case.op.map_or("none", RedOp::name),
        root,
        answer.algorithm,
        answer.origin,
        answer.transport,
        answer.channels,
        answer.chunks,
        answer.chunk_bytes,
        answer.slot_bytes,
        answer.rounds
    );
    if how == Explain::Program {
        text += &programs(comm, answer.program.to_string())?;
    }
    Ok(text)
}

/// Every rank's program if they are short, else one with a word that there are more.
fn programs(comm: &Communicator, mine: String) -> Result<String> {
    let mut lens = vec![0u64; comm.world()];
    comm.all_gather(&[mine.len() as u64], &mut lens)?;
    if lens.iter().sum::<u64>() > ALL_PROGRAMS_BYTES {
        return Ok(format!("\n{}\n(the programs of ranks 1 to {} look alike)\n", mine.trim_end(), comm.world() - 1));
    }
    let counts: Vec<usize> = lens.iter().map(|&len| len as usize).collect();
    let mut all = vec![0u8; counts.iter().sum()];
    comm.all_gather_v(mine.as_bytes(), &mut all, &counts)?;
    let mut text = String::new();
    let mut rest = &all[..];
    for count in counts {
        let (program, later) = rest.split_at(count);
        text += &format!("\n{}", String::from_utf8_lossy(program).trim_end());
        rest = later;
    }
    Ok(text + "\n")
}
