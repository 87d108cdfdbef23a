//! Settings for new communicators.

use crate::arguments;
use crate::boundary::{Outcome, boundary};
use crate::handles::Table;
use crate::names::{roundel_options_t, roundel_result_t};
use library::Options;
use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

static OPTIONS: Table<Mutex<Options>> = Table::new(3, "options object");

/// The settings behind a handle; those of the environment behind NULL. Every communicator begins here, and with it the log.
pub fn resolve(options: roundel_options_t) -> Outcome<Options> {
    library::log::to_stderr();
    if options.is_null() {
        return Ok(Options::from_env()?);
    }
    let options = OPTIONS.get(options.addr() as u64)?;
    let options = options.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(options.clone())
}

/// Makes an options object: the defaults, changed by the `ROUNDEL_*` variables that are set. To be given back with
/// `roundel_options_destroy`; communicators keep a copy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_options_create(options: *mut roundel_options_t) -> roundel_result_t {
    boundary("roundel_options_create", || {
        // SAFETY: the caller promises room for a handle, or NULL.
        let options = unsafe { arguments::out(options, "options") }?;
        *options = std::ptr::without_provenance_mut(OPTIONS.insert(Mutex::new(Options::from_env()?))? as usize);
        Ok(())
    })
}

/// Changes one setting: `timeout_ms`, `init_timeout_ms`, `heartbeat_ms`, `heartbeat_timeout_ms`, `store`, `device`,
/// `transport`, `fabric_provider`, `algo`, `channels`, `slice_bytes`, `tune`, `tune_file`, `sockets`, `reproducible`, `iface`,
/// `port_range`, `encrypt`, `checksum`, `verify_results`, `stage_bytes`, `ring_bytes` or `arena_bytes`, written as in the variable `ROUNDEL_TIMEOUT_MS` and
/// so on. A bad one is refused and changes nothing. All ranks must use the same, except `device`, `iface`, `port_range` and what tunes, where
/// rank 0's counts. Several interfaces in `iface`, with commas between them, are rails: links between hosts go over all of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_options_set(
    options: roundel_options_t,
    name: *const c_char,
    value: *const c_char,
) -> roundel_result_t {
    boundary("roundel_options_set", || {
        let options = OPTIONS.get(options.addr() as u64)?;
        // SAFETY: the caller promises texts with a NUL at their end, or NULL.
        let (name, value) = unsafe { (arguments::text(name, "name")?, arguments::text(value, "value")?) };
        let mut options = options.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = options.clone();
        changed.set(name, value)?;
        changed.check()?;
        *options = changed;
        Ok(())
    })
}

/// Gives an options object back.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_options_destroy(options: roundel_options_t) -> roundel_result_t {
    boundary("roundel_options_destroy", || OPTIONS.remove(options.addr() as u64).map(drop))
}

#[cfg(test)]
mod tests {
    use library::Options;

    #[test]
    fn the_documentation_has_every_setting() {
        let words = include_str!("options.rs").split("pub unsafe extern \"C\" fn roundel_options_set").next().unwrap();
        for name in Options::NAMES {
            assert!(words.contains(&format!("`{name}`")), "{name}");
        }
    }
}
