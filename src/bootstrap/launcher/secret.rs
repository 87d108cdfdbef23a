//! Where a job's secret comes from when no unique id carries it.
#![forbid(unsafe_code)]

use super::Env;
use crate::bootstrap::digest::digest;
use crate::bootstrap::unique_id::from_hex;
use crate::error::{Error, Result};
use crate::transport::tcp::Secret;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

/// Where the secret of a job comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretSource {
    /// The unique id carries it.
    UniqueId,
    /// `ROUNDEL_SECRET` or `ROUNDEL_SECRET_FILE`.
    Configured,
    /// Hashed from the job's name. Whoever can guess the name can join: it keeps jobs apart and keeps nobody out.
    DerivedFromJob,
}

/// The secret of `job`.
pub(super) fn find(env: Env, job: &str) -> Result<(Secret, SecretSource)> {
    if let Some(digits) = env("ROUNDEL_SECRET") {
        // The value is not repeated: errors end up in logs.
        let secret = secret_of_digits(&digits)
            .ok_or_else(|| Error::invalid("ROUNDEL_SECRET: a secret is written as 64 hexadecimal digits"))?;
        return Ok((secret, SecretSource::Configured));
    }
    if let Some(path) = env("ROUNDEL_SECRET_FILE") {
        return Ok((secret_of_file(&path)?, SecretSource::Configured));
    }
    Ok((Secret::from_bytes(digest("roundel job secret", &[job.as_bytes()])), SecretSource::DerivedFromJob))
}

fn secret_of_digits(digits: &str) -> Option<Secret> {
    Some(Secret::from_bytes(from_hex(digits.trim())?.try_into().ok()?))
}

fn secret_of_file(path: &str) -> Result<Secret> {
    /// 64 digits and a generous end of line; a device that never ends is not read to its end.
    const MAX_FILE_BYTES: u64 = 256;
    let unreadable = |error| Error::system(format!("reading ROUNDEL_SECRET_FILE={path}"), error);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path, "ROUNDEL_SECRET_FILE is readable by others than its owner; chmod 600 it");
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    if let Ok(raw) = <[u8; 32]>::try_from(bytes.as_slice()) {
        return Ok(Secret::from_bytes(raw));
    }
    std::str::from_utf8(&bytes).ok().and_then(secret_of_digits).ok_or_else(|| {
        Error::invalid(format!(
            "ROUNDEL_SECRET_FILE={path} holds neither 32 bytes nor 64 hexadecimal digits; make one with: head -c 32 \
             /dev/urandom > {path}"
        ))
    })
}
