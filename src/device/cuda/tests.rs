//! The device over a stand-in for the driver (`tests/cuda`), whose kernels are the library's own, compiled for this CPU. Each
//! test runs itself again in a process that finds the stand-in in place of the driver.

#[path = "../../../tests/support/standin.rs"]
mod standin;

use super::open;
use crate::device::conformance::conform;
use crate::device::contract::{Device, Memory, copy_now};
use crate::device::host::{Fold, reference};
use crate::device::samples::{Noise, OPS, assert_same, elements, special};
use crate::error::{Error, Result};
use crate::memory::{Block, Span};
use crate::types::{DType, ReduceOp};
use standin::Build;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Says to a process that it has the stand-in.
const THERE: &str = "ROUNDEL_TEST_ON_STANDIN";
const PATIENCE: Duration = Duration::from_secs(300);

/// This test again, with the stand-in and these settings; `None`, with a line that says so, where it cannot be made.
fn again(test: &str, build: Build, settings: &[(&str, &str)]) -> Option<Output> {
    let required = std::env::var("ROUNDEL_TEST_REQUIRE").unwrap_or_default();
    let found = standin::folder(build).and_then(|folder| match build {
        Build::Sanitized => standin::sanitizer().map(|preload| (folder, preload)),
        _ => Ok((folder, String::new())),
    });
    let (folder, preload) = match found {
        Ok(found) => found,
        Err(why) => {
            assert!(!required.split([',', ' ']).any(|word| word == "g++"), "g++ is required, but {why}");
            eprintln!("skipped: {why}");
            return None;
        }
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("device::cuda::tests::{test}"), "--exact", "--nocapture", "--test-threads=1"]);
    command.env(THERE, "1").env("LD_LIBRARY_PATH", folder).envs(settings.iter().copied());
    if build == Build::Sanitized {
        // What the process keeps to its end is no leak.
        command.env("LD_PRELOAD", preload).env("ASAN_OPTIONS", "detect_leaks=0");
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = nix::unistd::Pid::from_raw(child.id() as i32);
    let (sender, ended) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match ended.recv_timeout(PATIENCE) {
        Ok(output) => Some(output.unwrap()),
        Err(_) => {
            let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL);
            panic!("{test} {settings:?} did not end in time");
        }
    }
}

/// Runs `body` where the stand-in is.
fn on_stand_in(test: &str, build: Build, settings: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var_os(THERE).is_some() {
        return body();
    }
    let Some(output) = again(test, build, settings) else { return };
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{test} {settings:?}: {}\n{printed}",
        output.status
    );
}

fn gpu() -> Arc<dyn Device> {
    open(0).expect("the stand-in is there")
}

#[test]
fn it_keeps_the_contract() {
    on_stand_in("it_keeps_the_contract", Build::Plain, &[], || conform(&*gpu()));
}

#[test]
fn it_keeps_the_contract_under_sanitizers() {
    on_stand_in("it_keeps_the_contract_under_sanitizers", Build::Sanitized, &[], || conform(&*gpu()));
}

/// Device memory with these bytes, `shift` bytes past a vector, and a frame on either side.
struct Framed {
    memory: Memory,
    span: Span,
}

const FRAME: u8 = 0x5a;

impl Framed {
    fn new(gpu: &dyn Device, bytes: &[u8], shift: usize) -> Framed {
        let room = [vec![FRAME; 16 + shift], bytes.to_vec(), vec![FRAME; 16]].concat();
        let memory = gpu.alloc(room.len()).unwrap();
        copy_now(gpu, lent(&room), memory.span()).unwrap();
        let span = memory.span().cut(16 + shift, bytes.len());
        Framed { memory, span }
    }

    /// What it holds now; its frame must be whole.
    #[track_caller]
    fn read(&self, gpu: &dyn Device, what: &str) -> Vec<u8> {
        let room = read(gpu, self.memory.span());
        let start = self.span.addr() - self.memory.span().addr();
        let around = room[..start].iter().chain(&room[start + self.span.len()..]);
        assert!(around.copied().all(|byte| byte == FRAME), "{what}: wrote outside");
        room[start..start + self.span.len()].to_vec()
    }
}

fn lent(bytes: &[u8]) -> Span {
    crate::memory::lend(bytes)
}

fn read(gpu: &dyn Device, span: Span) -> Vec<u8> {
    let block = Block::new(span.len().next_multiple_of(8));
    let here = block.span().cut(0, span.len());
    copy_now(gpu, span, here).unwrap();
    let mut bytes = vec![0; span.len()];
    here.read(&mut bytes);
    bytes
}

