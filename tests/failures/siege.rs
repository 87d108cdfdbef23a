//! What strangers say at the doors of a job: everything that a scanner, a lost client or somebody with bad intentions may
//! try who does not hold the job's secret, and some of what one may try who has listened to those that do.

use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Strangers that stay at the same time; the oldest make room.
const MAX_STAYING: usize = 300;
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const VERSION: u16 = 3;

/// What a job's id tells whoever holds it.
pub struct Id {
    pub root: SocketAddr,
    secret: [u8; 32],
    job: [u8; 16],
}

impl Id {
    pub fn read(text: &str) -> Id {
        let text = text.trim();
        let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal digits");
        let mut id = Id {
            root: ([127, 0, 0, 1], u16::from_le_bytes([byte(10), byte(11)])).into(),
            secret: [0; 32],
            job: [0; 16],
        };
        (32..64).for_each(|at| id.secret[at - 32] = byte(at));
        (64..80).for_each(|at| id.job[at - 64] = byte(at));
        id
    }

    fn noise(&self, secret: &[u8; 32]) -> snow::HandshakeState {
        let mut hash = DefaultResolver.resolve_hash(&HashChoice::Blake2s).expect("it is compiled in");
        for part in [&b"roundel control"[..], &self.job] {
            hash.input(&(part.len() as u64).to_le_bytes());
            hash.input(part);
        }
        let mut purpose = [0; 32];
        hash.result(&mut purpose);
        let prologue = [&b"roundel"[..], &VERSION.to_be_bytes(), &[0], &purpose].concat();
        let builder = snow::Builder::new(PATTERN.parse().unwrap()).prologue(&prologue).unwrap();
        builder.psk(0, secret).unwrap().build_initiator().unwrap()
    }

    /// A first message like that of a rank, under this secret.
    fn first_message(&self, secret: &[u8; 32]) -> (snow::HandshakeState, Vec<u8>) {
        let mut noise = self.noise(secret);
        let mut key = [0; 64];
        let len_bytes = noise.write_message(&[], &mut key).unwrap();
        (noise, framed(&key[..len_bytes]))
    }

    /// All that a rank of the job says in a handshake, as somebody on the way may have written it down. Its hello is
    /// of no use to the root, so it is turned away in the end.
    pub fn recording(&self) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.root).expect("the root listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (mut noise, mut said) = self.first_message(&self.secret);
        stream.write_all(&said).unwrap();
        let mut answer = [0; 9 + 48];
        stream.read_exact(&mut answer).expect("the root knows this secret, and the job");
        noise.read_message(&answer[9..], &mut [0; 64]).expect("the answer is the root's");
        let mut sealed = [0; 64];
        let len_bytes = noise.into_transport_mode().unwrap().write_message(b"no hello", &mut sealed).unwrap();
        let last = framed(&sealed[..len_bytes]);
        stream.write_all(&last).unwrap();
        let mut refusal = Vec::new();
        let _ = stream.read_to_end(&mut refusal);
        assert!(!refusal.is_empty(), "whoever holds the secret is told why not");
        said.extend(last);
        said
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let header = [&b"RNDL"[..], &VERSION.to_be_bytes(), &[0], &(body.len() as u16).to_be_bytes()].concat();
    [&header, body].concat()
}

/// Goes round the doors.
pub struct Strangers {
    pub sent: usize,
    staying: VecDeque<TcpStream>,
    recording: Vec<u8>,
    wrong_hello: Vec<u8>,
}

impl Strangers {
    pub fn of(id: &Id) -> Strangers {
        let wrong_hello = id.first_message(&[9; 32]).1;
        Strangers { sent: 0, staying: VecDeque::new(), recording: id.recording(), wrong_hello }
    }

    /// So many knock at these doors in turn, each in its own way.
    pub fn knock(&mut self, doors: &[u16], count: usize) {
        for number in self.sent..self.sent + count {
            self.sent += 1;
            let door = (Ipv4Addr::LOCALHOST, doors[number % doors.len()]).into();
            // A door that is busy may well let a stranger wait.
            let Ok(mut stream) = TcpStream::connect_timeout(&door, Duration::from_secs(5)) else { continue };
            let stays = match number / doors.len() % 8 {
                // A port scan.
                0 => false,
                // Silence.
                1 => true,
                2 => {
                    let mut noise = [0; 3000];
                    getrandom::fill(&mut noise).expect("the system has random bytes");
                    let _ = stream.write_all(&noise);
                    false
                }
                3 => stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").is_ok(),
                4 => stream.write_all(&self.wrong_hello).is_ok(),
                // Cut short, and then silence.
                5 => stream.write_all(&self.wrong_hello[..20]).is_ok(),
                6 => stream.write_all(&self.recording).is_ok(),
                // The first message alone opens; what should follow does not come.
                _ => stream.write_all(&self.recording[..57]).is_ok(),
            };
            if stays {
                self.staying.push_back(stream);
            }
            if self.staying.len() > MAX_STAYING {
                self.staying.pop_front();
            }
        }
    }
}
