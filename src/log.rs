//! What the library has to say besides results and errors, on standard error.
//!
//! The library speaks through the crate `tracing`; a Rust program that has a subscriber of its own hears it there. This is for
//! those that have none: the programs of this crate, and C and Python.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::sync::Once;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt, registry};

/// From now on warnings and worse are printed, or what `ROUNDEL_LOG` asks for: a level (`off`, `error`, `warn`, `info`,
/// `debug`, `trace`), or levels for parts of the library (`warn,roundel::bootstrap=debug`). Where the process has a
/// subscriber already, that one stays.
///
/// ```
/// roundel::log::to_stderr();
/// ```
pub fn to_stderr() {
    static ONCE: Once = Once::new();
    ONCE.call_once(subscribe);
}

fn subscribe() {
    let wish = std::env::var("ROUNDEL_LOG").ok().filter(|wish| !wish.trim().is_empty());
    let (filter, complaint) = match wish.as_deref().unwrap_or("warn").parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(LevelFilter::WARN), Some(error)),
    };
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    if tracing::subscriber::set_global_default(registry().with(lines.with_filter(filter))).is_ok()
        && let Some(error) = complaint
    {
        tracing::warn!("ROUNDEL_LOG={}: {error}; warnings are shown", wish.unwrap_or_default());
    }
}
