//! What a remora's admin endpoint says.

use std::io::{Read, Write};

/// The answer to a `GET`, headers included; empty while nobody answers.
pub fn get(connection: std::io::Result<impl Read + Write>, path: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut connection = connection?;
        write!(connection, "GET {path} HTTP/1.1\r\nHost: remora\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_default()
}

/// Whether this is what `/readyz` of a ready remora says.
pub fn is_ready(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200")
}

/// The value of a metric without labels, or the sum over its labels.
pub fn metric(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<u64>().expect("a count")).sum()
}
