//! `ncclConfig_t` and `ncclCollConfig_t` as programs of every age have them. Both only ever grow at their end, and say their
//! own size and version: a field counts when it lies inside the caller's size and the caller's version had it. (Size
//! alone will not do: where the older struct ended in padding, a newer field is inside it and holds rubbish.)

use crate::abi::*;
use crate::status::{Failure, Result};
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::mem::offset_of;
use std::ops::RangeInclusive;

/// An integer of a config.
pub struct Field {
    /// As the header spells it.
    pub name: &'static str,
    /// Where it is.
    pub offset_bytes: usize,
    /// The release that brought it.
    pub since: c_int,
    /// What a caller may set, besides leaving it undefined.
    pub allowed: RangeInclusive<c_int>,
}

const ANY: RangeInclusive<c_int> = c_int::MIN..=c_int::MAX;
const SWITCH: RangeInclusive<c_int> = 0..=1;
const POSITIVE: RangeInclusive<c_int> = 1..=c_int::MAX;
const NATURAL: RangeInclusive<c_int> = 0..=c_int::MAX;
const CTA_POLICY: RangeInclusive<c_int> = NCCL_CTA_POLICY_DEFAULT..=(NCCL_CTA_POLICY_EFFICIENCY | NCCL_CTA_POLICY_ZERO);

macro_rules! fields {
    ($config:ty; $($name:ident since ($major:literal, $minor:literal, $patch:literal): $allowed:expr;)*) => {
        &[$(Field {
            name: stringify!($name),
            offset_bytes: offset_of!($config, $name),
            since: nccl_version($major, $minor, $patch),
            allowed: $allowed,
        }),*]
    };
}

/// The integers of `ncclConfig_t`.
pub const CONFIG_FIELDS: &[Field] = fields! { ncclConfig_t;
    blocking since (2, 14, 0): SWITCH;
    cgaClusterSize since (2, 17, 0): NATURAL;
    minCTAs since (2, 17, 0): POSITIVE;
    maxCTAs since (2, 17, 0): POSITIVE;
    splitShare since (2, 18, 0): SWITCH;
    trafficClass since (2, 25, 0): ANY;
    collnetEnable since (2, 27, 0): SWITCH;
    CTAPolicy since (2, 27, 0): CTA_POLICY;
    shrinkShare since (2, 27, 0): SWITCH;
    nvlsCTAs since (2, 27, 0): POSITIVE;
    nChannelsPerNetPeer since (2, 28, 0): POSITIVE;
    nvlinkCentricSched since (2, 28, 0): SWITCH;
    graphUsageMode since (2, 29, 0): 0..=2;
    numRmaCtx since (2, 29, 0): POSITIVE;
    maxP2pPeers since (2, 30, 0): POSITIVE;
    graphStreamOrdering since (2, 30, 5): SWITCH;
    launchOrderImplicit since (2, 31, 0): SWITCH;
    numRmaSig since (2, 31, 0): NATURAL;
    rmaEagerInit since (2, 31, 0): SWITCH;
    hostCftMode since (2, 31, 0): 1..=3;
    nvlsHostMode since (2, 31, 0): NATURAL;
};

/// The integers of `ncclCollConfig_t`.
pub const CALL_CONFIG_FIELDS: &[Field] = fields! { ncclCollConfig_t;
    minCTAs since (2, 31, 0): POSITIVE;
    maxCTAs since (2, 31, 0): POSITIVE;
    nvlsCTAs since (2, 31, 0): POSITIVE;
    cgaClusterSize since (2, 31, 0): NATURAL;
    forceAlgSelection since (2, 31, 0): SWITCH;
    CTAPolicy since (2, 31, 0): CTA_POLICY;
};

/// The shortest config there ever was: 2.14's, with `blocking` and four bytes of padding.
const SHORTEST_CONFIG_BYTES: usize = 24;
const SHORTEST_CALL_CONFIG_BYTES: usize = offset_of!(ncclCollConfig_t, launchCompletionEvent);

/// What of `ncclConfig_t` means something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) blocking: bool,
    pub(crate) name: Option<String>,
}

impl Default for Wishes {
    fn default() -> Wishes {
        Wishes { blocking: true, name: None }
    }
}

/// A caller's struct that begins with size, magic number and version.
struct Versioned {
    what: &'static str,
    start: *const u8,
    size_bytes: usize,
    version: c_int,
}

