# make demo         the main job on real BuildKit: two builds, the second all from remora's cache
# make test         every test, with real buildkitd, buildctl, buildx, MinIO and Docker Engine
# make lint         format, clippy, shell and Go checks
# make bench        whole builds through remora and without it, timed; docs/performance.md has the options of BENCH
# make bench-quick  the same in two minutes; fails only when remora is far slower than native
# make bench-hot    the paths that cost CPU for each byte or call, alone; three minutes, needs no tools
# make chaos        builds under faults, through remora and without it, and the table of docs/faults.md; about an hour
# make soak         2,000 builds of each transport, and the table of what remora takes up and how long they take; half an hour
# make tools        fetches and builds the real parts once, into a cache folder outside the tree

.PHONY: demo test lint bench bench-quick bench-hot chaos soak tools build

demo: tools
	scripts/demo.sh

test: tools
	cargo test --locked

lint:
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings

bench: tools
	cargo bench --locked --bench builds -- $(BENCH)

bench-quick: tools
	cargo bench --locked --bench builds -- --quick $(BENCH)

bench-hot:
	cargo bench --locked --bench hot_paths -- $(BENCH)

chaos: tools
	cargo test --locked --test e2e chaos::table -- --ignored --exact --nocapture

soak: tools
	cargo test --locked --test e2e soak::table -- --ignored --exact --nocapture

tools:
	@scripts/tools.sh >/dev/null

build:
	cargo build --locked --release
