//! What every device must do, stamped on each: [`conform`] compares it with the host, bit for bit, wherever operands lie.
#![forbid(unsafe_code)]

use super::contract::{Device, Memory, Queue};
use super::host::{self, Fold, Store};
use super::samples::{Noise, OPS, assert_same, elements};
use crate::memory::{Block, Span};
use crate::types::{DType, ReduceOp};

const OPERANDS: [usize; 9] = [1, 2, 3, 4, 5, 7, 8, 9, 17];
const LENGTHS: [usize; 5] = [1, 3, 64, 257, 1025];
const LONGEST: usize = 1025;
/// What lies around every span, and must still be there afterwards.
const FRAME_BYTES: usize = 16;
const FRAME: u8 = 0xa5;

/// Runs the whole suite. Panics at the first difference.
pub(crate) fn conform(device: &dyn Device) {
    memory_is_zeroed_held_and_apart(device);
    copies_reach_from_anywhere_to_anywhere(device);
    work_happens_in_the_order_of_the_queue(device);
    reductions_equal_the_host(device);
    factors_equal_the_host(device);
}

/// Where operands of a case lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Device,
    /// Host memory of the device's own.
    Easy,
    /// Any host memory.
    Plain,
}

const HOMES: [Home; 3] = [Home::Device, Home::Easy, Home::Plain];

/// Room for the spans of one case in each home, and for reading them back.
struct Rooms {
    device: Memory,
    easy: Memory,
    plain: Block,
    used: [usize; 3],
}

impl Rooms {
    fn new(device: &dyn Device, len_bytes: usize) -> Rooms {
        Rooms {
            device: device.alloc(len_bytes).expect("device memory"),
            easy: device.alloc_host(len_bytes).expect("host memory of the device"),
            plain: Block::new(len_bytes),
            used: [0; 3],
        }
    }

    fn all(&self, home: Home) -> Span {
        match home {
            Home::Device => self.device.span(),
            Home::Easy => self.easy.span(),
            Home::Plain => self.plain.span(),
        }
    }

    /// A span with a frame on either side, `shift` bytes past a multiple of 16.
    fn take(&mut self, home: Home, len_bytes: usize, shift: usize) -> Span {
        let start = self.used[home as usize].next_multiple_of(16) + FRAME_BYTES + shift;
        self.used[home as usize] = start + len_bytes + FRAME_BYTES;
        self.all(home).cut(start, len_bytes)
    }

    fn clear(&mut self) {
        self.used = [0; 3];
    }
}

/// A queue and the ways between it and plain bytes.
struct Line {
    queue: Box<dyn Queue>,
}

impl Line {
    fn new(device: &dyn Device) -> Line {
        Line { queue: device.queue().expect("a queue") }
    }

    /// `bytes` in a frame, at a span that has room for one.
    fn fill(&mut self, rooms: &Rooms, home: Home, span: Span, bytes: &[u8]) {
        let all = rooms.all(home);
        let start = span.addr() - all.addr() - FRAME_BYTES;
        let framed = [&[FRAME; FRAME_BYTES][..], bytes, &[FRAME; FRAME_BYTES]].concat();
        self.write(all.cut(start, framed.len()), &framed);
    }

    fn write(&mut self, span: Span, bytes: &[u8]) {
        let host = Block::new(bytes.len().next_multiple_of(8));
        host.span().write(bytes);
        self.queue.copy(host.span().cut(0, bytes.len()), &[span]).expect("a copy");
        self.finish();
    }

    fn read(&mut self, span: Span) -> Vec<u8> {
        let host = Block::new(span.len().next_multiple_of(8));
        self.queue.copy(span, &[host.span().cut(0, span.len())]).expect("a copy");
        self.finish();
        let mut bytes = vec![0; span.len()];
        host.span().read(&mut bytes);
        bytes
    }

    /// Until a mark behind everything is passed.
    fn finish(&mut self) {
        let mark = self.queue.mark().expect("a mark");
        while !self.queue.passed(mark).expect("the device works") {
            std::thread::yield_now();
        }
    }

    /// What a framed span holds. Its frame must be whole.
    #[track_caller]
    fn framed(&mut self, rooms: &Rooms, home: Home, span: Span, what: &str) -> Vec<u8> {
        let all = rooms.all(home);
        let start = span.addr() - all.addr() - FRAME_BYTES;
        let bytes = self.read(all.cut(start, span.len() + 2 * FRAME_BYTES));
        let (front, rest) = bytes.split_at(FRAME_BYTES);
        let (inside, back) = rest.split_at(span.len());
        assert!(front.iter().chain(back).all(|&byte| byte == FRAME), "{what}: wrote outside of {home:?} {span:?}");
        inside.to_vec()
    }
}

