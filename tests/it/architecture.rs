//! The rules that one crate's compiler does not know: the direction of imports, the size of files, who
//! may spawn.

use std::collections::{BTreeMap, BTreeSet};
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
const MAX_LINES: usize = 400;
const MAX_PUBLIC_METHODS: usize = 20;
/// Files that may use each other in a circle; each says why.
const CIRCLES: [&str; 4] = ["cache/disk/fill", "cache/disk/follower", "config/defaults", "config/file"];
/// The bound of the facade, which holds rooms and does nothing itself.
const MAX_FACADE_LINES: usize = 120;
/// The rooms of the cache. Each may use those after it.
const CACHE_ROOMS: [&str; 12] =
    ["background", "uploads", "ingests", "settings", "manifests", "labels", "write", "journal", "read", "disk", "known", "document"];
/// Any room may use these; they use each other alone.
const CACHE_LEAVES: [&str; 6] = ["blob", "blocking", "error", "layout", "locks", "outage"];
/// What callers of the cache see. It may use every room, and no room uses it.
const CACHE_FACADE: [&str; 6] = ["mod", "rooms", "blobs", "objects", "status", "tolerant"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file: its path below `src`, and its text.
fn sources() -> Vec<(String, String)> {
    sources_below(&src())
}

fn sources_below(folder: &Path) -> Vec<(String, String)> {
    fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, into) } else { into.push(path) }
        }
    }
    let mut paths = Vec::new();
    walk(folder, &mut paths);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let below = |path: &Path| path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
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

/// Each type that the cache shows, with the module that it comes from: `pub use blob::{BlobInfo, BlobRead};`.
fn shown_by_cache(facade: &str) -> Vec<(String, String)> {
    let uses = facade.split(';').filter_map(|statement| {
        let at = statement.find("pub use ").map(|at| at + "pub use ".len());
        let at = at.or_else(|| statement.find("pub(crate) use ").map(|at| at + "pub(crate) use ".len()))?;
        Some(&statement[at..])
    });
    let mut shown = Vec::new();
    for path in uses {
        let (from, names) = path.rsplit_once("::").unwrap();
        let from = from.split("::").next().unwrap().trim().to_owned();
        let names = names.trim_matches(|c: char| c == '{' || c == '}' || c.is_whitespace());
        shown.extend(names.split(',').map(|name| (name.trim().to_owned(), from.clone())).filter(|(name, _)| !name.is_empty()));
    }
    shown
}

fn allowed_in_cache(from: &str, to: &str) -> bool {
    let place = |name: &str| CACHE_ROOMS.iter().position(|room| *room == name);
    match (place(from), place(to)) {
        _ if from == to => true,
        _ if CACHE_LEAVES.contains(&to) => true,
        _ if CACHE_FACADE.contains(&from) => true,
        (Some(from), Some(to)) => from < to,
        _ => false,
    }
}

/// By what each room's struct owns there is nothing else to call, so imports show the calls, too.
#[test]
fn the_rooms_of_the_cache_use_each_other_one_way() {
    let facade = code(&std::fs::read_to_string(src().join("cache/mod.rs")).unwrap());
    let shown = shown_by_cache(&facade);
    let mut edges = 0;
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("cache/")) {
        let own = path.split('/').nth(1).unwrap().trim_end_matches(".rs");
        assert!(
            CACHE_ROOMS.contains(&own) || CACHE_LEAVES.contains(&own) || CACHE_FACADE.contains(&own),
            "{own} has no place in the cache"
        );
        let text = code(text);
        assert!(!text.contains("super::super::"), "{path} uses super::super::");
        let mut names = used(&text, "crate::cache::");
        let is_door = path.matches('/').count() == 1 || path.ends_with("/mod.rs") && path.matches('/').count() == 2;
        if is_door && own != "mod" {
            names.extend(used(&text, "super::"));
        }
        for name in names {
            let module = shown.iter().find(|(shown, _)| *shown == name).map_or(name.as_str(), |(_, from)| from.as_str());
            let to = match module {
                "crate" => continue,
                "Cache" => "mod",
                "Result" => "error",
                to => to,
            };
            assert!(allowed_in_cache(own, to), "{path} uses {name} of {to}");
            edges += 1;
        }
    }
    assert!(edges > 100, "{edges} edges alone were found: the scan is broken");
    assert!(allowed_in_cache("write", "read") && allowed_in_cache("read", "error") && allowed_in_cache("rooms", "write"));
    assert!(!allowed_in_cache("read", "write") && !allowed_in_cache("read", "mod") && !allowed_in_cache("error", "read"));
}

/// `mod.rs` is left out: it names its files, and they name what it holds for all of them.
#[test]
fn files_of_a_folder_use_each_other_without_circles() {
    fn reaches(from: &str, to: &str, uses: &BTreeMap<String, Vec<String>>, passed: &mut BTreeSet<String>) -> bool {
        let next = uses.get(from).into_iter().flatten();
        next.into_iter().any(|file| file == to || (passed.insert(file.clone()) && reaches(file, to, uses, passed)))
    }
    let mut folders = BTreeMap::<String, BTreeMap<String, Vec<String>>>::new();
    for (path, text) in sources() {
        let Some((folder, file)) = path.trim_end_matches(".rs").rsplit_once('/') else { continue };
        if !["mod", "tests"].contains(&file) {
            let code = code(text.split("#[cfg(test)]").next().unwrap());
            folders.entry(folder.to_owned()).or_default().insert(file.to_owned(), used(&code, "super::"));
        }
    }
    assert!(folders.len() > 30, "{} folders alone were found: the scan is broken", folders.len());
    for (folder, uses) in &folders {
        for file in uses.keys().filter(|file| !CIRCLES.contains(&format!("{folder}/{file}").as_str())) {
            assert!(!reaches(file, file, uses, &mut BTreeSet::new()), "{folder}/{file}.rs is in a circle of files");
        }
    }
}

/// A type with many methods owns too much. (What a trait asks for does not count: it is not `pub`.)
#[test]
fn no_type_has_many_public_methods() {
    let mut methods = BTreeMap::<(String, String), usize>::new();
    for (path, text) in sources() {
        let mut of = None;
        for line in code(text.split("#[cfg(test)]").next().unwrap()).lines() {
            if let Some(header) = line.strip_prefix("impl") {
                let header = header.trim_end_matches(['{', ' ']).rsplit(" for ").next().unwrap();
                let named = header.rsplit('>').find(|part| !part.trim().is_empty()).unwrap_or(header);
                of = named.trim().split('<').next().map(str::to_owned);
            } else if line.starts_with('}') {
                of = None;
            } else if let Some(of) = of.as_ref().filter(|_| line.starts_with("    pub fn ") || line.starts_with("    pub async fn ")) {
                *methods.entry((module(&path).to_owned(), of.clone())).or_default() += 1;
            }
        }
    }
    assert!(methods.len() > 60, "{} types alone were found: the scan is broken", methods.len());
    for ((module, of), count) in methods {
        assert!(count <= MAX_PUBLIC_METHODS, "{of} of {module} has {count} public methods");
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        let max = match path.as_str() {
            "cache/mod.rs" => MAX_FACADE_LINES,
            _ => MAX_LINES,
        };
        assert!(lines <= max, "{path} has {lines} lines");
        assert!(text.starts_with("//! "), "{path} does not begin with what it is");
    }
    for (path, text) in ["tests", "benches"].iter().flat_map(|folder| sources_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))) {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{path} has {lines} lines");
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
