//! The `remora` program: makes the runtime and hands over to the command line.

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "remora: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(remora::cli::run(std::env::args_os()));
    // A blocked read of a disk must not hold the exit up.
    runtime.shutdown_background();
    code
}
