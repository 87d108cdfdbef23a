//! The chaos runner, at a size for every day: a few dozen events over shared memory, over TCP, and over cables that are cut.

mod support;

use nix::sys::ptrace;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Generous: machines that run tests may be busy with other things.
const USUAL: &str = "--heartbeat-timeout 1500 --bound 100 --largest 512K --verbose";

/// Nothing takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

fn command(line: &str) -> Command {
    let mut command = support::clean(Command::new(env!("CARGO_BIN_EXE_roundel-chaos")));
    command.args(format!("{line} {USUAL}").split_whitespace());
    command
}

fn run(line: &str) -> Output {
    command(line).output().unwrap()
}

fn all_is_right(line: &str) {
    let output = run(line);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {}\n{stdout}\n{stderr}", output.status);
    println!("{stdout}");
}

#[test]
fn over_shm() {
    all_is_right("--transport shm --seed 1 --events 24");
}

#[test]
fn over_tcp() {
    all_is_right("--transport tcp --seed 2 --events 24");
}

#[test]
fn over_links_that_turn_bits_over() {
    // Debuggers are forbidden in some containers, even for one's own children.
    let mut child = Command::new("sleep").arg("100").spawn().unwrap();
    let is_possible = std::thread::spawn({
        let pid = Pid::from_raw(child.id() as i32);
        move || ptrace::seize(pid, ptrace::Options::empty()).is_ok()
    });
    let is_possible = is_possible.join().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    if !is_possible {
        return support::skip("ptrace", "this user may not watch processes");
    }
    all_is_right("--transport tcp --set ROUNDEL_CHECKSUM=1 --seed 5 --events 12 --kinds bit-flip,kill,join");
    all_is_right("--transport tcp --set ROUNDEL_ENCRYPT=1 --seed 6 --events 4 --kinds bit-flip");
}

#[test]
fn over_cables_that_are_cut() {
    if !support::netns::allow("ip link add probe type bridge") {
        return;
    }
    all_is_right("--transport tcp --namespaces --seed 3 --events 10 --kinds cut-out,cut-in,cut-both,join");
}

#[test]
fn ranks_do_not_outlive_the_runner() {
    let mut runner = command("--transport shm --seed 4 --events 1000000").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(runner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", runner.id())).unwrap();
    runner.kill().unwrap();
    runner.wait().unwrap();
    let children: Vec<i32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(children.len() >= 2, "after {line:?}: {children:?}");
    let deadline = Instant::now() + PATIENCE;
    for child in children {
        // Whoever waits for those without a parent may take a moment.
        while kill(Pid::from_raw(child), None).is_ok() && !is_zombie(child) {
            assert!(Instant::now() < deadline, "process {child} is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[test]
fn bad_command_lines_are_one_clear_line() {
    for (line, word) in [("--ranks 1", "--ranks"), ("--transport pigeon", "pigeon"), ("--kinds cut-in", "--namespaces")]
    {
        let output = run(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{line}: {stderr}");
        assert!(stderr.contains(word), "{line}: {stderr}");
    }
}
