//! The client against a real etcd, and against what is none.

#[path = "../../../tests/support/etcd.rs"]
mod server;

use super::super::register::tests::{member, way};
use super::super::{Appeal, Ruling, StoreChoice, find, publish, retire, rule};
use super::*;
use crate::bootstrap::{Config, Control, Root, UniqueId};
use crate::topology::detect::process_id;
use server::Etcd as Server;
use std::io::{Read, Write as _};
use std::net::TcpListener;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// None, with a line that says so, where there is no etcd.
fn server() -> Option<Server> {
    let Some(why) = server::is_missing() else { return Some(Server::start()) };
    let required = std::env::var("ROUNDEL_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split([',', ' ']).any(|word| word == "etcd"), "etcd is required, but {why}");
    eprintln!("skipped: {why}");
    None
}

fn shelf(run: u64) -> Shelf {
    Shelf { job: [0xab; 16], run }
}

fn client(server: &Server, run: u64) -> Etcd {
    Etcd::new(&[server.door().to_string()], shelf(run))
}

fn appeal(living: &[usize], doubtful: &[usize]) -> Appeal {
    let members = |ranks: &[usize]| ranks.iter().copied().map(member).collect();
    Appeal { living: members(living), doubtful: members(doubtful), is_outnumbered: false }
}

#[test]
fn a_register_is_replaced_only_by_who_has_seen_it() {
    let Some(server) = server() else { return };
    let [mine, theirs] = [(); 2].map(|()| client(&server, 1));
    let held = mine.load(soon()).unwrap();
    assert_eq!(held, Held { register: Register::default(), revision: Revision::NONE });
    let mut register = Register::default();
    register.publish(&[member(0)], &way(4));
    assert!(mine.swap(held.revision, &register, soon()).unwrap());
    assert!(!theirs.swap(held.revision, &Register::default(), soon()).unwrap(), "it is there now");
    let seen = theirs.load(soon()).unwrap();
    assert_eq!(seen.register, register);
    assert!(theirs.swap(seen.revision, &Register::default(), soon()).unwrap());
    assert!(!mine.remove(seen.revision, soon()).unwrap(), "it has changed");
    assert_eq!(client(&server, 2).load(soon()).unwrap().revision, Revision::NONE, "another run of the job");
    let seen = mine.load(soon()).unwrap();
    assert!(mine.remove(seen.revision, soon()).unwrap() && !mine.remove(seen.revision, soon()).unwrap());
    assert_eq!(mine.load(soon()).unwrap().revision, Revision::NONE);
}

/// Eight parts, each of one rank, ask at the same time, again and again; none knows what the others were told.
#[test]
fn of_many_parts_that_ask_at_once_one_goes_on() {
    let Some(server) = server() else { return };
    for run in 0..5 {
        let ask = |me: usize| {
            let others: Vec<usize> = (0..8).filter(|other| *other != me).collect();
            rule(&client(&server, run), &appeal(&[me], &others), &way(me as u32), soon())
        };
        let rulings: Vec<Ruling> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8).map(|me| scope.spawn(move || ask(me))).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(rulings.iter().filter(|ruling| **ruling == Ruling::Granted).count(), 1, "{rulings:?}");
        assert_eq!(rulings.iter().filter(|ruling| **ruling == Ruling::Denied).count(), 7, "{rulings:?}");
        let winner = rulings.iter().position(|ruling| *ruling == Ruling::Granted).unwrap();
        let store = client(&server, run);
        assert_eq!(find(&store, soon()).unwrap(), way(winner as u32).doors);
        retire(&store, soon()).unwrap();
        assert_ne!(store.load(soon()).unwrap().revision, Revision::NONE, "those who were given up must find it");
    }
}

#[test]
fn what_is_written_outlives_the_etcd_and_an_endpoint_that_does_not_answer_is_passed_over() {
    let Some(mut server) = server() else { return };
    // It lets everybody in and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let doors = [silent.local_addr().unwrap().to_string(), server.door().to_string()];
    let store = Etcd::new(&doors, shelf(1));
    publish(&store, &[member(0)], &way(4), soon()).unwrap();
    let began = Instant::now();
    (0..20).for_each(|_| _ = store.load(soon()).unwrap());
    assert!(began.elapsed() < 10 * PATIENCE, "the one that answers is asked first");
    server.kill();
    let error = store.load(Instant::now() + Duration::from_millis(300)).unwrap_err().to_string();
    assert!(doors.iter().all(|door| error.contains(door)), "{error}");
    // While it is asked, it comes back.
    let store = &store;
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| rule(store, &appeal(&[0], &[1]), &way(4), soon()));
        assert!((0..5).any(|_| server.resume()));
        assert_eq!(asking.join().unwrap(), Ruling::Granted);
    });
    assert_eq!(find(store, soon()).unwrap(), way(4).doors);
    retire(store, soon()).unwrap();
}

