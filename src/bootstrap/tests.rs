//! The control plane end to end: ranks as threads, and where death matters as processes, over loopback.

use super::*;
use crate::error::{Error, Result, Signature};
use crate::transport::tcp::Secret;
use crate::types::Rank;
use bytemuck::Zeroable;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar};
use std::thread;

/// Nothing here takes long; on a loaded machine it may.
const PATIENT: Duration = Duration::from_secs(60);
/// For joins that are meant to fail.
const SHORT: Duration = Duration::from_millis(400);

fn local_id() -> UniqueId {
    UniqueId::with_interface("127.0.0.1").unwrap()
}

fn member(root: &Root, rank: Rank, world: usize, timeout: Duration) -> Config {
    Config::new(root.clone(), rank, world, timeout, None)
}

fn join_in_background(config: Config) -> thread::JoinHandle<Result<Arc<Control>>> {
    thread::spawn(move || Control::join(config))
}

fn join_all(root: &Root, world: usize) -> Vec<Arc<Control>> {
    let joins: Vec<_> = (0..world).map(|rank| join_in_background(member(root, rank, world, PATIENT))).collect();
    joins.into_iter().map(|join| join.join().unwrap().unwrap()).collect()
}

fn job_of(world: usize) -> Vec<Arc<Control>> {
    join_all(&Root::Id(local_id()), world)
}

/// A root that rank 0 opens, under a name that no other test has.
fn named_root() -> Root {
    let job = format!("test {:x}", getrandom::u64().unwrap());
    let ports = address::candidate_ports(None, &job, None);
    Root::Address(RootAddr { hosts: vec!["127.0.0.1".into()], ports, secret: Secret::from_bytes([5; 32]), job })
}

fn soon() -> Instant {
    Instant::now() + PATIENT
}

