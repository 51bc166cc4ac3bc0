#!/usr/bin/env bash
# Fetches and builds, once, the real tools that `make demo` and `make test` run: buildkitd, buildctl, buildx, MinIO and
# grpcurl from Go's module proxy; runc, busybox, Docker Engine and a few others from Debian.
#
#   scripts/tools.sh              builds what is missing, then prints the folder of the binaries
#   scripts/tools.sh TOOL...      builds only these
#
# Everything lands in ${REMORA_TOOLS_DIR:-${XDG_CACHE_HOME:-~/.cache}/remora/tools}, outside the tree.
# A stamp file for each tool names its version, so a new version here means a new build. A lock makes two concurrent
# calls safe: the second call waits and finds the work done.
set -euo pipefail

dir=${REMORA_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/remora/tools}
bin=$dir/bin
mkdir -p "$bin" "$dir/stamps" "$dir/logs"

say() { printf 'tools: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Each line is NAME VERSION HOW MODULE PACKAGES... HOW is `install`, which uses the versions that the module itself was
# tested with, or `module`, for a module whose go.mod has replace lines, which `go install` refuses.
go_tools() {
    cat <<'LIST'
buildkit v0.33.1 module github.com/moby/buildkit ./cmd/buildkitd ./cmd/buildctl
buildx v0.37.2 module github.com/docker/buildx ./cmd/buildx
minio v0.0.0-20260212201848-7aac2a2c5b7c module github.com/minio/minio .
grpcurl v1.9.3 install github.com/fullstorydev/grpcurl ./cmd/grpcurl
LIST
}

# Each line is COMMAND PACKAGE..., a command that Debian provides. Of several packages, the first one that this release
# has is installed.
debian_tools() {
    cat <<'LIST'
runc runc
busybox busybox-static
ip iproute2
dockerd docker.io
docker docker-cli docker.io
ssh-agent openssh-client
git git
LIST
}

apt_packages() {
    local packages=$1 candidates candidate
    apt-get update
    while read -r candidates; do
        for candidate in $candidates; do
            if apt-cache show "$candidate" >/dev/null 2>&1; then
                wanted_packages+=("$candidate")
                break
            fi
        done
    done <<<"$packages"
    apt-get install -y --no-install-recommends "${wanted_packages[@]}"
}

install_debian_packages() {
    local missing='' command packages wanted_packages=()
    while read -r command packages; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || missing+="$packages"$'\n'
    done < <(debian_tools)
    [ -z "$missing" ] && return
    missing=${missing%$'\n'}
    [ "$(id -u)" = 0 ] || die "missing Debian packages: run this as root once, or install" "${missing//$'\n'/, }"
    say "installing Debian packages: ${missing//$'\n'/, }"
    export DEBIAN_FRONTEND=noninteractive
    if ! apt_packages "$missing" >"$dir/logs/apt.log" 2>&1; then
        tail -n 20 "$dir/logs/apt.log" >&2
        die "apt-get failed; the whole log is $dir/logs/apt.log"
    fi
}

# Runs "$@" with its output in a log, and says every 30 s that it is still running. (The ticker keeps neither the lock
# nor the caller's pipes open.)
with_progress() {
    local name=$1 log=$2 started=$SECONDS status
    shift 2
    while sleep 30 2>/dev/null; do say "$name: still at it ($((SECONDS - started)) s)"; done >/dev/null 9>&- &
    local ticker=$!
    # The command must not run in a condition, where the shell would go on after errors.
    set +e
    "$@" >"$log" 2>&1
    status=$?
    set -e
    kill "$ticker" && wait "$ticker" 2>/dev/null || true
    if [ "$status" != 0 ]; then
        tail -n 20 "$log" >&2
        die "$name failed; the whole log is $log"
    fi
    say "$name: done in $((SECONDS - started)) s"
}

# Runs in a process of its own, so that the folder that it works in is removed when it ends.
build_go_module() (
    set -e
    version=$1 how=$2 module=$3
    shift 3
    work=$(mktemp -d "$dir/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/bin"
    cd "$work"
    export GOWORK=off GOFLAGS=-trimpath CGO_ENABLED=0 GOBIN=$work/bin
    flags="-s -w -X github.com/moby/buildkit/version.Version=$version"
    packages=("${@/#./$module}")
    if [ "$how" = install ]; then
        go install -ldflags "$flags" "${packages[@]/%/@$version}"
    else
        go mod init build.invalid/tool
        go get "$module@$version"
        go build -mod=mod -ldflags "$flags" -o "$GOBIN/" "${packages[@]}"
    fi
    mv -f "$work/bin"/* "$bin/"
)

build_go_tools() {
    local name version how module packages stamp
    while read -r name version how module packages; do
        [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]] && continue
        stamp=$dir/stamps/$name
        [ "$(cat "$stamp" 2>/dev/null)" = "$version" ] && continue
        command -v go >/dev/null || die "Go is needed to build $name: install Go 1.26 or newer"
        say "$name $version: fetching and building (some minutes, once)"
        # shellcheck disable=SC2086 # packages is a list
        with_progress "$name" "$dir/logs/$name.log" build_go_module "$version" "$how" "$module" $packages
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
