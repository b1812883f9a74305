#!/usr/bin/env bash
# The differential harness in short: calls in the states of every kind of socket, and a few
# thousand sequences at random, on the kernel and on remora at once. The long runs are
# scripts/differential.sh's.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
export OUT="$TAP_DIR/c"

kind() {
    "$LAB_SCRIPTS/differential.sh" --calls "$1"
}

ok_remora "every call in every state of a TCP socket answers as the kernel's" kind tcp
ok_remora "every call in every state of a UDP socket answers as the kernel's" kind udp
ok_remora "every call in every state of a ping socket answers as the kernel's" kind ping
ok_remora "every call in every state of a raw socket answers as the kernel's" kind raw
ok_remora "sequences at random answer as the kernel's" "$LAB_SCRIPTS/differential.sh" --sequences 1000 --seed 1
tap_end
