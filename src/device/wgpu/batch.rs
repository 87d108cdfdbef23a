//! Commands on their way: recorded, submitted at once, and what comes back from them.
//!
//! ```text
//!   host inputs ──write──> arena ──┐
//!   device buffers ────────────────┼─> kernels, copies ─> device buffers
//!   partial results <──> arena ────┘                  └─> readback ──map──> host outputs
//! ```
//!
//! The arena is memory of the queue's own on the device. It is handed out from front to back within a batch and all over again in
//! the next one: the device does what it is given in order, writes from the host included.
#![forbid(unsafe_code)]

use super::gpu::Gpu;
use super::kernels::Program;
use super::place::Place;
use crate::error::Result;
use crate::memory::Span;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What `copy_buffer_to_buffer` and `write_buffer` go in.
const WORD: usize = 4;
/// What is written at a time.
const WRITE_STEP: usize = 8192;
/// Slots of the arena begin at multiples of this.
const SLOT: u64 = 256;
/// More commands than these are submitted without being asked for.
const COMMANDS: usize = 64;

/// One thing for the device to do.
enum Command {
    /// In whole words.
    Copy {
        from: Place,
        into: Place,
        len_bytes: u64,
    },
    Run(Run),
}

/// A kernel with all that it needs.
pub(super) struct Run {
    pub program: Arc<Program>,
    pub windows: Vec<Window>,
    /// `Call` in `reduce.wgsl`.
    pub call: [u32; 16],
    pub groups: u32,
}

/// A part of a buffer, as it is bound.
pub(super) struct Window {
    pub buffer: wgpu::Buffer,
    pub start: u64,
    pub len_bytes: u64,
}

/// Bytes that the host will find in a readback buffer.
struct Arrival {
    at: u64,
    into: Vec<Span>,
}

/// Where a queue's bytes come back; used by one batch at a time.
#[derive(Default)]
pub(super) struct Readbacks {
    idle: Vec<wgpu::Buffer>,
    in_use: usize,
}

impl Readbacks {
    /// How many may be on their way at once.
    const MOST: usize = 8;

    fn take(&mut self, gpu: &Gpu) -> Result<wgpu::Buffer> {
        self.in_use += 1;
        match self.idle.pop() {
            Some(buffer) => Ok(buffer),
            None => gpu.checked("taking memory for results", || {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: gpu.limits.readback_bytes,
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            }),
        }
    }

    pub(super) fn are_left(&self) -> bool {
        self.in_use < Self::MOST
    }

    fn give_back(&mut self, buffer: wgpu::Buffer) {
        self.in_use -= 1;
        self.idle.push(buffer);
    }
}

