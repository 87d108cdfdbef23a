//! What is kept of a measurement for the next job: one file for each kind of topology.
//!
//! ```text
//!   "roundel tuning\n" | version: u32 | len_bytes: u32 | profile (postcard) | crc32c: u32        little-endian
//! ```
//!
//! A file is replaced by renaming a complete one over it, so that readers see the old one or the new one. Reading believes
//! nothing: length, checksum, version, fingerprint and every number are checked, and whatever is wrong makes the file as
//! good as absent.
#![forbid(unsafe_code)]

use super::Origin;
use super::costs::Costs;
use super::table::{FNV_BASIS, FNV_PRIME, Table};
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"roundel tuning\n";
/// Changes whenever the meaning of what follows does.
const VERSION: u32 = 1;
/// Longer than any file that is written.
const MOST_BYTES: u64 = 1 << 20;
/// Longer than any fingerprint.
const MOST_FINGERPRINT_BYTES: usize = 1 << 16;

/// What was found out for one kind of topology.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Which kind: all that the measurements depend on and that is known without measuring, in words.
    pub fingerprint: String,
    /// What things cost when the table was made.
    pub costs: Costs,
    /// What was decided.
    pub table: Table,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is none.
    #[error("there is no such file")]
    Absent,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(std::io::Error),
    /// It is no such file, or was damaged.
    #[error("it is damaged, or something else: {0}")]
    Damaged(String),
    /// Another version wrote it.
    #[error("it is of version {0}, and this is version {VERSION}")]
    OtherVersion(u32),
    /// It is about other hosts, ranks, processors or settings.
    #[error("it is about something else: {0}")]
    Foreign(String),
    /// It is about this, and makes no sense.
    #[error("it makes no sense: {0}")]
    Nonsense(String),
}

/// The file's bytes.
pub fn encode(profile: &Profile) -> Vec<u8> {
    // Plain data in memory: there is nothing to fail.
    let body = postcard::to_stdvec(profile).unwrap_or_default();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(&body);
    bytes.extend(crc32c::crc32c(&body).to_le_bytes());
    bytes
}

/// What such bytes say, whichever topology they are about.
pub fn decode(bytes: &[u8]) -> Result<Profile, Unusable> {
    let damaged = |what: &str| Unusable::Damaged(what.to_string());
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it begins otherwise"))?;
    let (version, rest) = word(rest).ok_or_else(|| damaged("it ends early"))?;
    if version != VERSION {
        return Err(Unusable::OtherVersion(version));
    }
    let (len_bytes, rest) = word(rest).ok_or_else(|| damaged("it ends early"))?;
    let (body, rest) = rest.split_at_checked(len_bytes as usize).ok_or_else(|| damaged("it ends early"))?;
    match word(rest) {
        Some((crc, [])) if crc == crc32c::crc32c(body) => {}
        _ => return Err(damaged("its checksum is another")),
    }
    let (profile, rest) =
        postcard::take_from_bytes::<Profile>(body).map_err(|error| Unusable::Damaged(error.to_string()))?;
    if !rest.is_empty() || profile.fingerprint.len() > MOST_FINGERPRINT_BYTES {
        return Err(damaged("it is too long"));
    }
    Ok(Profile { table: Table { origin: Origin::Cache, ..profile.table }, ..profile })
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk().map(|(word, rest)| (u32::from_le_bytes(*word), rest))
}

/// Reads the file for ranks on these hosts. Whatever is wrong with it is the error.
pub fn load(path: &Path, fingerprint: &str, hosts: &[Vec<Rank>]) -> Result<Profile, Unusable> {
    // What is no file must not keep the job waiting either: a pipe that nobody writes to opens at once this way.
    let file = match std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Unusable::Absent),
        file => file.map_err(Unusable::Unreadable)?,
    };
    if !file.metadata().map_err(Unusable::Unreadable)?.is_file() {
        return Err(Unusable::Damaged("it is no ordinary file".into()));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(Unusable::Unreadable)?;
    let profile = decode(&bytes)?;
    if profile.fingerprint != fingerprint {
        return Err(Unusable::Foreign(difference(&profile.fingerprint, fingerprint)));
    }
    profile.costs.check().map_err(Unusable::Nonsense)?;
    profile.table.check(hosts).map_err(Unusable::Nonsense)?;
    Ok(profile)
}

/// The first part in which two fingerprints differ.
fn difference(theirs: &str, mine: &str) -> String {
    let pairs = theirs.split("; ").zip(mine.split("; "));
    match pairs.into_iter().find(|(theirs, mine)| theirs != mine) {
        Some((theirs, mine)) => format!("{theirs:?}, and here it is {mine:?}"),
        None => "its fingerprint is longer or shorter".into(),
    }
}