fn memory_is_zeroed_held_and_apart(device: &dyn Device) {
    let mut line = Line::new(device);
    assert!((1..=31).contains(&device.domain()), "domain {}", device.domain());
    let nothing = device.alloc(0).expect("no memory");
    assert!(nothing.span().is_empty() && !device.holds(nothing.span()));
    let (one, other) = (device.alloc(5001).expect("memory"), device.alloc(64).expect("memory"));
    for memory in [&one, &other] {
        assert_eq!(memory.span().addr() % 256, 0, "{memory:?}");
        assert!(line.read(memory.span()).iter().all(|&byte| byte == 0), "{memory:?} is not zeroed");
        assert!(device.holds(memory.span()) && device.holds(memory.span().from(17)));
    }
    assert!(!one.span().overlaps(other.span()));
    let easy = device.alloc_host(100).expect("host memory");
    assert!(easy.span().addr().is_multiple_of(64) && !device.holds(easy.span()) && line.read(easy.span()) == [0; 100]);
    let plain = Block::new(64);
    assert!(!device.holds(plain.span()));
    let adopted = device.adopt(plain.span());
    assert!(!device.holds(plain.span()), "what is adopted stays host memory");
    drop(adopted);
}

fn copies_reach_from_anywhere_to_anywhere(device: &dyn Device) {
    let mut line = Line::new(device);
    let mut rooms = Rooms::new(device, 64 << 10);
    let mut noise = Noise(1);
    for (case, len_bytes) in [1usize, 2, 3, 5, 8, 13, 64, 100, 4096, 5000].into_iter().enumerate() {
        for from_home in HOMES {
            rooms.clear();
            let bytes = elements(DType::U8, len_bytes, &mut noise);
            let from = rooms.take(from_home, len_bytes, case % 5);
            line.fill(&rooms, from_home, from, &bytes);
            let outputs = HOMES.map(|home| (home, rooms.take(home, len_bytes, (case * 3 + 1) % 7)));
            for (home, into) in outputs {
                line.fill(&rooms, home, into, &vec![0; len_bytes]);
            }
            // Onto itself as well: that is no copy, and does no harm.
            let into: Vec<Span> = outputs.iter().map(|(_, into)| *into).chain([from]).collect();
            line.queue.copy(from, &into).expect("a copy");
            let what = format!("{len_bytes} bytes from {from_home:?}");
            for (home, into) in outputs {
                assert_same(DType::U8, &line.framed(&rooms, home, into, &what), &bytes, &format!("{what} to {home:?}"));
            }
            assert_same(DType::U8, &line.framed(&rooms, from_home, from, &what), &bytes, &what);
        }
    }
    line.queue.copy(Span::EMPTY, &[Span::EMPTY]).expect("nothing");
    line.finish();
}

/// A chain in which every piece needs the one before, on all kinds of memory, with no mark in between.
fn work_happens_in_the_order_of_the_queue(device: &dyn Device) {
    let mut line = Line::new(device);
    let mut rooms = Rooms::new(device, 64 << 10);
    let fold = Fold::new(DType::U32, ReduceOp::Sum, 2);
    let count = 1000;
    let one: Vec<u8> = (0..count).flat_map(|_| 1u32.to_le_bytes()).collect();
    let spans = HOMES.map(|home| (home, rooms.take(home, 4 * count, 0)));
    for (home, span) in spans {
        line.fill(&rooms, home, span, &one);
    }
    let mut marks = Vec::new();
    for round in 0..6 {
        for step in 0..3 {
            let (from, into) = (spans[step].1, spans[(step + 1) % 3].1);
            line.queue.reduce(&fold, true, &[from, into], &[into]).expect("a reduction");
        }
        line.queue.copy(spans[0].1, &[spans[1].1]).expect("a copy");
        if round % 2 == 1 {
            marks.push(line.queue.mark().expect("a mark"));
        }
    }
    assert!(marks.is_sorted(), "{marks:?}");
    line.finish();
    for mark in marks {
        assert!(line.queue.passed(mark).expect("the device works"), "a mark before a passed one is not");
    }
    let mut expected = [1u32; 3];
    for _ in 0..6 {
        for step in 0..3 {
            expected[(step + 1) % 3] += expected[step];
        }
        expected[1] = expected[0];
    }
    for ((home, span), expected) in spans.into_iter().zip(expected) {
        let wanted: Vec<u8> = (0..count).flat_map(|_| expected.to_le_bytes()).collect();
        assert_same(DType::U32, &line.framed(&rooms, home, span, "a chain"), &wanted, &format!("a chain, {home:?}"));
    }
    line.queue.drain().expect("nothing is left");
}

