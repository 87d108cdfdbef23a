//! Ranks that find each other by what a launcher left in their environment: the launchers that are installed here, and
//! the variables of those that are not.

mod support;

use roundel::{Communicator, ReduceOp, UniqueId};
use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use support::suite::all_collectives;
use support::{Rank, clean, has_program, playing, rank_program, say, skip};

const ALL_REDUCE_PERF: &str = env!("CARGO_BIN_EXE_all_reduce_perf");
const PERF_ARGS: [&str; 8] = ["-b", "8", "-e", "64K", "-f", "8", "-c", "1"];

/// What a rank process runs (see `support`); nothing when the tests run.
#[test]
fn rank_process() {
    match support::role() {
        Some((role, count)) if role == "suite" => {
            let comm = Communicator::from_env().unwrap();
            all_collectives(&comm, count.parse().unwrap());
            say(format_args!("right {} of {} over {}", comm.rank(), comm.world(), comm.transport()));
        }
        Some((role, times)) if role == "again" => {
            for _ in 0..times.parse().unwrap() {
                let comm = Communicator::from_env().unwrap();
                let mut data = [comm.rank() as u64; 1000];
                comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
                assert_eq!(data, [(comm.world() * (comm.world() - 1) / 2) as u64; 1000]);
            }
            say("right again");
        }
        Some((role, _)) if role == "refused" => {
            let error = Communicator::from_env().expect_err("this environment makes no sense");
            say(format_args!("refused {error}"));
        }
        _ => {}
    }
}

