//! Work in steps goes on while ranks die and join, and loses none.

use super::harness::{self, Job, RootIn, Scenario, say};
use roundel::elastic::{Policy, Stepwise, run};
use roundel::{Communicator, Rank, ReduceOp, Result};

/// Steps between two lines of a rank.
const LINE_EVERY: u64 = 50;
const SAMPLES: u64 = 240;

pub const SCENARIOS: &[Scenario] = &[("elastic", elastic)];

/// Every step adds up all samples, whoever there is to share them; what comes out in the end does not depend on who died.
#[derive(Clone, Debug, PartialEq)]
struct Training {
    steps: u64,
    /// 1 when the last step was made in which somebody was told to stop.
    stop: u64,
    weights: Vec<u64>,
}

impl Training {
    fn new() -> Training {
        Training { steps: 0, stop: 0, weights: vec![1; 1000] }
    }

    /// What the samples `from..to` contribute at this step. It depends on all steps before.
    fn gradient(&self, from: u64, to: u64) -> Vec<u64> {
        let sum: u64 = (from..to).map(|sample| (sample + 1) * (self.steps + 3)).sum();
        self.weights.iter().map(|weight| weight.rotate_left(7).wrapping_mul(to - from).wrapping_add(sum)).collect()
    }
}

impl Stepwise for Training {
    type Update = Vec<u64>;

    fn steps_done(&self) -> u64 {
        self.steps
    }

    fn is_done(&self) -> bool {
        self.stop == 1
    }

    fn step(&self, comm: &Communicator) -> Result<Vec<u64>> {
        let (rank, world) = (comm.rank() as u64, comm.world() as u64);
        let mut gradient = self.gradient(rank * SAMPLES / world, (rank + 1) * SAMPLES / world);
        gradient.push(u64::from(std::fs::exists(std::env::var("FAILURES_STOP").unwrap()).unwrap()));
        comm.all_reduce_in_place(&mut gradient, ReduceOp::Sum)?;
        Ok(gradient)
    }

    fn apply(&mut self, mut update: Vec<u64>) {
        self.stop = update.pop().unwrap().min(1);
        for (weight, change) in self.weights.iter_mut().zip(update) {
            *weight = weight.wrapping_add(change);
        }
        self.steps += 1;
        if self.steps.is_multiple_of(LINE_EVERY) {
            say("works");
        }
    }

    fn save(&self) -> Vec<u8> {
        [self.steps, self.stop].iter().chain(&self.weights).flat_map(|word| word.to_le_bytes()).collect()
    }

    fn load(&mut self, bytes: &[u8]) -> Result<()> {
        let words: Vec<u64> =
            bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight"))).collect();
        (self.steps, self.stop, self.weights) = (words[0], words[1], words[2..].to_vec());
        Ok(())
    }
}

fn elastic(comm: Communicator) {
    if comm.rank() == 1 {
        say(format_args!("invitation {}", comm.invitation().unwrap()));
    }
    let mut training = Training::new();
    let comm = run(&mut training, comm, Policy { grow_every: 5, min_ranks: 2 }).unwrap();
    let mut oracle = Training::new();
    while oracle.steps < training.steps {
        let update = oracle.gradient(0, SAMPLES);
        for (weight, change) in oracle.weights.iter_mut().zip(update) {
            *weight = weight.wrapping_add(change);
        }
        oracle.steps += 1;
    }
    assert_eq!(training.weights, oracle.weights, "after {} steps", oracle.steps);
    let members: Vec<String> = comm.members().iter().map(Rank::to_string).collect();
    say(format_args!("done {}", members.join(",")));
}

#[test]
fn training_loses_no_step_to_deaths_and_newcomers() {
    let _turn = harness::turn();
    for transport in ["shm", "tcp"] {
        let folder = tempfile::tempdir().unwrap();
        let stop = folder.path().join("stop");
        let settings = [("ROUNDEL_TRANSPORT", transport), ("FAILURES_STOP", stop.to_str().unwrap())];
        let mut job = Job::start("elastic", 4, RootIn::RankZero, &settings);
        let invitation = job.wait_for(1, "invitation");
        job.wait_for_all(&[0, 1, 2, 3], "works");
        job.kill(0);
        job.wait_for_all(&[1, 2, 3, 1, 2, 3], "works");
        job.kill(3);
        let newcomer = job.invite("elastic", &invitation, &settings);
        job.wait_for(newcomer, "works");
        std::fs::write(&stop, "").unwrap();
        for rank in [1, 2, newcomer] {
            assert_eq!(job.wait_for(rank, "done"), format!("1,2,{newcomer}"));
        }
        job.succeed(&[1, 2, newcomer]);
    }
}
