//! The least that an HTTP client must do.

use std::io::{Read, Result, Write};

/// The answer to a `GET`, headers included; empty while nobody answers.
pub fn get(connection: Result<impl Read + Write>, path: &str) -> String {
    let ask = || -> Result<String> {
        let mut connection = connection?;
        write!(connection, "GET {path} HTTP/1.1\r\nHost: remora\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_default()
}
