//! Build contexts. No image can be pulled in a test: builds start from scratch, with busybox copied in.

use std::path::{Path, PathBuf};

use super::process::{leashed, run};
use super::tools::tool;

/// What every Dockerfile here begins with.
const BASE: &str = r#"FROM scratch AS base
COPY bin /bin
SHELL ["/bin/busybox", "sh", "-c"]
"#;

/// A folder with a Dockerfile, busybox in `bin`, and whatever else a test adds.
#[derive(Debug)]
pub struct Context(tempfile::TempDir);

impl Context {
    /// Two stages with layers that no two builds make alike; the second needs one layer of the first.
    pub fn two_stages() -> Self {
        Self::after_base(
            "RUN busybox dd if=/dev/urandom of=/first bs=1M count=3
RUN busybox dd if=/dev/urandom of=/second bs=1M count=2
RUN busybox mkdir /empty
FROM scratch
COPY bin /bin
COPY --from=base /second /second
SHELL [\"/bin/busybox\", \"sh\", \"-c\"]
RUN busybox dd if=/dev/urandom of=/third bs=1M count=1
RUN busybox sha256sum /second /third > /sums
",
        )
    }

    /// A stage named `base` that has busybox, with `steps` after.
    pub fn after_base(steps: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir(dir.path().join("bin")).expect("bin");
        let context = Self(dir);
        context.add_program(&tool("busybox"), "bin/busybox");
        // No two contexts share steps, not even where their Dockerfiles are alike.
        context.write("bin/id", &context.path().display().to_string());
        context.write("Dockerfile", &format!("{BASE}{steps}"));
        context
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds or replaces a file.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        std::fs::write(path, content).expect("file");
    }

    /// Adds a program.
    pub fn add_program(&self, program: &Path, name: &str) {
        std::fs::copy(program, self.path().join(name)).expect("copy");
    }
}

/// Copies a program to `<root>/bin` and the shared libraries that it needs to where it looks for them.
pub fn install_program(program: &Path, root: &Path) {
    let name = program.file_name().expect("a file name");
    std::fs::create_dir_all(root.join("bin")).expect("bin");
    std::fs::copy(program, root.join("bin").join(name)).expect("copy");
    for library in libraries(program) {
        let target = root.join(library.strip_prefix("/").expect("absolute"));
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("folder");
        std::fs::copy(&library, target).expect("copy");
    }
}

/// What `ldd` finds; nothing for a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let mut command = leashed(tool("ldd"));
    command.arg(program);
    run(command).stdout.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
