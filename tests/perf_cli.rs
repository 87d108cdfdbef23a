//! The `*_perf` programs as a user runs them: real processes and threads, small sizes.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const ALL_REDUCE: &str = env!("CARGO_BIN_EXE_all_reduce_perf");

/// Every program, and whether it has an in-place half.
const PROGRAMS: [(&str, bool); 9] = [
    (ALL_REDUCE, true),
    (env!("CARGO_BIN_EXE_broadcast_perf"), true),
    (env!("CARGO_BIN_EXE_reduce_perf"), true),
    (env!("CARGO_BIN_EXE_reduce_scatter_perf"), true),
    (env!("CARGO_BIN_EXE_all_gather_perf"), true),
    (env!("CARGO_BIN_EXE_alltoall_perf"), true),
    (env!("CARGO_BIN_EXE_gather_perf"), true),
    (env!("CARGO_BIN_EXE_scatter_perf"), true),
    (env!("CARGO_BIN_EXE_sendrecv_perf"), false),
];

/// Long enough for a loaded machine, short enough that a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program without whatever a launcher or the user left in this test's environment.
fn program(path: &str, line: &str) -> Command {
    let mut command = Command::new(path);
    command.args(line.split_whitespace()).stdin(Stdio::null());
    for (name, _) in std::env::vars() {
        let launcher =
            ["ROUNDEL_", "OMPI_", "PMI", "SLURM_", "TORCHELASTIC_"].iter().any(|prefix| name.starts_with(prefix));
        if launcher || ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"].contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    // What the user of the tests has measured is not to decide what they see.
    command.env("ROUNDEL_TUNE", "0");
    command
}

/// Runs it to its end, which must come in time.
fn output(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program was built");
    let read = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).map(|_| bytes)
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{command:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: stdout.join().unwrap().unwrap(), stderr: stderr.join().unwrap().unwrap() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it prints, after it ended well.
fn printed(command: Command) -> String {
    let what = format!("{command:?}");
    let output = output(command);
    assert!(output.status.success(), "{what}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The rows of `--json`, all of which must be right.
fn rows(command: Command) -> Vec<Value> {
    let text = printed(command);
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!rows.is_empty());
    for row in &rows {
        assert_eq!(row["wrong"], 0, "{row}");
    }
    rows
}

/// The end of a run that must fail: its exit code, and its standard error.
fn failure(command: Command) -> (Option<i32>, String) {
    let what = format!("{command:?}");
    let output = output(command);
    assert!(!output.status.success(), "{what} succeeded");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn every_collective_between_processes() {
    for (path, has_in_place) in PROGRAMS {
        let table = printed(program(path, "--procs 3 -b 8 -e 64K -f 32 -n 3"));
        let data: Vec<Vec<&str>> =
            table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect()).collect();
        assert!(data.len() >= 3, "{table}");
        for row in data {
            assert_eq!(row.len(), 5 + 8, "{table}");
            assert_eq!(row[8], "0", "{table}");
            assert_eq!(row[12], if has_in_place { "0" } else { "N/A" }, "{table}");
        }
        assert!(table.contains("# Out of bounds values : 0 OK"), "{table}");
        assert!(table.contains("# 3 ranks on 1 host, transport shm"), "{table}");
    }
}

#[test]
fn every_collective_between_threads_of_two_processes_over_tcp() {
    for (path, _) in PROGRAMS {
        let mut command = program(path, "--procs 2 -t 2 -b 1000 -e 30000 -f 30 -n 2 --json -d int8");
        command.env("ROUNDEL_TRANSPORT", "tcp");
        for row in rows(command) {
            assert_eq!((&row["ranks"], &row["transport"]), (&4.into(), &"tcp".into()), "{row}");
        }
    }
}

#[test]
fn every_type_and_operation() {
    for line in ["--procs 2", "-t 3", "-t 3 -R 1"] {
        let rows = rows(program(ALL_REDUCE, &format!("{line} -b 40 -e 4000 -f 100 -n 1 -w 0 -d all -o all --json")));
        // Nine operations on six integer types, six on six float types; two sizes; out of place and in place.
        assert_eq!(rows.len(), (6 * 9 + 6 * 6) * 2 * 2, "{line}");
    }
    let movement = rows(program(PROGRAMS[5].0, "--procs 2 -b 64 -e 64 -n 1 -d all --json"));
    assert_eq!(movement.len(), 12 * 2);
}

#[test]
fn every_root() {
    for (path, _) in &PROGRAMS[1..3] {
        let rows = rows(program(path, "-t 3 -r all -b 4K -e 4K -n 1 --json"));
        let roots: Vec<&Value> = rows.iter().map(|row| &row["root"]).collect();
        assert_eq!(roots, [0, 0, 1, 1, 2, 2]);
    }
}

#[test]
fn the_ways_of_measuring() {
    for line in [
        "-z 1",
        "-z 2",
        "-m 3",
        "-m 3 -z 2",
        "-a 0",
        "-a 2",
        "-a 3",
        "-C 1",
        "-R 1",
        "-u 3",
        "-N 2",
        "-c 2",
        "-I 1 -S 1",
        "--reuse-buffers",
        "--reproducible",
        "-T 60",
        "-b 16 -e 48 -i 16",
    ] {
        let table = printed(program(ALL_REDUCE, &format!("--procs 2 -b 1K -e 16K -n 3 {line}")));
        assert!(table.contains("# Out of bounds values : 0 OK"), "{line}\n{table}");
    }
}

#[test]
fn json_rows_say_everything() {
    let rows = rows(program(ALL_REDUCE, "--procs 2 -b 4K -e 4K -n 7 -d half -o max --json"));
    let expected = [
        ("op", Value::from("all_reduce")),
        ("dtype", "half".into()),
        ("redop", "max".into()),
        ("root", Value::Null),
        ("ranks", 2.into()),
        ("bytes", 4096.into()),
        ("count", 2048.into()),
        ("iters", 7.into()),
        ("wrong", 0.into()),
        ("transport", "shm".into()),
    ];
    assert_eq!(rows.len(), 2);
    for (row, in_place) in rows.iter().zip([false, true]) {
        assert_eq!(row["in_place"], in_place);
        for (name, value) in &expected {
            assert_eq!(&row[*name], value, "{name} of {row}");
        }
        let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} of {row}"));
        assert!(number("time_us_min") <= number("time_us_median") && number("time_us_median") <= number("time_us_p99"));
        assert!(number("time_us") > 0.0 && number("channels") >= 1.0);
        // For two ranks the factor of all-reduce is 1.
        assert_eq!(number("algbw_GBps"), number("busbw_GBps"));
        assert!(!row["algorithm"].as_str().unwrap().is_empty());
    }
}

#[test]
fn files_for_people_and_programs() {
    let folder = std::env::temp_dir().join(format!("roundel-perf-cli-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let line = format!(
        "--procs 2 -b 8 -e 8K -f 32 -n 2 --json={} --csv={} --plot {}",
        path("rows.json"),
        path("rows.csv"),
        path("plot.svg")
    );
    let table = printed(program(ALL_REDUCE, &line));
    assert!(table.contains("# Out of bounds values : 0 OK"), "{table}");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(read("rows.json").lines().count(), 3 * 2);
    let csv = read("rows.csv");
    assert!(csv.starts_with("op,dtype,redop,root,ranks,bytes,count,in_place"), "{csv}");
    assert_eq!(csv.lines().count(), 1 + 3 * 2);
    let picture = read("plot.svg");
    assert!(
        picture.starts_with("<svg") && picture.contains("bus bandwidth") && picture.contains("all_reduce, 2 ranks")
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn explanations() {
    let text = printed(program(ALL_REDUCE, "--procs 2 -b 8 -e 1M -f 1024 --explain"));
    assert_eq!(text.lines().count(), 1 + 2, "{text}");
    assert!(text.lines().next().unwrap().contains("algorithm"));
    let mut ring = program(ALL_REDUCE, "--procs 3 -b 1M -e 1M --explain=program");
    ring.env("ROUNDEL_ALGO", "ring");
    let text = printed(ring);
    assert!(text.contains("ring"), "{text}");
    for rank in 0..3 {
        assert!(text.contains(&format!("rank {rank}")), "{text}");
    }
}

#[test]
fn explanations_say_where_the_choice_came_from() {
    let text = printed(program(ALL_REDUCE, "--procs 2 -b 8 -e 8 --explain"));
    assert!(text.contains("built in"), "{text}");
    let mut set = program(ALL_REDUCE, "--procs 2 -b 1M -e 1M --explain");
    set.env("ROUNDEL_ALGO", "ring");
    assert!(printed(set).contains("override"));
}

const TUNE: &str = env!("CARGO_BIN_EXE_roundel-tune");

#[test]
fn tuning_prints_rows_and_keeps_what_jobs_then_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kept");
    let line =
        format!("--procs 2 -b 128 -e 8K --collectives all_reduce,all_gather --seconds 1 --write={}", file.display());
    let table = printed(program(TUNE, &line));
    assert!(table.contains("mean absolute error"), "{table}");
    assert!(table.contains(&format!("written to {}", file.display())), "{table}");
    // Four sizes of two collectives, with private and with mapped buffers.
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(rows.count(), 4 * 2 * 2, "{table}");
    assert!(std::fs::metadata(&file).unwrap().len() > 50);

    let mut job = program(ALL_REDUCE, "--procs 2 -b 8 -e 8K -f 32 -n 2");
    job.env("ROUNDEL_TUNE", "1").env("ROUNDEL_TUNE_FILE", &file);
    assert!(printed(job).contains("# Out of bounds values : 0 OK"));

    // Another number of ranks is another topology: said once, and no reason to fail.
    let mut other = program(ALL_REDUCE, "--procs 3 -b 8 -e 8 -n 2");
    other.env("ROUNDEL_TUNE", "auto").env("ROUNDEL_TUNE_FILE", &file);
    let output = output(other);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("are not used").count(), 1, "{said}");
    assert!(said.contains("[[0, 1]]") && said.contains("[[0, 1, 2]]"), "{said}");
}

#[test]
fn tuning_as_json() {
    let rows = printed(program(TUNE, "--procs 2 -b 512 -e 2K --collectives broadcast --seconds 1 --json"));
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let (sums, rows): (Vec<Value>, Vec<Value>) = rows.into_iter().partition(|row| row["op"].is_null());
    assert_eq!((sums.len(), rows.len()), (2, 2 * 2));
    for row in rows {
        assert_eq!((row["op"].as_str(), row["ranks"].as_u64()), (Some("broadcast"), Some(2)));
        assert!(row["time_us_median"].as_f64().unwrap() > 0.0 && row["built_in"]["way"].is_string());
    }
    assert!(sums[0]["mean_absolute_error"].as_f64().unwrap() >= 0.0);
}

#[test]
fn tuning_refuses_what_leaves_nothing_to_measure() {
    let mut set = program(TUNE, "--procs 2");
    set.env("ROUNDEL_ALGO", "ring");
    let (code, message) = failure(set);
    assert!(code == Some(2) && message.contains("ROUNDEL_ALGO"), "{message}");
    let (code, message) = failure(program(TUNE, "--procs 2 --compare -e 8 --seconds 1"));
    assert!(code == Some(2) && message.contains("no table is in force"), "{message}");
}

#[test]
fn bad_command_lines_are_one_clear_line() {
    for (line, words) in [
        ("-o median", "there are sum"),
        ("--frobnicate", "--frobnicate"),
        ("-b 1X", "'1X' is no size"),
        ("-g 2", "--procs"),
        ("-d float -o bxor", "integers only"),
        ("--json=/nowhere/rows.json", "/nowhere/rows.json"),
        ("--plot /nowhere/plot.svg", "/nowhere/plot.svg"),
    ] {
        let (code, message) = failure(program(ALL_REDUCE, line));
        assert_eq!(code, Some(2), "{line}: {message}");
        assert_eq!(message.lines().count(), 1, "{line}: {message}");
        assert!(message.contains(words), "{line}: {message}");
    }
    let (code, message) = failure(program(PROGRAMS[1].0, "--procs 1 -r 7 -b 8 -e 8"));
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("-r 7"), "{message}");
    let mut command = program(ALL_REDUCE, "--procs 1 -b 8 -e 8");
    command.env("ROUNDEL_TRANSPORT", "pigeon");
    let (code, message) = failure(command);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("ROUNDEL_TRANSPORT"), "{message}");
}

#[test]
fn help_and_version() {
    let help = printed(program(ALL_REDUCE, "-h"));
    assert!(help.contains("--minbytes") && help.contains("--procs") && help.contains("nccl-tests"), "{help}");
    assert!(printed(program(PROGRAMS[8].0, "--version")).starts_with("sendrecv_perf "));
}

#[test]
fn under_a_launcher_the_processes_are_taken_as_they_are() {
    // A port that was free a moment ago only names the job: the library does not listen there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rank = |rank: usize, line: &str| {
        let mut command = program(ALL_REDUCE, line);
        command
            .env("RANK", rank.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env("ROUNDEL_IFACE", "127.0.0.1");
        command
    };
    for (line, ranks) in [("-b 8 -e 8K -n 2 --json", 2), ("-t 2 -b 8 -e 8K -n 2 --json", 4)] {
        let other = rank(1, line);
        let other = std::thread::spawn(move || printed(other));
        for row in rows(rank(0, line)) {
            assert_eq!(row["ranks"], ranks, "{row}");
        }
        assert_eq!(other.join().unwrap(), "", "only rank 0 prints");
    }
    let (code, message) = failure(rank(0, "--procs 2"));
    assert_eq!(code, Some(2));
    assert!(message.contains("leave it out"), "{message}");
}

#[test]
fn under_open_mpi() {
    let required = std::env::var("ROUNDEL_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == "mpirun"));
    if Command::new("mpirun").arg("--version").output().is_err() {
        assert!(!required, "ROUNDEL_TEST_REQUIRE names mpirun, but there is none");
        eprintln!("skipped: no mpirun on this machine");
        return;
    }
    let line = format!("--allow-run-as-root --oversubscribe -n 3 {ALL_REDUCE} -b 8 -e 64K -f 32 -n 3 --json");
    for row in rows(program("mpirun", &line)) {
        assert_eq!((&row["ranks"], &row["transport"]), (&3.into(), &"shm".into()), "{row}");
    }
}

#[test]
fn a_killed_rank_ends_the_run_and_is_named() {
    // Runs until interrupted; the first row says that it is under way, the header says who is who.
    let mut command = program(ALL_REDUCE, "--procs 3 -b 1M -e 1M -n 3 -N 0");
    let mut parent = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let mut victim = None;
    for line in &mut lines {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["#", "Rank", "2", "Pid", pid, ..] = words[..] {
            victim = Some(pid.parse::<i32>().unwrap());
        }
        if !line.starts_with('#') {
            break;
        }
    }
    let victim = nix::unistd::Pid::from_raw(victim.expect("the header names rank 2's process"));
    nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).unwrap();
    let begin = Instant::now();
    // Rank 0 may print a few more rows; its end of the pipe closes when it is gone.
    lines.for_each(drop);
    let mut message = String::new();
    parent.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    let status = parent.wait().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30), "took {:?}", begin.elapsed());
    assert!(!status.success());
    assert!(message.contains("rank 2"), "{message}");
    assert!(nix::sys::signal::kill(victim, None).is_err(), "the killed process was not reaped");
}

