//! A rank that takes its time is named in the log of the root's process, and not failed.

use super::harness::{self, Job, RootIn, Scenario, say};
use roundel::{Communicator, ReduceOp};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[("slow", slow)];

/// Where log lines go.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.0.lock().unwrap()).lines().map(str::to_string).collect()
    }
}

/// Rank 1 enters the third call only when rank 0 has read in its log that it is awaited.
fn slow(comm: Communicator) {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let aside = comm.split(Some(0), 0).unwrap().unwrap();
    let sum = |comm: &Communicator| {
        let mut data = [1u32; 1000];
        comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [comm.world() as u32; 1000]);
    };
    sum(&comm);
    if comm.rank() == 1 {
        aside.broadcast(&mut [0u8], 0).unwrap();
        return sum(&comm);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| sum(&comm));
        let deadline = Instant::now() + Duration::from_secs(60);
        let line = loop {
            let line = log.lines().into_iter().find(|line| line.contains("rank 1 has not entered all_reduce #"));
            match line {
                Some(line) => break line,
                None if Instant::now() > deadline => panic!("nothing but {:?}", log.lines()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        aside.broadcast(&mut [0u8], 0).unwrap();
        say(format_args!("named {line}"));
    });
}

#[test]
fn it_is_named() {
    let _turn = harness::turn();
    let mut job = Job::start("slow", 2, RootIn::RankZero, &[("ROUNDEL_HEARTBEAT_TIMEOUT_MS", "600")]);
    let line = job.wait_for(0, "named");
    println!("{line}");
    assert!(line.contains("WARN") && line.contains(" s behind; its last call is all_reduce #"), "{line}");
    job.succeed(&[0, 1]);
}
