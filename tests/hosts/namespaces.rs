//! Two hosts that share nothing but a cable.

use crate::job::{Place, run, start};
use crate::net::{Net, V4, V6, in_own_namespaces};
use crate::support::{Rank, has_ipv6, skip};

/// Says whether any rank said this line.
fn all_said(said: &[Vec<String>], line: &str) {
    for (rank, lines) in said.iter().enumerate() {
        assert!(lines.iter().any(|other| other == line), "rank {rank} did not say {line:?} but {lines:?}");
    }
}

pub fn with(places: Vec<Place>, settings: &[(&str, &str)]) -> Vec<Place> {
    let set = |place| settings.iter().fold(place, |place: Place, (name, value)| place.with(name, value));
    places.into_iter().map(set).collect()
}

#[test]
fn every_collective_over_ipv4() {
    in_own_namespaces("namespaces::every_collective_over_ipv4", || {
        let net = Net::new();
        let said = run(&net.places([2, 2], V4), "suite", "1,1000,30001");
        all_said(&said, "hosts [[0, 1], [2, 3]] shm+tcp");
        all_said(&said, "algorithm hierarchical");
    });
}

#[test]
fn every_collective_over_ipv6() {
    if !has_ipv6() {
        return skip("ipv6", "this machine has no IPv6");
    }
    in_own_namespaces("namespaces::every_collective_over_ipv6", || {
        let net = Net::new();
        let said = run(&net.places([2, 2], V6), "suite", "777");
        all_said(&said, "hosts [[0, 1], [2, 3]] shm+tcp");
    });
}

#[test]
fn three_ranks_here_and_one_there() {
    in_own_namespaces("namespaces::three_ranks_here_and_one_there", || {
        let net = Net::new();
        let said = run(&net.places([3, 1], V4), "suite", "1,5003");
        all_said(&said, "hosts [[0, 1, 2], [3]] shm+tcp");
    });
}

#[test]
fn big_vectors_over_several_sockets_and_channels() {
    in_own_namespaces("namespaces::big_vectors_over_several_sockets_and_channels", || {
        let net = Net::new();
        let count = (8 << 20) / 8;
        let places = with(net.places([2, 2], V4), &[("ROUNDEL_SOCKETS", "3"), ("ROUNDEL_CHANNELS", "2")]);
        let said = run(&places, "big", &count.to_string());
        all_said(&said, "algorithm hierarchical over shm+tcp");
        let said = run(&with(places, &[("ROUNDEL_ALGO", "ring")]), "big", &count.to_string());
        all_said(&said, "algorithm ring over shm+tcp");
    });
}

#[test]
fn reproducible_sums_have_the_same_bits_on_one_host_and_on_two() {
    in_own_namespaces("namespaces::reproducible_sums_have_the_same_bits_on_one_host_and_on_two", || {
        let net = Net::new();
        let bits = |ranks, hosts: &str, settings: &[(&str, &str)]| {
            let settings = [&[("ROUNDEL_REPRODUCIBLE", "1")], settings].concat();
            let said = run(&with(net.places(ranks, V4), &settings), "bits", "3,1000,100003");
            all_said(&said, &format!("hosts {hosts}"));
            let bits = said[0].iter().find(|line| line.starts_with("bits")).unwrap().clone();
            all_said(&said, &bits);
            bits
        };
        let on_two = bits([2, 2], "[[0, 1], [2, 3]]", &[]);
        assert_eq!(on_two, bits([4, 0], "[[0, 1, 2, 3]]", &[]));
        assert_eq!(on_two, bits([1, 3], "[[0], [1, 2, 3]]", &[("ROUNDEL_CHANNELS", "2")]));
        assert_eq!(on_two, bits([0, 4], "[[0], [1], [2], [3]]", &[("ROUNDEL_TRANSPORT", "tcp")]));
    });
}

#[test]
fn all_ranks_name_the_one_that_was_killed_on_the_other_host() {
    in_own_namespaces("namespaces::all_ranks_name_the_one_that_was_killed_on_the_other_host", || {
        let net = Net::new();
        let mut ranks = start(&net.places([2, 2], V4), "until it fails", "");
        for rank in &mut ranks {
            rank.said("ready");
        }
        ranks[3].kill();
        for rank in &mut ranks[..3] {
            assert_eq!(rank.said("lost"), "[3]");
            rank.finished();
        }
    });
}

/// Pulls the plug and returns what each rank's next call says.
fn after_the_cut(argument: &str) -> Vec<String> {
    const TIMEOUT_MS: u64 = 700;
    let net = Net::new();
    let places = with(net.places([2, 2], V4), &[("ROUNDEL_TIMEOUT_MS", &TIMEOUT_MS.to_string())]);
    let mut ranks = start(&places, "after the word", argument);
    for rank in &mut ranks {
        rank.said("ready");
    }
    net.cut();
    for rank in &mut ranks {
        rank.tell("go");
    }
    let errors: Vec<String> = ranks.iter_mut().map(|rank| rank.said("error")).collect();
    for rank in &mut ranks {
        rank.tell("leave");
    }
    // Leaving, too, must not wait for ever for hosts that cannot be told.
    ranks.iter_mut().for_each(|rank| drop(Rank::finished(rank)));
    errors
        .into_iter()
        .map(|error| {
            let (elapsed_ms, kind) = error.split_once(' ').unwrap();
            // Not before its time, and well before the patience of the test.
            let elapsed_ms: u64 = elapsed_ms.parse().unwrap();
            assert!((TIMEOUT_MS - 50..TIMEOUT_MS + 20_000).contains(&elapsed_ms), "{elapsed_ms} ms: {kind}");
            kind.to_string()
        })
        .collect()
}

#[test]
fn a_cut_cable_is_a_timeout() {
    in_own_namespaces("namespaces::a_cut_cable_is_a_timeout", || {
        for error in after_the_cut("warm") {
            assert!(error.starts_with("timeout"), "{error}");
        }
    });
}

#[test]
fn a_cable_cut_before_the_first_call_is_a_timeout() {
    in_own_namespaces("namespaces::a_cable_cut_before_the_first_call_is_a_timeout", || {
        for error in after_the_cut("cold") {
            assert!(error.starts_with("timeout"), "{error}");
        }
    });
}

#[test]
fn ports_are_those_that_the_firewall_lets_through() {
    in_own_namespaces("namespaces::ports_are_those_that_the_firewall_lets_through", || {
        let net = Net::new();
        // A network of the test's own: all of its ports are free.
        let said = run(&with(net.places([2, 2], V4), &[("ROUNDEL_PORT_RANGE", "20000-20004")]), "ports", "");
        let ports = |ranks: &[Vec<String>]| {
            let lines = ranks.iter().map(|lines| lines.last().unwrap().trim_start_matches("ports "));
            let mut ports: Vec<u16> =
                lines.flat_map(|line| line.split(',')).map(|port| port.parse().unwrap()).collect();
            ports.sort_unstable();
            ports
        };
        // Each rank has a data endpoint and a door for those who look for a root; the root is on the first host.
        assert_eq!(ports(&said[..2]), [20000, 20001, 20002, 20003, 20004]);
        assert_eq!(ports(&said[2..]), [20000, 20001, 20002, 20003]);
    });
}
