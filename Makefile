# make demo         runs two builds on real BuildKit, the second one all from remora's cache
# make test         runs every test, with real buildkitd, buildctl, buildx, MinIO and Docker Engine
# make lint         checks the format and runs clippy
# make bench        times whole builds through remora and without it; docs/performance.md has the options of BENCH
# make bench-quick  does the same in two minutes; fails only when remora is far slower than native
# make bench-hot    times the paths that cost CPU for each byte or call, alone; takes three minutes, needs no tools
# make chaos        runs builds under faults, with and without remora; prints the table of docs/faults.md; about an hour
# make soak         runs 2,000 builds over each transport; prints what remora occupies and the times; half an hour
# make tools        fetches and builds the real tools once, into a cache folder outside the tree
# make build        builds a release binary

.PHONY: demo test lint bench bench-quick bench-hot chaos soak tools build

demo: tools
	scripts/demo.sh

test: tools
	cargo test --locked

lint:
	cargo fmt --all --check
	cargo clippy --locked --all-targets --features hot-paths -- -D warnings

bench: tools
	cargo bench --locked --bench builds -- $(BENCH)

bench-quick: tools
	cargo bench --locked --bench builds -- --quick $(BENCH)

bench-hot:
	cargo bench --locked --features hot-paths --bench hot_paths -- $(BENCH)

chaos: tools
	cargo test --locked --test e2e chaos::table -- --ignored --exact --nocapture

soak: tools
	cargo test --locked --test e2e soak::table -- --ignored --exact --nocapture

tools:
	@scripts/tools.sh >/dev/null

build:
	cargo build --locked --release
