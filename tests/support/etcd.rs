//! An etcd of a test's own: one member, in a folder that is removed, killed when it is dropped.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A start takes less than a second, on a loaded machine more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Somebody else may take the port that was just free.
const ATTEMPTS: usize = 5;
const IS_READY: &str = "ready to serve client requests";

pub struct Etcd {
    child: Option<Child>,
    folder: TempDir,
    /// Words before its command, as in `ip netns exec NAME`.
    prefix: Vec<String>,
    /// Where it listens.
    doors: Vec<String>,
}

/// Why there is none here; the caller skips its test.
pub fn is_missing() -> Option<&'static str> {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_err().then_some("etcd (Debian: etcd-server) is not installed")
}

impl Etcd {
    /// One on loopback.
    pub fn start() -> Etcd {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let started = (0..ATTEMPTS).find_map(|_| Etcd::start_at(&[], vec![port().to_string()]));
        started.expect("etcd is installed and starts at a port that was free")
    }

    /// One that listens at these addresses (`host:port`) where the words of `prefix` lead; none where they are taken.
    pub fn start_at(prefix: &[String], doors: Vec<String>) -> Option<Etcd> {
        let folder = TempDir::with_prefix("roundel-etcd-").unwrap();
        let mut etcd = Etcd { child: None, folder, prefix: prefix.to_vec(), doors };
        etcd.resume().then_some(etcd)
    }

    /// Starts it, again if it was killed: with all that it knew.
    pub fn resume(&mut self) -> bool {
        let urls: Vec<String> = self.doors.iter().map(|door| format!("http://{door}")).collect();
        let words: Vec<&str> = self.prefix.iter().map(String::as_str).chain(["etcd"]).collect();
        let mut command = Command::new(words[0]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command.args(&words[1..]).arg("--data-dir").arg(self.folder.path().join("data"));
        command.args(["--listen-client-urls", &urls.join(","), "--advertise-client-urls", &urls.join(",")]);
        // Nobody is its peer: any port.
        command.args(["--listen-peer-urls", "http://127.0.0.1:0"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let words = BufReader::new(child.stderr.take().unwrap());
        let (tell, told) = channel();
        std::thread::spawn(move || {
            // Read to the end, or it would wait for us.
            words.lines().map_while(Result::ok).for_each(|line| _ = tell.send(line));
        });
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        loop {
            match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(IS_READY) => return true,
                Ok(line) => heard.push(line),
                Err(RecvTimeoutError::Disconnected) => {
                    eprintln!("etcd did not start:\n{}", heard.join("\n"));
                    return false;
                }
                Err(RecvTimeoutError::Timeout) => panic!("etcd does not start:\n{}", heard.join("\n")),
            }
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `host:port`, the first.
    pub fn door(&self) -> &str {
        &self.doors[0]
    }

    /// As `ROUNDEL_STORE` names it.
    pub fn url(&self) -> String {
        format!("etcd://{}", self.doors.join(","))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
