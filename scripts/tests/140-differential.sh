#!/usr/bin/env bash
# The differential harness in short: of every call in every state of each kind of socket each
# fifth, on the kernel and on remora at once. DIFFERENTIAL_SEED (1) says from which one on; five
# seeds in a row are all of them. The whole, options by their numbers, and calls at random are
# left to scripts/differential.sh itself.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
export OUT="$TAP_DIR/c"

kind() {
    # Its laboratories are its own.
    "$LAB_SCRIPTS/differential.sh" --calls "$1" --sample 5 --seed "${DIFFERENTIAL_SEED:-1}"
}

ok_remora "calls in every state of a TCP socket answer as the kernel's" kind tcp
ok_remora "calls in every state of a UDP socket answer as the kernel's" kind udp
ok_remora "calls in every state of a ping socket answer as the kernel's" kind ping
ok_remora "calls in every state of a raw socket answer as the kernel's" kind raw
ok_remora "calls in every state of a raw ICMP socket answer as the kernel's" kind icmp
ok_remora "calls in every state of a TCP socket of IPv6 with IPv4 in it answer as the kernel's" kind tcp6
ok_remora "calls in every state of a UDP socket of IPv6 with IPv4 in it answer as the kernel's" kind udp6
ok_remora "what once differed answers as the kernel's" "$LAB_SCRIPTS/differential.sh" --list "$LAB_ROOT/c-tests/differential/found.txt"
tap_end