impl Versioned {
    /// # Safety
    /// `start` points to a struct of that kind, as long as its first word says.
    unsafe fn open(what: &'static str, start: *const u8, shortest_bytes: usize) -> Result<Versioned> {
        if !start.addr().is_multiple_of(align_of::<usize>()) {
            return Err(Failure::argument(format!("{what} at {start:p} is not aligned")));
        }
        // SAFETY: promised by the caller, aligned (checked above); every version begins with these 16 bytes.
        let (size_bytes, magic, version) = unsafe {
            (start.cast::<usize>().read(), start.add(8).cast::<c_uint>().read(), start.add(12).cast::<c_int>().read())
        };
        if magic != NCCL_API_MAGIC || size_bytes < shortest_bytes {
            return Err(Failure::argument(format!(
                "{what} has size {size_bytes} and magic number {magic:#x} instead of at least {shortest_bytes} and \
                 {NCCL_API_MAGIC:#x}; initialise it with NCCL's macro"
            )));
        }
        Ok(Versioned { what, start, size_bytes, version })
    }

    /// What the caller's struct has at that place, if it goes that far.
    ///
    /// # Safety
    /// The struct of `open` is still there, and a `T` belongs at that (aligned) place where `since` had it.
    unsafe fn at<T: Copy>(&self, offset_bytes: usize, since: c_int) -> Option<T> {
        let there = offset_bytes + size_of::<T>() <= self.size_bytes && self.version >= since;
        // SAFETY: inside the struct (checked above), which lives and has a `T` there (promised by the caller).
        there.then(|| unsafe { self.start.add(offset_bytes).cast::<T>().read() })
    }

    /// An integer that the caller has set.
    ///
    /// # Safety
    /// As for `at`; `field` is one of this struct's.
    unsafe fn integer(&self, field: &Field) -> Option<c_int> {
        // SAFETY: promised by the caller.
        unsafe { self.at(field.offset_bytes, field.since) }.filter(|value| *value != NCCL_CONFIG_UNDEF_INT)
    }

    /// All integers are what NCCL allows.
    ///
    /// # Safety
    /// As for `at`; `fields` are this struct's.
    unsafe fn check(&self, fields: &[Field]) -> Result<()> {
        for field in fields {
            // SAFETY: promised by the caller.
            let value = unsafe { self.integer(field) };
            if let Some(value) = value.filter(|value| !field.allowed.contains(value)) {
                let (low, high) = (field.allowed.start(), field.allowed.end());
                let bounds = if *high == c_int::MAX { format!("at least {low}") } else { format!("{low} to {high}") };
                return Err(Failure::argument(format!(
                    "{}: {} is {value}, allowed is {bounds}",
                    self.what, field.name
                )));
            }
        }
        let named = |name| fields.iter().find(|field| field.name == name);
        // SAFETY: promised by the caller.
        let [low, high] =
            ["minCTAs", "maxCTAs"].map(|name| named(name).and_then(|field| unsafe { self.integer(field) }));
        match (low, high) {
            (Some(low), Some(high)) if low > high => {
                Err(Failure::argument(format!("{}: minCTAs {low} exceeds maxCTAs {high}", self.what)))
            }
            _ => Ok(()),
        }
    }
}

