//! The same memory between real processes: this test binary runs itself again as the other rank.
#![forbid(unsafe_code)]

use super::*;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A bound for what takes milliseconds unless it hangs.
const LONG: Duration = Duration::from_secs(30);
const SHAPE: AreaShape = AreaShape { ranks: 2, channels: 1, ring_bytes: 8192, stage_bytes: 4096 };
const STREAM_BYTES: usize = 4 << 20;
/// Says which part the child plays.
const PART: &str = "ROUNDEL_SHM_TEST_PART";

/// One rank of a host of two, before it knows the other.
struct Half {
    arena: Arc<Arena>,
    door: Door,
    area: Area,
    bell: Doorbell,
    cards: (LocalCard, AreaCard),
}

impl Half {
    fn new(me: usize) -> Half {
        let arena = Arena::create(Arena::default_len_bytes()).unwrap();
        let (door, local) = Door::open(&arena).unwrap();
        let (area, bell, card) = Area::create(&arena, SHAPE, me).unwrap();
        Half { arena, door, area, bell, cards: (local, card) }
    }

    fn join(self, other: (LocalCard, AreaCard)) -> (Neighbours, Doorbell, Door) {
        let mut halves = [self.cards, other];
        halves.sort_by_key(|cards| cards.0.pid != std::process::id());
        let mut members = halves.map(|(local, card)| {
            let arena = attach(&local, Instant::now() + LONG).unwrap();
            assert_eq!(arena.is_same_process(), local.pid == std::process::id());
            Member { arena, card }
        });
        if self.area.memory.me() == 1 {
            members.swap(0, 1);
        }
        (Neighbours::new(self.area, &members).unwrap(), self.bell, self.door)
    }
}

/// The other process, and how to speak to it: lines of JSON.
struct Other {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(part: &str) -> Other {
        let (_, module) = module_path!().split_once("::").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::other_process"), "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Other { child, stdin, lines }
    }

    fn hear<T: serde::de::DeserializeOwned>(&mut self) -> T {
        loop {
            let line = self.lines.next().expect("the other process ended early").unwrap();
            if let Some((_, words)) = line.split_once('@') {
                return serde_json::from_str(words).unwrap();
            }
        }
    }

    fn tell(&mut self, what: &impl serde::Serialize) {
        writeln!(self.stdin, "{}", serde_json::to_string(what).unwrap()).unwrap();
    }

