//! Finds the real parts that `scripts/tools.sh` built.

use std::path::PathBuf;

/// The path of a tool: in the tools folder, or on PATH. A missing one fails the test: it is never skipped.
pub fn tool(name: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
    let tools = std::env::var_os("REMORA_TOOLS_DIR").map_or_else(|| cache.join("remora/tools"), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::iter::once(tools.join("bin"))
        .chain(std::env::split_paths(&path))
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run 'make tools'"))
}
