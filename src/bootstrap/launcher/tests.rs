//! Every launcher's environment, as it was seen, and as it may be damaged.

use super::*;
use crate::bootstrap::RootAddr;
use std::os::unix::fs::PermissionsExt;

fn launch(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
    let variables: std::collections::HashMap<String, String> =
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    detect(&|name| variables.get(name).cloned())
}

/// Name, rank, world, local rank and hosts of a launch.
fn facts(variables: &[(&str, &str)]) -> (&'static str, Rank, usize, Option<usize>, String) {
    let launch = launch(variables).unwrap().expect("a launcher");
    let hosts = address_of(&launch).hosts.join(",");
    (launch.name, launch.rank, launch.world, launch.local_rank, hosts)
}

fn address_of(launch: &Launch) -> RootAddr {
    match &launch.root {
        Root::Address(address) => address.clone(),
        Root::Id(id) => panic!("{id:?}"),
    }
}

fn error_of(variables: &[(&str, &str)]) -> String {
    launch(variables).unwrap_err().to_string()
}

type Variables = &'static [(&'static str, &'static str)];

const OWN: Variables =
    &[("ROUNDEL_RANK", "1"), ("ROUNDEL_WORLD_SIZE", "4"), ("ROUNDEL_MASTER_ADDR", "head"), ("ROUNDEL_LOCAL_RANK", "1")];
