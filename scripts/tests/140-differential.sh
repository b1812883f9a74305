#!/usr/bin/env bash
# The differential harness in short: every call in every state of each kind of socket, on the
# kernel and on remora at once. Options by their numbers, and calls at random, are left to
# scripts/differential.sh itself.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
export OUT="$TAP_DIR/c"

kind() {
    # Its laboratories are its own.
    "$LAB_SCRIPTS/differential.sh" --calls "$1"
}

ok_remora "every call in every state of a TCP socket answers as the kernel's" kind tcp
ok_remora "every call in every state of a UDP socket answers as the kernel's" kind udp
ok_remora "every call in every state of a ping socket answers as the kernel's" kind ping
ok_remora "every call in every state of a raw socket answers as the kernel's" kind raw
tap_end
