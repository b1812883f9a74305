#!/usr/bin/env bash
# Goodput of one stream over an emulated link, remora against the kernel's own stack: rate,
# loss and round-trip time make a cell, both directions; runs are taken in turn (kernel,
# remora, ...), a pair meets the same losses by the same seed. The other end is a kernel. It
# reports and never judges. The link is link.sh's, the programs and the reporter are in bench/.
#
# shellcheck source=lab.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
# shellcheck source=link.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/link.sh"
set -euo pipefail

GOODPUT_PARTS="$LAB_SCRIPTS/bench"
GOODPUT_PORT=7000
# A run may take so long beside its seconds.
GOODPUT_SLACK_SECONDS=30

rates=20,200
losses=0,0.1,1,3
rtts=2,40,150
pairs=5
seconds=4
directions=send,receive
control=cubic
json=
goodput_dir=

usage() {
    cat <<'TEXT'
usage: scripts/goodput.sh [--quick] [--rates M,...] [--losses P,...] [--rtts MS,...]
                          [--directions send,receive] [--pairs N] [--seconds S]
                          [--control NAME] [--json FILE]

Prints one row per cell: median goodput in Mbit/s of the kernel and of remora, and the ratio
remora/kernel as the geometric mean of the pairs' ratios with its 95 % interval; below them
the geometric mean over all cells. The status is 1 when a cell could not be measured.

  --quick           one rate (200), losses 0 and 1 %, round trips 2 and 40 ms, 2 pairs of 2 s
  --rates M,...     of the link, in Mbit/s (20,200)
  --losses P,...    in percent, of data and ACKs alike (0,0.1,1,3)
  --rtts MS,...     in milliseconds (2,40,150)
  --directions D    send: our side sends; receive: the peer does (send,receive)
  --pairs N         pairs of runs in a cell (5)
  --seconds S       length of a run (4)
  --control NAME    congestion control of both ends (cubic)
  --json FILE       every run as well

Environment: REMORA_LIB (target/release/libremora.so), REMORA_LINK (beside it); CC (cc).
TEXT
}

say() {
    printf 'goodput: %s\n' "$*" >&2
}

refuse() {
    say "$*; see --help"
    exit 2
}

arguments() {
    while [ "$#" -gt 0 ]; do
        case "$1" in
        --help | -h)
            usage
            exit 0
            ;;
        --quick)
            rates=200 losses=0,1 rtts=2,40 pairs=2 seconds=2
            shift
            continue
            ;;
        --rates | --losses | --rtts | --directions | --pairs | --seconds | --control | --json)
            [ "$#" -ge 2 ] || refuse "$1 needs a value"
            ;;
        *) refuse "unknown argument $1" ;;
        esac
        case "$1" in
        --rates) rates="$2" ;;
        --losses) losses="$2" ;;
        --rtts) rtts="$2" ;;
        --directions) directions="$2" ;;
        --pairs) pairs="$2" ;;
        --seconds) seconds="$2" ;;
        --control) control="$2" ;;
        --json) json="$2" ;;
        esac
        shift 2
    done
    local list
    for list in "$rates" "$losses" "$rtts"; do
        [[ "$list" =~ ^[0-9]+(\.[0-9]+)?(,[0-9]+(\.[0-9]+)?)*$ ]] || refuse "$list: numbers with commas between"
    done
    [[ "$directions" =~ ^(send|receive)(,(send|receive))?$ ]] || refuse "--directions $directions"
    [[ "$pairs" =~ ^[1-9][0-9]{0,2}$ ]] || refuse "--pairs $pairs: a number from 1 to 999"
    [[ "$seconds" =~ ^[1-9][0-9]{0,2}$ ]] || refuse "--seconds $seconds: a number from 1 to 999"
}

build() {
    local program
    for program in ours peer; do
        "${CC:-cc}" -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror \
            -o "$goodput_dir/$program" "$GOODPUT_PARTS/$program.c"
    done
}

leave() {
    trap - EXIT
    trap '' HUP INT TERM
    lab_down || true
    if [ -n "$goodput_dir" ]; then
        rm -rf "$goodput_dir"
    fi
}