/// Writes the file, and the folders above it where they are missing.
pub fn store(path: &Path, profile: &Profile) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?.to_string_lossy();
    // No other process, and no other communicator of this one, has this name.
    let nonce = getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))?;
    let draft = folder.join(format!(".{name}.{nonce:016x}"));
    let written = std::fs::OpenOptions::new().write(true).create_new(true).open(&draft).and_then(|mut file| {
        file.write_all(&encode(profile))?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    });
    if written.is_err() {
        // Nothing is there to remove where it could not even be made.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// Where the file for a topology is: `file` if it was set, else in the user's cache. `None` where there is no such place.
pub fn path(file: Option<&str>, fingerprint: &str, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(file) = file {
        return Some(file.into());
    }
    // As the XDG specification says: relative paths there are to be ignored.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    let name = fingerprint.bytes().fold(FNV_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    Some(cache.join("roundel").join(format!("tuning-{name:016x}")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::schedule::catalogue::Algorithm;
    use crate::tuner::costs::tests::network;
    use crate::tuner::{Rule, Way};
    use crate::types::Collective;
    use proptest::prelude::*;

    pub(crate) fn some_profile() -> Profile {
        let rule = |up_to_bytes, way| Rule { collective: Collective::AllReduce, mapped: false, up_to_bytes, way };
        let way = Way { channels: 2, slice_bytes: Some(1 << 20), ..Way::plain(Algorithm::Ring) };
        let rules = vec![rule(4096, None), rule(u64::MAX, Some(way))];
        let table = Table { origin: Origin::Cache, rules };
        Profile { fingerprint: "roundel 1; 3 ranks".into(), costs: network(1e4, 0.5), table }
    }

    fn hosts() -> Vec<Vec<Rank>> {
        vec![vec![0], vec![1], vec![2]]
    }

    fn reason(bytes: &[u8], fingerprint: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        load(&path, fingerprint, &hosts()).expect_err("unusable").to_string()
    }

    #[test]
    fn what_was_stored_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folders/file");
        let profile = some_profile();
        for _ in 0..2 {
            store(&path, &profile).unwrap();
            assert_eq!(load(&path, &profile.fingerprint, &hosts()).unwrap(), profile);
        }
        let files = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "no draft is left");
        assert!(store(folder.path(), &profile).is_err(), "a folder is not replaced");
    }

    #[test]
    fn whatever_is_wrong_with_a_file_is_said() {
        let profile = some_profile();
        let (good, fingerprint) = (encode(&profile), profile.fingerprint.as_str());
        assert!(reason(b"", fingerprint).contains("damaged"));
        assert!(reason(b"{\"json\": 1}", fingerprint).contains("begins otherwise"));
        assert!(reason(&good[..good.len() - 1], fingerprint).contains("damaged"));
        assert!(reason(&[&good[..], b"x"].concat(), fingerprint).contains("damaged"));
        let mut older = good.clone();
        older[MAGIC.len()] = 0;
        assert!(reason(&older, fingerprint).contains("version 0"));
        let foreign = reason(&good, "roundel 1; 4 ranks");
        assert!(foreign.contains("3 ranks") && foreign.contains("4 ranks"), "{foreign}");
        let mut nonsense = profile.clone();
        nonsense.costs.sync_ns = f64::NAN;
        assert!(reason(&encode(&nonsense), fingerprint).contains("makes no sense"));
        let mut nonsense = profile.clone();
        nonsense.table.rules[1].way = Some(Way::plain(Algorithm::Staged));
        assert!(reason(&encode(&nonsense), fingerprint).contains("makes no sense"));

        let folder = tempfile::tempdir().unwrap();
        let absent = load(&folder.path().join("file"), fingerprint, &hosts());
        assert!(matches!(absent, Err(Unusable::Absent)));
        assert!(load(folder.path(), fingerprint, &hosts()).unwrap_err().to_string().contains("no ordinary file"));
        assert!(load(Path::new("/dev/zero"), fingerprint, &hosts()).is_err());
    }

    #[test]
    fn the_place_is_what_was_set_or_the_cache() {
        let of = |file, known: &[(&str, &str)]| {
            let known: Vec<(String, String)> = known.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
            path(file, "f", &move |name| known.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
        };
        assert_eq!(of(Some("here"), &[("HOME", "/home/u")]), Some("here".into()));
        let cached = of(None, &[("HOME", "/home/u")]).unwrap();
        assert!(cached.starts_with("/home/u/.cache/roundel"), "{cached:?}");
        assert!(of(None, &[("XDG_CACHE_HOME", "/c"), ("HOME", "/home/u")]).unwrap().starts_with("/c/roundel"));
        assert!(of(None, &[("XDG_CACHE_HOME", "c"), ("HOME", "/home/u")]).unwrap().starts_with("/home/u"));
        assert_eq!(of(None, &[]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// One changed byte is found, wherever it is, and never a panic.
        #[test]
        fn a_damaged_file_is_never_believed(at: prop::sample::Index, flip in 1_u8..) {
            let mut bytes = encode(&some_profile());
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes).is_err());
        }

        /// Nonsense under a right checksum comes back as well, and what passes the checks can be used.
        #[test]
        fn whatever_a_body_holds_decoding_ends(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(VERSION.to_le_bytes());
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend(&body);
            bytes.extend(crc32c::crc32c(&body).to_le_bytes());
            if let Ok(profile) = decode(&bytes) {
                let _ = (profile.costs.check(), profile.table.check(&hosts()));
            }
        }
    }
}
