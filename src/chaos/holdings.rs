//! What a process holds of the machine: [`Holdings`].
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// Things that must not become more and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Holdings {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Mappings of shared memory.
    pub mappings: usize,
}

impl Holdings {
    /// Of this process.
    pub fn now() -> io::Result<Holdings> {
        let entries = |path: &str| std::fs::read_dir(path).map(Iterator::count);
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let is_shared = |line: &&str| line.split_whitespace().nth(1).is_some_and(|mode| mode.ends_with('s'));
        Ok(Holdings {
            descriptors: entries("/proc/self/fd")?,
            threads: entries("/proc/self/task")?,
            mappings: maps.lines().filter(is_shared).count(),
        })
    }

    /// True when nothing has become more.
    pub fn is_within(&self, limit: &Holdings) -> bool {
        self.descriptors <= limit.descriptors && self.threads <= limit.threads && self.mappings <= limit.mappings
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} descriptors, {} threads, {} shared mappings", self.descriptors, self.threads, self.mappings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_is_seen() {
        let before = Holdings::now().unwrap();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/proc/self/maps").unwrap()).collect();
        let after = Holdings::now().unwrap();
        // Other tests of this process open and close theirs meanwhile.
        assert!(after.descriptors > before.descriptors + 20, "{before}, {after}, {} files", files.len());
        assert!(before.threads >= 1 && !after.is_within(&Holdings::default()));
    }
}
