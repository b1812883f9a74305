#!/usr/bin/env bash
# The differential harness (c-tests/differential): the same sequences of socket calls on the
# kernel and on remora, each with a peer in a laboratory of its own; what differs is printed.
# shellcheck source=lab.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/differential.sh [--table [KIND]] [--calls [KIND]] [--sample N] [--sequences N] [--seed S]
                               [--kind KIND] [--workers N] [--seconds N] [--list FILE] [--one "SEQUENCE"]

  --table [KIND]   every call in every state of the sockets of one kind (tcp, udp, ping,
                   raw, icmp; tcp6 and udp6 with IPv4 in IPv6) or of all; the default
  --calls [KIND]   the same without the options by their numbers
  --sample N       of the calls each N-th only, by --seed
  --sequences N    N sequences at random, from --seed S (1); a difference is cut down to
                   the shortest sequence that shows it
  --kind KIND      sequences at random for sockets of this kind only
  --workers N      share the sequences at random among N pairs of laboratories (1), which
                   draw what all of them lack: most of the time of one is waits, and ten to
                   a processor keep it busy
  --seconds N      no more sequences at random after N seconds
  --list FILE      the sequences of a file, one a line
  --one SEQUENCE   both transcripts of one sequence

Counts per state come last. The status is 0 only without a difference that
c-tests/differential/exceptions.txt does not name. OUT is where the program is built.
TEXT
}

given=("$@")
arguments=(table)
sequences=
seed=1
sample=
workers=1
while [ "$#" -gt 0 ]; do
    case "$1" in
    --table | --calls)
        arguments=("${1#--}")
        case "${2:-}" in
        '' | --*) ;;
        *)
            arguments+=("$2")
            shift
            ;;
        esac
        ;;
    --sequences | --seed | --list | --one | --sample | --kind | --workers | --seconds)
        if [ "$#" -lt 2 ]; then
            usage >&2
            exit 2
        fi
        case "$1" in
        --sequences) sequences="$2" ;;
        --seed) seed="$2" ;;
        --sample) sample="$2" ;;
        --kind) export KIND="$2" ;;
        --workers) workers="$2" ;;
        --seconds) export SECONDS_AT_MOST="$2" ;;
        --list) arguments=(list "$(realpath "$2")") ;;
        --one) arguments=(one "$2") ;;
        esac
        shift
        ;;
    --help | -h)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done
if [ -n "$sequences" ]; then
    arguments=(random "$((sequences / workers))" "$seed")
elif [ -n "$sample" ]; then
    arguments=(calls "${arguments[1]:-}" "$sample" "$seed")
fi

lab_enter "$0" "${given[@]}"
OUT="${OUT:-${CARGO_TARGET_DIR:-$LAB_ROOT/target}/c-tests}"
make -s -C "$LAB_ROOT/c-tests/differential" OUT="$OUT"
lab_trap
export EXCEPTIONS="$LAB_ROOT/c-tests/differential/exceptions.txt"
export REMORA_LOG="${REMORA_LOG:-error}"
# What goes to the own host stays in the stack: a socket that is handed to the kernel has another address there.
export REMORA_LOOPBACK="${REMORA_LOOPBACK:-stack}"
jobs=()
if [ "$workers" -gt 1 ]; then
    export CELLS="$OUT/cells-$$"
fi
for worker in $(seq "$workers"); do
    for LAB_MODE in kernel remora; do
        export LAB_ID="$LAB_MODE-$$-$worker"
        lab_up
        export "${LAB_MODE^^}_OURS=$LAB_OURS" "${LAB_MODE^^}_PEER=$LAB_PEER"
        # Ping sockets are for everyone (both sides ask the namespace).
        lab_sysctl "$LAB_OURS" "net.ipv4.ping_group_range=0 2147483647"
        # What the peer refuses it refuses each time.
        lab_sysctl "$LAB_PEER" "net.ipv4.icmp_ratelimit=0"
    done
    if [ -n "$sequences" ]; then
        arguments=(random "$((sequences / workers))" "$((seed + worker - 1))")
    fi
    "$OUT/differential" "${arguments[@]}" &
    jobs+=("$!")
    LAB_PIDS+=("$!")
done
status=0
for job in "${jobs[@]}"; do
    wait "$job" || status=$?
done
if [ "$workers" -gt 1 ] && [ -n "$sequences" ]; then
    printf '# all together:\n'
    "$OUT/differential" cells
fi
rm -f "${CELLS:-}"
exit "$status"
