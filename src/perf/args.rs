//! The command line: nccl-tests' flags with nccl-tests' meaning, and a few of our own.
#![forbid(unsafe_code)]

use crate::perf::data::RedOp;
use crate::perf::settings::{Average, Explain, Pace, Root, Settings, Sink};
use crate::types::{Collective, DType};
use clap::{CommandFactory, FromArgMatches, Parser};
use std::path::PathBuf;
use std::time::Duration;

/// Flags as typed. [`parse`] makes sense of them.
#[derive(Debug, Clone, Parser)]
#[command(version, disable_help_flag = true, args_override_self = true)]
pub struct Args {
    /// Smallest size, in bytes (K, M, G are powers of 1024)
    #[arg(short = 'b', long, value_name = "SIZE", default_value = "8", value_parser = parse_size, help_heading = "Sizes")]
    minbytes: usize,
    /// Largest size [default: 64M]
    #[arg(short = 'e', long, value_name = "SIZE", value_parser = parse_size, help_heading = "Sizes")]
    maxbytes: Option<usize>,
    /// Go from size to size by adding this
    #[arg(short = 'i', long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "stepfactor", help_heading = "Sizes")]
    stepbytes: Option<usize>,
    /// Go from size to size by multiplying with this [default: 4]
    #[arg(short = 'f', long, value_name = "FACTOR", help_heading = "Sizes")]
    stepfactor: Option<usize>,

    /// Element type: int8 uint8 int32 uint32 int64 uint64 half float double bfloat16 f8e4m3 f8e5m2, or all
    #[arg(short = 'd', long, value_name = "TYPE", default_value = "float", value_parser = parse_dtypes, help_heading = "What")]
    datatype: List<DType>,
    /// Reduction: sum prod min max avg mulsum band bor bxor, or all; combinations that are not defined are left out
    #[arg(short = 'o', long, value_name = "OP", default_value = "sum", value_parser = parse_ops, help_heading = "What")]
    op: List<RedOp>,
    /// Root, for collectives that have one: a rank, or all
    #[arg(short = 'r', long, value_name = "RANK", default_value = "0", value_parser = parse_root, help_heading = "What")]
    root: Root,

    /// Ranks as processes of this machine [default, without a launcher: one per core, at least 2, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Ranks")]
    procs: Option<u16>,
    /// Ranks as threads of every process
    #[arg(short = 't', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Ranks")]
    nthreads: u16,
    /// Devices per thread; on CPU memory there is one
    #[arg(short = 'g', long, value_name = "N", default_value_t = 1, help_heading = "Ranks")]
    ngpus: u16,

