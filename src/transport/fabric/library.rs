//! libfabric itself, opened when it is first wanted: nothing is linked against it, and a machine without it loses nothing
//! but this transport.
#![allow(unsafe_code)]

use super::abi::{fi_fabric_attr, fi_info, fid_fabric, version};
use crate::error::{Error, Result};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

/// By the name that every distribution gives it; the loader's paths (`LD_LIBRARY_PATH`, `ld.so.conf`) find others.
const NAME: &str = "libfabric.so.1";

/// The interface that is asked for: old enough for all that are about, new enough for how memory is registered here.
const API_VERSION: u32 = version(1, 9);
const NEWEST_API_VERSION: u32 = version(1, 17);

type GetInfo = unsafe extern "C" fn(u32, *const c_char, *const c_char, u64, *const fi_info, *mut *mut fi_info) -> c_int;

/// The symbols of libfabric.
pub(super) struct Library {
    pub(super) fi_getinfo: GetInfo,
    pub(super) fi_freeinfo: unsafe extern "C" fn(*mut fi_info),
    pub(super) fi_dupinfo: unsafe extern "C" fn(*const fi_info) -> *mut fi_info,
    pub(super) fi_fabric: unsafe extern "C" fn(*mut fi_fabric_attr, *mut *mut fid_fabric, *mut c_void) -> c_int,
    fi_strerror: unsafe extern "C" fn(c_int) -> *const c_char,
    /// The interface version to ask for.
    pub(super) api_version: u32,
    /// What it calls itself.
    pub(super) version: u32,
}

/// The library, or why there is none. Opened once; it stays, because its providers leave threads and handlers behind.
pub(super) fn library() -> Result<&'static Library> {
    static OPENED: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
    let opened = OPENED.get_or_init(open);
    opened.as_ref().map_err(|why| Error::unsupported(format!("libfabric cannot be used: {why}")))
}

fn open() -> std::result::Result<Library, String> {
    let dispositions = Dispositions::now();
    // SAFETY: what runs when it is loaded are libfabric's own initialisers, which promise to be safe at any time.
    let opened = unsafe { libloading::Library::new(NAME) };
    dispositions.restore();
    let handle = opened.map_err(|error| {
        format!("{NAME} is not found ({}); Debian and Ubuntu have it as libfabric1", first_line(&error.to_string()))
    })?;
    // From here on nothing closes it.
    let handle = libloading::os::unix::Library::from(handle).into_raw();
    // SAFETY: the handle stays open, and at these versions the symbols have these types.
    unsafe {
        let fi_version: unsafe extern "C" fn() -> u32 = symbol(handle, c"fi_version", c"FABRIC_1.0")?;
        let version = fi_version();
        if version < API_VERSION {
            return Err(format!("{NAME} is version {}, 1.9 is the oldest that will do", text_of(version)));
        }
        Ok(Library {
            fi_getinfo: symbol(handle, c"fi_getinfo", c"FABRIC_1.3")?,
            fi_freeinfo: symbol(handle, c"fi_freeinfo", c"FABRIC_1.3")?,
            fi_dupinfo: symbol(handle, c"fi_dupinfo", c"FABRIC_1.3")?,
            fi_fabric: symbol(handle, c"fi_fabric", c"FABRIC_1.1")?,
            fi_strerror: symbol(handle, c"fi_strerror", c"FABRIC_1.0")?,
            api_version: version.min(NEWEST_API_VERSION),
            version,
        })
    }
}

/// What the process does on signals of failure. Libraries for old hardware that libfabric brings along take them over when
/// they are loaded, to write files of their own; that is not theirs to choose.
struct Dispositions(Vec<(c_int, libc::sigaction)>);

impl Dispositions {
    const TAKEN: [c_int; 7] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGABRT, libc::SIGFPE, libc::SIGINT, libc::SIGTERM];

    fn now() -> Dispositions {
        let read = |&signal: &c_int| {
            // SAFETY: plain words, for which zero is a value.
            let mut disposition: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: nothing is set; the present disposition is written to one of its type.
            let code = unsafe { libc::sigaction(signal, std::ptr::null(), &mut disposition) };
            (code == 0).then_some((signal, disposition))
        };
        Dispositions(Dispositions::TAKEN.iter().filter_map(read).collect())
    }

    fn restore(&self) {
        for (signal, disposition) in &self.0 {
            // SAFETY: what `now` found in force, so its handler is one that the process had chosen.
            unsafe { libc::sigaction(*signal, disposition, std::ptr::null_mut()) };
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

pub(super) fn text_of(version: u32) -> String {
    format!("{}.{}", version >> 16, version & 0xffff)
}

/// A symbol as it was at `version`, whose layouts are those of [`super::abi`]; later libraries keep it beside newer ones.
/// Where symbols have no versions there is only one.
///
/// # Safety
/// `T` is the function pointer that the symbol is at that version, and `handle` is open for good.
unsafe fn symbol<T: Copy>(handle: *mut c_void, name: &CStr, version: &CStr) -> std::result::Result<T, String> {
    const { assert!(size_of::<T>() == size_of::<*mut c_void>(), "a symbol is a pointer") };
    // SAFETY: the handle is open (promised by the caller), and both names are C strings.
    #[cfg(target_env = "gnu")]
    let mut found = unsafe { libc::dlvsym(handle, name.as_ptr(), version.as_ptr()) };
    #[cfg(not(target_env = "gnu"))]
    let (mut found, _) = (std::ptr::null_mut::<c_void>(), version);
    if found.is_null() {
        // SAFETY: as above.
        found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    }
    if found.is_null() {
        return Err(format!("{NAME} lacks {}", name.to_string_lossy()));
    }
    // SAFETY: the sizes are equal (asserted above), and the caller promises the type.
    Ok(unsafe { std::mem::transmute_copy(&found) })
}

impl Library {
    /// What an error number of libfabric means; negative as calls return it, or positive.
    pub(super) fn text(&self, code: isize) -> String {
        let code = c_int::try_from(code.unsigned_abs()).unwrap_or(c_int::MAX);
        // SAFETY: it takes any number and returns a static text, or NULL.
        let text = unsafe { (self.fi_strerror)(code) };
        if text.is_null() {
            return format!("error {code}");
        }
        // SAFETY: not NULL (above), so a C string that lives as long as the library.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// An error of a call that did `what`.
    pub(super) fn error(&self, what: &str, code: isize) -> Error {
        let text = self.text(code);
        let errno = i32::try_from(code.unsigned_abs()).unwrap_or(i32::MAX);
        Error::refused_by_system(format!("libfabric: {what}"), text, errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_or_says_what_to_install() {
        match library() {
            Ok(library) => {
                assert!(library.version >= API_VERSION);
                assert_eq!(library.text(-11), library.text(11));
                assert!(!library.text(isize::MIN).is_empty());
            }
            Err(error) => assert!(error.to_string().contains("libfabric1"), "{error}"),
        }
    }

    #[test]
    fn signals_stay_the_processs_own() {
        let _ = library();
        let _ = crate::transport::fabric::Hub::open(&["net".into()], None);
        // Rust's runtime and the test harness leave these alone.
        let ours = [libc::SIGABRT, libc::SIGILL, libc::SIGTERM];
        for (signal, now) in Dispositions::now().0.iter().filter(|(signal, _)| ours.contains(signal)) {
            assert_eq!(now.sa_sigaction, libc::SIG_DFL, "signal {signal}");
        }
    }

    #[test]
    fn versions_are_read_by_people() {
        assert_eq!(text_of(version(1, 17)), "1.17");
    }
}
