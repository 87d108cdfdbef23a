//! What ranks, launchers and users hand in, for [`crate::fuzz`].
#![forbid(unsafe_code)]

use super::messages::{FromRoot, Knock, Refusal, ToRoot};
use super::nodelist::first_host;
use super::unique_id::{UniqueId, from_hex, sealed};
use super::wire::{self, Inbox};
use super::{address, launcher};
use crate::error::Error;
use std::collections::HashMap;

/// A stream of control frames, as either end reads it, and a hello.
pub(crate) fn control_frames(bytes: &[u8]) {
    let mut inbox = Inbox::of(bytes);
    while let Ok(Some(message)) = inbox.next::<ToRoot>() {
        let _ = wire::encode(&message);
    }
    let mut inbox = Inbox::of(bytes);
    while let Ok(Some(message)) = inbox.next::<FromRoot>() {
        if let FromRoot::Revoked { error, .. } | FromRoot::Failed { error } = &message {
            let _ = error.to_string();
        }
    }
    let _ = postcard::from_bytes::<Knock>(bytes);
}

pub(crate) fn some_control_frames() -> Vec<Vec<u8>> {
    let error = Error::Timeout { waiting_for: vec![1, 2], after: std::time::Duration::from_secs(3), during: None };
    let up = [
        ToRoot::GiveUp { exchange: [2; 16] },
        ToRoot::Revoke { comm: 9, error: error.clone() },
        ToRoot::Lost { rank: 3, what: "reset".into() },
        ToRoot::Bye,
    ];
    let down = [
        FromRoot::Refused(Refusal::Wrong("no".into())),
        FromRoot::Start { beside_root: vec![0, 1] },
        FromRoot::Failed { error },
        FromRoot::Alive,
    ];
    let up = up.iter().map(|message| wire::encode(message).expect("it is small"));
    up.chain(down.iter().map(|message| wire::encode(message).expect("it is small"))).collect()
}

/// An id as bytes (with a checksum that fits, or as it is) and as text.
pub(crate) fn unique_ids(bytes: &[u8]) {
    if let Ok(id) = UniqueId::from_bytes(bytes) {
        assert_eq!(id.to_bytes(), bytes);
    }
    if let Ok(bytes) = <[u8; UniqueId::LEN_BYTES]>::try_from(bytes) {
        let _ = sealed(bytes);
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = text.parse::<UniqueId>();
    let _ = text.parse::<super::Invitation>();
    let _ = from_hex(&text);
}

pub(crate) fn some_unique_ids() -> Vec<Vec<u8>> {
    let mut bytes = [0; UniqueId::LEN_BYTES];
    bytes[..8].copy_from_slice(b"ROUNDEL\0");
    (bytes[8], bytes[9], bytes[10], bytes[16]) = (1, 4, 80, 127);
    let id = sealed(bytes).expect("it is well-formed");
    vec![id.to_bytes().to_vec(), id.to_string().into_bytes(), bytes.to_vec()]
}

/// An environment: a variable a line.
pub(crate) fn launchers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let variables: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    // Files are for the file system's own tests.
    let env = |name: &str| variables.get(name).filter(|_| name != "ROUNDEL_SECRET_FILE").map(|value| value.to_string());
    if let Ok(Some(launch)) = launcher::detect(&env) {
        assert!(launch.rank < launch.world);
    }
    let _ = address::port_range(&env);
}

pub(crate) fn some_launchers() -> Vec<Vec<u8>> {
    [
        "ROUNDEL_RANK=1\nROUNDEL_WORLD_SIZE=4\nROUNDEL_MASTER_ADDR=host0\nROUNDEL_MASTER_PORT=2000\nROUNDEL_PORT_RANGE=1-9",
        "RANK=0\nWORLD_SIZE=2\nLOCAL_RANK=0\nMASTER_ADDR=10.0.0.1\nMASTER_PORT=29500\nTORCHELASTIC_RUN_ID=none",
        "OMPI_COMM_WORLD_RANK=1\nOMPI_COMM_WORLD_SIZE=4\nOMPI_COMM_WORLD_LOCAL_SIZE=2\nOMPI_MCA_orte_hnp_uri=123.0;tcp://10.0.0.1,192.168.1.1:4321;tcp6://[::1]:4321",
        "PMI_RANK=2\nPMI_SIZE=3\nMPI_LOCALNRANKS=3\nMPI_LOCALRANKID=2",
        "SLURM_PROCID=1\nSLURM_STEP_NODELIST=r[1-2]n[003-4].lan\nSLURM_NTASKS=8\nSLURM_JOB_ID=7\nSLURM_STEP_ID=0",
        "ROUNDEL_RANK=0\nROUNDEL_WORLD_SIZE=1\nROUNDEL_SECRET=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// What an etcd answers to who asks for a job's register, and the register in it.
pub(crate) fn registers(bytes: &[u8]) {
    #[cfg(feature = "etcd")]
    {
        let _ = super::store::etcd::held(bytes);
        if let Ok(register) = super::store::Register::from_text(bytes) {
            let text = register.to_text().expect("what was read can be written");
            assert_eq!(super::store::Register::from_text(text.as_bytes()), Ok(register));
        }
    }
    let _ = bytes;
}

pub(crate) fn some_registers() -> Vec<Vec<u8>> {
    [
        r#"{"header":{"cluster_id":"1","revision":"8"},"kvs":[{"key":"L3I=","create_revision":"2","mod_revision":"7","version":"6","value":"eyJ2ZXJzaW9uIjoxLCJleHBlbGxlZCI6W10sIndheSI6bnVsbH0="}],"count":"1"}"#,
        r#"{"header":{"revision":"8"}}"#,
        r#"{"version":1,"expelled":["2@00c0ffee00c0ffee","3@1"],"way":{"reign":2,"doors":["10.0.0.1:4000","[fd00::1]:5"]}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// A list of hosts.
pub(crate) fn node_lists(text: &str) {
    if let Ok(host) = first_host(text) {
        assert!(!host.is_empty() && !host.contains(['[', ']', ',', ' ']));
    }
}