/// What was recorded and not yet submitted.
#[derive(Default)]
pub(super) struct Batch {
    commands: Vec<Command>,
    /// Bytes that were written for the device to take over, whether or not a command follows.
    written_bytes: u64,
    arena: Option<wgpu::Buffer>,
    arena_used: u64,
    readback: Option<wgpu::Buffer>,
    readback_used: u64,
    arrivals: Vec<Arrival>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.written_bytes == 0
    }

    pub(super) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    pub(super) fn is_long(&self, gpu: &Gpu) -> bool {
        self.commands.len() >= COMMANDS || self.written_bytes >= gpu.limits.arena_bytes
    }

    /// Bytes of the arena that slots of these lengths take.
    pub(super) fn slot_bytes(len_bytes: usize) -> u64 {
        (len_bytes as u64).next_multiple_of(SLOT)
    }

    pub(super) fn has_room(&self, gpu: &Gpu, arena_bytes: u64) -> bool {
        arena_bytes <= gpu.limits.arena_bytes - self.arena_used
    }

    /// Whether results of this length would need another readback buffer; some room for whole words is included.
    pub(super) fn needs_readback(&self, gpu: &Gpu, len_bytes: usize) -> bool {
        self.readback.is_none() || len_bytes as u64 + 16 > gpu.limits.readback_bytes - self.readback_used
    }

    pub(super) fn has_readback(&self) -> bool {
        self.readback.is_some()
    }

    /// Whether the host will be written there.
    pub(super) fn writes(&self, host: Span) -> bool {
        self.arrivals.iter().any(|arrival| arrival.into.iter().any(|into| into.overlaps(host)))
    }

    /// Memory in the arena, until the batch is over. There is room: `has_room` said so.
    pub(super) fn slot(&mut self, gpu: &Gpu, len_bytes: usize) -> Result<Place> {
        let buffer = match &self.arena {
            Some(buffer) => buffer.clone(),
            None => {
                let buffer = gpu.checked("taking memory for a queue", || {
                    gpu.device.create_buffer(&wgpu::BufferDescriptor {
                        label: None,
                        size: gpu.limits.arena_bytes,
                        usage: DEVICE_USAGES,
                        mapped_at_creation: false,
                    })
                })?;
                self.arena.insert(buffer).clone()
            }
        };
        let at = self.arena_used;
        self.arena_used += Batch::slot_bytes(len_bytes);
        debug_assert!(self.arena_used <= gpu.limits.arena_bytes, "no room in the arena");
        Ok(Place { buffer, at })
    }

    /// Host bytes in the arena.
    pub(super) fn upload(&mut self, gpu: &Gpu, host: Span) -> Result<Place> {
        let place = self.slot(gpu, host.len())?;
        self.write(gpu, host, &place)?;
        Ok(place)
    }

    /// Host bytes into a buffer, before all commands of this batch. A last word in part is filled with zeros.
    pub(super) fn write(&mut self, gpu: &Gpu, host: Span, into: &Place) -> Result<()> {
        self.written_bytes += host.len() as u64;
        gpu.checked("writing", || {
            let words = host.len().next_multiple_of(WORD);
            let size = wgpu::BufferSize::new(words as u64).expect("work in line has bytes");
            // None where that is an error, which `checked` finds.
            let Some(mut view) = gpu.queue.write_buffer_with(&into.buffer, into.at, size) else { return };
            // Staging memory may only be written, and host memory may not be referred to: the first-level cache is between.
            let mut some = [0; WRITE_STEP];
            for start in (0..words).step_by(WRITE_STEP) {
                let there = WRITE_STEP.min(words - start);
                let here = there.min(host.len() - start);
                host.cut(start, here).read(&mut some[..here]);
                some[here..there].fill(0);
                view.slice(start..start + there).copy_from_slice(&some[..there]);
            }
        })
    }

    /// Copies whole words between different buffers.
    pub(super) fn copy(&mut self, from: Place, into: Place, len_bytes: u64) {
        self.commands.push(Command::Copy { from, into, len_bytes });
    }

    pub(super) fn run(&mut self, run: Run) {
        self.commands.push(Command::Run(run));
    }

    /// Brings bytes back to the host, into all of these spans.
    pub(super) fn read_back(
        &mut self,
        gpu: &Gpu,
        readbacks: &mut Readbacks,
        from: &Place,
        into: Vec<Span>,
    ) -> Result<()> {
        let Some(len_bytes) = into.first().map(|span| span.len() as u64) else { return Ok(()) };
        let buffer = match &self.readback {
            Some(buffer) => buffer.clone(),
            None => self.readback.insert(readbacks.take(gpu)?).clone(),
        };
        // The words around them; buffers end with a whole word.
        let skipped = from.at % WORD as u64;
        let words = (skipped + len_bytes).next_multiple_of(WORD as u64);
        let at = self.readback_used;
        self.readback_used += words;
        let source = Place { buffer: from.buffer.clone(), at: from.at - skipped };
        self.copy(source, Place { buffer, at }, words);
        self.arrivals.push(Arrival { at: at + skipped, into });
        Ok(())
    }

    /// Has the device begin, and starts anew.
    pub(super) fn submit(&mut self, gpu: &Gpu) -> Result<Flight> {
        let waiting = Arc::new(AtomicUsize::new(1 + usize::from(self.readback.is_some())));
        let refused = Arc::new(AtomicBool::new(false));
        let commands = std::mem::take(&mut self.commands);
        let readback = self.readback.take().map(|buffer| (buffer, std::mem::take(&mut self.readback_used)));
        gpu.checked("submitting work", || {
            let encoded = (!commands.is_empty()).then(|| encode(&gpu.device, &commands));
            gpu.queue.submit(encoded);
            let done = Arc::clone(&waiting);
            // Pairs with the load in `Flight::has_landed`.
            gpu.queue.on_submitted_work_done(move || _ = done.fetch_sub(1, Ordering::Release));
            if let Some((buffer, used)) = &readback {
                let (mapped, refused) = (Arc::clone(&waiting), Arc::clone(&refused));
                buffer.map_async(wgpu::MapMode::Read, ..*used, move |result| {
                    // Seen by whoever sees the count that is taken down after it.
                    refused.fetch_or(result.is_err(), Ordering::Relaxed);
                    // Pairs with the load in `Flight::has_landed`.
                    mapped.fetch_sub(1, Ordering::Release);
                });
            }
        })?;
        self.written_bytes = 0;
        self.arena_used = 0;
        let arrivals = std::mem::take(&mut self.arrivals);
        Ok(Flight { mark: None, waiting, refused, readback, arrivals })
    }
}

