//! What a list of times says: [`Stats`].
#![forbid(unsafe_code)]

/// Times of the iterations of one measurement, in microseconds per call.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// The whole loop divided by the number of calls: the time column, as nccl-tests measures it.
    pub mean: f64,
    /// Half of the iterations took no longer.
    pub median: f64,
    /// The shortest iteration.
    pub min: f64,
    /// The longest iteration.
    pub max: f64,
    /// 99 of 100 iterations took no longer.
    pub p99: f64,
    /// Standard deviation divided by mean, over iterations.
    pub variation: f64,
}

impl Stats {
    /// From the time of the whole loop, divided by calls, and the times of its iterations, likewise divided.
    pub fn new(mean: f64, mut iterations: Vec<f64>) -> Stats {
        if iterations.is_empty() {
            return Stats { mean, ..Stats::default() };
        }
        iterations.sort_by(f64::total_cmp);
        let count = iterations.len() as f64;
        let average = iterations.iter().sum::<f64>() / count;
        let variance = iterations.iter().map(|time| (time - average).powi(2)).sum::<f64>() / count;
        Stats {
            mean,
            median: percentile(&iterations, 0.5),
            min: iterations[0],
            max: iterations[iterations.len() - 1],
            p99: percentile(&iterations, 0.99),
            variation: if average > 0.0 { variance.sqrt() / average } else { 0.0 },
        }
    }
}

/// The smallest of the sorted values that at least this share of them does not exceed (nearest rank).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let stats = Stats::new(100.5, times);
        assert_eq!((stats.min, stats.median, stats.p99, stats.max), (1.0, 100.0, 198.0, 200.0));
        assert!((stats.variation - 0.5745).abs() < 1e-3);
    }

    #[test]
    fn one_iteration_is_all_of_them() {
        let stats = Stats::new(3.0, vec![3.0]);
        assert_eq!((stats.min, stats.median, stats.p99, stats.variation), (3.0, 3.0, 3.0, 0.0));
        assert_eq!(Stats::new(1.0, Vec::new()).median, 0.0);
    }
}
