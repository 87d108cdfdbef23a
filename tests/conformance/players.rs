//! The devices that a suite runs on: what this machine has, what it can play, and what stands in for a GPU.

use crate::backend::Backend;
use crate::support::{self, standin};
use std::path::PathBuf;

/// A device by name, and where its driver is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Player {
    /// As in `ROUNDEL_DEVICE`.
    pub device: &'static str,
    /// Where processes look for the driver before anywhere else.
    pub libraries: Option<PathBuf>,
}

impl Player {
    pub fn named(device: &'static str) -> Player {
        Player { device, libraries: None }
    }

    /// A device that is only on some machines, and what a machine without it lacks.
    pub fn of_this_machine((device, lack): (&'static str, &str)) -> Option<Player> {
        match roundel::device::open(device) {
            Ok(_) => Some(Player::named(device)),
            // Not of this build: those that have it run this again.
            Err(error) if error.to_string().contains("this build has no") => None,
            Err(error) => {
                support::skip(lack, &error.to_string());
                None
            }
        }
    }

    /// A GPU in processes that load the stand-in for its driver.
    pub fn stand_in() -> Option<Player> {
        if cfg!(not(feature = "cuda")) {
            return None;
        }
        match standin::folder(standin::Build::Plain) {
            Ok(folder) => Some(Player { device: "cuda", libraries: Some(folder) }),
            Err(why) => {
                support::skip("g++", &why);
                None
            }
        }
    }

    /// A driver that stands in is for processes of its own.
    pub fn plays(&self, backend: Backend) -> bool {
        self.libraries.is_none() || backend.has_processes()
    }
}