/// Every kernel: numbers of operands, lengths and misalignments around the bounds where another one, or another part of it,
/// takes over.
fn kernels_equal_the_reference() {
    const LENGTHS: [usize; 9] = [1, 3, 15, 16, 17, 64, 65, 1000, 2311];
    const OPERANDS: [usize; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 17, 33, 100];
    let gpu = gpu();
    let mut queue = gpu.queue().unwrap();
    for dtype in DType::ALL {
        let size = dtype.size_bytes();
        let mut noise = Noise(dtype as u64 + 40);
        let operands: Vec<Vec<u8>> = (0..100).map(|_| elements(dtype, 2311, &mut noise)).collect();
        for (turn, op) in OPS.into_iter().filter(|op| op.accepts(dtype)).enumerate() {
            for (case, n) in OPERANDS.into_iter().enumerate() {
                let finish = op == ReduceOp::Avg && case % 4 != 3;
                let fold = Fold::new(dtype, op, n as u32 + 3);
                for (step, len) in LENGTHS.into_iter().enumerate() {
                    // Most lengths with few operands, few with many.
                    if n > 8 && (step + case + turn) % 4 != 0 || n <= 8 && (step + case + turn) % 2 != 0 {
                        continue;
                    }
                    let from: Vec<&[u8]> = operands[..n].iter().map(|bytes| &bytes[..len * size]).collect();
                    let wanted = reference::reduce(&fold, finish, &from);
                    // All on a vector; all beside it alike; elsewhere but on elements; anywhere.
                    let shift = |k: usize| match (case + step + turn) % 4 {
                        0 => 0,
                        1 => size * 3 % 16,
                        2 => size * k % 16,
                        _ => (k * 5 + 1) % 16,
                    };
                    let inputs: Vec<Framed> =
                        from.iter().enumerate().map(|(k, bytes)| Framed::new(&*gpu, bytes, shift(k))).collect();
                    let outputs: Vec<Framed> =
                        (0..2).map(|k| Framed::new(&*gpu, &vec![0; len * size], shift(k + 1))).collect();
                    let spans: Vec<Span> = inputs.iter().map(|input| input.span).collect();
                    let into: Vec<Span> = outputs.iter().map(|output| output.span).collect();
                    queue.reduce(&fold, finish, &spans, &into).unwrap();
                    queue.drain().unwrap();
                    let what = format!("{dtype} {op} n={n} len={len} finish={finish} shift={}", shift(1));
                    for output in outputs {
                        assert_same(dtype, &output.read(&*gpu, &what), &wanted, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn kernels() {
    on_stand_in("kernels", Build::Plain, &[], kernels_equal_the_reference);
}

#[test]
fn kernels_under_sanitizers() {
    on_stand_in("kernels_under_sanitizers", Build::Sanitized, &[], kernels_equal_the_reference);
}

/// Everything that can be told apart: all pairs of 8-bit values and of special ones, all codes of the small floats.
#[test]
fn values() {
    on_stand_in("values", Build::Plain, &[], || {
        let gpu = gpu();
        let mut queue = gpu.queue().unwrap();
        for dtype in DType::ALL {
            let size = dtype.size_bytes();
            let values: Vec<u64> = if size == 1 { (0..256).collect() } else { special(dtype) };
            let column = |pick: &dyn Fn(usize, usize) -> usize| -> Vec<u8> {
                let pairs = (0..values.len()).flat_map(|i| (0..values.len()).map(move |k| (i, k)));
                pairs.flat_map(|(i, k)| values[pick(i, k)].to_le_bytes()[..size].to_vec()).collect()
            };
            let (left, right) = (column(&|i, _| i), column(&|_, k| k));
            let inputs = [Framed::new(&*gpu, &left, 0), Framed::new(&*gpu, &right, 0)];
            let output = Framed::new(&*gpu, &left, 0);
            for op in OPS.into_iter().filter(|op| op.accepts(dtype)) {
                for world in [1, 2, 3, 7, 255, 256, 65_537, u32::MAX] {
                    let fold = Fold::new(dtype, op, world);
                    let wanted = reference::reduce(&fold, true, &[&left, &right]);
                    queue.reduce(&fold, true, &[inputs[0].span, inputs[1].span], &[output.span]).unwrap();
                    queue.drain().unwrap();
                    let what = format!("{dtype} {op} of {world}");
                    assert_same(dtype, &output.read(&*gpu, &what), &wanted, &what);
                    if op != ReduceOp::Avg {
                        break;
                    }
                }
            }
            let codes: Vec<u8> = match size {
                1 | 2 => (0..1u64 << (8 * size)).flat_map(|code| code.to_le_bytes()[..size].to_vec()).collect(),
                _ => left,
            };
            let (from, into) = (Framed::new(&*gpu, &codes, 0), Framed::new(&*gpu, &codes, 0));
            let one = if dtype.is_integer() { 1 } else { reference::encode(dtype, 1.0) };
            let third = if dtype.is_integer() { 77 } else { reference::encode(dtype, -1.0 / 3.0) };
            for factor in special(dtype).into_iter().take(30).chain([one, third]) {
                queue.scale(dtype, factor, from.span, into.span).unwrap();
                queue.drain().unwrap();
                let what = format!("{dtype} times {factor:#x}");
                assert_same(dtype, &into.read(&*gpu, &what), &reference::scale(dtype, factor, &codes), &what);
            }
        }
    });
}

/// More operands than travel with a launch, more outputs than one writes, and spans that go through the room in pieces.
#[test]
fn many_and_large() {
    on_stand_in("many_and_large", Build::Plain, &[], || {
        let gpu = gpu();
        let mut queue = gpu.queue().unwrap();
        for (dtype, n, len) in [(DType::F32, 300, 70), (DType::Bf16, 257, 33), (DType::I8, 1100, 9)] {
            let mut noise = Noise(5);
            let operands: Vec<Vec<u8>> = (0..n).map(|_| elements(dtype, len, &mut noise)).collect();
            let fold = Fold::new(dtype, ReduceOp::Avg, n as u32);
            let wanted = reference::reduce(&fold, true, &operands.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let inputs: Vec<Framed> = operands.iter().map(|bytes| Framed::new(&*gpu, bytes, 0)).collect();
            let outputs: Vec<Framed> = (0..20).map(|_| Framed::new(&*gpu, &vec![0; wanted.len()], 0)).collect();
            let from: Vec<Span> = inputs.iter().map(|input| input.span).collect();
            // Half of them from the host.
            let mixed: Vec<Span> = (0..n).map(|k| if k % 2 == 0 { from[k] } else { lent(&operands[k]) }).collect();
            let into: Vec<Span> = outputs.iter().map(|output| output.span).collect();
            for spans in [from, mixed] {
                queue.reduce(&fold, true, &spans, &into).unwrap();
                let mark = queue.mark().unwrap();
                while !queue.passed(mark).unwrap() {
                    std::thread::yield_now();
                }
                for output in &outputs {
                    assert_same(dtype, &output.read(&*gpu, "many"), &wanted, &format!("{dtype} of {n}"));
                }
            }
        }
        // 5 MiB of each of three, all on the host, one of them misaligned.
        let len_bytes = 5 << 20;
        let mut noise = Noise(6);
        let bytes: Vec<Vec<u8>> = (0..2).map(|_| elements(DType::U32, len_bytes / 4 + 1, &mut noise)).collect();
        let (left, right) = (lent(&bytes[0]).cut(0, len_bytes), lent(&bytes[1]).cut(3, len_bytes));
        let result = Block::new(len_bytes);
        let fold = Fold::new(DType::U32, ReduceOp::BitXor, 2);
        queue.reduce(&fold, true, &[left, right], &[result.span()]).unwrap();
        queue.drain().unwrap();
        let mut got = vec![0; len_bytes];
        result.span().read(&mut got);
        let wanted: Vec<u8> = bytes[0].iter().zip(&bytes[1][3..]).take(len_bytes).map(|(a, b)| a ^ b).collect();
        assert_same(DType::U32, &got, &wanted, "pieces");
        // One into several, large enough for the kernel.
        let one = Framed::new(&*gpu, &wanted[..99_999], 5);
        let several: Vec<Framed> = (0..3).map(|_| Framed::new(&*gpu, &vec![0; 99_999], 5)).collect();
        queue.copy(one.span, &several.iter().map(|copy| copy.span).collect::<Vec<_>>()).unwrap();
        queue.drain().unwrap();
        for copy in several {
            assert_same(DType::U8, &copy.read(&*gpu, "copies"), &wanted[..99_999], "copies");
        }
    });
}

#[test]
fn nothing_is_done_before_somebody_waits_for_it() {
    on_stand_in("nothing_is_done_before_somebody_waits_for_it", Build::Plain, &[], || {
        let gpu = gpu();
        let (there, here) = (gpu.alloc(64).unwrap(), gpu.alloc_host(64).unwrap());
        here.span().write(&[7; 64]);
        let mut queue = gpu.queue().unwrap();
        queue.copy(here.span(), &[there.span()]).unwrap();
        queue.copy(there.span(), &[here.span()]).unwrap();
        here.span().write(&[9; 64]);
        let mark = queue.mark().unwrap();
        assert!(!queue.passed(mark).unwrap(), "the stand-in's first answer is no");
        queue.drain().unwrap();
        assert!(queue.passed(mark).unwrap());
        // What was written after the copy was put in line, and before it was waited for, is what was copied.
        assert_eq!(here.span().read_value::<[u8; 64]>(), [9; 64]);
    });
}

#[test]
fn the_host_does_not_reach_device_memory() {
    const TEST: &str = "the_host_does_not_reach_device_memory";
    if std::env::var_os(THERE).is_some() {
        let there = gpu().alloc(64).unwrap();
        there.span().write(&[1]);
        return;
    }
    use std::os::unix::process::ExitStatusExt;
    if let Some(output) = again(TEST, Build::Plain, &[]) {
        assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
    }
}

#[test]
fn a_machine_without_a_gpu_is_told_so() {
    const TEST: &str = "a_machine_without_a_gpu_is_told_so";
    if std::env::var_os(THERE).is_some() {
        let Err(Error::Unsupported { what }) = open(0) else { panic!("it opened") };
        let wanted = std::env::var("ROUNDEL_TEST_WANTED").unwrap();
        assert!(what.contains(&wanted), "{what:?} has no {wanted:?}");
        let Err(Error::Unsupported { .. }) = open(99) else { panic!("it opened") };
        return;
    }
    let rows: [(Build, &str, &str, &str); 3] = [
        (Build::Plain, "ROUNDEL_STANDIN_DEVICES", "0", "no GPU"),
        (Build::Plain, "ROUNDEL_STANDIN_VERSION", "11080", "for CUDA 11.8; install one for 12.2"),
        (Build::Lacking, "ROUNDEL_STANDIN_DEVICES", "1", "has no cuPointerGetAttributes"),
    ];
    for (build, name, value, wanted) in rows {
        on_stand_in(TEST, build, &[(name, value), ("ROUNDEL_TEST_WANTED", wanted)], || {});
    }
    if super::count().is_err() {
        let Err(Error::Unsupported { what }) = open(0) else { panic!("it opened") };
        assert!(what.contains("no driver") || what.contains("no GPU") || what.contains("too old"), "{what}");
    }
}

/// Some of everything that is done to the driver.
fn a_bit_of_everything() -> Result<()> {
    let gpu = open(0)?;
    let (there, here) = (gpu.alloc(8192)?, gpu.alloc_host(8192)?);
    let plain = Block::new(8192);
    let adopted = gpu.adopt(plain.span());
    assert!(gpu.holds(there.span()), "own memory is known, whatever the driver says");
    let mut queue = gpu.queue()?;
    let fold = Fold::new(DType::F32, ReduceOp::Sum, 2);
    queue.copy(here.span(), &[there.span()])?;
    queue.reduce(&fold, true, &[here.span(), there.span()], &[there.span()])?;
    drop(adopted);
    queue.reduce(&fold, true, &[plain.span(), there.span()], &[there.span()])?;
    queue.scale(DType::F32, 0, there.span(), there.span())?;
    let mark = queue.mark()?;
    while !queue.passed(mark)? {
        std::thread::yield_now();
    }
    queue.drain()
}

#[test]
fn whatever_the_driver_refuses_is_an_error_in_words() {
    const TEST: &str = "whatever_the_driver_refuses_is_an_error_in_words";
    if std::env::var_os(THERE).is_some() {
        let failing = std::env::var("ROUNDEL_STANDIN_FAIL").unwrap();
        let function = failing.split(['@', '_']).next().unwrap();
        let outcome = a_bit_of_everything();
        // Without pinned memory everything works, and what cannot be given back is nobody's business.
        let is_harmless = function == "cuMemHostRegister" || function.starts_with("cuMemHostUnregister");
        let is_giving_back = function.starts_with("cuMemFree");
        match outcome {
            Ok(()) => assert!(is_harmless || is_giving_back, "{failing}: nothing was said"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("CUDA_ERROR_OUT_OF_MEMORY (out of memory)"), "{failing}: {text}");
                // What fails late is told by whatever is called next.
                assert!(failing.ends_with('+') || text.contains(function), "{failing}: {text}");
            }
        }
        return;
    }
    let functions = [
        "cuInit@1",
        "cuDevicePrimaryCtxRetain@1",
        "cuCtxPushCurrent_v2@1",
        "cuCtxPushCurrent_v2@5",
        "cuMemAlloc_v2@1",
        "cuMemAlloc_v2@2",
        "cuMemHostAlloc@1",
        "cuMemHostRegister_v2@1",
        "cuMemHostUnregister@1",
        "cuMemFree_v2@1",
        "cuMemFreeHost@1",
        "cuPointerGetAttributes@1",
        "cuPointerGetAttributes@5",
        "cuMemsetD8Async@1",
        "cuMemcpyAsync@1",
        "cuMemcpyAsync@2",
        "cuStreamCreate@1",
        "cuStreamCreate@2",
        "cuStreamSynchronize@1",
        "cuStreamSynchronize@2",
        "cuEventCreate@1",
        "cuEventRecord@1",
        "cuEventQuery@1",
        "cuModuleLoadData@1",
        "cuModuleGetFunction@1",
        "cuModuleGetFunction@2",
        "cuLaunchKernel@1",
        "cuLaunchKernel@2",
    ];
    let later = ["cuMemsetD8Async@1", "cuMemcpyAsync@1", "cuMemcpyAsync@2", "cuLaunchKernel@1", "cuLaunchKernel@3"];
    let all = functions.iter().map(|which| format!("{which}=2")).chain(later.iter().map(|which| format!("{which}=2+")));
    for failing in all {
        on_stand_in(TEST, Build::Plain, &[("ROUNDEL_STANDIN_FAIL", &failing)], || {});
    }
}

#[test]
fn a_failed_launch_ends_the_queue_and_memory_stays_out_of_reach() {
    const TEST: &str = "a_failed_launch_ends_the_queue_and_memory_stays_out_of_reach";
    on_stand_in(TEST, Build::Plain, &[("ROUNDEL_STANDIN_FAIL", "cuLaunchKernel@1=719+")], || {
        let gpu = gpu();
        let there = gpu.alloc(4096).unwrap();
        let mut queue = gpu.queue().unwrap();
        let fold = Fold::new(DType::F32, ReduceOp::Sum, 2);
        queue
            .reduce(&fold, true, &[there.span().cut(0, 512), there.span().cut(512, 512)], &[there.span().cut(0, 512)])
            .unwrap();
        let mark = queue.mark().unwrap();
        let error = loop {
            match queue.passed(mark) {
                Ok(false) => std::thread::yield_now(),
                Ok(true) => panic!("a failed launch passed"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("cuda:0 (stand-in): cuEventQuery: CUDA_ERROR_LAUNCH_FAILED"), "{error}");
        assert_eq!(queue.copy(there.span(), &[there.span()]).unwrap_err(), error);
        assert_eq!(queue.drain().unwrap_err(), error);
        assert!(gpu.holds(there.span()));
        assert!(gpu.holds(Block::new(8).span()), "nobody knows");
        gpu.alloc(64).unwrap_err();
    });
}

#[test]
fn the_callers_context_stays_as_it_was() {
    on_stand_in("the_callers_context_stays_as_it_was", Build::Plain, &[], || {
        a_bit_of_everything().unwrap();
        let mut current = std::ptr::NonNull::dangling().as_ptr();
        // SAFETY: the stand-in is there, and the function writes one handle.
        let result = unsafe { cudarc::driver::sys::cuCtxGetCurrent(&mut current) };
        assert_eq!((result as u32, current), (0, std::ptr::null_mut()));
    });
}

#[test]
fn bad_spans_are_refused() {
    on_stand_in("bad_spans_are_refused", Build::Plain, &[], || {
        let gpu = gpu();
        let there = gpu.alloc(64).unwrap().span();
        let mut queue = gpu.queue().unwrap();
        let fold = Fold::new(DType::F32, ReduceOp::Sum, 2);
        let invalid = |outcome: Result<()>| assert!(matches!(outcome, Err(Error::Invalid { .. })), "{outcome:?}");
        invalid(queue.reduce(&fold, true, &[there.cut(0, 8), there.cut(8, 12)], &[there.cut(0, 8)]));
        invalid(queue.reduce(&fold, true, &[], &[there.cut(0, 8)]));
        invalid(queue.reduce(&fold, true, &[there.cut(0, 6), there.cut(8, 6)], &[there.cut(0, 6)]));
        invalid(queue.copy(there.cut(0, 8), &[there.cut(16, 9)]));
        queue.drain().expect("the queue is still good");
    });
}
