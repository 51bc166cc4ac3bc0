//! What a remora's admin endpoint says.

pub use remora_test_support::http::get;

/// Whether this is what `/readyz` of a ready remora says.
pub fn is_ready(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200")
}

/// The value of a metric without labels, or the sum over its labels.
pub fn metric(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<u64>().expect("a count")).sum()
}
