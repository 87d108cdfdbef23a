//! The ranks on their hosts, and what happens meanwhile.
#![forbid(unsafe_code)]

use crate::cluster::args::Settings;
use crate::cluster::incident::Incident;
use crate::cluster::network::Network;
use crate::launch::Children;
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::time::Instant;

/// Free on every host: they are all new.
const MASTER_PORT: u16 = 29500;

/// Starts everything and waits for its end. An error is a machine on which this cannot be done.
pub fn run(settings: &Settings) -> Result<ExitCode, String> {
    let mut network = Network::new(settings.cables)?;
    let world: usize = settings.ranks.iter().sum();
    let prefixes = (0..settings.ranks.len()).map(|host| network.plug(host)).collect::<Result<Vec<_>, _>>()?;
    for host in 0..settings.ranks.len() {
        settings.rates.iter().enumerate().try_for_each(|(cable, rate)| network.shape(host, cable, rate))?;
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| format!("no random bytes: {error}"))?;
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut children = Children::default();
    let mut rank = 0;
    for (host, prefix) in prefixes.iter().enumerate() {
        for local_rank in 0..settings.ranks[host] {
            let mut command = Command::new(&prefix[0]);
            // A rank does not outlive this program.
            command.args(&prefix[1..]).args(["setpriv", "--pdeathsig", "KILL", "--"]).args(&settings.command);
            let variables = [
                ("RANK", rank.to_string()),
                ("WORLD_SIZE", world.to_string()),
                ("LOCAL_RANK", local_rank.to_string()),
                ("LOCAL_WORLD_SIZE", settings.ranks[host].to_string()),
                ("MASTER_ADDR", network.address(0, 0).to_string()),
                ("MASTER_PORT", MASTER_PORT.to_string()),
                ("ROUNDEL_SECRET", secret.clone()),
                ("ROUNDEL_IFACE", network.addresses(host)),
            ];
            command.envs(variables).env_remove(crate::launch::PARENT);
            let child = command.spawn().map_err(|error| format!("starting rank {rank}: {error}"))?;
            children.watch(rank, child).map_err(|error| error.to_string())?;
            rank += 1;
        }
    }
    std::thread::scope(|scope| {
        let (over, is_over) = mpsc::channel();
        let (network, plan) = (&network, &settings.incidents);
        scope.spawn(move || happen(network, plan, &is_over));
        let code = children.wait().map_err(|error| error.to_string());
        drop(over);
        code
    })
}

/// Lets everything happen at its time, until all is over.
fn happen(network: &Network, plan: &[Incident], is_over: &mpsc::Receiver<()>) {
    let began = Instant::now();
    for Incident { after, host, cable, what } in plan {
        match is_over.recv_timeout(after.saturating_sub(began.elapsed())) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        match what.happen(network, *host, *cable) {
            Ok(()) => {
                eprintln!("roundel-cluster: {:.1} s: host {host}.{cable}: {what:?}", began.elapsed().as_secs_f64());
            }
            Err(error) => eprintln!("roundel-cluster: host {host}.{cable}: {what:?} did not happen: {error}"),
        }
    }
}