    /// Timed iterations [default: as many as fit in a fraction of a second, 5 to 1000]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000), help_heading = "Measuring")]
    iters: Option<u32>,
    /// Iterations before the timed ones, at every size
    #[arg(
        short = 'w',
        long = "warmup_iters",
        alias = "warmup-iters",
        value_name = "N",
        default_value_t = 1,
        help_heading = "Measuring"
    )]
    warmup_iters: u32,
    /// Calls in flight at once in every iteration
    #[arg(short = 'm', long = "agg_iters", alias = "agg-iters", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Measuring")]
    agg_iters: u32,
    /// Do everything so many times; 0: until interrupted
    #[arg(
        short = 'N',
        long = "run_cycles",
        alias = "run-cycles",
        value_name = "N",
        default_value_t = 1,
        help_heading = "Measuring"
    )]
    run_cycles: u32,
    /// 0: call after call; 1: a barrier after every call; 2: every call through a Work handle
    #[arg(short = 'z', long, value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2), help_heading = "Measuring")]
    blocking: u8,
    /// Whose time is reported: 0 rank 0's, 1 average, 2 minimum, 3 maximum over ranks
    #[arg(short = 'a', long, value_name = "0..3", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=3), help_heading = "Measuring")]
    average: u8,
    /// 1: report the calling thread's CPU time instead of wall time
    #[arg(short = 'C', long = "report_cputime", alias = "report-cputime", value_name = "0|1", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1), help_heading = "Measuring")]
    report_cputime: u8,
    /// 1 or 2: buffers from Communicator::alloc, which peers can map
    #[arg(short = 'R', long = "local_register", alias = "local-register", value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2), help_heading = "Measuring")]
    local_register: u8,
    /// Where buffers are: cpu, or a device by its name (also ROUNDEL_DEVICE)
    #[arg(long, value_name = "NAME", help_heading = "Measuring")]
    device: Option<String>,
    /// Start buffers so many elements past an aligned address
    #[arg(short = 'u', long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=4096), help_heading = "Measuring")]
    unalign: u16,
    /// Use the same memory in every iteration; otherwise small sizes walk through a buffer of the largest size, as in
    /// nccl-tests, so that data does not come from the cache
    #[arg(long, help_heading = "Measuring")]
    reuse_buffers: bool,
    /// The reduction order depends on the number of ranks only (also ROUNDEL_REPRODUCIBLE=1)
    #[arg(long, help_heading = "Measuring")]
    reproducible: bool,
    /// Give up on a call after so many seconds (also ROUNDEL_TIMEOUT_MS)
    #[arg(short = 'T', long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Measuring")]
    timeout: Option<u32>,
    /// Iterations whose results are checked, after the timed ones; 0: none
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1, help_heading = "Measuring")]
    check: u32,

    /// One JSON object per row, to standard output instead of the table, or to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, help_heading = "Output")]
    json: Option<Option<PathBuf>>,
    /// The same as --json=FILE
    #[arg(short = 'J', value_name = "FILE", conflicts_with = "json", help_heading = "Output")]
    json_file: Option<PathBuf>,
    /// Comma-separated rows, to standard output instead of the table, or to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, help_heading = "Output")]
    csv: Option<Option<PathBuf>>,
    /// Draw bandwidth and latency over size
    #[arg(long, value_name = "FILE.svg", help_heading = "Output")]
    plot: Option<PathBuf>,
    /// 1: columns for the shortest, longest and 99th-percentile iteration and their variation
    #[arg(short = 'I', long = "iter_times", alias = "iter-times", value_name = "0|1", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1), help_heading = "Output")]
    iter_times: u8,
    /// 1: a column with the time of day
    #[arg(short = 'S', long = "report_timestamps", alias = "report-timestamps", value_name = "0|1", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1), help_heading = "Output")]
    report_timestamps: u8,
    /// Say what would run at each size, and run nothing; "program": and print the programs themselves
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "choice", help_heading = "Output")]
    explain: Option<Explain>,
    /// Print this help
    #[arg(short = 'h', long, action = clap::ArgAction::HelpShort, help_heading = "Output")]
    help: Option<bool>,
}

/// A value that may stand for several (`all`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct List<T>(Vec<T>);

/// The name of the binary that measures `collective`, as nccl-tests calls it.
pub fn binary_name(collective: Collective) -> &'static str {
    match collective {
        Collective::AllReduce => "all_reduce_perf",
        Collective::Reduce => "reduce_perf",
        Collective::Broadcast => "broadcast_perf",
        Collective::ReduceScatter => "reduce_scatter_perf",
        Collective::AllGather => "all_gather_perf",
        Collective::Gather => "gather_perf",
        Collective::Scatter => "scatter_perf",
        Collective::AllToAll => "alltoall_perf",
        Collective::SendRecv => "sendrecv_perf",
        Collective::Barrier => "barrier_perf",
    }
}