/// Answers every request with this text.
fn impostor(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    door
}

#[test]
fn what_is_no_etcd_is_an_error() {
    let http = |status: &str, body: &str| format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let ok = |body| http("200 OK", body);
    for (answer, why) in [
        (String::new(), "no etcd answers"),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_string(), "no etcd answers"),
        (http("404 Not Found", "nope"), "HTTP status 404, nope"),
        (ok("nope"), "no etcd of version 3.4"),
        (ok(r#"{"kvs":[{"mod_revision":"seven"}]}"#), "no etcd of version 3.4"),
        (ok(r#"{"kvs":[{"mod_revision":"7","value":"?"}]}"#), "no etcd of version 3.4"),
        (ok(r#"{"kvs":[{"mod_revision":"7","value":"bm8="}]}"#), "register in the store makes no sense"),
        (ok("{}")[..30].to_string(), "no etcd answers"),
    ] {
        let store = Etcd::new(&[impostor(answer)], shelf(1));
        let error = store.load(soon()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_store_that_is_not_there_is_said_before_the_job_begins() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let choice: StoreChoice = format!("etcd://{free}").parse().unwrap();
    let error = choice.reach([1; 16], soon()).unwrap_err().to_string();
    assert!(error.contains(&free.to_string()) && error.contains("ROUNDEL_STORE"), "{error}");
}

#[test]
fn keys_name_job_and_run() {
    assert_eq!(key(shelf(0x17)), "/roundel/abababababababababababababababab/0000000000000017");
}

/// A job of two ranks, from its first word to the store to its last.
#[test]
fn a_job_says_where_it_is_and_leaves_nothing_behind() {
    let Some(server) = server() else { return };
    let store: StoreChoice = server.url().parse().unwrap();
    let root = Root::Id(UniqueId::with_interface("127.0.0.1").unwrap());
    let join = |rank| {
        let config = Config::new(root.clone(), rank, 2, Duration::from_secs(60), None);
        Control::join(Config { store: store.clone(), ..config }).unwrap()
    };
    let join = &join;
    let ranks: Vec<_> = std::thread::scope(|scope| {
        let joining: Vec<_> = (0..2).map(|rank| scope.spawn(move || join(rank))).collect();
        joining.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let shelf = Shelf { job: root.job(), run: process_id().unwrap() };
    let register = Etcd::new(&[server.door().to_string()], shelf);
    let deadline = soon();
    let doors = loop {
        let doors = find(&register, deadline).unwrap();
        if !doors.is_empty() {
            break doors;
        }
        assert!(Instant::now() < deadline, "it never said where it is");
        std::thread::yield_now();
    };
    assert_eq!(doors, ranks[0].invitation().unwrap().doors);
    drop(ranks);
    assert_eq!(register.load(soon()).unwrap().revision, Revision::NONE);
}

#[test]
fn ranks_of_one_job_have_one_store() {
    let Some(server) = server() else { return };
    let root = Root::Id(UniqueId::with_interface("127.0.0.1").unwrap());
    let config = |rank| Config::new(root.clone(), rank, 2, Duration::from_secs(60), None);
    let with_store = Config { store: server.url().parse().unwrap(), ..config(1) };
    let without = config(0);
    std::thread::scope(|scope| {
        // Whichever comes second is told; the first waits for it until its patience ends.
        let short = Duration::from_secs(2);
        let joining = [with_store, without].map(|config| Config { timeout: short, ..config });
        let joining = joining.map(|config| scope.spawn(move || Control::join(config)));
        let errors = joining.map(|thread| thread.join().unwrap().map(drop).unwrap_err().to_string());
        assert!(errors.iter().any(|error| error.contains("ROUNDEL_STORE=embedded")), "{errors:?}");
    });
}
