//! Dialling other ranks beside the engine. Connecting takes a round trip where all is well and the whole timeout where a
//! host does not answer, and calls that do not need that link must not wait for it: each link is dialled by a
//! short-lived thread, and the engine, which asks again whenever it looks around, is woken when the link stands.
#![forbid(unsafe_code)]

use crate::engine::Fate;
use crate::error::{Error, Result};
use crate::schedule::Port;
use crate::transport::tcp::{Callee, Endpoint, LinkSide, Persistence, Strands, TcpRx, TcpTx};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

/// What a thread makes.
type Ends = (TcpTx, TcpRx);

/// Dials the links of one communicator.
pub(super) struct Dialler {
    endpoint: Arc<Endpoint>,
    fate: Arc<Fate>,
    /// Makes the engine look around.
    wake: Arc<dyn Fn() + Send + Sync>,
    /// The communicator is gone: nobody wants the links any more.
    closed: Arc<AtomicBool>,
    under_way: HashMap<Port, Receiver<Result<Ends>>>,
}

impl Dialler {
    pub(super) fn new(endpoint: Arc<Endpoint>, fate: Arc<Fate>, wake: Arc<dyn Fn() + Send + Sync>) -> Dialler {
        Dialler { endpoint, fate, wake, closed: Arc::default(), under_way: HashMap::new() }
    }

    /// The link through `port`, of so many connections to `callee`: begun the first time, `None` until it stands.
    /// `patience` only bounds the thread's life; calls that wait for the link have deadlines of their own, which end the
    /// communicator and the dialling with it.
    pub(super) fn connect(
        &mut self,
        port: Port,
        callee: Callee,
        side: LinkSide,
        strands: Strands,
        patience: Duration,
    ) -> Result<Option<Ends>> {
        let Some(outcome) = self.under_way.get(&port) else {
            let outcome = self.begin(callee, side, strands, patience)?;
            self.under_way.insert(port, outcome);
            return Ok(None);
        };
        let outcome = match outcome.try_recv() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Empty) => return Ok(None),
            Err(TryRecvError::Disconnected) => {
                Err(Error::bootstrap(format!("the thread that dialled rank {} panicked", side.peer)))
            }
        };
        self.under_way.remove(&port);
        outcome.map(Some)
    }

    /// True while the link through `port` has been begun and not been given out.
    pub(super) fn is_under_way(&self, port: Port) -> bool {
        self.under_way.contains_key(&port)
    }

    fn begin(
        &self,
        callee: Callee,
        side: LinkSide,
        strands: Strands,
        patience: Duration,
    ) -> Result<Receiver<Result<Ends>>> {
        let (report, outcome) = sync_channel(1);
        let (endpoint, fate, closed) = (self.endpoint.clone(), self.fate.clone(), self.closed.clone());
        let wake = self.wake.clone();
        let dial = move || {
            let cancelled = || {
                let is_closed = || Error::bootstrap("the communicator is closed");
                // Acquire: pairs with the Release in `drop`.
                fate.check().err().or_else(|| closed.load(Ordering::Acquire).then(is_closed))
            };
            let has_left = || fate.has_left(side.peer);
            let deadline = Instant::now() + patience;
            let ends = endpoint.dial(
                &callee,
                side,
                strands,
                Persistence { deadline, cancelled: &cancelled, has_left: &has_left },
            );
            // Nobody listens any more where the communicator has ended.
            let _ = report.send(ends.map_err(|error| unreachable(side, error)));
            wake();
        };
        let spawned = std::thread::Builder::new().name("roundel-dial".into()).spawn(dial);
        spawned.map_err(|error| Error::system(format!("starting a thread to dial rank {}", side.peer), error))?;
        Ok(outcome)
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `begin`.
        self.closed.store(true, Ordering::Release);
        self.endpoint.wake();
    }
}

/// A peer that refuses, or never answers, has ended or is about to be reported: the control plane may know more, as with
/// any link that breaks. What this host cannot do stays what it is.
fn unreachable(side: LinkSide, error: Error) -> Error {
    match error {
        Error::Bootstrap { what, .. } => Error::PeerLost {
            suspects: vec![side.peer],
            what: format!("can no longer be reached ({what})"),
            during: None,
        },
        other => other,
    }
}