/// Reads and checks a communicator's config; `None` where the caller gave none.
///
/// # Safety
/// `config` is NULL, or points to a config that is as long as it says, with strings that end.
pub(crate) unsafe fn wishes(config: *const ncclConfig_t) -> Result<Option<Wishes>> {
    if config.is_null() {
        return Ok(None);
    }
    // SAFETY: promised by the caller, here and below.
    let versioned = unsafe { Versioned::open("the config", config.cast(), SHORTEST_CONFIG_BYTES)? };
    // SAFETY: as above; the fields are those of this struct.
    unsafe { versioned.check(CONFIG_FIELDS)? };
    let blocking = &CONFIG_FIELDS[0];
    debug_assert_eq!(blocking.name, "blocking");
    // SAFETY: as above.
    let (blocking, name) = unsafe {
        let name = versioned.at::<*const c_char>(offset_of!(ncclConfig_t, commName), nccl_version(2, 27, 0));
        (versioned.integer(blocking), name.filter(|name| !name.is_null()))
    };
    // SAFETY: a string that ends, promised by the caller.
    let name = name.map(|name| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
    Ok(Some(Wishes { blocking: blocking != Some(0), name }))
}

/// Checks the config of one call. What steers kernels is a hint; what would have to be obeyed is refused.
///
/// # Safety
/// As for [`wishes`].
pub(crate) unsafe fn check_call(config: *const ncclCollConfig_t) -> Result<()> {
    if config.is_null() {
        return Ok(());
    }
    // SAFETY: promised by the caller, here and below.
    let versioned = unsafe { Versioned::open("the call's config", config.cast(), SHORTEST_CALL_CONFIG_BYTES)? };
    // SAFETY: as above; the fields are those of this struct.
    unsafe { versioned.check(CALL_CONFIG_FIELDS)? };
    let first = nccl_version(2, 31, 0);
    // SAFETY: as above; pointers and integers lie where the struct has them.
    let (selection, forced, event) = unsafe {
        (
            versioned.at::<*const c_char>(offset_of!(ncclCollConfig_t, algSelection), first),
            versioned.at::<c_int>(offset_of!(ncclCollConfig_t, forceAlgSelection), first) != Some(0),
            versioned.at::<cudaEvent_t>(offset_of!(ncclCollConfig_t, launchCompletionEvent), nccl_version(2, 32, 0)),
        )
    };
    if event.is_some_and(|event| !event.is_null()) {
        return Err(Failure::usage(
            "launchCompletionEvent is a CUDA event, and this build has no CUDA support; leave it NULL",
        ));
    }
    // SAFETY: a string that ends, promised by the caller.
    let selection = selection.filter(|text| !text.is_null()).map(|text| unsafe { CStr::from_ptr(text) });
    match selection.filter(|text| forced && !text.is_empty()) {
        Some(text) => Err(Failure::usage(format!(
            "algSelection {text:?} cannot be obeyed for one call; set ROUNDEL_ALGO for all, or forceAlgSelection = 0"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config of a program of some age: `len_bytes` of it, the rest rubbish.
    fn aged(version: c_int, len_bytes: usize, set: &[(usize, c_int)]) -> [u64; 16] {
        let mut words = [0x0101_0101_0101_0101u64; 16];
        // SAFETY: plain integers in an array of plain integers, 128 bytes of them.
        let bytes = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), 128) };
        bytes[..8].copy_from_slice(&len_bytes.to_ne_bytes());
        bytes[8..12].copy_from_slice(&NCCL_API_MAGIC.to_ne_bytes());
        bytes[12..16].copy_from_slice(&version.to_ne_bytes());
        for field in CONFIG_FIELDS.iter().filter(|field| field.since <= version) {
            bytes[field.offset_bytes..field.offset_bytes + 4].copy_from_slice(&NCCL_CONFIG_UNDEF_INT.to_ne_bytes());
        }
        if version >= nccl_version(2, 27, 0) {
            bytes[48..56].fill(0);
        }
        for (offset_bytes, value) in set {
            bytes[*offset_bytes..offset_bytes + 4].copy_from_slice(&value.to_ne_bytes());
        }
        words
    }

    fn read(words: &[u64; 16]) -> Result<Option<Wishes>> {
        // SAFETY: 128 bytes, at least as many as any size in these tests; no strings.
        unsafe { wishes(words.as_ptr().cast()) }
    }

    /// (release, size of its config)
    const AGES: [(c_int, usize); 9] = [
        (nccl_version(2, 14, 3), 24),
        (nccl_version(2, 17, 1), 40),
        (nccl_version(2, 18, 5), 48),
        (nccl_version(2, 26, 5), 48),
        (nccl_version(2, 27, 3), 72),
        (nccl_version(2, 28, 9), 80),
        (nccl_version(2, 29, 7), 88),
        (nccl_version(2, 30, 7), 96),
        (nccl_version(2, 32, 3), 120),
    ];

    #[test]
    fn every_version_is_read_up_to_its_own_end() {
        for (version, len_bytes) in AGES {
            assert_eq!(read(&aged(version, len_bytes, &[])), Ok(Some(Wishes::default())), "{version}");
            let quick = Wishes { blocking: false, name: None };
            assert_eq!(read(&aged(version, len_bytes, &[(16, 0)])), Ok(Some(quick)), "{version}");
            assert_eq!(read(&aged(version, len_bytes, &[(16, 2)])).unwrap_err().code, ncclInvalidArgument);
        }
    }

    #[test]
    fn a_wrong_field_is_named_where_the_version_has_it_and_ignored_where_not() {
        for (version, len_bytes) in AGES {
            for field in CONFIG_FIELDS.iter().filter(|field| *field.allowed.start() > c_int::MIN) {
                let outcome = read(&aged(version, len_bytes, &[(field.offset_bytes, -77)]));
                let has_it = field.since <= version && field.offset_bytes + 4 <= len_bytes;
                match outcome {
                    Ok(_) => assert!(!has_it, "{version} {}", field.name),
                    Err(failure) => assert!(has_it && failure.message.contains(field.name), "{version} {failure:?}"),
                }
            }
        }
    }

    #[test]
    fn what_is_no_config_is_refused() {
        let mut words = aged(NCCL_VERSION_CODE, 120, &[]);
        words[1] ^= 1;
        assert!(read(&words).unwrap_err().message.contains("magic"));
        assert!(read(&aged(NCCL_VERSION_CODE, 16, &[])).unwrap_err().message.contains("size 16"));
        let crossed = aged(NCCL_VERSION_CODE, 120, &[(24, 9), (28, 8)]);
        assert!(read(&crossed).unwrap_err().message.contains("minCTAs 9"));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { wishes(std::ptr::null()) }, Ok(None));
    }
}
