//! What decides all that is random in a test.

const VARIABLE: &str = "REMORA_CHAOS_SEED";

/// The seed of this run: that of `REMORA_CHAOS_SEED`, or another each time. A test that fails shows it.
pub fn seed() -> u64 {
    let given = std::env::var_os(VARIABLE).map(|text| text.to_str().and_then(|text| text.parse().ok()).expect("the seed is a number"));
    let seed = given.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!("{VARIABLE}={seed}");
    seed
}
