//! What a finished handshake leaves behind: how each direction of the connection is protected.
#![forbid(unsafe_code)]

use super::digest::digest;
use super::record::{Opener, Sealer};
use super::secret::Secret;
use super::terms::Guard;

/// Keys of one connection. Small: links that wait to be asked for hold one each.
#[derive(Debug)]
pub struct Session {
    guard: Guard,
    outgoing: Secret,
    incoming: Secret,
}

impl Session {
    /// From the two keys that Noise gives at the end: of what the initiator sends, of what it receives.
    ///
    /// The handshake's own last messages went under those very keys, with another cipher; so the keys of the data are
    /// derived from them, and no key ever serves two purposes.
    pub(super) fn new(guard: Guard, (to_responder, to_initiator): ([u8; 32], [u8; 32]), is_initiator: bool) -> Session {
        let [to_responder, to_initiator] = [to_responder, to_initiator].map(|key| {
            let key = Secret::from_bytes(key);
            Secret::from_bytes(digest("roundel data key", &[key.as_bytes()]))
        });
        let (outgoing, incoming) =
            if is_initiator { (to_responder, to_initiator) } else { (to_initiator, to_responder) };
        Session { guard, outgoing, incoming }
    }

    /// What protects this end's bytes, and what checks and opens the other's, about `read_bytes` at a time; `None` where
    /// nothing is to be protected. There is one of each, because no two may count records under one key.
    pub fn split(self, read_bytes: usize) -> (Option<Sealer>, Option<Opener>) {
        (Sealer::new(self.guard, &self.outgoing), Opener::new(self.guard, &self.incoming, read_bytes))
    }
}
