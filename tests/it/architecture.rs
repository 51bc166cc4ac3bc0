//! The rules that one crate's compiler does not know: the direction of imports, the size of files, who
//! may spawn.

use std::path::{Path, PathBuf};

/// Each may use those after it.
const LAYERS: [&str; 10] = ["cli", "app", "config", "admin", "endpoints", "auth", "cache", "transfer", "store", "types"];
/// Any layer may use these; they use none.
const LEAVES: [&str; 3] = ["metrics", "shutdown", "telemetry"];
/// Generated code, for the endpoints alone.
const PROTO: &str = "proto";
/// The rooms of the control endpoint. Each may use those after it.
const CONTROL_ROOMS: [&str; 9] = ["client", "builds", "session", "transports", "progress", "replay", "options", "proxy", "grpc"];
/// Any room of the control endpoint may use these; they use none.
const CONTROL_LEAVES: [&str; 1] = ["admission"];
const MAX_LINES: usize = 500;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file: its path below `src`, and its text.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, into) } else { into.push(path) }
        }
    }
    let mut paths = Vec::new();
    walk(&src(), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let below = |path: &Path| path.strip_prefix(src()).unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (below(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The module of the crate's root that a file belongs to.
fn module(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The text without what follows `//` on a line.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first names of all paths that begin with `root`, also those in braces: `root::{a::B, c}`.
fn used(text: &str, root: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (at, _) in text.match_indices(root) {
        let rest = &text[at + root.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (index, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' if depth == 0 => {
                    names.push(name(&group[start..]));
                    start = index + 1;
                }
                '}' => {
                    names.push(name(&group[start..]));
                    break;
                }
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn allowed(from: &str, to: &str) -> bool {
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    match (layer(from), layer(to)) {
        _ if from == to => true,
        (Some(_), None) if LEAVES.contains(&to) => true,
        (Some(_), None) if to == PROTO => from == "endpoints",
        (Some(from), Some(to)) => from < to,
        _ => false,
    }
}

#[test]
fn imports_go_one_way() {
    let mut edges = 0;
    for (path, text) in sources().iter().filter(|(path, _)| path != "lib.rs" && path != "main.rs") {
        for to in used(&code(text), "crate::") {
            assert!(allowed(module(path), &to), "{path} uses crate::{to}");
            edges += 1;
        }
    }
    assert!(edges > 100, "{edges} edges alone were found: the scan is broken");
    let main = std::fs::read_to_string(src().join("main.rs")).unwrap();
    assert_eq!(used(&main, "remora::"), ["cli"]);
}

#[test]
fn every_module_has_its_place() {
    let lib = std::fs::read_to_string(src().join("lib.rs")).unwrap();
    for module in used(&lib, "pub mod ") {
        assert!(LAYERS.contains(&module.as_str()) || LEAVES.contains(&module.as_str()) || module == PROTO, "{module}");
    }
}

#[test]
fn endpoints_do_not_know_each_other() {
    for (path, text) in sources().iter().filter(|(path, _)| path.matches('/').count() >= 2 && path.starts_with("endpoints/")) {
        let own = path.split('/').nth(1).unwrap();
        for root in ["crate::endpoints::", "super::super::"] {
            for to in used(&code(text), root) {
                assert!(to == own || !["content", "control", "s3"].contains(&to.as_str()), "{path} uses {root}{to}");
            }
        }
    }
}

/// Methods go the same way as imports: a room can call only what its structs own, and it cannot name a room above it.
#[test]
fn rooms_of_the_control_endpoint_use_each_other_one_way() {
    const ROOT: &str = "endpoints/control/";
    let allowed = |from: &str, to: &str| {
        let place = |name: &str| CONTROL_ROOMS.iter().position(|room| *room == name);
        match (place(from), place(to)) {
            (Some(from), Some(to)) => from <= to,
            (Some(_), None) => CONTROL_LEAVES.contains(&to),
            (None, _) => false,
        }
    };
    let mut edges = 0;
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with(ROOT)) {
        let room = module(path.strip_prefix(ROOT).unwrap());
        if !CONTROL_ROOMS.contains(&room) && !CONTROL_LEAVES.contains(&room) {
            assert!(["mod", "hot_paths"].contains(&room), "{path} is in no room");
            continue;
        }
        let code = code(text);
        for to in used(&code, "crate::endpoints::control::") {
            assert!(allowed(room, &to), "{path} uses the room {to}");
            edges += 1;
        }
        assert!(!code.contains("super::super::"), "{path} names another room by `super`");
        if path.as_str() == format!("{ROOT}{room}/mod.rs") || path.as_str() == format!("{ROOT}{room}.rs") {
            for to in used(&code, "super::") {
                assert!(!CONTROL_ROOMS.contains(&to.as_str()) && !CONTROL_LEAVES.contains(&to.as_str()), "{path} uses super::{to}");
            }
        }
    }
    assert!(edges > 30, "{edges} edges alone were found: the scan is broken");
    assert!(allowed("client", "grpc") && allowed("builds", "admission") && !allowed("grpc", "proxy") && !allowed("admission", "grpc"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{path} has {lines} lines");
        assert!(text.starts_with("//! "), "{path} does not begin with what it is");
    }
}

#[test]
fn one_place_spawns() {
    for (path, text) in sources().iter().filter(|(path, _)| path != "shutdown.rs") {
        for spawn in ["tokio::spawn", "task::spawn(", "spawn_local", "thread::spawn", "JoinSet"] {
            assert!(!code(text).contains(spawn), "{path} uses {spawn}");
        }
    }
}

#[test]
fn the_scan_sees_every_form() {
    assert_eq!(used("use crate::a::B; crate::c::d() use crate::{e, f::{G, H}, i};", "crate::"), ["a", "c", "e", "f", "i"]);
    assert_eq!(code("a // crate::b\nc"), "a \nc");
    assert!(allowed("cli", "types") && allowed("admin", "endpoints") && allowed("store", "metrics") && allowed("endpoints", "proto"));
    assert!(!allowed("types", "store") && !allowed("cache", "proto") && !allowed("config", "app") && !allowed("metrics", "types"));
}
