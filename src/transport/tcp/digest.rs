//! One hash for everything that ranks must derive alike: BLAKE2s over a label and length-delimited parts.
#![forbid(unsafe_code)]

use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};

/// The hash of `parts` for the purpose that `label` names. No two lists of parts look alike to it.
pub fn digest(label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = DefaultResolver.resolve_hash(&HashChoice::Blake2s).expect("BLAKE2s is compiled in");
    for part in std::iter::once(label.as_bytes()).chain(parts.iter().copied()) {
        hash.input(&(part.len() as u64).to_le_bytes());
        hash.input(part);
    }
    let mut digest = [0; 32];
    hash.result(&mut digest);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_the_cuts_between_parts_matter() {
        assert_eq!(digest("a", &[b"xy", b"z"]), digest("a", &[b"xy", b"z"]));
        assert_ne!(digest("a", &[b"xy", b"z"]), digest("a", &[b"x", b"yz"]));
        assert_ne!(digest("a", &[b"xy"]), digest("b", &[b"xy"]));
    }
}
