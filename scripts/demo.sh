#!/usr/bin/env bash
# The shortest way to see remora at work: installs what is missing, builds, and plays the
# demo of the remora command. What the demo shows is the command's own affair.
set -euo pipefail

scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$scripts")"

case "${1:-}" in
--help | -h)
    cat <<'TEXT'
usage: scripts/demo.sh [OPTION of remora demo...]

Installs curl and ip where they are missing, builds the library and the command in
release, and runs `remora demo`: curl on remora's stack fetches a page, and the story of
its connection is printed, call by call and frame by frame. Needs no rights beyond those
for a missing package. `target/release/remora demo --help` tells its options.
TEXT
    exit 0
    ;;
esac

"$scripts/setup.sh" --demo
cd "$root"
cargo build --release --workspace
exec "${CARGO_TARGET_DIR:-target}/release/remora" demo "$@"