/// Reads a command line, the program's name first. An error is clap's: a message, or the help that was asked for.
pub fn parse(
    collective: Collective,
    line: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<Settings, clap::Error> {
    let name = binary_name(collective);
    let about = format!("Measures and checks {collective} over CPU memory, with the flags and columns of nccl-tests.");
    let mut command = Args::command().name(name).bin_name(name).about(about);
    let args = Args::from_arg_matches(&command.try_get_matches_from_mut(line)?)?;
    args.settings(collective).map_err(|message| command.error(clap::error::ErrorKind::ValueValidation, message))
}

impl Args {
    fn settings(self, collective: Collective) -> Result<Settings, String> {
        if self.ngpus != 1 {
            return Err(format!(
                "-g {}: ranks are on CPU memory here, one device per thread; use -t for threads or --procs for processes",
                self.ngpus
            ));
        }
        let maxbytes = self.maxbytes.unwrap_or_else(|| self.minbytes.max(64 << 20));
        if maxbytes < self.minbytes {
            return Err(format!("-e {maxbytes} is less than -b {}", self.minbytes));
        }
        let (sizes, step) = match (self.stepbytes, self.stepfactor) {
            (Some(0), _) => return Err("-i 0 would never end".into()),
            (_, Some(0 | 1)) => return Err("-f must be at least 2".into()),
            (Some(bytes), _) => {
                (stepped(self.minbytes, maxbytes, |size| size.checked_add(bytes)), format!("{bytes}(bytes)"))
            }
            (None, factor) => {
                let factor = factor.unwrap_or(4);
                (stepped(self.minbytes, maxbytes, |size| size.max(1).checked_mul(factor)), format!("{factor}(factor)"))
            }
        };
        if sizes.len() > 1_000_000 {
            return Err(format!("{} sizes from -b to -e: take a larger step", sizes.len()));
        }
        let mut kinds = Vec::new();
        for &dtype in &self.datatype.0 {
            if collective.reduces() {
                kinds.extend(self.op.0.iter().filter(|op| op.accepts(dtype)).map(|&op| (dtype, Some(op))));
            } else {
                kinds.push((dtype, None));
            }
        }
        if kinds.is_empty() {
            return Err(format!(
                "-o {} is for integers only, and -d {} is none",
                self.op.0[0].name(),
                self.datatype.0[0].name()
            ));
        }
        let json = match (self.json, self.json_file) {
            (Some(to), _) => Some(to.map_or(Sink::Stdout, Sink::File)),
            (None, file) => file.map(Sink::File),
        };
        let csv = self.csv.map(|to| to.map_or(Sink::Stdout, Sink::File));
        if json == Some(Sink::Stdout) && csv == Some(Sink::Stdout) {
            return Err("--json and --csv both want standard output: give one of them a file, as in --csv=FILE".into());
        }
        Ok(Settings {
            collective,
            sizes,
            step,
            kinds,
            root: if collective.has_root() { self.root } else { Root::Rank(0) },
            procs: self.procs.map(usize::from),
            threads: self.nthreads.into(),
            iters: self.iters,
            warmup: self.warmup_iters,
            calls: self.agg_iters,
            cycles: (self.run_cycles > 0).then_some(self.run_cycles),
            pace: [Pace::BackToBack, Pace::Barrier, Pace::Nonblocking][usize::from(self.blocking)],
            average: [Average::Rank0, Average::Mean, Average::Min, Average::Max][usize::from(self.average)],
            cpu_time: self.report_cputime == 1,
            mapped: self.local_register > 0,
            device: self.device,
            unalign: self.unalign.into(),
            reuse_buffers: self.reuse_buffers,
            reproducible: self.reproducible,
            timeout: self.timeout.map(|seconds| Duration::from_secs(seconds.into())),
            checks: self.check,
            json,
            csv,
            plot: self.plot,
            iteration_columns: self.iter_times == 1,
            timestamps: self.report_timestamps == 1,
            explain: self.explain,
        })
    }
}

fn stepped(first: usize, last: usize, step: impl Fn(usize) -> Option<usize>) -> Vec<usize> {
    std::iter::successors(Some(first), |&size| step(size)).take_while(|&size| size <= last).take(1_000_001).collect()
}

/// A number of bytes: digits, perhaps a fraction, perhaps K, M, G or T for a power of 1024, perhaps a B.
pub(crate) fn parse_size(text: &str) -> Result<usize, String> {
    let complaint = || format!("'{text}' is no size; write bytes, or K, M, G for powers of 1024, as in 64M");
    let upper = text.trim().to_ascii_uppercase();
    let number_len = upper.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(upper.len());
    let (number, unit) = upper.split_at(number_len);
    let shift = match unit.trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(complaint()),
    };
    let bytes = if number.contains('.') {
        let number: f64 = number.parse().map_err(|_| complaint())?;
        number * f64::from(shift).exp2()
    } else {
        let number: u64 = number.parse().map_err(|_| complaint())?;
        return usize::try_from(u128::from(number) << shift)
            .ok()
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .ok_or_else(|| format!("'{text}' is more than a machine can address"));
    };
    if bytes >= isize::MAX as f64 {
        return Err(format!("'{text}' is more than a machine can address"));
    }
    Ok(bytes as usize)
}

fn parse_dtypes(text: &str) -> Result<List<DType>, String> {
    let alias = match text {
        "all" => return Ok(List(DType::ALL.to_vec())),
        "char" | "i8" => "int8",
        "u8" => "uint8",
        "int" | "i32" => "int32",
        "u32" => "uint32",
        "i64" => "int64",
        "u64" => "uint64",
        "f16" | "fp16" | "float16" => "half",
        "f32" | "fp32" | "float32" => "float",
        "f64" | "fp64" | "float64" => "double",
        "bf16" => "bfloat16",
        "fp8e4m3" | "fp8_e4m3" | "e4m3" => "f8e4m3",
        "fp8e5m2" | "fp8_e5m2" | "e5m2" => "f8e5m2",
        other => other,
    };
    match DType::ALL.into_iter().find(|dtype| dtype.name() == alias) {
        Some(dtype) => Ok(List(vec![dtype])),
        None => Err(format!("no such type; there are {}, all", DType::ALL.map(DType::name).join(", "))),
    }
}