/// Runs `each` for every rank on a thread of its own.
fn on_all<T: Send>(ranks: &[Arc<Control>], each: impl Fn(&Control) -> T + Sync) -> Vec<T> {
    let each = &each;
    thread::scope(|scope| {
        let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || each(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A listener that writes down what it hears.
#[derive(Default)]
struct Diary {
    entries: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Diary {
    fn write(&self, entry: String) {
        lock(&self.entries).push(entry);
        self.changed.notify_all();
    }

    /// All entries, once one of them begins so.
    fn after(&self, beginning: &str) -> Vec<String> {
        let waits = |entries: &mut Vec<String>| !entries.iter().any(|entry| entry.starts_with(beginning));
        let (entries, timeout) = self.changed.wait_timeout_while(lock(&self.entries), PATIENT, waits).unwrap();
        assert!(!timeout.timed_out(), "nothing began with {beginning:?} in {entries:?}");
        entries.clone()
    }
}

impl Listener for Diary {
    fn peer_lost(&self, world_rank: Rank, what: &str) {
        self.write(format!("lost {world_rank}: {what}"));
    }
    fn peer_left(&self, world_rank: Rank) {
        self.write(format!("left {world_rank}"));
    }
    fn revoked(&self, comm: u64, error: &Error) {
        self.write(format!("revoked {comm}: {error}"));
    }
}

fn listen(control: &Control, comm: u64) -> (Arc<Diary>, Registration) {
    let diary = Arc::new(Diary::default());
    let registration = control.register(comm, diary.clone());
    (diary, registration)
}

/// Runs one test of this binary as a process, with `job` in its environment.
fn process(test: &str, job: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([&format!("bootstrap::tests::{test}"), "--exact", "--nocapture", "--test-threads=1"])
        .env("ROUNDEL_TEST_JOB", job)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the process was asked to do, if this is one.
fn role() -> Option<String> {
    std::env::var("ROUNDEL_TEST_JOB").ok()
}

/// Kills the process when the test ends, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn worlds_of_one_to_nine_join_exchange_and_leave() {
    for world in 1..=9 {
        let ranks = job_of(world);
        let members: Vec<Rank> = (0..world).rev().collect();
        let gathered = on_all(&ranks, |control| {
            assert!(control.local_ip().is_loopback());
            assert_eq!(control.world(), world);
            control.exchange(1, &members, vec![control.rank() as u8; control.rank()], soon()).unwrap()
        });
        let expected: Vec<Vec<u8>> = members.iter().map(|rank| vec![*rank as u8; *rank]).collect();
        assert!(gathered.iter().all(|parts| *parts == expected));
    }
}

#[test]
fn rank_0_opens_a_named_job_next_to_strangers_on_its_ports() {
    let root = named_root();
    let Root::Address(address) = &root else { unreachable!() };
    // A silent stranger, and a job with another secret. Each may fail to bind, if the port is taken anyway.
    let _silent = TcpListener::bind(("127.0.0.1", address.ports[0]));
    let other_root = RootAddr { secret: Secret::from_bytes([6; 32]), ..address.clone() };
    let other_ranks = join_all(&Root::Address(other_root), 2);
    let ranks = join_all(&root, 3);
    assert_eq!(ranks.len() + other_ranks.len(), 5);
    // A second job of the same name while the first still runs: its ranks pass by the first.
    let again = join_all(&root, 3);
    on_all(&again, |control| control.exchange(1, &[0, 1, 2], vec![], soon()).unwrap());
}

#[test]
fn the_present_are_told_who_is_missing() {
    for root in [Root::Id(local_id()), named_root()] {
        let present = [0, 2].map(|rank| join_in_background(member(&root, rank, 4, Duration::from_secs(1))));
        for rank in present {
            let error = rank.join().unwrap().unwrap_err();
            assert_eq!(error.to_string(), "initialisation: 2 of 4 ranks arrived within 1 s; missing: rank 1, 3");
        }
    }
}

#[test]
fn without_a_root_the_error_names_its_address_and_what_to_check() {
    let root = named_root();
    let error = Control::join(member(&root, 1, 2, SHORT)).unwrap_err().to_string();
    assert!(error.contains("rank 1") && error.contains("127.0.0.1") && error.contains("within 0.4 s"), "{error}");
    assert!(error.contains("ROUNDEL_SECRET"), "{error}");
}

#[test]
fn a_rank_that_comes_twice_is_refused_and_the_job_goes_on() {
    let root = Root::Id(local_id());
    let (outcome, outcomes) = std::sync::mpsc::channel();
    for _ in 0..2 {
        let (config, outcome) = (member(&root, 0, 2, PATIENT), outcome.clone());
        thread::spawn(move || outcome.send(Control::join(config)));
    }
    let error = outcomes.recv_timeout(PATIENT).unwrap().unwrap_err().to_string();
    assert!(error.contains("rank 0 has arrived twice"), "{error}");
    let last = Control::join(member(&root, 1, 2, PATIENT)).unwrap();
    let first = outcomes.recv_timeout(PATIENT).unwrap().unwrap();
    let late = Control::join(member(&root, 1, 2, SHORT)).unwrap_err().to_string();
    assert!(late.contains("rank 1 comes when the job is complete"), "{late}");
    on_all(&[first, last], |control| control.exchange(1, &[0, 1], vec![], soon()).unwrap());
}

#[test]
fn a_wrong_world_is_refused_with_both_sizes() {
    let root = named_root();
    let first = join_in_background(member(&root, 0, 2, PATIENT));
    let error = Control::join(member(&root, 1, 3, PATIENT)).unwrap_err().to_string();
    assert!(error.contains("a world of 3 ranks") && error.contains("with 2"), "{error}");
    let last = Control::join(member(&root, 1, 2, PATIENT)).unwrap();
    assert_eq!((first.join().unwrap().unwrap().rank(), last.rank()), (0, 1));
}

#[test]
fn impossible_configurations_are_refused_at_once() {
    let root = Root::Id(local_id());
    for (rank, world, words) in
        [(0, 0, "a world of 0"), (2, 2, "rank 2 in a world of 2"), (0, usize::MAX, "a world of")]
    {
        let error = Control::join(member(&root, rank, world, PATIENT)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_wrong_secret_gets_nowhere_and_harms_nobody() {
    let id = local_id();
    let mut bytes = id.to_bytes();
    let other = local_id().to_bytes();
    // The address of one job with the secret of another.
    bytes[32..80].copy_from_slice(&other[32..80]);
    let forged = unique_id::sealed(bytes).unwrap();
    let first = join_in_background(member(&Root::Id(id.clone()), 0, 2, PATIENT));
    let error = Control::join(member(&Root::Id(forged), 1, 2, SHORT)).unwrap_err().to_string();
    assert!(error.contains("does not hold this job's secret"), "{error}");
    let last = Control::join(member(&Root::Id(id), 1, 2, PATIENT)).unwrap();
    assert_eq!(first.join().unwrap().unwrap().world(), last.world());
}

#[test]
fn strangers_at_the_door_do_not_keep_the_ranks_out() {
    let id = local_id();
    let mut strangers = Vec::new();
    for number in 0..150 {
        let mut stranger = TcpStream::connect(id.address()).unwrap();
        if number % 3 == 0 {
            stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        }
        strangers.push(stranger);
    }
    let ranks = join_all(&Root::Id(id), 3);
    on_all(&ranks, |control| control.exchange(1, &[0, 1, 2], vec![], soon()).unwrap());
    drop(strangers);
}

#[test]
fn a_revocation_reaches_all_ranks_once_also_those_who_listen_late() {
    let ranks = job_of(3);
    let early: Vec<_> = ranks.iter().map(|control| listen(control, 7)).collect();
    let elsewhere = listen(&ranks[0], 8);
    ranks[1].revoke(7, &Error::invalid("first"));
    for (diary, _) in &early {
        assert_eq!(diary.after("revoked"), ["revoked 7: invalid argument: first"]);
    }
    ranks[2].revoke(7, &Error::invalid("second"));
    ranks[2].revoke(8, &Error::invalid("other"));
    assert_eq!(elsewhere.0.after("revoked"), ["revoked 8: invalid argument: other"], "its own communicator only");
    let (late, _registration) = listen(&ranks[0], 7);
    assert_eq!(*lock(&late.entries), ["revoked 7: invalid argument: first"]);
    assert_eq!(lock(&early[0].0.entries).len(), 1);
}

#[test]
fn stalled_in_different_calls_the_communicator_is_revoked_and_both_sides_are_named() {
    let ranks = job_of(3);
    let diaries: Vec<_> = ranks.iter().map(|control| listen(control, 7)).collect();
    let call = |count| Signature { sequence: 41, count, root: Signature::NO_ROOT, ..Signature::zeroed() };
    ranks[0].report_stalled(7, 5, call(10), &[]);
    ranks[2].report_stalled(7, 3, call(11), &[]);
    for (diary, _) in &diaries {
        let entries = diary.after("revoked 7");
        assert!(entries[0].contains("rank 3 called all_reduce #41(count 11"), "{entries:?}");
        assert!(entries[0].contains("rank 5 called all_reduce #41(count 10"), "{entries:?}");
    }
}

#[test]
fn a_goodbye_is_told_as_one_whoever_leaves_first() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut ranks: Vec<Option<Arc<Control>>> = job_of(3).into_iter().map(Some).collect();
        let [first, second, third] = order;
        let (diary, registration) = listen(ranks[third].as_ref().unwrap(), 1);
        drop(ranks[first].take());
        assert_eq!(diary.after("left"), [format!("left {first}")]);
        let left = ranks[second].as_ref().unwrap();
        // Who has left is no longer asked, and is never called lost.
        left.report_lost(first, "its data link closed");
        let members = [first, second];
        let error = left.exchange(1, &members, vec![], soon()).unwrap_err();
        assert_eq!(error, Error::PeerLost { suspects: vec![first], what: "left".into(), during: None });
        drop(ranks[second].take());
        assert_eq!(diary.after(&format!("left {second}")), [format!("left {first}"), format!("left {second}")]);
        drop(registration);
        drop(ranks[third].take());
    }
}

#[test]
fn an_abrupt_end_is_told_to_all_and_fails_what_waits_for_it() {
    let mut ranks = job_of(4);
    let severed = ranks.remove(2);
    let diaries: Vec<_> = ranks.iter().map(|control| listen(control, 1)).collect();
    let (own_diary, _own) = listen(&severed, 1);
    let (ready, cut) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let waiting: Vec<_> = ranks
            .iter()
            .map(|control| {
                let ready = ready.clone();
                scope.spawn(move || {
                    ready.send(()).unwrap();
                    control.exchange(1, &[0, 1, 2, 3], vec![1], soon()).unwrap_err()
                })
            })
            .collect();
        ranks.iter().for_each(|_| cut.recv().unwrap());
        severed.sever();
        for waiting in waiting {
            let error = waiting.join().unwrap();
            assert!(matches!(&error, Error::PeerLost { suspects, .. } if suspects == &[2]), "{error}");
        }
    });
    for (diary, _) in &diaries {
        assert_eq!(diary.after("lost"), ["lost 2: closed its control connection without a goodbye"]);
    }
    // The one that was cut off hears from them that they took it for dead.
    own_diary.after("lost 2");
    let error = severed.exchange(2, &[0, 2], vec![], soon()).unwrap_err();
    assert!(matches!(&error, Error::PeerLost { suspects, .. } if suspects == &[2]), "{error}");
    // The others go on without it.
    on_all(&ranks, |control| control.exchange(3, &[0, 1, 3], vec![], soon()).unwrap());
}

#[test]
fn a_reported_loss_is_told_to_all_also_to_the_one_given_up() {
    let ranks = job_of(3);
    let diaries: Vec<_> = ranks.iter().map(|control| listen(control, 1)).collect();
    ranks[0].report_lost(2, "reset its data link");
    ranks[0].report_lost(99, "never was");
    for (diary, _) in &diaries {
        assert_eq!(diary.after("lost"), ["lost 2: reset its data link"]);
    }
}

#[test]
fn exchanges_of_many_groups_run_at_the_same_time() {
    const ROUNDS: u64 = 30;
    let ranks = job_of(6);
    let groups: [&[Rank]; 5] = [&[0, 1, 2, 3, 4, 5], &[5, 0], &[1, 3, 5], &[4, 2, 0], &[3]];
    thread::scope(|scope| {
        for (tag, group) in groups.iter().enumerate() {
            for member in *group {
                let control = &ranks[*member];
                scope.spawn(move || {
                    // The same tag again and again: an exchange that is over makes room for the next.
                    for round in 0..ROUNDS {
                        let of = |rank: &Rank| [&round.to_le_bytes()[..], &vec![*rank as u8; 3000 * tag]].concat();
                        let parts = control.exchange(tag as u64, group, of(member), soon()).unwrap();
                        assert_eq!(parts, group.iter().map(of).collect::<Vec<_>>());
                    }
                });
            }
        }
    });
}

#[test]
fn the_largest_contributions_arrive_whole_and_larger_ones_are_refused() {
    let ranks = job_of(3);
    let sums = on_all(&ranks, |control| {
        let mine = vec![control.rank() as u8 + 1; MAX_CONTRIBUTION_BYTES];
        let parts = control.exchange(1, &[0, 1, 2], mine, soon()).unwrap();
        parts.concat().iter().map(|byte| u64::from(*byte)).sum::<u64>()
    });
    assert_eq!(sums, [6 * MAX_CONTRIBUTION_BYTES as u64; 3]);
    let too_much = vec![0; MAX_CONTRIBUTION_BYTES + 1];
    assert!(matches!(ranks[0].exchange(1, &[0, 1], too_much, soon()), Err(Error::Invalid { .. })));
    for members in [&[0, 0, 1][..], &[1, 2], &[0, 3], &[]] {
        assert!(matches!(ranks[0].exchange(1, members, vec![], soon()), Err(Error::Invalid { .. })), "{members:?}");
    }
}

#[test]
fn a_deadline_ends_an_exchange_for_all_and_names_who_has_not_contributed() {
    let ranks = job_of(3);
    let errors = on_all(&ranks[..2], |control| {
        let deadline = if control.rank() == 0 { Instant::now() + Duration::from_millis(50) } else { soon() };
        // Either may come so late that the other has failed; rank 2 has never contributed.
        control.exchange(1, &[0, 1, 2], vec![], deadline).unwrap_err()
    });
    for error in errors {
        assert!(matches!(&error, Error::Timeout { waiting_for, .. } if waiting_for.contains(&2)), "{error}");
    }
    let late = ranks[2].exchange(1, &[0, 1, 2], vec![], soon()).unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }), "{late}");
}

#[test]
fn the_last_handle_may_be_dropped_by_a_listener() {
    /// Holds its own rank, and lets go when another leaves.
    struct Holder(Mutex<Option<Arc<Control>>>, std::sync::mpsc::Sender<()>);
    impl Listener for Holder {
        fn peer_lost(&self, _: Rank, _: &str) {}
        fn peer_left(&self, _: Rank) {
            let control = lock(&self.0).take();
            drop(control);
            let _ = self.1.send(());
        }
        fn revoked(&self, _: u64, _: &Error) {}
    }
    let mut ranks = job_of(3);
    let (last, other, first) = (ranks.pop().unwrap(), ranks.pop().unwrap(), ranks.pop().unwrap());
    let (dropped, was_dropped) = std::sync::mpsc::channel();
    let (diary, _registration) = listen(&first, 1);
    let control = last.clone();
    let _holding = control.register(1, Arc::new(Holder(Mutex::new(Some(last)), dropped)));
    drop(control);
    drop(other);
    was_dropped.recv_timeout(PATIENT).unwrap();
    diary.after("left 2");
}

#[test]
fn a_killed_process_is_lost_and_one_that_exits_after_its_goodbye_has_left() {
    if let Some(role) = role() {
        let (ending, id) = role.rsplit_once(' ').unwrap();
        let control = Control::join(member(&Root::Id(id.parse().unwrap()), 1, 2, PATIENT)).unwrap();
        control.exchange(1, &[0, 1], vec![], soon()).unwrap();
        match ending {
            "leaves" => drop(control),
            _ => _ = control.exchange(2, &[0, 1], vec![], soon()),
        }
        std::process::exit(0);
    }
    for ending in ["leaves", "is killed"] {
        let id = local_id();
        let this_test = "a_killed_process_is_lost_and_one_that_exits_after_its_goodbye_has_left";
        let mut child = Killed(process(this_test, &format!("{ending} {id}")));
        let control = Control::join(member(&Root::Id(id), 0, 2, PATIENT)).unwrap();
        let (diary, _registration) = listen(&control, 1);
        control.exchange(1, &[0, 1], vec![], soon()).unwrap();
        if ending == "leaves" {
            assert_eq!(diary.after("left"), ["left 1"]);
        } else {
            child.0.kill().unwrap();
            // Closed or reset, as the kernel found it.
            assert!(diary.after("lost 1: ")[0].contains("its control connection"));
        }
    }
}

#[test]
fn when_the_roots_process_goes_its_ranks_are_gone_and_the_others_go_on() {
    const THIS_TEST: &str = "when_the_roots_process_goes_its_ranks_are_gone_and_the_others_go_on";
    if let Some(ending) = role() {
        let id = local_id();
        println!("\nid {id}");
        let control = Control::join(member(&Root::Id(id), 0, 3, PATIENT)).unwrap();
        control.exchange(1, &[0, 1, 2], vec![], soon()).unwrap();
        match ending.as_str() {
            "leaves" => drop(control),
            _ => _ = control.exchange(2, &[0, 1], vec![], soon()),
        }
        std::process::exit(0);
    }
    for ending in ["leaves", "is killed"] {
        let mut child = Killed(process(THIS_TEST, ending));
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let id = lines.map_while(std::io::Result::ok).find_map(|line| Some(line.strip_prefix("id ")?.to_string()));
        let root = Root::Id(id.unwrap().parse().unwrap());
        let joins = [1, 2].map(|rank| join_in_background(member(&root, rank, 3, PATIENT)));
        let ranks = joins.map(|join| join.join().unwrap().unwrap());
        let diaries = ranks.each_ref().map(|control| listen(control, 1));
        on_all(&ranks, |control| control.exchange(1, &[0, 1, 2], vec![], soon()).unwrap());
        if ending == "is killed" {
            child.0.kill().unwrap();
        }
        child.0.wait().unwrap();
        for (diary, _) in &diaries {
            match ending {
                "leaves" => assert_eq!(diary.after("left"), ["left 0"]),
                _ => assert_eq!(diary.after("lost 0").len(), 1),
            }
        }
        // Rank 1 has taken over, or is about to.
        let answers = on_all(&ranks, |control| control.exchange(3, &[1, 2], vec![control.rank() as u8], soon()));
        assert_eq!(answers, [Ok(vec![vec![1], vec![2]]), Ok(vec![vec![1], vec![2]])]);
        let error = ranks[0].exchange(4, &[0, 1], vec![], soon()).unwrap_err();
        assert!(matches!(&error, Error::PeerLost { suspects, .. } if suspects == &[0]), "{error}");
    }
}

#[test]
fn a_hundred_lives_leave_no_thread_and_no_descriptor_behind() {
    const THIS_TEST: &str = "a_hundred_lives_leave_no_thread_and_no_descriptor_behind";
    if role().is_none() {
        // Alone in a process, where nobody else opens and closes things.
        let output = process(THIS_TEST, "count").wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let thread_names = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect::<Vec<_>>()
    };
    let is_ours = |name: &String| ["roundel-root", "roundel-gate", "roundel-control"].contains(&name.trim());
    // Services end by themselves after their last rank; so does the thread of a severed one.
    let settle = || {
        let deadline = soon();
        while thread_names().iter().any(is_ours) {
            assert!(Instant::now() < deadline, "{:?}", thread_names());
            thread::yield_now();
        }
    };
    drop(job_of(2));
    settle();
    let before = (count("fd"), count("task"));
    for life in 0..100 {
        let mut ranks = if life % 4 == 0 { join_all(&named_root(), 3) } else { job_of(3) };
        if life % 10 == 0 {
            ranks[life % 3].sever();
        }
        ranks.rotate_left(life % 3);
        drop(ranks);
    }
    settle();
    assert_eq!((count("fd"), count("task")), before, "descriptors and threads");
}
