//! The device on the software adapter, which any machine can have.

use super::*;
use crate::device::conformance;
use crate::device::copy_now;
use crate::device::host::{self, Fold};
use crate::device::samples::{Noise, assert_same, elements};
use crate::types::{DType, ReduceOp};
use kernels::Join;

/// The software adapter; `None`, with a line that says so, where there is none.
fn software() -> Option<Arc<WgpuDevice>> {
    let error = match WgpuDevice::open("llvmpipe") {
        Ok(device) => return Some(device),
        Err(error) => error,
    };
    let required = std::env::var("ROUNDEL_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split([',', ' ']).any(|word| word == "vulkan"), "ROUNDEL_TEST_REQUIRE has vulkan, but {error}");
    eprintln!("skipped: {error}");
    None
}

#[test]
fn conforms() {
    let Some(device) = software() else { return };
    conformance::conform(&*device);
    // Else the host's arithmetic would have been compared with itself.
    assert_eq!(device.gpu.proofs.failed(), []);
}

/// A device of its own on the software adapter, with limits that show every cut.
fn narrow(operands: usize) -> Option<WgpuDevice> {
    let device = software()?;
    let index = adapters().iter().find(|adapter| device.name().contains(&adapter.name)).expect("it is open").index;
    let mut gpu = adapters::start(index).expect("an adapter that opens opens twice");
    gpu.limits = gpu::Limits {
        operands,
        bindings: operands + 1,
        piece_bytes: 4096,
        arena_bytes: 64 << 10,
        readback_bytes: 8 << 10,
        ..gpu.limits
    };
    Some(WgpuDevice { gpu: Arc::new(gpu) })
}

/// `bytes` on the device, `shift` bytes into memory of their own.
fn there(device: &WgpuDevice, bytes: &[u8], shift: usize) -> (Memory, Span) {
    let memory = device.alloc(bytes.len() + shift + 7).unwrap();
    let span = memory.span().cut(shift, bytes.len());
    copy_now(device, HostBlock::holding(bytes).span(), span).unwrap();
    (memory, span)
}

fn back(device: &WgpuDevice, span: Span) -> Vec<u8> {
    let block = HostBlock::new(span.len());
    copy_now(device, span, block.span()).unwrap();
    block.bytes()
}

#[test]
fn what_exceeds_a_binding_the_arena_and_a_readback_buffer_is_cut() {
    for fan in [2, 4] {
        let Some(device) = narrow(fan) else { return };
        for (dtype, op, n, shift) in [
            (DType::F32, ReduceOp::Sum, 2, 0),
            (DType::Bf16, ReduceOp::Avg, 11, 2),
            (DType::F8E4M3, ReduceOp::Sum, 5, 1),
            (DType::I64, ReduceOp::Max, 3, 3),
            (DType::F64, ReduceOp::Sum, 3, 0),
        ] {
            let mut noise = Noise(n as u64);
            let len = 30_011;
            let operands: Vec<Vec<u8>> = (0..n).map(|_| elements(dtype, len, &mut noise)).collect();
            let inputs: Vec<&[u8]> = operands.iter().map(Vec::as_slice).collect();
            let fold = Fold::new(dtype, op, n as u32);
            let wanted = host::reference::reduce(&fold, true, &inputs);
            let held: Vec<_> = operands.iter().map(|bytes| there(&device, bytes, shift)).collect();
            // One operand and one output on the host, the other output in place.
            let (easy, result) = (HostBlock::holding(&operands[0]), HostBlock::new(wanted.len()));
            let mut from: Vec<Span> = held.iter().map(|(_, span)| *span).collect();
            from[0] = easy.span();
            let mut queue = device.queue().unwrap();
            queue.reduce(&fold, true, &from, &[from[1], result.span()]).unwrap();
            queue.drain().unwrap();
            let what = format!("{dtype} {op} of {n}, {fan} at a time");
            assert_same(dtype, &result.bytes(), &wanted, &what);
            assert_same(dtype, &back(&device, from[1]), &wanted, &what);
        }
    }
}

#[test]
fn f32_in_integers_is_right_wherever_f32_is_used() {
    let Some(device) = software() else { return };
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2] {
        for (join, divide) in [(Join::Sum, false), (Join::Sum, true), (Join::Prod, false)] {
            assert!(proof::is_right(&device.gpu, dtype, join, divide, false).unwrap(), "{dtype} {join:?} {divide}");
        }
    }
}