/// Every type and operation, numbers of operands, lengths, misalignment below the element, operands anywhere, in place too.
fn reductions_equal_the_host(device: &dyn Device) {
    let mut line = Line::new(device);
    let mut rooms = Rooms::new(device, 256 << 10);
    for dtype in DType::ALL {
        let size = dtype.size_bytes();
        let mut noise = Noise(dtype as u64);
        let operands: Vec<Vec<u8>> = (0..17).map(|_| elements(dtype, LONGEST, &mut noise)).collect();
        for (turn, op) in OPS.into_iter().filter(|op| op.accepts(dtype)).enumerate() {
            for (case, n) in OPERANDS.into_iter().enumerate() {
                let fold = Fold::new(dtype, op, n as u32 + 2);
                let finish = op == ReduceOp::Avg && case % 3 > 0;
                let len_bytes = LENGTHS[(case + turn) % LENGTHS.len()] * size;
                let skip_bytes = (LONGEST * size - len_bytes) / size / 2 * size;
                let inputs: Vec<&[u8]> =
                    operands[..n].iter().map(|bytes| &bytes[skip_bytes..skip_bytes + len_bytes]).collect();
                let wanted = on_host(&fold, finish, &inputs);
                // On the device only; here and there; nothing on the device.
                for spread in 0..3 {
                    let home = |k: usize| match spread {
                        0 => Home::Device,
                        1 => HOMES[(k + case) % 3],
                        _ => HOMES[1 + (k + case) % 2],
                    };
                    let shift = |k: usize| [0, size * k, k, 3 * k + 1][(case + spread) % 4] % 16;
                    rooms.clear();
                    let mut from = Vec::new();
                    for (k, bytes) in inputs.iter().enumerate() {
                        let span = rooms.take(home(k), len_bytes, shift(k));
                        line.fill(&rooms, home(k), span, bytes);
                        from.push(span);
                    }
                    let is_in_place = (case + turn + spread) % 2 == 0;
                    let mut outputs = vec![if is_in_place {
                        (home(0), from[0])
                    } else {
                        (home(1), rooms.take(home(1), len_bytes, shift(1)))
                    }];
                    outputs.push((home(2), rooms.take(home(2), len_bytes, shift(5))));
                    for &(home, span) in &outputs[usize::from(is_in_place)..] {
                        line.fill(&rooms, home, span, &vec![0x11; len_bytes]);
                    }
                    let into: Vec<Span> = outputs.iter().map(|(_, span)| *span).collect();
                    line.queue.reduce(&fold, finish, &from, &into).expect("a reduction");
                    let what = format!(
                        "{dtype} {op} n={n} len={} finish={finish} spread={spread} in place={is_in_place}",
                        len_bytes / size
                    );
                    for (home, span) in outputs {
                        assert_same(dtype, &line.framed(&rooms, home, span, &what), &wanted, &what);
                    }
                }
            }
        }
    }
}

fn factors_equal_the_host(device: &dyn Device) {
    let mut line = Line::new(device);
    let mut rooms = Rooms::new(device, 64 << 10);
    for dtype in DType::ALL {
        let size = dtype.size_bytes();
        let mut noise = Noise(dtype as u64 + 100);
        for case in 0..12usize {
            let len_bytes = LENGTHS[case % LENGTHS.len()] * size;
            let (bytes, factor) = (elements(dtype, len_bytes / size, &mut noise), elements(dtype, 1, &mut noise));
            let mut scalar_bits = [0; 8];
            scalar_bits[..size].copy_from_slice(&factor);
            let scalar_bits = u64::from_le_bytes(scalar_bits);
            let wanted = host::reference::scale(dtype, scalar_bits, &bytes);
            rooms.clear();
            let (from_home, into_home) = (HOMES[case % 3], HOMES[case / 3 % 3]);
            let from = rooms.take(from_home, len_bytes, case % 4);
            line.fill(&rooms, from_home, from, &bytes);
            let into = if case % 4 == 0 { from } else { rooms.take(into_home, len_bytes, case % 3) };
            let home = if into == from { from_home } else { into_home };
            if into != from {
                line.fill(&rooms, home, into, &vec![0; len_bytes]);
            }
            line.queue.scale(dtype, scalar_bits, from, into).expect("a multiplication");
            let what = format!("{dtype} times {scalar_bits:#x}");
            assert_same(dtype, &line.framed(&rooms, home, into, &what), &wanted, &what);
        }
    }
}

fn on_host(fold: &Fold, finish: bool, inputs: &[&[u8]]) -> Vec<u8> {
    let blocks: Vec<Block> = inputs
        .iter()
        .map(|bytes| {
            let block = Block::new(bytes.len().next_multiple_of(8));
            block.span().write(bytes);
            block
        })
        .collect();
    let from: Vec<Span> = blocks.iter().map(|block| block.span().cut(0, inputs[0].len())).collect();
    let result = Block::new(inputs[0].len().next_multiple_of(8));
    host::reduce(fold, finish, &from, &[result.span().cut(0, inputs[0].len())], Store::Cached);
    let mut bytes = vec![0; inputs[0].len()];
    result.span().read(&mut bytes);
    bytes
}