# link RATE LOSS RTT SEED: the queue holds what is in flight on a full link, 50 packets at least.
link() {
    local delay limit
    delay="$(awk -v "rtt=$3" 'BEGIN { printf "%.3fms", rtt / 2 }')"
    limit="$(awk -v "rate=$1" -v "rtt=$3" 'BEGIN { n = rate * rtt * 1000 / 8 / 1514; printf "%d", n < 50 ? 50 : n }')"
    link_start --both "rate=${1}mbit,limit=${limit}p,delay=$delay,loss=${2}%" --seed "$4"
}

# side kernel|remora DIRECTION: one run; bytes per second on standard output.
side() {
    local peer=sink mode=goodput pid status=0
    if [ "$1" = kernel ]; then
        lab_kernel_mode
        ip -n "$LAB_OURS" neigh flush dev "$LAB_OURS_IFACE"
        ip -n "$LAB_PEER" neigh flush dev "$LAB_PEER_IFACE"
    else
        lab_remora_mode
    fi
    if [ "$2" = receive ]; then
        peer=source mode=receive
    fi
    lab_start peer "$goodput_dir/peer" "$peer" -a 0.0.0.0 -p "$GOODPUT_PORT" -l "$LAB_DEADLINE" \
        -C "$control" >"$goodput_dir/peer.out" 2>"$goodput_dir/errors"
    if ! lab_retry 10 lab_listens peer tcp "$GOODPUT_PORT"; then
        say "the peer does not listen: $(cat "$goodput_dir/errors")"
        return 1
    fi
    lab_start ours "$goodput_dir/ours" "$mode" -a "$T_PEER" -p "$GOODPUT_PORT" -l "$LAB_DEADLINE" -t "$seconds" \
        -C "$control" >"$goodput_dir/figures" 2>>"$goodput_dir/errors"
    pid="$LAB_PID"
    wait "$pid" || status=$?
    lab_end_processes "$LAB_OURS"
    lab_end_processes "$LAB_PEER"
    if [ "$status" -ne 0 ] || grep -q 'cannot be preloaded' "$goodput_dir/errors"; then
        say "$1, $2: status $status: $(tail -n 2 "$goodput_dir/errors")"
        return 1
    fi
}

# cell RATE LOSS RTT DIRECTION
cell() {
    local pair name
    for ((pair = 1; pair <= pairs; pair++)); do
        for name in kernel remora; do
            link "$1" "$2" "$3" "$pair"
            if side "$name" "$4"; then
                printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "$pair" "$name" \
                    "$(awk '$1 == "bytes_per_second" { print $2 }' "$goodput_dir/figures")" >>"$goodput_dir/raw"
            fi
            link_stop
        done
    done
}

main() {
    local rate loss rtt direction
    local -a each_rate each_loss each_rtt each_direction
    arguments "$@"
    lab_enter "$0" "$@"
    goodput_dir="$(mktemp -d)"
    trap leave EXIT
    trap 'exit 130' HUP INT TERM
    LAB_DEADLINE=$((seconds + GOODPUT_SLACK_SECONDS))
    LAB_MODE=kernel
    build
    link_lab_up
    # What one run learned of the path must not help the next.
    lab_sysctl "$LAB_OURS" net.ipv4.tcp_no_metrics_save=1
    lab_sysctl "$LAB_PEER" net.ipv4.tcp_no_metrics_save=1
    IFS=, read -ra each_rate <<<"$rates"
    IFS=, read -ra each_loss <<<"$losses"
    IFS=, read -ra each_rtt <<<"$rtts"
    IFS=, read -ra each_direction <<<"$directions"
    : >"$goodput_dir/raw"
    for rate in "${each_rate[@]}"; do
        for rtt in "${each_rtt[@]}"; do
            for loss in "${each_loss[@]}"; do
                for direction in "${each_direction[@]}"; do
                    cell "$rate" "$loss" "$rtt" "$direction"
                done
            done
        done
    done
    /usr/bin/python3 "$GOODPUT_PARTS/goodput.py" "$goodput_dir/raw" ${json:+--json "$json"}
}

main "$@"