type Variables = Vec<(&'static str, String)>;

/// Starts one process for each rank, with these variables.
fn ranks(world: usize, role: &str, argument: &str, variables: &dyn Fn(usize) -> Variables) -> Vec<Rank> {
    let start = |rank| {
        let mut command = playing(&[], role, argument);
        command.envs(variables(rank));
        Rank::start(command)
    };
    (0..world).map(start).collect()
}

/// All collectives, and whether each rank found itself and the others, in one host's shared memory.
fn suite(world: usize, variables: &dyn Fn(usize) -> Variables) {
    for (rank, process) in ranks(world, "suite", "1001", variables).iter_mut().enumerate() {
        let said = process.finished();
        assert_eq!(said.last().unwrap(), &format!("right {rank} of {world} over shm"));
    }
    perf(world, variables);
}

/// `all_reduce_perf` itself; rank 0 prints.
fn perf(world: usize, variables: &dyn Fn(usize) -> Variables) {
    let start = |rank| {
        let mut command = clean(Command::new(ALL_REDUCE_PERF));
        command.args(PERF_ARGS).envs(variables(rank));
        Rank::start(command)
    };
    let mut ranks: Vec<Rank> = (0..world).map(start).collect();
    ranks.iter_mut().for_each(|rank| drop(rank.finished()));
    assert!(ranks[0].printed().contains("Out of bounds values : 0 OK"), "{}", ranks[0].printed());
}

/// A file that holds a new secret.
struct SecretFile(std::path::PathBuf);

impl SecretFile {
    fn new(name: &str) -> SecretFile {
        let path = std::env::temp_dir().join(format!("roundel-test-{}-{name}", std::process::id()));
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).unwrap();
        std::fs::File::create(&path).unwrap().write_all(&secret).unwrap();
        SecretFile(path)
    }

    fn path(&self) -> String {
        self.0.to_str().unwrap().to_string()
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What torchrun sets; its agent listens at `MASTER_PORT` itself.
fn torch(rank: usize, world: usize, port: u16) -> Variables {
    vec![
        ("RANK", rank.to_string()),
        ("LOCAL_RANK", rank.to_string()),
        ("GROUP_RANK", "0".into()),
        ("WORLD_SIZE", world.to_string()),
        ("LOCAL_WORLD_SIZE", world.to_string()),
        ("MASTER_ADDR", "127.0.0.1".into()),
        ("MASTER_PORT", port.to_string()),
        ("TORCHELASTIC_RUN_ID", "none".into()),
        ("TORCHELASTIC_RESTART_COUNT", "0".into()),
    ]
}

/// A port that is taken, as by torchrun's store, until the listener is dropped.
fn taken_port() -> (TcpListener, u16) {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = store.local_addr().unwrap().port();
    (store, port)
}

#[test]
fn torchruns_variables_with_its_store_at_the_master_port() {
    let (_store, port) = taken_port();
    suite(4, &|rank| torch(rank, 4, port));
}

#[test]
fn torchrun_itself() {
    let has_torch = Command::new("python3").args(["-c", "import torch"]).output().is_ok_and(|out| out.status.success());
    if !has_torch {
        return skip("torchrun", "torch cannot be imported");
    }
    through(&["python3", "-m", "torch.distributed.run", "--standalone", "--no-python", "--nproc-per-node", "4"], 4);
}

/// Both programs through a launcher, whose words come first.
fn through(launcher: &[&str], world: usize) {
    let as_root = |command: Command| {
        let mut command = clean(command);
        command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
        command
    };
    let mut said = Rank::start(as_root(playing(launcher, "suite", "1001"))).finished();
    said.sort();
    let expected: Vec<String> = (0..world).map(|rank| format!("right {rank} of {world} over shm")).collect();
    assert_eq!(said, expected);

    let mut command = Command::new(launcher[0]);
    command.args(&launcher[1..]).arg(ALL_REDUCE_PERF).args(PERF_ARGS);
    let mut perf = Rank::start(as_root(command));
    perf.finished();
    assert!(perf.printed().contains("Out of bounds values : 0 OK"), "{}", perf.printed());
    assert_eq!(perf.printed().matches("Out of bounds").count(), 1, "one rank prints");

    // Twice in one job, through the same variables.
    let said = Rank::start(as_root(playing(launcher, "again", "2"))).finished();
    assert_eq!(said, vec!["right again"; world]);
}

#[test]
fn open_mpis_mpirun() {
    match ["mpirun.openmpi", "mpirun"].into_iter().find(|name| has_program(name)) {
        Some(mpirun) => through(&[mpirun, "--oversubscribe", "-np", "4"], 4),
        None => skip("mpirun", "mpirun is not installed"),
    }
}

#[test]
fn mpichs_mpiexec() {
    match has_program("mpiexec.hydra") {
        true => through(&["mpiexec.hydra", "-n", "4"], 4),
        false => skip("mpiexec.hydra", "mpiexec.hydra is not installed"),
    }
}

/// As Hydra sees it, by names; nobody says where rank 0 is, so the ranks ask its board.
#[test]
fn mpichs_mpiexec_on_several_hosts() {
    let hosts = ["mpiexec.hydra", "-launcher", "fork", "-hosts", "localhost,127.0.0.1", "-ppn", "2", "-n", "4"];
    match has_program("mpiexec.hydra") {
        true => through(&hosts, 4),
        false => skip("mpiexec.hydra", "mpiexec.hydra is not installed"),
    }
}

#[test]
fn a_shell_between_the_launcher_and_the_rank() {
    if !has_program("mpiexec.hydra") {
        return skip("mpiexec.hydra", "mpiexec.hydra is not installed");
    }
    let mut command = clean(Command::new("mpiexec.hydra"));
    command.args(["-n", "2", "sh", "-c", "\"$0\" \"$@\"; exit $?"]).args(rank_program());
    command.envs([("ROUNDEL_TEST_ROLE", "again"), ("ROUNDEL_TEST_ARGUMENT", "1")]);
    assert_eq!(Rank::start(command).finished(), ["right again"; 2]);
}

#[test]
fn slurms_variables_on_one_node() {
    // Job numbers are Slurm's way to tell jobs apart; a process id is one that nobody else here has.
    suite(4, &|rank| {
        vec![
            ("SLURM_PROCID", rank.to_string()),
            ("SLURM_LOCALID", rank.to_string()),
            ("SLURM_NTASKS", "4".into()),
            ("SLURM_STEP_NUM_TASKS", "4".into()),
            ("SLURM_STEP_NUM_NODES", "1".into()),
            ("SLURM_STEP_NODELIST", "node[017-018]".into()),
            ("SLURM_JOB_ID", std::process::id().to_string()),
            ("SLURM_STEP_ID", "0".into()),
        ]
    });
}

#[test]
fn an_id_made_beforehand() {
    // One id is one job: `suite` would need a second.
    let id = UniqueId::with_interface("lo").unwrap();
    let mut ranks = ranks(3, "suite", "10", &|rank| {
        vec![
            ("ROUNDEL_RANK", rank.to_string()),
            ("ROUNDEL_WORLD_SIZE", "3".into()),
            ("ROUNDEL_UNIQUE_ID", id.to_string()),
        ]
    });
    for rank in &mut ranks {
        rank.finished();
    }
}

fn own(rank: usize, world: usize, secret: &SecretFile) -> Variables {
    vec![
        ("ROUNDEL_RANK", rank.to_string()),
        ("ROUNDEL_WORLD_SIZE", world.to_string()),
        ("ROUNDEL_MASTER_ADDR", "127.0.0.1".into()),
        ("ROUNDEL_SECRET_FILE", secret.path()),
    ]
}

#[test]
fn jobs_of_the_same_name_are_kept_apart_by_their_secrets() {
    let secrets = [SecretFile::new("one"), SecretFile::new("other")];
    std::thread::scope(|scope| {
        for secret in &secrets {
            scope.spawn(|| suite(2, &|rank| own(rank, 2, secret)));
        }
    });
}

#[test]
fn one_job_meets_again_and_again() {
    let (_store, port) = taken_port();
    let secret = SecretFile::new("again");
    let launchers: [&dyn Fn(usize) -> Variables; 2] = [&|rank| torch(rank, 3, port), &|rank| own(rank, 3, &secret)];
    for variables in launchers {
        for process in &mut ranks(3, "again", "5", variables) {
            assert_eq!(process.finished(), ["right again"]);
        }
    }
}

#[test]
fn ranks_with_another_secret_are_told_what_to_look_at() {
    let secrets = [SecretFile::new("mine"), SecretFile::new("theirs")];
    let mut ranks = ranks(2, "refused", "", &|rank| {
        let mut variables = own(rank, 2, &secrets[rank]);
        variables.push(("ROUNDEL_INIT_TIMEOUT_MS", "2500".into()));
        variables
    });
    let alone = ranks[0].said("refused");
    assert!(alone.contains("missing: rank 1"), "{alone}");
    let stranger = ranks[1].said("refused");
    assert!(stranger.contains("ROUNDEL_SECRET"), "{stranger}");
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let torch = |name: &'static str, value: &str| {
        let mut variables = torch(0, 2, 29500);
        variables.retain(|(other, _)| *other != name);
        variables.push((name, value.to_string()));
        variables
    };
    let own = |more: &[(&'static str, &str)]| {
        let own = [("ROUNDEL_RANK", "0"), ("ROUNDEL_WORLD_SIZE", "2"), ("ROUNDEL_MASTER_ADDR", "127.0.0.1")];
        own.iter()
            .filter(|(name, _)| more.iter().all(|(other, _)| name != other))
            .chain(more)
            .map(|(n, v)| (*n, v.to_string()))
            .collect()
    };
    let cases: Vec<(Variables, &str)> = vec![
        (torch("RANK", "two"), "RANK=two"),
        (torch("RANK", "2"), "RANK=2 with WORLD_SIZE=2"),
        (torch("WORLD_SIZE", "0"), "WORLD_SIZE=0"),
        (torch("MASTER_ADDR", ""), "MASTER_ADDR is not"),
        (own(&[("ROUNDEL_WORLD_SIZE", "")]), "ROUNDEL_WORLD_SIZE is not"),
        (own(&[("ROUNDEL_RANK", "-1")]), "ROUNDEL_RANK=-1"),
        (own(&[("ROUNDEL_MASTER_ADDR", "")]), "ROUNDEL_MASTER_ADDR"),
        (own(&[("ROUNDEL_MASTER_PORT", "70000")]), "ROUNDEL_MASTER_PORT=70000"),
        (own(&[("ROUNDEL_UNIQUE_ID", "abc")]), "ROUNDEL_UNIQUE_ID"),
        (own(&[("ROUNDEL_SECRET", "abc")]), "ROUNDEL_SECRET"),
        (own(&[("ROUNDEL_SECRET_FILE", "/nowhere/at/all")]), "ROUNDEL_SECRET_FILE=/nowhere/at/all"),
        (own(&[("ROUNDEL_SECRET_FILE", "/dev/null")]), "neither 32 bytes nor 64"),
        (own(&[("ROUNDEL_PORT_RANGE", "9-3")]), "ROUNDEL_PORT_RANGE"),
        (own(&[("ROUNDEL_TIMEOUT_MS", "soon")]), "ROUNDEL_TIMEOUT_MS"),
        (own(&[("ROUNDEL_IFACE", "nonsense7")]), "ROUNDEL_IFACE=nonsense7"),
        (own(&[("ROUNDEL_HOST_ID", " ")]), "ROUNDEL_HOST_ID"),
    ];
    let processes = cases.into_iter().map(|(mut variables, words)| {
        // No case gets as far as waiting for the other rank; if one did it would not wait for long.
        variables.push(("ROUNDEL_INIT_TIMEOUT_MS", "3000".into()));
        let process = ranks(1, "refused", "", &|_| variables.clone()).remove(0);
        (process, words)
    });
    for (mut process, words) in processes.collect::<Vec<_>>() {
        let error = process.said("refused");
        assert!(error.contains(words), "{words:?} is not in: {error}");
    }
}

#[test]
fn without_a_launcher_there_is_a_world_of_one() {
    let said = ranks(1, "suite", "5", &|_| vec![]).remove(0).finished();
    assert_eq!(said, ["right 0 of 1 over memory"]);
}