#[test]
fn several_outputs_in_place_and_side_by_side_in_one_buffer() {
    let Some(device) = software() else { return };
    // Spans that share words with their neighbours, in one buffer: three operands, of which two are outputs as well.
    for (dtype, shift, len) in [(DType::U8, 1, 37), (DType::Bf16, 2, 101), (DType::F32, 1, 65), (DType::U64, 4, 33)] {
        let mut noise = Noise(5);
        let operands: Vec<Vec<u8>> = (0..3).map(|_| elements(dtype, len, &mut noise)).collect();
        let inputs: Vec<&[u8]> = operands.iter().map(Vec::as_slice).collect();
        let fold = Fold::new(dtype, ReduceOp::Sum, 3);
        let wanted = host::reference::reduce(&fold, true, &inputs);
        let (_memory, all) = there(&device, &operands.concat(), shift);
        let len_bytes = wanted.len();
        let spans: Vec<Span> = (0..3).map(|k| all.cut(k * len_bytes, len_bytes)).collect();
        let mut queue = device.queue().unwrap();
        queue.reduce(&fold, true, &spans, &[spans[0], spans[1]]).unwrap();
        queue.drain().unwrap();
        assert_eq!(back(&device, all), [&wanted[..], &wanted, &operands[2]].concat(), "{dtype}");
    }
}

#[test]
fn two_queues_write_bytes_of_one_word() {
    let Some(device) = software() else { return };
    let memory = device.alloc(64).unwrap();
    let mut queues: Vec<_> = (0..2).map(|_| device.queue().unwrap()).collect();
    let sources: Vec<_> = (0..2u8).map(|k| there(&device, &[k + 1; 13], k as usize)).collect();
    for _ in 0..20 {
        for (k, queue) in queues.iter_mut().enumerate() {
            queue.copy(sources[k].1, &[memory.span().cut(1 + 13 * k, 13)]).unwrap();
            queue.mark().unwrap();
        }
    }
    queues.iter_mut().for_each(|queue| queue.drain().unwrap());
    let wanted = [&[0][..], &[1; 13], &[2; 13], &[0; 37]].concat();
    assert_eq!(back(&device, memory.span()), wanted);
}

#[test]
fn those_who_open_an_adapter_share_it() {
    let Some(device) = software() else { return };
    let other = WgpuDevice::open(&device.name()["wgpu:".len()..][..1]).unwrap();
    assert_eq!((device.domain(), device.name()), (other.domain(), other.name()));
    let (memory, span) = there(&device, b"between ranks", 3);
    assert!(other.holds(span) && !other.holds(memory.span().cut(0, 0)));
    assert_eq!(back(&other, span), b"between ranks");
    drop(memory);
    assert!(!other.holds(span), "a name ends with its memory");
    let missing = WgpuDevice::open("no such adapter").unwrap_err().to_string();
    assert!(missing.contains("not supported") && missing.contains("llvmpipe"), "{missing}");
}

#[test]
fn buffers_of_the_caller_are_taken_by_name() {
    let Some(device) = software() else { return };
    let (wgpu_device, wgpu_queue) = device.handles();
    let buffer = |size, usage| {
        wgpu_device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let mine = buffer(64, batch::DEVICE_USAGES);
    wgpu_queue.write_buffer(&mine, 0, &[7; 64]);
    let named = device.name_buffer(mine.clone()).unwrap();
    assert!(device.holds(named.span()));
    let (_memory, span) = there(&device, &[1; 64], 0);
    let mut queue = device.queue().unwrap();
    queue.reduce(&Fold::new(DType::U8, ReduceOp::Sum, 2), true, &[named.span(), span], &[span]).unwrap();
    queue.drain().unwrap();
    assert_eq!(back(&device, span), [8; 64]);
    for (wrong, word) in [(buffer(64, wgpu::BufferUsages::STORAGE), "usages"), (buffer(24, batch::DEVICE_USAGES), "16")]
    {
        let error = device.name_buffer(wrong).unwrap_err().to_string();
        assert!(error.contains("invalid argument") && error.contains(word), "{error}");
    }
}

#[test]
fn what_the_device_refuses_is_an_error_and_breaks_that_queue_only() {
    let Some(device) = software() else { return };
    let buffer =
        wgpu::BufferDescriptor { label: None, size: 64, usage: batch::DEVICE_USAGES, mapped_at_creation: false };
    let gone = device.handles().0.create_buffer(&buffer);
    let named = device.name_buffer(gone.clone()).unwrap();
    gone.destroy();
    let (_memory, span) = there(&device, &[1; 64], 0);
    let mut queue = device.queue().unwrap();
    queue.copy(named.span(), &[span]).unwrap();
    let error = queue.drain().unwrap_err();
    assert!(error.to_string().contains("llvmpipe"), "{error}");
    assert_eq!(queue.mark(), Err(error));
    assert_eq!(back(&device, span), [1; 64]);
    assert!(matches!(device.alloc(usize::MAX / 2), Err(Error::Unsupported { .. })));
    let uneven = device.queue().unwrap().copy(span, &[span.cut(0, 3)]);
    assert!(matches!(uneven, Err(Error::Invalid { .. })));
}
