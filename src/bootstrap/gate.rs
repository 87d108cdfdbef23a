//! A door of the control plane: only those who prove that they hold the job's secret come through.
//!
//! The root listens before its ranks say how their connections are to be protected, so it takes what each of them wishes
//! (the wish is part of what the handshake proves); that all wish the same is checked with the seats.
#![forbid(unsafe_code)]

use super::messages::Knock;
use super::wire::Caller;
use crate::error::{Error, Result};
use crate::transport::tcp::porch::{Arrival, Porch, decode_hello};
use crate::transport::tcp::{Guard, Secret, Terms};
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// The terms of control connections of `job`; whoever dials says how they are protected.
pub(super) fn terms(secret: &Secret, job: &[u8; 16], guard: Option<Guard>) -> Terms {
    Terms::new(secret.clone(), guard, "roundel control", &[job])
}

pub(super) struct Gate(Porch);

impl Gate {
    /// A gate over listening sockets.
    pub(super) fn new(listeners: Vec<TcpListener>, secret: &Secret, job: &[u8; 16]) -> std::io::Result<Gate> {
        Porch::new(listeners, terms(secret, job, None)).map(Gate)
    }

    /// The sockets it listened on, for another gate. Handshakes under way are given up; who was honest tries again.
    pub(super) fn into_listeners(self) -> Vec<TcpListener> {
        self.0.into_listeners()
    }

    /// What to poll for reading.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.fds()
    }

    /// When to look again although nothing came.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.0.wakes_at()
    }

    /// Those who have proved themselves since the last call.
    pub(super) fn arrivals(&mut self) -> Vec<(Caller, Knock)> {
        let admit = |arrival| {
            admit(arrival).inspect_err(|error| tracing::warn!(%error, "a rank of this job was turned away")).ok()
        };
        self.0.attend().into_iter().filter_map(admit).collect()
    }
}

fn admit(arrival: Arrival) -> Result<(Caller, Knock)> {
    let knock = decode_hello::<Knock>(&arrival.hello);
    let (stream, session) = arrival.answer(knock.as_ref().map(|_| Vec::new()).map_err(Error::clone))?;
    let unprepared = |error| Error::system("preparing a control connection", error);
    super::prepare(&stream).map_err(unprepared)?;
    stream.set_nonblocking(true).map_err(unprepared)?;
    Ok((Caller::new(stream, session), knock?))
}