const TORCHRUN: Variables = &[
    ("RANK", "3"),
    ("WORLD_SIZE", "8"),
    ("LOCAL_RANK", "1"),
    ("MASTER_ADDR", "10.0.0.7"),
    ("MASTER_PORT", "29500"),
    ("TORCHELASTIC_RUN_ID", "run7"),
    ("TORCHELASTIC_RESTART_COUNT", "2"),
];
const RAY: Variables =
    &[("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "trainer-0.svc"), ("MASTER_PORT", "23456")];
const OPEN_MPI_4: Variables = &[
    ("OMPI_COMM_WORLD_RANK", "5"),
    ("OMPI_COMM_WORLD_SIZE", "8"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
    ("OMPI_MCA_orte_hnp_uri", "1234.0;tcp://10.0.0.1,127.0.0.1,192.168.1.1:4321;tcp6://[fd00::1]:4321"),
    ("OMPI_MCA_ess_base_jobid", "1234"),
];
const OPEN_MPI_5: Variables = &[
    ("OMPI_COMM_WORLD_RANK", "1"),
    ("OMPI_COMM_WORLD_SIZE", "2"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ("PMIX_NAMESPACE", "prterun-head-99@1"),
];
const MPICH: Variables =
    &[("PMI_RANK", "2"), ("PMI_SIZE", "3"), ("PMI_FD", "9"), ("MPI_LOCALRANKID", "2"), ("MPI_LOCALNRANKS", "3")];
const SLURM: Variables = &[
    ("SLURM_PROCID", "6"),
    ("SLURM_NTASKS", "8"),
    ("SLURM_STEP_NUM_TASKS", "8"),
    ("SLURM_LOCALID", "2"),
    ("SLURM_STEP_NODELIST", "node[03-04,9]"),
    ("SLURM_STEP_NUM_NODES", "2"),
    ("SLURM_LAUNCH_NODE_IPADDR", "10.9.8.7"),
    ("SLURM_JOB_ID", "77"),
    ("SLURM_STEP_ID", "0"),
];

/// `variables` with some changed, added, or (set to nothing) taken away.
fn but<'a>(variables: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [variables, changes].concat()
}

#[test]
fn each_launcher_is_understood() {
    assert_eq!(facts(OWN), ("roundel", 1, 4, Some(1), "head".into()));
    assert_eq!(facts(TORCHRUN), ("torchrun", 3, 8, Some(1), "10.0.0.7".into()));
    assert_eq!(facts(RAY), ("RANK and MASTER_ADDR", 1, 2, None, "trainer-0.svc".into()));
    assert_eq!(facts(OPEN_MPI_4), ("Open MPI", 5, 8, Some(1), "10.0.0.1,192.168.1.1,fd00::1".into()));
    assert_eq!(facts(OPEN_MPI_5), ("Open MPI", 1, 2, Some(1), "127.0.0.1".into()));
    assert_eq!(facts(MPICH), ("MPICH", 2, 3, Some(2), "127.0.0.1".into()));
    assert_eq!(facts(SLURM), ("Slurm", 6, 8, Some(2), "node03,10.9.8.7".into()));
    let one_host = but(SLURM, &[("SLURM_STEP_NUM_NODES", "1")]);
    assert_eq!(facts(&one_host).4, "127.0.0.1");
}

#[test]
fn no_launcher_is_none() {
    let loners: &[Variables] = &[
        &[],
        &[("RANK", "0")],
        &[("RANK", "0"), ("WORLD_SIZE", "1")],
        &[("PMI_RANK", " "), ("RANK", "")],
        // A batch script outside of a step.
        &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_JOB_ID", "77")],
    ];
    for variables in loners {
        assert!(launch(variables).unwrap().is_none(), "{variables:?}");
    }
}

#[test]
fn the_innermost_launcher_counts() {
    assert_eq!(facts(&but(SLURM, OPEN_MPI_5)).0, "Open MPI");
    assert_eq!(facts(&but(&but(SLURM, OPEN_MPI_4), TORCHRUN)).0, "torchrun");
    assert_eq!(facts(&but(TORCHRUN, OWN)).0, "roundel");
    assert_eq!(facts(&but(SLURM, MPICH)).0, "MPICH");
    // srun --mpi=pmi2 speaks PMI too.
    assert_eq!(facts(&but(SLURM, &[("PMI_RANK", "6"), ("PMI_SIZE", "8")])).0, "Slurm");
    // A pod's RANK does not say which of mpirun's ranks this is.
    assert_eq!(facts(&but(OPEN_MPI_5, &[("RANK", "0"), ("WORLD_SIZE", "2")])).0, "Open MPI");
}

#[test]
fn all_ranks_derive_the_same_root_and_other_jobs_another() {
    for variables in [TORCHRUN, OPEN_MPI_4, MPICH, SLURM] {
        let ranks = ["RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"];
        let other_rank: Vec<_> = variables.iter().map(|v| if ranks.contains(&v.0) { (v.0, "0") } else { *v }).collect();
        let [one, other] = [variables, &other_rank].map(|variables| launch(variables).unwrap().unwrap());
        assert_eq!((&one.job, one.secret), (&other.job, SecretSource::DerivedFromJob));
        let [one, other] = [&one, &other].map(address_of);
        assert_eq!((&one.ports, one.secret.as_bytes()), (&other.ports, other.secret.as_bytes()));
    }
    let jobs = [
        (TORCHRUN, ("TORCHELASTIC_RUN_ID", "run8")),
        (TORCHRUN, ("MASTER_PORT", "29501")),
        (OPEN_MPI_4, ("OMPI_MCA_ess_base_jobid", "1235")),
        (OPEN_MPI_5, ("PMIX_NAMESPACE", "prterun-head-100@1")),
        (SLURM, ("SLURM_STEP_ID", "1")),
        (SLURM, ("SLURM_JOB_ID", "78")),
    ];
    for (variables, change) in jobs {
        let [one, other] = [variables, &but(variables, &[change])].map(|v| address_of(&launch(v).unwrap().unwrap()));
        assert_ne!(one.job, other.job, "{change:?}");
        assert_ne!(one.secret.as_bytes(), other.secret.as_bytes(), "{change:?}");
        assert_ne!(one.ports, other.ports, "{change:?}");
    }
    let restarted = but(TORCHRUN, &[("TORCHELASTIC_RESTART_COUNT", "3")]);
    let [one, other] = [TORCHRUN, &restarted].map(|v| launch(v).unwrap().unwrap().job);
    assert_eq!(one, other, "agents may count their restarts differently");
}

#[test]
fn master_port_is_never_listened_on_but_roundels_own_is() {
    let range = ("ROUNDEL_PORT_RANGE", "29490-29510");
    let seen: Vec<u16> = (0..50)
        .flat_map(|run| {
            let run = run.to_string();
            address_of(&launch(&but(TORCHRUN, &[range, ("TORCHELASTIC_RUN_ID", &run)])).unwrap().unwrap()).ports
        })
        .collect();
    assert!(!seen.contains(&29500) && seen.iter().all(|port| (29490..=29510).contains(port)));
    let own = launch(&but(OWN, &[("ROUNDEL_MASTER_PORT", "31000")])).unwrap().unwrap();
    assert_eq!(address_of(&own).ports, [31000]);
}

#[test]
fn the_root_can_be_named_for_any_launcher() {
    let id = UniqueId::with_interface("127.0.0.1").unwrap();
    let hex = id.to_string();
    for variables in [&OWN[..2], TORCHRUN, OPEN_MPI_4, MPICH, SLURM] {
        let launch = launch(&but(variables, &[("ROUNDEL_UNIQUE_ID", &hex)])).unwrap().unwrap();
        assert!(matches!(&launch.root, Root::Id(found) if found.address() == id.address()));
        assert_eq!(launch.secret, SecretSource::UniqueId);
        assert!(!launch.job.contains(&hex));
    }
    let many_hosts = but(MPICH, &[("MPI_LOCALNRANKS", "1"), ("ROUNDEL_MASTER_ADDR", "head")]);
    assert_eq!(facts(&many_hosts).4, "head");
}

#[test]
fn where_the_root_is_unknown_the_error_says_what_to_set() {
    let unknown = [
        but(&OWN[..2], &[]),
        but(OPEN_MPI_5, &[("OMPI_COMM_WORLD_LOCAL_SIZE", "1")]),
        but(OPEN_MPI_4, &[("OMPI_MCA_orte_hnp_uri", "gibberish;tcp://x;;//")]),
        but(MPICH, &[("MPI_LOCALNRANKS", "1")]),
        but(MPICH, &[("MPI_LOCALNRANKS", "")]),
    ];
    for variables in unknown {
        let error = error_of(&variables);
        assert!(error.contains("set ROUNDEL_MASTER_ADDR") && error.contains("ROUNDEL_UNIQUE_ID"), "{error}");
    }
    assert!(error_of(&[("RANK", "0"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR is not"));
    let alone = facts(&[("ROUNDEL_RANK", "0"), ("ROUNDEL_WORLD_SIZE", "1")]);
    assert_eq!(alone.2, 1, "alone it needs no root");
}

#[test]
fn bad_values_are_errors_that_name_the_variable() {
    let cases: [(Variables, (&str, &str), &str); 19] = [
        (OWN, ("ROUNDEL_RANK", "x"), "ROUNDEL_RANK=x"),
        (OWN, ("ROUNDEL_RANK", "4"), "ROUNDEL_RANK=4"),
        (OWN, ("ROUNDEL_RANK", ""), "ROUNDEL_RANK is not"),
        (OWN, ("ROUNDEL_WORLD_SIZE", ""), "ROUNDEL_WORLD_SIZE is not"),
        (OWN, ("ROUNDEL_MASTER_PORT", "99999"), "ROUNDEL_MASTER_PORT=99999"),
        (OWN, ("ROUNDEL_MASTER_PORT", "0"), "ROUNDEL_MASTER_PORT=0"),
        (OWN, ("ROUNDEL_UNIQUE_ID", "abc"), "ROUNDEL_UNIQUE_ID"),
        (OWN, ("ROUNDEL_PORT_RANGE", "9-1"), "ROUNDEL_PORT_RANGE"),
        (OWN, ("ROUNDEL_SECRET", "5eed"), "ROUNDEL_SECRET"),
        (OWN, ("ROUNDEL_SECRET_FILE", "/nonexistent/secret"), "ROUNDEL_SECRET_FILE=/nonexistent/secret"),
        (TORCHRUN, ("RANK", "x"), "RANK=x"),
        (TORCHRUN, ("WORLD_SIZE", "0"), "WORLD_SIZE=0"),
        (TORCHRUN, ("LOCAL_RANK", "-1"), "LOCAL_RANK=-1"),
        (TORCHRUN, ("RANK", ""), "RANK is not"),
        (TORCHRUN, ("WORLD_SIZE", ""), "WORLD_SIZE is not"),
        (OPEN_MPI_4, ("OMPI_COMM_WORLD_SIZE", ""), "OMPI_COMM_WORLD_SIZE is not set"),
        (MPICH, ("PMI_RANK", "3"), "PMI_RANK=3 with PMI_SIZE=3"),
        (SLURM, ("SLURM_STEP_NODELIST", "node[1"), "node[1"),
        (SLURM, ("SLURM_STEP_NUM_TASKS", "99999999999999999999"), "SLURM_STEP_NUM_TASKS="),
    ];
    for (variables, change, words) in cases {
        let error = error_of(&but(variables, &[change]));
        assert!(error.contains(words), "{change:?}: {error}");
    }
}

#[test]
fn secrets_come_as_digits_or_from_a_file_of_digits_or_bytes() {
    let digits = "0123456789abcdef".repeat(4);
    let expected = <[u8; 32]>::try_from([1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].repeat(4)).unwrap();
    let found = launch(&but(TORCHRUN, &[("ROUNDEL_SECRET", &digits)])).unwrap().unwrap();
    assert_eq!((*address_of(&found).secret.as_bytes(), found.secret), (expected, SecretSource::Configured));
    assert!(!error_of(&but(TORCHRUN, &[("ROUNDEL_SECRET", &digits[1..])])).contains(&digits[1..]));

    let path = std::env::temp_dir().join(format!("roundel-secret-{:x}", getrandom::u64().unwrap()));
    let path_text = path.to_str().unwrap();
    let of_file = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        launch(&but(TORCHRUN, &[("ROUNDEL_SECRET_FILE", path_text)]))
    };
    for content in [&expected[..], format!("{digits}\n").as_bytes()] {
        assert_eq!(*address_of(&of_file(content).unwrap().unwrap()).secret.as_bytes(), expected);
    }
    for content in [&b""[..], &[1; 31], &[1; 33], &[b'a'; 1000]] {
        let error = of_file(content).unwrap_err().to_string();
        assert!(error.contains("neither 32 bytes nor 64 hexadecimal digits"), "{error}");
    }
    std::fs::remove_file(path).unwrap();
}

/// The secret is in no error, and in nothing that prints a launch.
#[test]
fn secrets_are_not_repeated() {
    let digits = "0123456789abcdef".repeat(4);
    let found = launch(&but(TORCHRUN, &[("ROUNDEL_SECRET", &digits)])).unwrap().unwrap();
    let shown = format!("{found:?}");
    assert!(!shown.contains("01234567") && shown.contains("Secret(..)"), "{shown}");
    let id = crate::bootstrap::UniqueId::with_interface("127.0.0.1").unwrap();
    let digits = id.to_string();
    let found = launch(&but(OWN, &[("ROUNDEL_UNIQUE_ID", &digits)])).unwrap().unwrap();
    assert!(!format!("{found:?}").contains(&digits[64..128]));
    let error = error_of(&but(OWN, &[("ROUNDEL_UNIQUE_ID", &digits[..254])]));
    assert!(!error.contains(&digits[64..128]), "{error}");
}

/// Arguments are for everybody to read (`ps`): nothing of the library looks at them, and no program takes a secret there.
#[test]
fn no_secret_comes_from_the_command_line() {
    fn sources(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => sources(&path, found),
                path if path.extension().is_some_and(|end| end == "rs") => found.push(path),
                _ => {}
            }
        }
    }
    let mut files = Vec::new();
    sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 50, "the sources were found");
    // The programs read theirs, and `launch` repeats them to the ranks that it starts; what these must know goes through the
    // environment.
    let may_look = ["bin", "perf", "chaos", "cluster", "launch.rs", "tests.rs"];
    let may_look = |path: &std::path::Path| may_look.iter().any(|name| path.iter().any(|part| part == *name));
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let program = text.split("#[cfg(test)]").next().unwrap();
        assert!(may_look(&path) || !program.contains("env::args"), "{path:?}");
        assert!(!program.contains("long = \"secret") && !program.contains("long = \"unique"), "{path:?}");
    }
}
