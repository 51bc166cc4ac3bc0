#!/usr/bin/env bash
# Shows what remora is for, with real tools: buildkitd with remora beside it, and a cache in a directory.
#
# The script builds an image through remora, throws the builder's state away, and builds again. Every step must then
# come from remora's cache. The last line says how many steps did. The exit code is 0 when all did.
# Everything lives in a temporary folder, which is removed at the end, even after Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
die() { printf 'remora demo: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "buildkitd needs root: run 'sudo make demo'"

buildkitd=
remora=
work=$(mktemp -d "${TMPDIR:-/tmp}/remora-demo.XXXXXX")
cleanup() {
    stop_buildkitd
    [ -z "$remora" ] || { kill -KILL "$remora" && wait "$remora"; } 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The daemons run in sessions of their own, so Ctrl-C reaches the build client, and the daemons end in cleanup.
# buildkitd also has its own PID and mount namespaces, so nothing that it started or mounted outlives it.
start_buildkitd() {
    AWS_EC2_METADATA_DISABLED=true setpriv --pdeathsig KILL -- setsid unshare --pid --fork --kill-child --mount-proc -- \
        "$tools/buildkitd" --root "$work/builder" --addr "unix://$work/buildkitd.sock" --containerd-worker=false \
        --otel-socket-path "$work/otel.sock" --oci-worker=true --oci-worker-net=host \
        --oci-worker-snapshotter=overlayfs >>"$work/buildkitd.log" 2>&1 &
    buildkitd=$!
    wait_for buildkitd "$buildkitd" "$tools/buildctl" --addr "unix://$work/buildkitd.sock" debug workers
}

stop_buildkitd() {
    [ -n "$buildkitd" ] || return 0
    # This kills the process in the namespace. unshare ends after everything in it has ended.
    { kill -KILL $(cat "/proc/$buildkitd/task/$buildkitd/children") && wait "$buildkitd"; } 2>/dev/null || true
    buildkitd=
}

start_remora() {
    setpriv --pdeathsig KILL -- setsid "${CARGO_TARGET_DIR:-target}/debug/remora" serve --data-dir "$work/remora" --buildkitd "unix://$work/buildkitd.sock" \
        --control "unix://$work/remora.sock" --s3 "tcp://127.0.0.1:$1" --s3-advertise "http://127.0.0.1:$1" \
        --admin "tcp://127.0.0.1:$2" >"$work/remora.log" 2>&1 &
    remora=$!
    wait_for remora "$remora" "$tools/buildctl" --addr "unix://$work/remora.sock" debug workers
}

# wait_for NAME PID COMMAND...: waits until the command succeeds, for 60 s at most.
wait_for() {
    local name=$1 pid=$2 deadline=$((SECONDS + 60))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); then
            tail -n 20 "$work/$name.log" >&2
            die "$name did not start"
        fi
        sleep 0.1
    done
}

# Prints a TCP port on loopback where nobody listens.
free_port() {
    local port
    until port=$((20000 + RANDOM % 10000)) && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

write_context() {
    mkdir "$work/context"
    cp "$(command -v busybox)" "$work/context/busybox"
    cat >"$work/context/Dockerfile" <<'DOCKERFILE'
FROM scratch AS toolchain
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]
RUN busybox dd if=/dev/urandom of=/compiler bs=1M count=8
RUN busybox sha256sum /compiler > /program

FROM scratch
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]
RUN busybox dd if=/dev/urandom of=/data bs=1M count=4
COPY --from=toolchain /program /program
RUN busybox cat /program /data | busybox sha256sum > /sums
DOCKERFILE
}

# Runs the documented command through remora, with no credentials anywhere.
build() {
    local cache=type=s3,region=us-east-1,bucket=build-cache,name=demo
    "$tools/buildctl" --addr "unix://$work/remora.sock" build --progress=plain --trace "$work/trace-$1" \
        --frontend dockerfile.v0 --local "context=$work/context" --local "dockerfile=$work/context" \
        --export-cache "$cache,mode=max" --import-cache "$cache" --output "type=oci,dest=$work/image-$1.tar" 2>&1
}

# Prints the Dockerfile's steps in a trace that match a pattern, one on each line.
steps() {
    sed 's/{"digest":"/\n&/g' "$work/trace-$1" | grep '^{"digest"' | grep '"name":"\[' | grep -v '"name":"\[internal\]' |
        grep -e "$2" | sed 's/^{"digest":"\([^"]*\)".*/\1/' | sort -u || true
}

tools=$(scripts/tools.sh)
cargo build --locked --bin remora
write_context

say "an empty builder, an empty cache"
start_buildkitd
start_remora "$(free_port)" "$(free_port)"
build first

say "the builder loses everything"
stop_buildkitd
rm -rf "$work/builder"
start_buildkitd
echo "buildkitd runs again, on a new and empty root"

say "an empty builder, remora's cache"
build second

all=$(steps second . | wc -l)
cached=$(steps second '"cached":true' | wc -l)
printf '\nremora demo: %s of %s steps came from the cache on an empty builder\n' "$cached" "$all"
[ "$all" -gt 0 ] && [ "$cached" = "$all" ]
