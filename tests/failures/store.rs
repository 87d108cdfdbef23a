//! Jobs with a store: newcomers find them there, and nothing is left in it when they end.

use super::etcd::{Etcd, is_missing};
use super::harness::{self, Job, RootIn};
use super::support::skip;
use roundel::Rank;

/// Waits until these processes of the job have said that just `members` are members; an invitation of theirs.
fn agreed(job: &mut Job, processes: &[Rank], members: &str) -> String {
    let mut invitation = String::new();
    for line in job.wait_for_all(processes, "members") {
        let parts: Vec<&str> = line.split(' ').collect();
        assert_eq!(parts[1], members);
        invitation = parts[2].to_string();
    }
    invitation
}

#[test]
fn a_newcomer_finds_a_job_that_has_left_all_doors_that_it_was_told() {
    if let Some(why) = is_missing() {
        return skip("etcd", why);
    }
    let _turn = harness::turn();
    let etcd = Etcd::start();
    let url = etcd.url();
    let settings = [("ROUNDEL_STORE", &*url), ("FAILURES_FULL", "2"), ("ROUNDEL_HEARTBEAT_TIMEOUT_MS", "3000")];
    let mut job = Job::start("rolling", 2, RootIn::RankZero, &settings);
    let old = agreed(&mut job, &[0, 1], "0,1");
    let mut new = old.clone();
    for victim in 0..2 {
        let (survivor, newcomer) = (victim + 1, victim + 2);
        job.kill(victim);
        agreed(&mut job, &[survivor], &survivor.to_string());
        assert_eq!(job.invite("rolling", &new, &settings), newcomer);
        new = agreed(&mut job, &[survivor, newcomer], &format!("{survivor},{newcomer}"));
    }
    job.kill(2);
    agreed(&mut job, &[3], "3");
    // Nobody lives whom the first invitation names: without the store it leads nowhere.
    let stranger = job.invite("rolling", &old, &[("ROUNDEL_INIT_TIMEOUT_MS", "500")]);
    let refused = job.wait_for(stranger, "refused");
    assert!(refused.contains("nobody let this newcomer in"), "{refused}");
    let newcomer = job.invite("rolling", &old, &settings);
    agreed(&mut job, &[3, newcomer], "3,4");
}
