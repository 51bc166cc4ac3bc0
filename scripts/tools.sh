#!/usr/bin/env bash
# Fetches and builds, once, the real parts that `make demo` and `make test` run:
# buildkitd, buildctl, buildx, MinIO and grpcurl from Go's module proxy; runc, busybox, Docker Engine
# and a few tools from Debian.
#
#   scripts/tools.sh              builds what is missing, then prints the folder of the binaries
#   scripts/tools.sh TOOL...      only these
#
# Everything lands in ${REMORA_TOOLS_DIR:-${XDG_CACHE_HOME:-~/.cache}/remora/tools}, outside the tree.
# A stamp per tool names its version, so a new version here means a new build. A lock makes two
# concurrent calls safe: the second waits and finds the work done.
set -euo pipefail

dir=${REMORA_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/remora/tools}
bin=$dir/bin
mkdir -p "$bin" "$dir/stamps" "$dir/logs"

say() { printf 'tools: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# NAME VERSION MODULE PACKAGES...
go_tools() {
    cat <<'LIST'
buildkit v0.33.1 github.com/moby/buildkit ./cmd/buildkitd ./cmd/buildctl
buildx v0.37.2 github.com/docker/buildx ./cmd/buildx
minio v0.0.0-20260212201848-7aac2a2c5b7c github.com/minio/minio .
grpcurl v1.9.3 github.com/fullstorydev/grpcurl ./cmd/grpcurl
LIST
}

# COMMAND PACKAGE: what Debian provides.
debian_tools() {
    cat <<'LIST'
runc runc
busybox busybox-static
ip iproute2
dockerd docker.io
ssh-agent openssh-client
git git
LIST
}

install_debian_packages() {
    local missing=() command package
    while read -r command package; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || missing+=("$package")
    done < <(debian_tools)
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || die "missing Debian packages: run 'apt-get install ${missing[*]}' as root, then try again"
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$dir/logs/apt.log" 2>&1; then
        tail -n 20 "$dir/logs/apt.log" >&2
        die "apt-get failed; the whole log is $dir/logs/apt.log"
    fi
}

# Runs "$@" with its output in a log, and says every 30 s that it is still at it.
with_progress() {
    local name=$1 log=$2 started=$SECONDS
    shift 2
    "$@" >"$log" 2>&1 &
    local pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        if (((SECONDS - started) % 30 == 0)); then
            say "$name: still building (${SECONDS}s)"
        fi
    done
    if ! wait "$pid"; then
        tail -n 20 "$log" >&2
        die "$name failed; the whole log is $log"
    fi
    say "$name: done in $((SECONDS - started)) s"
}

# A module of its own, so that the tool is built with exactly the versions that it asks for.
build_go_module() {
    local version=$1 module=$2 work out status=0
    shift 2
    work=$(mktemp -d "$dir/build.XXXXXX")
    out=$work/bin
    mkdir "$out"
    (
        cd "$work"
        export GOWORK=off GOFLAGS=-mod=mod CGO_ENABLED=0
        go mod init build.invalid/tool
        go get "$module@$version"
        local packages=() package
        for package in "$@"; do
            package=${package#.}
            packages+=("$module$package")
        done
        go build -trimpath -ldflags "-s -w -X github.com/moby/buildkit/version.Version=$version" -o "$out/" "${packages[@]}"
        mv -f "$out"/* "$bin/"
    ) || status=$?
    rm -rf "$work"
    return $status
}

build_go_tools() {
    local name version module packages stamp
    while read -r name version module packages; do
        [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]] && continue
        stamp=$dir/stamps/$name
        [ "$(cat "$stamp" 2>/dev/null)" = "$version" ] && continue
        command -v go >/dev/null || die "Go is needed to build $name: install Go 1.26 or newer"
        say "$name $version: fetching and building (some minutes, once)"
        # shellcheck disable=SC2086 # packages is a list
        with_progress "$name" "$dir/logs/$name.log" build_go_module "$version" "$module" $packages
        printf '%s' "$version" >"$stamp"
    done < <(go_tools)
}

wanted=("$@")
exec 9>"$dir/lock"
if ! flock -n 9; then
    say "another call is building into $dir; waiting for it"
    flock 9
fi
install_debian_packages
build_go_tools
printf '%s\n' "$bin"