/// What all buffers on the device are good for.
pub(super) const DEVICE_USAGES: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

fn encode(device: &wgpu::Device, commands: &[Command]) -> wgpu::CommandBuffer {
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for some in commands.chunk_by(|a, b| matches!((a, b), (Command::Run(_), Command::Run(_)))) {
        if let [Command::Copy { from, into, len_bytes }] = some {
            encoder.copy_buffer_to_buffer(&from.buffer, from.at, &into.buffer, into.at, *len_bytes);
            continue;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for run in some.iter().filter_map(|command| if let Command::Run(run) = command { Some(run) } else { None }) {
            let entries: Vec<_> = (0..)
                .zip(&run.windows)
                .map(|(binding, window)| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &window.buffer,
                        offset: window.start,
                        size: wgpu::BufferSize::new(window.len_bytes),
                    }),
                })
                .collect();
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &run.program.layout,
                entries: &entries,
            });
            pass.set_pipeline(&run.program.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.set_immediates(0, bytemuck::bytes_of(&run.call));
            pass.dispatch_workgroups(run.groups, 1, 1);
        }
    }
    encoder.finish()
}

/// A batch that the device works on.
pub(super) struct Flight {
    /// The last mark behind it.
    pub mark: Option<u64>,
    waiting: Arc<AtomicUsize>,
    refused: Arc<AtomicBool>,
    readback: Option<(wgpu::Buffer, u64)>,
    arrivals: Vec<Arrival>,
}

impl Flight {
    /// Whether it is over, and what comes back can be read.
    pub(super) fn has_landed(&self) -> bool {
        // Pairs with the counting down in `Batch::submit`.
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// Whether the host will be written there.
    pub(super) fn writes(&self, host: Span) -> bool {
        self.arrivals.iter().any(|arrival| arrival.into.iter().any(|into| into.overlaps(host)))
    }

    /// Brings home what came back. It has landed.
    pub(super) fn unload(self, gpu: &Gpu, readbacks: &mut Readbacks) -> Result<()> {
        let Some((buffer, used)) = self.readback else { return Ok(()) };
        gpu.checked("reading results", || {
            if self.refused.load(Ordering::Relaxed) {
                return Err(crate::Error::refused_by_system(
                    format!("reading results on {}", gpu.name),
                    "the device did not map them",
                    0,
                ));
            }
            let view = buffer
                .get_mapped_range(..used)
                .map_err(|error| crate::Error::refused_by_system("reading results", error.to_string(), 0))?;
            for Arrival { at, into } in &self.arrivals {
                for span in into {
                    span.write(&view[*at as usize..*at as usize + span.len()]);
                }
            }
            drop(view);
            buffer.unmap();
            Ok(())
        })??;
        readbacks.give_back(buffer);
        Ok(())
    }
}
