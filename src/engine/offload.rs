//! Calls on device memory: the device's queue does what the host does otherwise, and the engine follows its marks.
//!
//! ```text
//!   host memory      copy ─ done ── reduce ─ done ── signal
//!   device memory    copy ── reduce ── mark . . . . . passed? ── signal
//! ```
//!
//! In a program without links steps follow each other in the queue, and only who tells others of them, with a signal or with
//! the end of the call, waits for the mark. Ops over links go by [`super::ferry`].
#![forbid(unsafe_code)]

use super::call::Call;
use super::ferry::Ferry;
use super::lane::Lane;
use super::plan::Prepared;
use super::task::{PrivateSlots, Room, Slots, Task, private_slots, slots};
use crate::device::{Device, Mark, Memory, Queue};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transport::Shared;
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The domain of host memory; see [`Device::domain`].
pub(super) const HOST: u8 = 0;

/// How long a failing rank waits for its device to take its hands off the caller's buffers. Work that was put in line is
/// finite: a device that needs longer has failed itself.
const QUIESCE: Duration = Duration::from_secs(10);

/// How long to sleep at most while a device works: nothing rings when it is done.
pub(super) const DEVICE_NAP: Duration = Duration::from_micros(50);

/// A communicator's device, and the queue that it works through.
pub(crate) struct Offload {
    device: Arc<dyn Device>,
    /// Memory of the host's ranks that the device was told of.
    adopted: Vec<Box<dyn Any + Send + Sync>>,
    /// Made for the first call that needs it.
    queue: Option<Box<dyn Queue>>,
    /// Host memory between links and device, for calls to come.
    holds: Vec<Memory>,
}

impl Offload {
    pub(crate) fn new(device: Arc<dyn Device>) -> Offload {
        Offload { device, adopted: Vec::new(), queue: None, holds: Vec::new() }
    }

    /// The one that works on memory of this domain; none for the host's.
    pub(super) fn of(lane: &mut Option<Offload>, domain: u8) -> Option<&mut Offload> {
        lane.as_mut().filter(|_| domain != HOST)
    }

    /// Where the buffers of a call are.
    fn domain_of(&self, call: &Call) -> Result<u8> {
        let on_device = |span: Span| (!span.is_empty()).then(|| self.device.holds(span));
        match (on_device(call.input), on_device(call.output)) {
            (Some(true), Some(true) | None) | (None, Some(true)) => Ok(self.device.domain()),
            (Some(false) | None, Some(false) | None) => Ok(HOST),
            (Some(is_input), Some(_)) => {
                let (there, here) = if is_input { ("input", "output") } else { ("output", "input") };
                let name = self.device.name();
                Err(Error::invalid(format!(
                    "{}: the {there} is on {name}, the {here} in host memory; a call needs both in one place",
                    call.collective
                )))
            }
        }
    }

    /// The queue.
    pub(super) fn queue(&mut self) -> Result<&mut dyn Queue> {
        if self.queue.is_none() {
            self.queue = Some(self.device.queue()?);
        }
        Ok(self.queue.as_deref_mut().expect("made above"))
    }

    /// What a call on the device needs besides its task; `near` are the memory that the ranks of the host share, and how many
    /// they are.
    pub(super) fn equip(
        &mut self,
        prepared: &Prepared,
        stage_bytes: usize,
        near: Option<(&dyn Shared, usize)>,
    ) -> Result<Box<Remote>> {
        if let (None, Some((shared, ranks))) = (&self.queue, near) {
            self.adopt(shared, ranks);
        }
        self.queue()?;
        let Prepared { plan, layout, slice_bytes, depends_on_mapping, .. } = prepared;
        let longest_bytes = layout.max_chunk_bytes();
        let ferries = plan.runs.iter().map(|_| {
            let hold = self.take_hold(Ferry::hold_bytes(longest_bytes))?;
            Ok(Ferry::new(hold, longest_bytes))
        });
        let ferries = ferries.collect::<Result<Vec<_>>>()?;
        let room = Room { stage_bytes, slice_bytes: *slice_bytes };
        let Slots { slot_bytes, .. } = slots(plan, layout, room, *depends_on_mapping);
        let PrivateSlots { scratch, stage } = private_slots(plan);
        let private = |slots: u32| self.device.alloc(slots as usize * slot_bytes);
        let (scratch, stage) = (private(scratch)?, private(stage)?);
        Ok(Box::new(Remote { ferries, scratch, stage, scaled: None, is_unmarked: false, awaited: None, step: None }))
    }

    /// Tells the device of the memory through which the ranks of the host reach each other.
    fn adopt(&mut self, shared: &dyn Shared, ranks: usize) {
        let halves =
            |rank| [0, 1].into_iter().flat_map(move |half| [shared.stage(rank, half), shared.message(rank, half)]);
        let adopted = (0..ranks).flat_map(halves).filter_map(|span| self.device.adopt(span));
        self.adopted = adopted.collect();
    }

    /// Memory for a scaled input.
    pub(super) fn alloc(&self, len_bytes: usize) -> Result<Memory> {
        self.device.alloc(len_bytes)
    }

