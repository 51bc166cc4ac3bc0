//! Builds while the store, the network or remora itself fails, through remora and with native `type=s3`.
//!
//! Every case is one function with two sizes. `make test` runs the quick one with remora alone; `make chaos` runs
//! the full one of all cases, with native BuildKit in the same harness, and makes a table of it. Whether each single
//! byte and each order of writes is right is what `tests/it/consistency` checks, without builds.

mod darkness;
mod expiry;
mod exporters;
mod kills;
mod losses;
mod requests;
mod rig;
mod room;
mod verdict;

use std::path::Path;

use self::rig::Contestant;
use self::verdict::{Scale, Verdict};
use crate::support::cases::Transport;

/// A fault, and the builds that meet it.
struct Case {
    fault: &'static str,
    run: fn(Contestant, Scale) -> Verdict,
}

/// The list of the cases, and of each a test with remora alone.
macro_rules! cases {
    ($($name:ident: $fault:literal, $module:ident :: $run:ident;)+) => {
        const CASES: &[Case] = &[$(Case { fault: $fault, run: $module::$run }),+];

        mod quick {
            $(mod $name {
                use crate::chaos::{$module::$run, passes};
                use crate::support::cases::Transport;

                #[test]
                fn relay() {
                    passes($run, Transport::Relay);
                }

                #[test]
                fn session() {
                    passes($run, Transport::Session);
                }
            })+
        }
    };
}

cases! {
    deleted_layers: "3 of 10 layers are deleted from the bucket", losses::three_of_ten_layers_are_deleted;
    flipped_byte: "one byte of a stored blob is another", losses::one_byte_of_a_blob_is_flipped;
    slow_down: "30 % of requests: `503 SlowDown`", requests::slow_down;
    resets: "30 %: connection reset in the middle of the body", requests::resets;
    stalls: "30 %: the body stalls for 60 s", requests::stalls;
    truncated_bodies: "30 %: the body ends early", requests::truncated_bodies;
    wrong_etags: "30 %: a wrong `ETag`", requests::wrong_etags;
    all_kinds: "30 %: all of these together", requests::all_kinds;
    gone: "nobody listens where the store was", darkness::nobody_listens;
    dark_before: "the store says nothing: before the build", darkness::before_the_build;
    dark_import: "… from the import on", darkness::during_the_import;
    dark_between: "… from between import and export on", darkness::between_import_and_export;
    dark_export: "… from the export on", darkness::during_the_export;
    spool_bound: "a layer is larger than the spool may be", room::less_than_a_layer;
    full_disk: "the disk of the spool is full", room::none_on_the_disk;
    expiry: "credentials live for 30 s, a build for three minutes", expiry::credentials_that_expire;
    exporters: "8 builds export to one name at once", exporters::eight_at_once;
    kills: "`kill -9` at random moments", kills::kill;
}

fn passes(run: fn(Contestant, Scale) -> Verdict, transport: Transport) {
    let verdict = run(Contestant::Remora(transport), Scale::Quick);
    assert!(verdict.passed(), "{verdict}");
}

/// Faults with which native BuildKit fails at once. Those with which it hangs are run by [`table`] alone.
#[test]
fn native_buildkit_fails_under_the_same_fault() {
    for run in [losses::three_of_ten_layers_are_deleted, losses::one_byte_of_a_blob_is_flipped, exporters::eight_at_once] {
        let verdict = run(Contestant::Native, Scale::Quick);
        assert!(!verdict.passed(), "{verdict}");
    }
}

/// A part of the name of the faults that `make chaos` is to run; without it, all.
const ONLY: &str = "REMORA_CHAOS_ONLY";

/// `make chaos`. The test fails where remora fails a case, and not where native BuildKit does.
#[test]
#[ignore = "an hour of builds: make chaos runs it"]
fn table() {
    let contestants = [Contestant::Native, Contestant::Remora(Transport::Relay), Contestant::Remora(Transport::Session)];
    let mut text = "| fault | native `type=s3` | remora, relay | remora, session |\n| --- | --- | --- | --- |\n".to_owned();
    let mut failures = Vec::new();
    let only = std::env::var_os(ONLY).unwrap_or_default();
    let only = only.to_str().expect("text");
    for case in CASES.iter().filter(|case| case.fault.contains(only)) {
        let mut row = format!("| {} |", case.fault);
        for contestant in contestants {
            // A case that panics is one more way to fail, and not the end of the table.
            let verdict = std::panic::catch_unwind(|| (case.run)(contestant, Scale::Full));
            let passed = verdict.as_ref().is_ok_and(Verdict::passed);
            row += &verdict.map_or_else(|_| " **broke off** |".to_owned(), |verdict| format!(" {verdict} |"));
            if !passed && contestant != Contestant::Native {
                failures.push(format!("{}: {contestant:?}", case.fault));
            }
        }
        eprintln!("{row}");
        text += &format!("{row}\n");
        write(&text);
    }
    eprintln!("\n{text}");
    assert!(failures.is_empty(), "{failures:#?}");
}

fn write(table: &str) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("chaos");
    std::fs::create_dir_all(&dir).expect("folder");
    std::fs::write(dir.join("table.md"), table).expect("table");
}
