//! The register as one key of an etcd, through the JSON gateway of its v3 API: `/roundel/JOB/RUN`, both in hexadecimal digits.
//!
//! ```text
//!   load    POST /v3/kv/range   {key}                                                -> value, mod_revision
//!   swap    POST /v3/kv/txn     if mod_revision(key) == held then put(key, value)    -> succeeded?
//!   remove  POST /v3/kv/txn     if mod_revision(key) == held then delete(key)        -> succeeded?
//! ```
//!
//! Reads are linearizable (etcd's default), so what is read has been agreed on by a majority of etcd's members. The mod_revision
//! of a key that is not there is 0. Of the endpoints the one that answered last is tried first.
//!
//! A swap whose answer was lost may have happened. Then the next one finds another mod_revision and begins anew, and both steps of
//! the register are the same done twice.
#![forbid(unsafe_code)]

use super::choice::Shelf;
use super::{Held, Register, Revision, Store};
use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use ureq::Agent;

/// What one endpoint may take, while there are others or another round.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is read: etcd's own limit of a value is 1.5 MiB.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

pub(super) struct Etcd {
    agent: Agent,
    /// `host:port`.
    doors: Vec<String>,
    /// Which of them answered last. A hint: no other memory hangs on it.
    favourite: AtomicUsize,
    /// In base 64.
    key: String,
}

/// The answer to a range.
#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct KeyValue {
    /// A number in quotes, as JSON of protobuf writes 64-bit numbers.
    mod_revision: String,
    /// In base 64.
    #[serde(default)]
    value: String,
}

/// The answer to a transaction.
#[derive(Deserialize)]
struct Txn {
    /// Left out where it is false.
    #[serde(default)]
    succeeded: bool,
}

impl Etcd {
    pub(super) fn new(doors: &[String], shelf: Shelf) -> Etcd {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A store is asked seldom, and by nobody but us.
            .max_idle_connections(0)
            // Of the machine's owner's browser; a store is inside the network.
            .proxy(None)
            .build();
        Etcd {
            agent: config.new_agent(),
            doors: doors.to_vec(),
            favourite: AtomicUsize::new(0),
            key: BASE64.encode(key(shelf)),
        }
    }

    /// Asks one endpoint after the other.
    fn ask(&self, path: &str, question: &Value, deadline: Instant) -> Result<Vec<u8>> {
        // Relaxed: a hint.
        let favourite = self.favourite.load(Ordering::Relaxed);
        let mut failures = String::new();
        for index in (0..self.doors.len()).map(|turn| (favourite + turn) % self.doors.len()) {
            let door = &self.doors[index];
            let patience = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
            let answer = match patience.is_zero() {
                true => Err("there was no time to ask".to_string()),
                false => self.post(&format!("http://{door}{path}"), question, patience),
            };
            match answer {
                Ok(answer) => {
                    // Relaxed: a hint.
                    self.favourite.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(why) => _ = write!(failures, "{}{door}: {why}", if failures.is_empty() { "" } else { "; " }),
            }
        }
        Err(Error::bootstrap(format!("no etcd answers: {failures}")))
    }

    fn post(&self, url: &str, question: &Value, patience: Duration) -> std::result::Result<Vec<u8>, String> {
        let in_words = |error: ureq::Error| error.to_string();
        let request = self.agent.post(url).config().timeout_global(Some(patience)).build();
        let mut answer = request.content_type("application/json").send(question.to_string()).map_err(in_words)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec().map_err(in_words)?;
        if status.as_u16() != 200 {
            let said: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
            return Err(format!("HTTP status {}, {said}", status.as_u16()));
        }
        Ok(body)
    }

    /// Does one thing if the key has not changed.
    fn transact(&self, held: Revision, then: Value, deadline: Instant) -> Result<bool> {
        let unchanged = json!({
            "key": self.key, "target": "MOD", "result": "EQUAL", "mod_revision": held.0.to_string(),
        });
        let question = json!({ "compare": [unchanged], "success": [then] });
        let answer = self.ask("/v3/kv/txn", &question, deadline)?;
        let answer: Txn = serde_json::from_slice(&answer).map_err(|error| senseless(&error))?;
        Ok(answer.succeeded)
    }
}

impl Store for Etcd {
    fn load(&self, deadline: Instant) -> Result<Held> {
        let answer = self.ask("/v3/kv/range", &json!({ "key": self.key }), deadline)?;
        held(&answer)
    }

    fn swap(&self, held: Revision, register: &Register, deadline: Instant) -> Result<bool> {
        let value = BASE64.encode(register.to_text()?);
        self.transact(held, json!({ "requestPut": { "key": self.key, "value": value } }), deadline)
    }

    fn remove(&self, held: Revision, deadline: Instant) -> Result<bool> {
        self.transact(held, json!({ "requestDeleteRange": { "key": self.key } }), deadline)
    }
}

/// The register in the answer to a range.
pub(in super::super) fn held(answer: &[u8]) -> Result<Held> {
    let answer: Range = serde_json::from_slice(answer).map_err(|error| senseless(&error))?;
    let Some(KeyValue { mod_revision, value }) = answer.kvs.into_iter().next() else {
        return Ok(Held { register: Register::default(), revision: Revision::NONE });
    };
    let revision = mod_revision.parse().map_err(|error| senseless(&error))?;
    let value = BASE64.decode(value).map_err(|error| senseless(&error))?;
    Ok(Held { register: Register::from_text(&value)?, revision: Revision(revision) })
}

fn senseless(error: &dyn std::fmt::Display) -> Error {
    Error::bootstrap(format!("what answers there is no etcd of version 3.4 or newer: {error}"))
}

fn key(shelf: Shelf) -> String {
    let mut key = "/roundel/".to_string();
    for byte in shelf.job {
        let _ = write!(key, "{byte:02x}");
    }
    let _ = write!(key, "/{:016x}", shelf.run);
    key
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
