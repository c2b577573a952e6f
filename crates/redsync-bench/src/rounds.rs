//! Alternating rounds of two contestants, and what they come to.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// One contestant's rounds.
pub(crate) struct Contestant {
    per_second: Vec<f64>,
    cpu_per_pair: Vec<f64>,
    latency: Histogram<u64>,
}

impl Contestant {
    pub(crate) fn new() -> Self {
        Self { per_second: Vec::new(), cpu_per_pair: Vec::new(), latency: histogram() }
    }

    /// Adds a round: what each task recorded, in nanoseconds, within `took`, and what this process spent on it.
    pub(crate) fn add(&mut self, tasks: &[Histogram<u64>], took: Duration, cpu: Duration) {
        let pairs: u64 = tasks.iter().map(Histogram::len).sum();
        self.per_second.push(pairs as f64 / took.as_secs_f64());
        self.cpu_per_pair.push(cpu.as_secs_f64() / pairs.max(1) as f64);
        for task in tasks {
            self.latency.add(task).unwrap_or_else(|error| unreachable!("histograms of one shape: {error}"));
        }
    }

    /// Pairs a second, the median round.
    pub(crate) fn per_second(&self) -> f64 {
        median(self.per_second.clone())
    }

    /// Processor time that this process spends on a pair, the servers' not counted: the median round.
    pub(crate) fn cpu_per_pair(&self) -> Duration {
        Duration::from_secs_f64(median(self.cpu_per_pair.clone()))
    }

    /// A quantile of all pairs' times.
    pub(crate) fn latency(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(quantile))
    }

    /// This contestant's speed as a share of `other`'s: the median of the rounds' own ratios, so that a machine that
    /// slows down and recovers does not count for either.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        median(self.per_second.iter().zip(&other.per_second).map(|(ours, theirs)| ours / theirs).collect())
    }
}

/// Processor time that this process has used so far.
pub(crate) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap_or(0))
}

/// Records how long `step` takes, again and again, until `end`.
pub(crate) async fn record<F: Future>(end: Instant, mut step: impl FnMut() -> F) -> Histogram<u64> {
    let mut times = histogram();
    loop {
        let begun = Instant::now();
        if begun >= end {
            return times;
        }
        step().await;
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        times.saturating_record(nanos);
    }
}

/// From 100 ns to 100 s.
pub(crate) fn histogram() -> Histogram<u64> {
    // 100 ns to 100 s at three digits.
    Histogram::new_with_bounds(100, 100_000_000_000, 3)
        .unwrap_or_else(|error| unreachable!("fixed bounds: {error}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_rounds_is_quoted() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
    }
}
