//! A job of rank processes that meet at an id which rank 0 makes on its own host.

use crate::support::{Rank, playing};
use roundel::{Communicator, UniqueId};

const RANK: &str = "ROUNDEL_TEST_RANK";
const WORLD: &str = "ROUNDEL_TEST_WORLD";
const ID: &str = "ROUNDEL_TEST_ID";

/// Where a rank runs: the words before its command, and its environment.
#[derive(Clone, Default)]
pub struct Place {
    pub prefix: Vec<String>,
    pub env: Vec<(String, String)>,
}

impl Place {
    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Place {
        self.env.push((name.to_string(), value.to_string()));
        self
    }
}

/// Starts one rank at each place.
pub fn start(places: &[Place], role: &str, argument: &str) -> Vec<Rank> {
    let mut ranks: Vec<Rank> = Vec::new();
    let mut id = None;
    for (rank, place) in places.iter().enumerate() {
        let prefix: Vec<&str> = place.prefix.iter().map(String::as_str).collect();
        let mut command = playing(&prefix, role, argument);
        command.env(RANK, rank.to_string()).env(WORLD, places.len().to_string());
        command.envs(place.env.iter().cloned()).envs(id.iter().map(|id: &String| (ID, id)));
        let mut process = Rank::start(command);
        id.get_or_insert_with(|| process.said("id"));
        ranks.push(process);
    }
    ranks
}

/// Runs a job to its end, and what each rank said.
pub fn run(places: &[Place], role: &str, argument: &str) -> Vec<Vec<String>> {
    start(places, role, argument).iter_mut().map(Rank::finished).collect()
}

/// In a rank process: joins the job.
pub fn join() -> Communicator {
    let number = |name| std::env::var(name).unwrap().parse().unwrap();
    let id = match std::env::var(ID) {
        Ok(id) => id.parse().unwrap(),
        Err(_) => {
            let id = UniqueId::new().unwrap();
            crate::support::say(format_args!("id {id}"));
            id
        }
    };
    Communicator::init(&id, number(RANK), number(WORLD)).unwrap()
}