#[test]
fn children_die_with_the_parent() {
    let mut command = program(ALL_REDUCE, "--procs 2 -b 1K -e 1K -n 3 -N 0");
    let mut parent = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| !line.unwrap().starts_with('#')));
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The pipe ends when the last process that holds it is gone.
    lines.for_each(drop);
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut command = program(ALL_REDUCE, "--procs 2 -b 8 -e 8 -n 2 -N 0");
    let mut parent = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let first = BufReader::new(parent.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(first.starts_with("# roundel"), "{first}");
    // The pipe is closed by now; `-N 0` would otherwise go on for ever.
    let mut message = String::new();
    parent.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert!(parent.wait().unwrap().success(), "{message}");
    assert_eq!(message, "");
}

/// Buffers on a device that every machine can play, between processes, between threads, and over sockets.
#[test]
fn buffers_may_be_on_a_device() {
    for (start, transport) in [("--procs 2", "auto"), ("--procs 1 -t 3", "auto"), ("--procs 2", "tcp")] {
        let mut command =
            program(ALL_REDUCE, &format!("{start} --device emulated -b 4 -e 256K -f 16 -n 3 -o all -d float"));
        command.env("ROUNDEL_TRANSPORT", transport);
        let table = printed(command);
        assert!(table.contains("buffers on emulated:0"), "{table}");
        assert!(table.contains("Out of bounds values : 0 OK"), "{table}");
    }
    let refused = output(program(ALL_REDUCE, "--procs 1 --device abacus"));
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("abacus"), "{}", text(&refused.stderr));
}
