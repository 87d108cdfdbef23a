//! Two hosts with as many ranks each lose each other: who goes on? With a store on a third host, that is for the store to say.
//!
//! ```text
//!   ranks 0 1   10.77.0.1 ------- cut ------- 10.77.0.2   ranks 2 3
//!               10.78.0.1 --- 10.78.0.9  10.78.1.9 --- 10.78.1.2
//!                                   etcd
//! ```

use crate::etcd::{Etcd, is_missing};
use crate::job::{Place, join, start};
use crate::namespaces::with;
use crate::net::{Net, V4, in_own_namespaces, ip};
use crate::support::{heard, say, skip};
use roundel::{Error, ReduceOp};

/// Nobody else has this network: any port is free, and this one is etcd's.
const PORT: u16 = 2379;

/// In a rank process: works until some are lost, and then without them, if it may. `stays`: until it is told to leave.
pub fn after_a_loss(argument: &str) {
    let comm = join();
    let mut is_ready = false;
    let error = loop {
        match comm.all_reduce_in_place(&mut [1u32; 100], ReduceOp::Sum) {
            Err(error) => break error,
            Ok(()) if !is_ready => say("ready"),
            Ok(()) => {}
        }
        is_ready = true;
    };
    assert!(matches!(error, Error::PeerLost { .. }), "{error}");
    let rest = match comm.shrink() {
        Err(error @ Error::PeerLost { .. }) => {
            say(format_args!("outcome stops: {error}"));
            heard();
            return;
        }
        rest => rest.unwrap(),
    };
    let mut sum = [1u32 << rest.members()[rest.rank()]; 100];
    rest.all_reduce_in_place(&mut sum, ReduceOp::Sum).unwrap();
    let right: u32 = rest.members().iter().map(|rank| 1 << rank).sum();
    assert_eq!(sum, [right; 100]);
    say(format_args!("outcome goes on as {:?}", rest.members()));
    // Until all have their result: a goodbye is a loss to those who have not.
    rest.barrier().unwrap();
    if argument == "stays" {
        heard();
    }
}

/// A third host, with a cable to each of the two.
struct Third {
    name: String,
}

impl Third {
    fn beside(net: &Net) -> Third {
        let name = format!("roundel-{}-c", std::process::id());
        ip(&format!("netns add {name}"));
        let third = Third { name };
        let name = &third.name;
        ip(&format!("-n {name} link set lo up"));
        for (host, its_name) in net.names().iter().enumerate() {
            ip(&format!("link add to{host} netns {name} type veth peer name store netns {its_name}"));
            ip(&format!("-n {name} addr add 10.78.{host}.9/24 dev to{host}"));
            ip(&format!("-n {name} link set to{host} up"));
            ip(&format!("-n {its_name} addr add 10.78.{host}.{}/24 dev store", host + 1));
            ip(&format!("-n {its_name} link set store up"));
        }
        third
    }

    fn start_etcd(&self) -> Etcd {
        let prefix = ["ip", "netns", "exec", &self.name].map(String::from);
        let doors = (0..2).map(|host| format!("10.78.{host}.9:{PORT}")).collect();
        Etcd::start_at(&prefix, doors).expect("nobody else is in there")
    }

    /// Pulls the plug of one of the two hosts.
    fn cut(&self, host: usize) {
        ip(&format!("-n {} link set to{host} down", self.name));
    }
}

impl Drop for Third {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Runs `test` where there are an etcd and namespaces.
fn with_etcd(name: &str, test: impl FnOnce(&Net, &Third, &Etcd)) {
    if let Some(why) = is_missing() {
        return skip("etcd", why);
    }
    in_own_namespaces(&format!("store::{name}"), || {
        let net = Net::new();
        let third = Third::beside(&net);
        let etcd = third.start_etcd();
        test(&net, &third, &etcd);
    });
}

/// What becomes of the ranks of both hosts when `cut` has cut them off from each other.
fn after_the_cut(net: &Net, store: &str, argument: &str, cut: impl FnOnce()) -> Vec<String> {
    let settings = [("ROUNDEL_STORE", store), ("ROUNDEL_HEARTBEAT_TIMEOUT_MS", "3000")];
    let places: Vec<Place> = with(net.places([2, 2], V4), &settings);
    let mut ranks = start(&places, "after a loss", argument);
    ranks.iter_mut().for_each(|rank| _ = rank.said("ready"));
    cut();
    let outcomes: Vec<String> = ranks.iter_mut().map(|rank| rank.said("outcome")).collect();
    for (rank, outcome) in ranks.iter_mut().zip(&outcomes) {
        if argument == "stays" || outcome.starts_with("stops") {
            rank.tell("leave");
        }
        rank.finished();
    }
    outcomes
}

const FIRST_HALF: &str = "goes on as [0, 1]";
const SECOND_HALF: &str = "goes on as [2, 3]";

fn assert_stops(outcomes: &[String], why: &str) {
    for outcome in outcomes {
        assert!(outcome.starts_with("stops: ") && outcome.contains(why), "{outcome}");
    }
}

#[test]
fn without_a_store_numbers_and_the_lowest_rank_decide() {
    in_own_namespaces("store::without_a_store_numbers_and_the_lowest_rank_decide", || {
        let net = Net::new();
        let outcomes = after_the_cut(&net, "embedded", "stays", || net.cut());
        assert_eq!(outcomes[..2], [FIRST_HALF; 2]);
        assert_stops(&outcomes[2..], "outnumber");
    });
}

#[test]
fn of_two_halves_that_reach_the_store_one_goes_on() {
    with_etcd("of_two_halves_that_reach_the_store_one_goes_on", |net, _, etcd| {
        one_goes_on(&after_the_cut(net, &etcd.url(), "stays", || net.cut()));
    });
}

/// Those who have gone on are done, and known to be dead, before the others ask (all processes here are of one machine).
#[test]
fn also_when_it_has_ended_before_the_other_asks() {
    with_etcd("also_when_it_has_ended_before_the_other_asks", |net, _, etcd| {
        one_goes_on(&after_the_cut(net, &etcd.url(), "ends", || net.cut()));
    });
}

fn one_goes_on(outcomes: &[String]) {
    let given_up = "given up the ranks on this side";
    match outcomes[0].as_str() {
        FIRST_HALF => {
            assert_eq!(outcomes[1], FIRST_HALF);
            assert_stops(&outcomes[2..], given_up);
        }
        _ => {
            assert_eq!(outcomes[2..], [SECOND_HALF; 2]);
            assert_stops(&outcomes[..2], given_up);
        }
    }
}

/// The half of rank 0, where the root was: without a store the job would be lost with it.
#[test]
fn a_half_that_is_cut_off_from_the_store_too_stops_and_the_other_goes_on() {
    with_etcd("a_half_that_is_cut_off_from_the_store_too_stops_and_the_other_goes_on", |net, third, etcd| {
        let outcomes = after_the_cut(net, &etcd.url(), "stays", || {
            third.cut(0);
            net.cut();
        });
        assert_stops(&outcomes[..2], "it could not be asked");
        assert_eq!(outcomes[2..], [SECOND_HALF; 2]);
    });
}
