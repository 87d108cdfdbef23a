//! Ranks of this machine that are told to be on different hosts.

use crate::job::{Place, run, start};
use crate::support::{has_ipv6, skip};
use nix::sys::signal::{Signal, kill};

/// One place for each rank, on the host of this number.
fn places(hosts: &[usize], interface: &str) -> Vec<Place> {
    let on = |host| Place::default().with("ROUNDEL_HOST_ID", format!("host {host}")).with("ROUNDEL_IFACE", interface);
    hosts.iter().map(on).collect()
}

fn suite(hosts: &[usize], interface: &str, groups: &str) {
    let said = run(&places(hosts, interface), "suite", "1,2003");
    for lines in said {
        assert!(lines.contains(&format!("hosts {groups}")), "{lines:?}");
    }
}

#[test]
fn two_hosts_of_two() {
    suite(&[0, 0, 1, 1], "lo", "[[0, 1], [2, 3]] shm+tcp");
}

#[test]
fn ranks_dealt_out_in_turn() {
    suite(&[0, 1, 0, 1], "127.0.0.1", "[[0, 2], [1, 3]] shm+tcp");
}

#[test]
fn hosts_of_one_two_and_three() {
    suite(&[0, 1, 1, 2, 2, 2], "lo", "[[0], [1, 2], [3, 4, 5]] shm+tcp");
}

/// Whoever is alone on its host adds up what is under way to the others in memory of its own. (Over several channels also
/// between three hosts: rings.)
#[test]
fn hosts_of_one_two_and_three_in_two_levels() {
    let places: Vec<Place> = places(&[0, 1, 1, 2, 2, 2], "lo")
        .into_iter()
        .map(|place| place.with("ROUNDEL_ALGO", "hierarchical").with("ROUNDEL_CHANNELS", "2"))
        .collect();
    for lines in run(&places, "suite", "1,2003") {
        assert!(lines.iter().any(|line| line == "algorithm hierarchical"), "{lines:?}");
    }
}

#[test]
fn over_the_loopback_of_ipv6() {
    match has_ipv6() {
        true => suite(&[0, 1, 1], "::1", "[[0], [1, 2]] shm+tcp"),
        false => skip("ipv6", "this machine has no IPv6"),
    }
}

#[test]
fn a_stopped_rank_holds_up_only_those_that_wait_for_it() {
    let mut ranks = start(&places(&[0, 1, 2], "lo"), "beside a stopped rank", "");
    for rank in &mut ranks {
        rank.said("ready");
    }
    kill(ranks[2].pid(), Signal::SIGSTOP).unwrap();
    for rank in &mut ranks {
        rank.tell("go");
    }
    ranks[0].said("talked");
    ranks[1].said("talked");
    kill(ranks[2].pid(), Signal::SIGCONT).unwrap();
    for rank in &mut ranks {
        rank.finished();
    }
}
