//! What the ranks of a test share beside the library, wherever they run: a file that grows by a byte for each thing done. It
//! tells when who was where without asking the code under test.

use roundel::Communicator;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A bound for what other ranks do at once unless they hang.
const LONG: Duration = Duration::from_secs(60);

/// A counter that all ranks can raise and read.
pub struct Ledger {
    file: File,
    path: PathBuf,
    owner: bool,
}

impl Ledger {
    /// Collective: rank 0 makes it, the others are told where it is.
    pub fn open(comm: &Communicator) -> Ledger {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let owner = comm.rank() == 0;
        // Relaxed: only a number of its own.
        let mut name = [u64::from(std::process::id()), MADE.fetch_add(1, Ordering::Relaxed)];
        let make = |name: [u64; 2]| {
            let path = std::env::temp_dir().join(format!("roundel-conformance-{}-{}", name[0], name[1]));
            let file = OpenOptions::new().append(true).create(owner).open(&path).unwrap();
            Ledger { file, path, owner }
        };
        let mine = owner.then(|| make(name));
        comm.broadcast(&mut name, 0).unwrap();
        let ledger = mine.unwrap_or_else(|| make(name));
        // Rank 0 removes the file's name, so nobody may be late.
        comm.barrier().unwrap();
        ledger
    }

    /// Counts one.
    pub fn add(&self) {
        (&self.file).write_all(b"x").unwrap();
    }

    /// How much was counted so far by all ranks.
    pub fn count(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    /// Stays in this function, and out of the library, until `count` was reached.
    pub fn wait_for(&self, count: u64) {
        wait_until("the other ranks", || self.count() >= count);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.owner {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Looks again and again, but not for ever.
pub fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !there() {
        assert!(Instant::now() < deadline, "waited {LONG:?} for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