    /// Host memory of at least this length that the device reaches easily.
    pub(super) fn take_hold(&mut self, len_bytes: usize) -> Result<Memory> {
        let fitting = self.holds.iter().position(|hold| hold.span().len() >= len_bytes);
        fitting.map_or_else(|| self.device.alloc_host(len_bytes), |at| Ok(self.holds.swap_remove(at)))
    }

    /// Copies device memory to the host, now.
    pub(super) fn fetch(&mut self, from: Span, bytes: &mut [u8]) -> Result<()> {
        let hold = self.take_hold(bytes.len())?;
        let landing = hold.span().cut(0, bytes.len());
        let queue = self.queue()?;
        queue.copy(from, &[landing])?;
        queue.drain()?;
        landing.read(bytes);
        self.holds.push(hold);
        Ok(())
    }

    /// Waits until the device does nothing more for this communicator.
    fn quiesce(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        let deadline = Instant::now() + QUIESCE;
        let Ok(mark) = queue.mark() else { return };
        while let Ok(false) = queue.passed(mark) {
            if Instant::now() > deadline {
                tracing::warn!("{} is still at work on buffers of a call that has failed", self.device.name());
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// What a call on device memory has beyond others.
pub(super) struct Remote {
    /// One for each end of a link.
    pub(super) ferries: Vec<Ferry>,
    /// Steps were put in line behind which no mark is yet.
    is_unmarked: bool,
    /// The mark behind all steps before.
    awaited: Option<Mark>,
    /// The step at work, where others of the program go over links, and its bytes.
    step: Option<(Mark, usize)>,
    /// Private slots.
    scratch: Memory,
    stage: Memory,
    /// A scaled input, kept alive.
    pub(super) scaled: Option<Memory>,
}

impl Remote {
    /// Its private slots: for scratch, for staging.
    pub(super) fn private(&self) -> (Span, Span) {
        (self.scratch.span(), self.stage.span())
    }

    /// The device was given work for it ahead of its program.
    pub(super) fn expect_work(&mut self) {
        self.is_unmarked = true;
    }

    /// For the next round of the program.
    pub(super) fn rewind(&mut self) {
        self.ferries.iter_mut().for_each(Ferry::rewind);
    }

    /// The device has done all that it was asked to.
    pub(super) fn is_settled(&self) -> bool {
        !self.is_unmarked && self.awaited.is_none() && self.step.is_none()
    }

    /// Something that it was asked for is not known to be done.
    pub(super) fn awaits_device(&self) -> bool {
        !self.is_settled() || self.ferries.iter().any(Ferry::awaits_device)
    }

    /// Steps were put in line: in a program without links others may follow at once, else it is one step at a time.
    pub(super) fn put(&mut self, queue: &mut dyn Queue, bytes: usize, is_straight: bool) -> Result<()> {
        match is_straight {
            true => self.is_unmarked = true,
            false => self.step = Some((queue.mark()?, bytes)),
        }
        Ok(())
    }
}

/// How the step at work stands.
pub(super) enum AtWork {
    Nothing,
    Still,
    /// It has moved so many bytes.
    Done(usize),
}

impl Lane {
    /// Where the buffers of a call are; an error where they are not in one place.
    pub(super) fn domain_of(&self, call: &Call) -> Result<u8> {
        self.offload.as_ref().map_or(Ok(HOST), |offload| offload.domain_of(call))
    }

    /// The queue for a task on device memory.
    pub(super) fn queue(&mut self) -> Result<&mut dyn Queue> {
        self.offload.as_mut().expect("only calls on a device ask for its queue").queue()
    }

    /// True when the device has done all steps that it was asked for so far.
    pub(super) fn has_caught_up(&mut self, task: &mut Task) -> Result<bool> {
        let Some(remote) = task.remote.as_deref_mut().filter(|remote| !remote.is_settled()) else { return Ok(true) };
        let queue = self.queue()?;
        if std::mem::take(&mut remote.is_unmarked) {
            remote.awaited = Some(queue.mark()?);
        }
        if let Some(mark) = remote.awaited
            && queue.passed(mark)?
        {
            remote.awaited = None;
        }
        Ok(remote.is_settled())
    }

    /// Looks after the step at work of a program with links.
    pub(super) fn look_at_step(&mut self, task: &mut Task) -> Result<AtWork> {
        let Some(remote) = task.remote.as_deref_mut() else { return Ok(AtWork::Nothing) };
        let Some((mark, bytes)) = remote.step else { return Ok(AtWork::Nothing) };
        if !self.queue()?.passed(mark)? {
            return Ok(AtWork::Still);
        }
        remote.step = None;
        Ok(AtWork::Done(bytes))
    }

    /// Something is to be heard from the device that rings no bell.
    pub(super) fn awaits_device(&self) -> bool {
        self.tasks.iter().any(|task| task.remote.as_deref().is_some_and(Remote::awaits_device))
    }

    /// Host memory that a call on the device used goes back for others.
    pub(super) fn take_back(&mut self, task: &mut Task) {
        if let (Some(offload), Some(remote)) = (&mut self.offload, task.remote.take()) {
            offload.holds.extend(remote.ferries.into_iter().map(Ferry::into_hold));
        }
    }

    /// Waits until the device leaves the callers' buffers alone.
    pub(super) fn quiesce_device(&mut self) {
        if let Some(offload) = &mut self.offload {
            offload.quiesce();
        }
    }
}
