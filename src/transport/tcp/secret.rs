//! Thirty-two bytes that few know: a job's secret, and the keys that come of it.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// The 32 bytes that only ranks of one job know, or only the two ends of a connection.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one, from the system's random source.
    pub fn random() -> Result<Secret> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::bootstrap(format!("no random bytes for a job secret: {error}")))?;
        Ok(Secret(bytes))
    }

    /// The secret that is already known to be these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    /// The bytes, to hand them to another rank of the job by a way that others cannot read.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the optimiser from dropping a store that nobody reads.
        std::hint::black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", Secret::from_bytes([9; 32])), "Secret(..)");
    }
}
