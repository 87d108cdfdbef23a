//! Calls on device memory: the same bits as the same call on host memory, whoever has his buffers where.

use crate::numbers::{Data, contributions, for_every_type, noise, operations, own};
use crate::room::same;
use roundel::memory::Span;
use roundel::{Call, Collective, Communicator, Counts, DeviceBuffer, Element, Error, ReduceOp};

/// Every type and operation on a few elements; every collective with few, many, and none; ranks that have no buffer on a
/// device among those that do.
pub fn devices(comm: &Communicator) {
    for_every_type!(one_type(comm));
    for count in [0, 1, 7, 1000, 70_001] {
        for homes in 0..3 {
            // All on a device; every other rank; rank 0 only.
            let is_remote = match homes {
                0 => true,
                1 => comm.rank().is_multiple_of(2),
                _ => comm.rank() == 0,
            };
            for root in [0, comm.world() - 1] {
                every_collective::<f32>(comm, count, ReduceOp::Sum, root, is_remote);
            }
            every_collective::<half::bf16>(comm, count, ReduceOp::Avg, 0, is_remote);
        }
    }
    messages(comm);
    preserved(comm);
    refused(comm);
}

fn one_type<T: Element>(comm: &Communicator) {
    for (index, op) in operations::<T>().into_iter().enumerate() {
        let is_remote = !(comm.rank() + index).is_multiple_of(3);
        every_collective::<T>(comm, 37, op, index % comm.world(), is_remote);
    }
}

fn every_collective<T: Element>(comm: &Communicator, count: usize, op: ReduceOp, root: usize, is_remote: bool) {
    for collective in Collective::ALL {
        if collective == Collective::SendRecv {
            continue;
        }
        let op = collective.reduces().then(|| own::<T>(op, Data::Rough, comm.rank()));
        let call = Call {
            collective,
            dtype: T::DTYPE,
            op,
            root,
            peer: 0,
            counts: Counts::Even(if collective == Collective::Barrier { 0 } else { count }),
            input: Span::EMPTY,
            output: Span::EMPTY,
        };
        compare::<T>(comm, &call, is_remote);
    }
    let ragged: Vec<usize> = (0..comm.world()).map(|rank| if rank % 3 == 1 { 0 } else { count + 2 * rank }).collect();
    for collective in [Collective::AllGather, Collective::ReduceScatter] {
        let op = collective.reduces().then_some(ReduceOp::Max);
        let counts = Counts::Blocks(ragged.clone());
        let call =
            Call { collective, dtype: T::DTYPE, op, root, peer: 0, counts, input: Span::EMPTY, output: Span::EMPTY };
        compare::<T>(comm, &call, is_remote);
    }
}

/// Runs the call on host memory and then, where this rank is remote, on its device; in place as well, where all may.
fn compare<T: Element>(comm: &Communicator, call: &Call, is_remote: bool) {
    let what = format!(
        "{} {:?} {} x {:?}, root {}, rank {} of {}, remote: {is_remote}",
        call.collective,
        call.op,
        T::DTYPE,
        call.counts,
        call.root,
        comm.rank(),
        comm.world()
    );
    let size = size_of::<T>();
    let (input_bytes, output_bytes) = comm.lengths(call).unwrap();
    let (input_count, output_count) = (input_bytes / size, output_bytes / size);
    let input: Vec<T> = contributions(Data::Rough, ReduceOp::Sum, comm.rank(), 0..input_count);
    let mut expected = vec![T::zeroed(); output_count];
    let mut given = input.clone();
    comm.run(&Call { input: span(&mut given), output: span(&mut expected), ..call.clone() }).unwrap();
    if is_remote {
        let from = on_device(comm, &input);
        let into = on_device(comm, &vec![T::zeroed(); output_count]);
        comm.run(&Call { input: from.span(), output: into.span(), ..call.clone() }).unwrap();
        same(&into.to_vec().unwrap(), &expected, &what);
        same(&from.to_vec().unwrap(), &input, &format!("{what}, the input"));
    } else {
        let mut result = vec![T::zeroed(); output_count];
        comm.run(&Call { input: span(&mut given), output: span(&mut result), ..call.clone() }).unwrap();
        same(&result, &expected, &what);
    }
    if matches!(call.collective, Collective::AllReduce | Collective::AllToAll) {
        let what = format!("{what}, in place");
        if is_remote {
            let data = on_device(comm, &input);
            comm.run(&Call { input: data.span(), output: data.span(), ..call.clone() }).unwrap();
            same(&data.to_vec().unwrap(), &expected, &what);
        } else {
            let data = span(&mut given);
            comm.run(&Call { input: data, output: data, ..call.clone() }).unwrap();
            same(&given, &expected, &what);
        }
    }
}

/// Around the ring, started, from device to host and back.
fn messages(comm: &Communicator) {
    let (me, world) = (comm.rank(), comm.world());
    if world == 1 {
        return;
    }
    let (next, previous) = ((me + 1) % world, (me + world - 1) % world);
    for count in [1, 5000, 600_000] {
        let number =
            |rank: usize| (0..count).map(|index| noise(rank as u64, index as u64) as u32).collect::<Vec<u32>>();
        let sent = comm.start_send(on_device(comm, &number(me)), next).unwrap();
        let got = comm.start_recv(vec![0u32; count], previous).unwrap().wait().unwrap();
        sent.wait().unwrap();
        same(&got, &number(previous), &format!("{count} from a device to rank {me}"));
        let sent = comm.start_send(number(me), previous).unwrap();
        let got = comm.start_recv(on_device(comm, &vec![0u32; count]), next).unwrap().wait().unwrap();
        sent.wait().unwrap();
        same(&got.to_vec().unwrap(), &number(next), &format!("{count} to the device of rank {me}"));
    }
}

/// All or nothing.
fn preserved(comm: &Communicator) {
    let data = on_device(comm, &vec![comm.rank() as i64; 3000]);
    let call = Call {
        collective: Collective::AllReduce,
        dtype: i64::DTYPE,
        op: Some(ReduceOp::Sum),
        root: 0,
        peer: 0,
        counts: Counts::Even(3000),
        input: data.span(),
        output: data.span(),
    };
    comm.run_preserving(&call).unwrap();
    let sum = (0..comm.world() as i64).sum();
    same(&data.to_vec().unwrap(), &vec![sum; 3000], &"an all-reduce that preserves");
}

/// Half here and half there; the communicator goes on.
fn refused(comm: &Communicator) {
    let (from, mut into) = (on_device(comm, &[1.0f32; 8]), [0.0f32; 8]);
    let call = Call {
        collective: Collective::AllReduce,
        dtype: f32::DTYPE,
        op: Some(ReduceOp::Sum),
        root: 0,
        peer: 0,
        counts: Counts::Even(8),
        input: from.span(),
        output: span(&mut into),
    };
    let refusal = comm.run(&call).unwrap_err();
    assert!(matches!(&refusal, Error::Invalid { what } if what.contains("host memory")), "{refusal}");
    comm.barrier().unwrap();
}

fn on_device<T: Element>(comm: &Communicator, contents: &[T]) -> DeviceBuffer<T> {
    let mut buffer = comm.alloc_device(contents.len()).unwrap();
    buffer.write(contents).unwrap();
    buffer
}

fn span<T: Element>(data: &mut [T]) -> Span {
    // SAFETY: the vector lives until the blocking call that gets this has returned, and nothing touches it meanwhile.
    unsafe { Span::new(data.as_mut_ptr().cast(), size_of_val(data)) }
}
