//! One rank: joins a job that begins, or one that runs, trains, and says lines that the supervisor understands, each after a mark.
//!
//! ```text
//!   id TEXT                         rank 0 before all else: the job begins in its process, like any job's
//!   members LIST INVITATION         with whom it works now, and how another can join
//!   epoch N LOSS ACCURACY           after each
//!   done EPOCHS DIGEST              at the end
//! ```

use super::digits;
use super::training::Training;
use roundel::bootstrap::Invitation;
use roundel::elastic::{Policy, run};
use roundel::{Communicator, Error, Rank, Result, UniqueId};

/// Where the supervisor says what this process is: "first", "founder", or an invitation for one that comes later.
pub const PART: &str = "ELASTIC_PART";
/// How many ranks begin the job.
pub const FOUNDERS: &str = "ELASTIC_FOUNDERS";
/// How many of them are to be replaced before it ends.
pub const DOOMED: &str = "ELASTIC_DOOMED";
/// Epochs at least.
pub const EPOCHS: &str = "ELASTIC_EPOCHS";

/// Before each line for the supervisor.
pub const MARK: char = '@';

/// Steps between two looks for newcomers.
const GROW_EVERY: u64 = 4;

/// True in a process that the supervisor started.
pub fn is_one() -> bool {
    std::env::var_os(PART).is_some()
}

/// The whole life of one.
pub fn play() -> Result<()> {
    let comm = join()?;
    let digits = digits::load();
    let say_members = |comm: &Communicator| {
        if let Ok(invitation) = comm.invitation() {
            let members: Vec<String> = comm.members().iter().map(Rank::to_string).collect();
            say(format_args!("members {} {invitation}", members.join(",")));
        }
    };
    let mut training = Training::new(&digits, number(EPOCHS)?, number(DOOMED)?, say_members, |progress| {
        say(format_args!("epoch {} {} {}", progress.epoch, progress.loss, progress.accuracy));
    });
    let comm = run(&mut training, comm, Policy { grow_every: GROW_EVERY, min_ranks: 1 })?;
    say(format_args!("done {} {:016x}", training.epochs_done(), training.digest()));
    drop(comm);
    Ok(())
}

/// A line for the supervisor, among whatever else this process prints.
fn say(line: impl std::fmt::Display) {
    println!("{MARK}{line}");
}

fn join() -> Result<Communicator> {
    match variable(PART)?.as_str() {
        "first" => {
            let id = UniqueId::new()?;
            say(format_args!("id {id}"));
            Communicator::init(&id, 0, number(FOUNDERS)?)
        }
        "founder" => Communicator::from_env(),
        invitation => Communicator::enlist(&invitation.parse::<Invitation>()?),
    }
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| Error::invalid(format!("{name} is not set; the supervisor does that")))
}

fn number<T: std::str::FromStr>(name: &str) -> Result<T> {
    let text = variable(name)?;
    text.parse().map_err(|_| Error::invalid(format!("{name}={text:?}; expected a number")))
}
