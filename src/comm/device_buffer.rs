//! Memory on a communicator's device: [`DeviceBuffer`].
#![forbid(unsafe_code)]

use super::Communicator;
use crate::device::{Device, Memory, copy_now};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::memory::{Span, lend, lend_mut};
use std::marker::PhantomData;
use std::sync::Arc;

/// Elements on a device, from [`Communicator::alloc_device`]. The host reaches them by copies only.
///
/// Calls take it whole ([`Communicator::start_all_reduce`] and its like), or by its [`span`](DeviceBuffer::span) in a
/// [`Call`](crate::Call).
pub struct DeviceBuffer<T: Element> {
    device: Arc<dyn Device>,
    memory: Memory,
    count: usize,
    elements: PhantomData<T>,
}

impl<T: Element> DeviceBuffer<T> {
    /// How many elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Where they are. Good until the buffer is dropped; for calls on this device only: the host cannot touch it.
    pub fn span(&self) -> Span {
        self.memory.span()
    }

    /// Copies `from`, of the same length, here. Blocks until it is done.
    pub fn write(&mut self, from: &[T]) -> Result<()> {
        self.check(from.len())?;
        copy_now(&*self.device, lend(from), self.span())
    }

    /// Copies all elements to `into`, of the same length. Blocks until it is done.
    pub fn read(&self, into: &mut [T]) -> Result<()> {
        self.check(into.len())?;
        copy_now(&*self.device, self.span(), lend_mut(into))
    }

    /// All elements, in host memory.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut elements = vec![T::zeroed(); self.count];
        self.read(&mut elements)?;
        Ok(elements)
    }

    fn check(&self, count: usize) -> Result<()> {
        match count == self.count {
            true => Ok(()),
            false => Err(Error::invalid(format!("{count} elements, and a device buffer of {}", self.count))),
        }
    }
}

impl<T: Element> std::fmt::Debug for DeviceBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceBuffer<{}>[{}] on {}", T::DTYPE, self.count, self.device.name())
    }
}

impl Communicator {
    /// Zeroed memory for `count` elements on this rank's device ([`Options::device`](crate::Options::device)). Not
    /// collective.
    ///
    /// ```
    /// use roundel::{Communicator, Options};
    /// let comm = Communicator::threads(1, Options { device: roundel::device::open("emulated")?, ..Options::default() })?.remove(0);
    /// let mut buffer = comm.alloc_device::<u32>(2)?;
    /// buffer.write(&[1, 2])?;
    /// assert_eq!(buffer.to_vec()?, [1, 2]);
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn alloc_device<T: Element>(&self, count: usize) -> Result<DeviceBuffer<T>> {
        let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let bytes = bytes.ok_or_else(|| Error::invalid(format!("{count} elements of {} overflow", T::DTYPE)))?;
        self.engine.check_birthplace()?;
        let device = self.options().device.clone().ok_or_else(|| {
            Error::unsupported("memory on a device: this communicator has none; set Options::device or ROUNDEL_DEVICE")
        })?;
        let memory = device.alloc(bytes)?;
        Ok(DeviceBuffer { device, memory, count, elements: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use crate::device::emulated::Emulated;
    use crate::{Communicator, Error, Options, ReduceOp, UniqueId};
    use std::sync::Arc;

    /// Three ranks, of which one has a device whose driver gives up in the midst of the calls: all get an error, nobody waits,
    /// and the one says which device it was.
    #[test]
    fn a_device_that_fails_ends_the_call_on_all_ranks() {
        for transport in ["auto", "tcp"] {
            let id = UniqueId::with_interface("127.0.0.1").unwrap();
            let rank = |rank: usize| {
                let device: Arc<Emulated> = if rank == 1 { Emulated::failing_after(40) } else { Emulated::open() };
                let mut options = Options { device: Some(device), ..Options::default() };
                options.set("transport", transport).unwrap();
                let comm = Communicator::init_with(&id, rank, 3, options).unwrap();
                let mut data = comm.alloc_device::<f32>(1000).unwrap();
                data.write(&[1.0; 1000]).unwrap();
                for call in 0.. {
                    assert!(call < 1000, "the device works for ever");
                    match comm
                        .start_all_reduce(data, ReduceOp::Max)
                        .and_then(|work| work.wait().map_err(|failed| failed.error))
                    {
                        Ok(back) => data = back,
                        Err(error) => return error,
                    }
                }
                unreachable!()
            };
            let errors: Vec<Error> = std::thread::scope(|scope| {
                let rank = &rank;
                let threads: Vec<_> = (0..3).map(|number| scope.spawn(move || rank(number))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(errors[1].to_string().contains("emulated:0"), "{transport}: {errors:?}");
            assert!(errors[1].interrupted().is_some(), "{errors:?}");
            for error in [&errors[0], &errors[2]] {
                assert!(
                    matches!(error, Error::Aborted { by: 1, .. } | Error::System { .. }),
                    "{transport}: {errors:?}"
                );
            }
        }
    }

    #[test]
    fn without_a_device_there_is_no_memory_on_one() {
        let comm = Communicator::threads(1, Options::default()).unwrap().remove(0);
        assert!(comm.alloc_device::<u8>(1).unwrap_err().to_string().contains("ROUNDEL_DEVICE"));
        let options = Options { device: Some(Emulated::open()), ..Options::default() };
        let comm = Communicator::threads(1, options).unwrap().remove(0);
        let mut buffer = comm.alloc_device::<u8>(3).unwrap();
        assert!(matches!(buffer.write(&[1, 2]), Err(Error::Invalid { .. })));
        assert!(buffer.to_vec().unwrap() == [0; 3] && buffer.len() == 3 && !buffer.is_empty());
    }
}
