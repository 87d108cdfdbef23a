//! A store for tests, in this process, that can be made to fall silent.
#![forbid(unsafe_code)]

use super::{Held, Register, Revision, Store};
use crate::bootstrap::lock;
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Clones share one register.
#[derive(Clone, Default)]
pub(in super::super) struct Memory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    held: Option<Register>,
    revision: u64,
    is_silent: bool,
}

impl Memory {
    pub(in super::super) fn fall_silent(&self, is_silent: bool) {
        lock(&self.0).is_silent = is_silent;
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T> {
        let mut state = lock(&self.0);
        if state.is_silent {
            return Err(Error::bootstrap("the store is silent"));
        }
        Ok(act(&mut state))
    }

    fn replace(&self, held: Revision, register: Option<Register>) -> Result<bool> {
        self.with(|state| {
            let now = if state.held.is_some() { state.revision } else { 0 };
            if now != held.0 {
                return false;
            }
            state.held = register;
            state.revision += 1;
            true
        })
    }
}

impl Store for Memory {
    fn load(&self, _: Instant) -> Result<Held> {
        self.with(|state| match &state.held {
            Some(register) => Held { register: register.clone(), revision: Revision(state.revision) },
            None => Held { register: Register::default(), revision: Revision::NONE },
        })
    }

    fn swap(&self, held: Revision, register: &Register, _: Instant) -> Result<bool> {
        self.replace(held, Some(register.clone()))
    }

    fn remove(&self, held: Revision, _: Instant) -> Result<bool> {
        self.replace(held, None)
    }
}