    fn finish(mut self) {
        drop(self.stdin);
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn say(what: &impl serde::Serialize) {
    println!("@{}", serde_json::to_string(what).unwrap());
}

fn listen<T: serde::de::DeserializeOwned>() -> T {
    serde_json::from_str(&std::io::stdin().lines().next().unwrap().unwrap()).unwrap()
}

/// Not a test of its own: what the child does.
#[test]
fn other_process() {
    match std::env::var(PART).as_deref() {
        Err(_) => {}
        Ok("mirror") => mirror(),
        Ok("send and die") => send_and_die(),
        Ok("wait") => wait_for_the_end(),
        Ok("many lives") => many_lives(),
        Ok("small files") => small_files(),
        Ok(part) => panic!("no such part: {part}"),
    }
}

/// Moves bytes over the link until `done`, asleep whenever nothing moves.
fn drive(bell: &mut Doorbell, mut step: impl FnMut() -> bool, done: impl Fn() -> bool) {
    while !done() {
        if !step() {
            let nap = bell.lie_down();
            if !step() && !done() {
                let start = Instant::now();
                nap.sleep(&[], Some(LONG)).unwrap();
                assert!(start.elapsed() < LONG, "a wake-up was lost, or the other process is stuck");
            }
        }
    }
}

/// Sends back what comes.
fn mirror() {
    let half = Half::new(1);
    say(&half.cards);
    let scratch = half.arena.alloc(SHAPE.ring_bytes, 64).unwrap();
    let (neighbours, mut bell, _door) = half.join(listen());
    say(&"attached");
    let (mut tx, mut rx) = neighbours.link(0, 0);
    let (mut held, mut sent, back) = (0, 0, std::cell::Cell::new(0));
    let step = || {
        if sent == held {
            (held, sent) = (rx.recv(scratch.span()).unwrap(), 0);
        }
        let count = tx.send(scratch.span().cut(sent, held - sent)).unwrap();
        sent += count;
        back.set(back.get() + count);
        count > 0
    };
    drive(&mut bell, step, || back.get() == STREAM_BYTES);
    // Stays until the parent has seen it all: ends with its standard input.
    assert!(std::io::stdin().lines().next().is_none());
}

fn send_and_die() {
    let half = Half::new(1);
    say(&half.cards);
    let scratch = half.arena.alloc(1000, 64).unwrap();
    scratch.span().write(&[77; 1000]);
    let (neighbours, _bell, _door) = half.join(listen());
    assert_eq!(listen::<String>(), "attached");
    let (mut tx, _rx) = neighbours.link(0, 0);
    assert_eq!(tx.send(scratch.span()).unwrap(), 1000);
    assert!(neighbours.enter());
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn wait_for_the_end() {
    let half = Half::new(1);
    say(&half.cards);
    assert!(std::io::stdin().lines().next().is_none());
}

/// What this process holds: descriptors, threads, and mapped arenas.
fn holdings() -> (usize, usize, usize) {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let arenas = maps.lines().filter(|line| line.contains("memfd:roundel-arena")).count();
    (count("/proc/self/fd"), count("/proc/self/task"), arenas)
}

fn many_lives() {
    let live = || {
        let (first, second) = (Half::new(0), Half::new(1));
        let cards = [first.cards.clone(), second.cards.clone()];
        let members = |door: &dyn Fn(&LocalCard) -> LocalCard| {
            let member = |(local, card): &(LocalCard, AreaCard)| Member {
                arena: attach(&door(local), Instant::now() + LONG).unwrap(),
                card: card.clone(),
            };
            cards.iter().map(member).collect::<Vec<_>>()
        };
        // One as a thread of this process, one through the doors as another process would.
        let threads = Neighbours::new(first.area, &members(&LocalCard::clone)).unwrap();
        let foreign = |card: &LocalCard| LocalCard { pid: card.pid ^ 1, ..card.clone() };
        let processes = Neighbours::new(second.area, &members(&foreign)).unwrap();
        let _links = (threads.link(1, 0), processes.link(0, 0));
        threads.signal();
        assert_eq!(processes.signalled(0, 0), 1);
    };
    live();
    let before = holdings();
    assert_eq!(before.2, 0);
    (0..200).for_each(|_| live());
    // A joined thread may be listed for an instant longer.
    let start = Instant::now();
    while holdings() != before && start.elapsed() < LONG {
        std::thread::yield_now();
    }
    say(&(before, holdings()));
}

fn small_files() {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, 1 << 20).unwrap();
    let error = Arena::create(2 << 20).unwrap_err();
    Arena::create(Arena::default_len_bytes()).unwrap();
    say(&(error.to_string(), Arena::default_len_bytes()));
}

#[test]
fn a_stream_between_processes_is_unharmed() {
    let mut other = Other::start("mirror");
    let half = Half::new(0);
    let cards = half.cards.clone();
    let block = half.arena.alloc(2 * STREAM_BYTES, 64).unwrap();
    let (out, back) = (block.span().cut(0, STREAM_BYTES), block.span().from(STREAM_BYTES));
    let content: Vec<u8> = (0..STREAM_BYTES).map(|at| (at.wrapping_mul(2654435761) >> 13) as u8).collect();
    out.write(&content);
    let theirs = other.hear();
    other.tell(&cards);
    let (neighbours, mut bell, door) = half.join(theirs);
    assert_eq!(other.hear::<String>(), "attached");
    drop(door);
    let (mut tx, mut rx) = neighbours.link(1, 0);
    let (mut sent, received) = (0, std::cell::Cell::new(0));
    let step = || {
        let before = sent + received.get();
        sent += tx.send(out.from(sent)).unwrap();
        received.set(received.get() + rx.recv(back.from(received.get())).unwrap());
        sent + received.get() > before
    };
    drive(&mut bell, step, || received.get() == STREAM_BYTES);
    let mut seen = vec![0; STREAM_BYTES];
    back.read(&mut seen);
    assert!(seen == content);
    other.finish();
}

#[test]
fn what_a_rank_sent_before_it_was_killed_arrives() {
    let mut other = Other::start("send and die");
    let half = Half::new(0);
    let cards = half.cards.clone();
    let block = half.arena.alloc(1 << 20, 64).unwrap();
    let theirs = other.hear();
    other.tell(&cards);
    let (neighbours, _bell, _door) = half.join(theirs);
    other.tell(&"attached");
    other.child.wait().unwrap();
    let (mut tx, mut rx) = neighbours.link(1, 0);
    assert_eq!(rx.recv(block.span()).unwrap(), 1000);
    let mut bytes = [0; 1000];
    block.span().read(&mut bytes);
    assert_eq!(bytes, [77; 1000]);
    // Nothing of a dead neighbour's is dangerous: its memory is still there, its ring fills up, its bell is silent.
    assert_eq!(rx.recv(block.span()).unwrap(), 0);
    assert_eq!(tx.send(block.span()).unwrap(), SHAPE.ring_bytes);
    neighbours.stage(1, 1).write(&[1; 4096]);
    neighbours.fail_neighbours();
    assert_eq!(neighbours.quiesce(Instant::now() + Duration::from_millis(10), &|_| false), [1], "it died inside");
    assert!(neighbours.quiesce(Instant::now() + LONG, &|peer| peer == 1).is_empty());
}

#[test]
fn a_killed_rank_leaves_no_name_behind() {
    let names = || std::fs::read_to_string("/proc/net/unix").unwrap();
    let files = || -> BTreeSet<String> {
        let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("roundel"))
            .collect()
    };
    let mut other = Other::start("wait");
    let (local, area): (LocalCard, AreaCard) = other.hear();
    let [door, bell] = [socket_name("door", &local.door), socket_name("bell", &area.doorbell)];
    assert!(names().contains(&door) && names().contains(&bell));
    let arena = attach(&local, Instant::now() + LONG).unwrap();
    other.kill();
    let start = Instant::now();
    while (names().contains(&door) || names().contains(&bell)) && start.elapsed() < LONG {
        std::thread::yield_now();
    }
    assert!(!names().contains(&door) && !names().contains(&bell));
    assert!(files().is_empty(), "{:?}", files());
    arena.span().write(&[1]);
    let error = attach(&local, Instant::now() + LONG).unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", local.pid)), "{error}");
}

#[test]
fn descriptors_threads_and_mappings_come_back() {
    let mut other = Other::start("many lives");
    let (before, after): ((usize, usize, usize), (usize, usize, usize)) = other.hear();
    assert_eq!(after, before, "descriptors, threads, mapped arenas");
    other.finish();
}

#[test]
fn a_file_size_limit_is_an_error_and_not_a_signal() {
    let mut other = Other::start("small files");
    let (error, default_len_bytes): (String, usize) = other.hear();
    assert!(error.contains("ulimit -f"), "{error}");
    assert_eq!(default_len_bytes, 1 << 20);
    other.finish();
}
