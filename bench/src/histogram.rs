//! Histograms of times, and how a report shows them.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Longest time told apart, in nanoseconds; longer ones count as this.
const NS_MAX: u64 = 600_000_000_000;
/// Points of a distribution for each halving of what lies above them.
const POINTS_PER_HALVING: f64 = 8.0;
/// Most points of one distribution.
const POINTS_MAX: usize = 200;

/// An empty histogram of nanoseconds, three digits exact; all of them can be added up.
pub fn new() -> Histogram<u64> {
    Histogram::new_with_bounds(100, NS_MAX, 3).expect("valid bounds")
}

/// Count, percentiles and the points of the distribution, `[percentile, µs]`; times in microseconds.
pub fn json(histogram: &Histogram<u64>) -> Value {
    let at = |quantile| microseconds(histogram.value_at_quantile(quantile));
    let points: Vec<_> = quantiles(histogram.len())
        .map(|quantile| json!([round(quantile * 100.0, 1e7), at(quantile)]))
        .collect();
    json!({
        "count": histogram.len(),
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "p999": at(0.999),
        "max": microseconds(histogram.max()),
        "mean": round(histogram.mean() / 1e3, 10.0),
        "points": points,
    })
}

/// Where a distribution of `count` values is drawn: denser towards its slow end, up to the slowest.
fn quantiles(count: u64) -> impl Iterator<Item = f64> {
    let points = if count == 0 {
        0
    } else {
        (POINTS_PER_HALVING * (count as f64).log2()).ceil() as usize + 1
    };
    let last = points.min(POINTS_MAX).saturating_sub(1);
    let before = (0..last).map(|index| 1.0 - (-(index as f64) / POINTS_PER_HALVING).exp2());
    before.chain((points > 0).then_some(1.0))
}

fn microseconds(ns: u64) -> f64 {
    round(ns as f64 / 1e3, 10.0)
}

fn round(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_has_its_ends_and_few_points() {
        for count in [0, 1, 2, 1000, 1 << 40] {
            let found: Vec<_> = quantiles(count).collect();
            assert!(found.len() <= POINTS_MAX);
            assert_eq!(found.last().copied(), (count > 0).then_some(1.0));
            assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
        }
        let mut histogram = new();
        for us in 1..=1000 {
            histogram.saturating_record(us * 1000);
        }
        let shown = json(&histogram);
        assert_eq!(shown["p50"].as_f64().unwrap().round(), 500.0);
        assert_eq!(shown["points"][0], json!([0.0, 1.0]));
        let last = shown["points"].as_array().unwrap().last().unwrap();
        assert_eq!(last[0], 100.0);
        assert_eq!(last[1], shown["max"]);
    }
}
