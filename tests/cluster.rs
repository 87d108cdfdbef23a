//! `roundel-cluster`: hosts on one machine, with cables that have a rate and that things happen to. Results are right whatever
//! the network does, or every rank gets an error.

mod support;

use std::process::{Command, Output};

/// True where there can be hosts; else a line that says why not.
fn possible() -> bool {
    support::netns::allow(
        "ip link add probe type bridge && tc qdisc add dev lo root tbf rate 1gbit burst 256kb latency 20ms && \
         setpriv --pdeathsig KILL -- true",
    )
}

/// Runs `all_reduce_perf` on a cluster.
fn cluster(hosts: &str, perf: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = support::clean(Command::new(env!("CARGO_BIN_EXE_roundel-cluster")));
    command.args(hosts.split_whitespace()).arg("--").arg(env!("CARGO_BIN_EXE_all_reduce_perf"));
    command.args(perf.split_whitespace()).envs(variables.iter().copied());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// All of these clusters get right results.
fn is_right(hosts: &[&str]) {
    if !possible() {
        return;
    }
    for hosts in hosts {
        let output = cluster(hosts, "-b 8 -e 1M -f 64 -n 3 -w 1", &[]);
        let text = text(&output);
        assert!(output.status.success() && text.contains("Out of bounds values : 0 OK"), "{hosts}: {text}");
    }
}

#[test]
fn results_are_right_over_slow_cables_and_uneven_hosts() {
    is_right(&["--ranks 2,2 --rate 500mbit", "--ranks 3,1 --rate 200mbit", "--ranks 1,1,1,1", "--ranks 2,1,2"]);
}

#[test]
fn results_are_right_while_rates_and_packet_sizes_change() {
    is_right(&[
        "--ranks 2,2 --rate 200mbit --at 0.2:1:rate=5mbit --at 1.2:1:rate=500mbit",
        "--ranks 2,2 --at 0.1:1:mtu=1000 --at 0.5:0:mtu=600 --at 1:1:mtu=1500",
    ]);
}

/// Something happens in the midst of calls that would never end, and every rank ends with an error that names a rank.
fn is_noticed(incident: &str) {
    if !possible() {
        return;
    }
    let settings = [("ROUNDEL_HEARTBEAT_TIMEOUT_MS", "1500")];
    let output = cluster(&format!("--ranks 1,1,1 {incident}"), "-b 1M -e 1M -n 1000000 -c 0", &settings);
    let text = text(&output);
    assert!(!output.status.success(), "{incident}: {text}");
    let errors = text.lines().filter(|line| line.starts_with("all_reduce_perf: rank")).collect::<Vec<_>>();
    assert!(!errors.is_empty() && errors.iter().all(|line| line.contains(": rank ")), "{incident}: {text}");
}

#[test]
fn a_cut_cable_is_noticed() {
    is_noticed("--at 1:1:cut");
}

#[test]
fn a_cable_that_is_cut_one_way_is_noticed() {
    is_noticed("--at 1:1:cut-out");
    is_noticed("--at 1:2:cut-in");
}

#[test]
fn an_address_that_changes_is_noticed() {
    is_noticed("--at 1:1:readdress");
}

/// Both cables of two hosts carry calls; something happens to the second cable of one of them in the midst of a call.
fn is_survived(incident: &str, settings: &[(&str, &str)]) {
    if !possible() {
        return;
    }
    // Five seconds at least over both cables: it does happen in the midst of them.
    let hosts = format!("--ranks 1,1 --cables 2 --rate 200mbit --at {incident}");
    let text = text(&cluster(&hosts, "-b 16M -e 16M -n 6 -w 1", settings));
    assert!(text.starts_with("exit status: 0") && text.contains("Out of bounds values : 0 OK"), "{incident}: {text}");
    assert!(text.contains("rail 1 "), "{incident}: nobody says that the rail is lost: {text}");
}

#[test]
fn a_rail_that_is_cut_costs_no_call() {
    is_survived("1.5:1.1:cut", &[]);
}

#[test]
fn a_rail_that_is_cut_one_way_costs_no_call() {
    is_survived("1.5:0.1:cut-out", &[("ROUNDEL_ENCRYPT", "1")]);
}

#[test]
fn a_rail_whose_address_is_gone_costs_no_call() {
    is_survived("1.5:1.1:readdress", &[("ROUNDEL_SOCKETS", "2")]);
}

#[test]
fn results_are_right_over_rails() {
    is_right(&["--ranks 2,2 --cables 2", "--ranks 1,1,1 --cables 3 --rate 300mbit,100mbit,50mbit"]);
}

#[test]
fn the_loss_of_all_rails_is_noticed() {
    is_noticed("--cables 2 --at 1:1.1:cut --at 1.2:1:cut");
}

#[test]
fn the_program_s_end_is_told() {
    if !possible() {
        return;
    }
    for (script, code) in [("exit 0", Some(0)), ("test $RANK != 2 || exit 7", Some(7))] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roundel-cluster"));
        let output = command.args(["--ranks", "2,1", "--", "sh", "-c", script]).output().unwrap();
        assert_eq!(output.status.code(), code, "{script}: {}", text(&output));
    }
}