fn parse_ops(text: &str) -> Result<List<RedOp>, String> {
    if text == "all" {
        return Ok(List(RedOp::ALL.to_vec()));
    }
    match RedOp::ALL.into_iter().find(|op| op.name() == text) {
        Some(op) => Ok(List(vec![op])),
        None => Err(format!("no such reduction; there are {}, all", RedOp::ALL.map(RedOp::name).join(", "))),
    }
}

fn parse_root(text: &str) -> Result<Root, String> {
    match text {
        // -1 is how older nccl-tests spell it.
        "all" | "-1" => Ok(Root::All),
        _ => text.parse().map(Root::Rank).map_err(|_| "write a rank, counted from 0, or all".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Result<Settings, String> {
        parse_for(Collective::AllReduce, line)
    }

    fn parse_for(collective: Collective, line: &str) -> Result<Settings, String> {
        let words = std::iter::once("perf").chain(line.split_whitespace());
        parse(collective, words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_flag_table_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let settings = settings("").unwrap();
        assert_eq!(settings.sizes.first(), Some(&8));
        assert_eq!(settings.sizes.last(), Some(&(32 << 20)));
        assert_eq!(settings.sizes.len(), 12);
        assert_eq!(settings.step, "4(factor)");
        assert_eq!(settings.kinds, [(DType::F32, Some(RedOp::Sum))]);
        assert_eq!((settings.iters, settings.checks, settings.threads), (None, 1, 1));
    }

    #[test]
    fn sizes_take_units() {
        assert_eq!(parse_size("8"), Ok(8));
        assert_eq!(parse_size("1K"), Ok(1024));
        assert_eq!(parse_size("64m"), Ok(64 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("1.5M"), Ok(3 << 19));
        assert_eq!(parse_size("3KB"), Ok(3072));
        for bad in ["", "K", "8X", "-1", "1..5", "99999999999T", "1e9", "99999999999999999999999"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn steps() {
        assert_eq!(settings("-b 1K -e 4K -i 1K").unwrap().sizes, [1024, 2048, 3072, 4096]);
        assert_eq!(settings("-b 1 -e 100 -f 10").unwrap().sizes, [1, 10, 100]);
        assert_eq!(settings("-b 0 -e 8 -f 2").unwrap().sizes, [0, 2, 4, 8]);
        assert_eq!(settings("-b 128M").unwrap().sizes, [128 << 20]);
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        for (line, words) in [
            ("-b 8 -e 4", "less than -b"),
            ("-f 1", "at least 2"),
            ("-i 0", "never end"),
            ("-i 1K -f 2", "cannot be used with"),
            ("-g 2", "--procs"),
            ("-d float -o band", "integers only"),
            ("-d nibble", "there are int8"),
            ("-o median", "there are sum"),
            ("--json --csv", "standard output"),
            ("-b 1 -e 1G -i 1", "larger step"),
            ("-r many", "counted from 0"),
            ("--procs 0", "1..=1024"),
            ("--frobnicate", "unexpected argument"),
        ] {
            let message = settings(line).unwrap_err();
            assert!(message.contains(words), "{line}: {message}");
        }
    }

    #[test]
    fn all_leaves_out_what_is_undefined() {
        let kinds = settings("-d all -o all").unwrap().kinds;
        assert!(kinds.contains(&(DType::U8, Some(RedOp::BitXor))));
        assert!(!kinds.contains(&(DType::F32, Some(RedOp::BitXor))));
        assert_eq!(kinds.len(), 6 * 9 + 6 * 6);
        let movement = parse_for(Collective::AllGather, "-d all -o all").unwrap().kinds;
        assert_eq!(movement.len(), 12);
    }

    #[test]
    fn outputs() {
        let settings = settings("--json=rows.json --csv --plot p.svg --explain=program -J rows.json");
        assert!(settings.unwrap_err().contains("cannot be used with"));
        let settings = super::tests::settings("-J rows.json --csv --explain").unwrap();
        assert_eq!(settings.json, Some(Sink::File("rows.json".into())));
        assert_eq!((settings.csv, settings.explain), (Some(Sink::Stdout), Some(Explain::Choice)));
    }

    #[test]
    fn roots_only_where_there_are_roots() {
        assert_eq!(parse_for(Collective::Broadcast, "-r all").unwrap().root, Root::All);
        assert_eq!(parse_for(Collective::Broadcast, "-r 2").unwrap().root, Root::Rank(2));
        assert_eq!(settings("-r all").unwrap().root, Root::Rank(0));
    }
}
