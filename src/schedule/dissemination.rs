//! Dissemination barrier: in step k every rank sends a token to the rank 2^k further on and waits for one from 2^k
//! behind. After ceil(log2 n) steps news of everybody has reached everybody, with nobody in charge.
//!
//! ```text
//!   n = 5, what rank 0 knows of:   itself    + 4 (1 behind)    + 3, 2 (2 behind)    + 1 (4 behind)
//! ```
//!
//! Steps and tokens sent per rank: ceil(log2 n). All tokens pass through one private slot: each send reads what the
//! receive before it has written, so the derived hazards are exactly the steps. Source: Hensgen, Finkel and Manber
//! (1988).
#![forbid(unsafe_code)]

use super::draft::{Draft, Group};

/// Nobody leaves before everybody has come. Uses one private slot.
pub(super) fn barrier(draft: &mut Draft, group: &Group) {
    let token = draft.scratch(0, 0);
    let mut distance = 1;
    while distance < group.len() {
        draft.send(group.port(group.ahead(distance)), token);
        draft.recv(group.port(group.behind(distance)), token);
        distance *= 2;
    }
}
