#!/usr/bin/env bash
# busy.sh [--count N]: how late a family answers whose program computes and never calls: the
# round trip of N echo requests (200), and the time from a byte's way out of the peer to its
# acknowledgement (the delayed ACK of 40 ms fires by a timer), on the kernel and on remora.
# To be read on a quiet machine; it decides nothing. The rule is 2 ms (behaviour.md).
# shellcheck source=lab.sh source-path=SCRIPTDIR
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
count=200
while [ "$#" -gt 1 ] && [ "$1" = --count ]; do
    count="$2"
    shift 2
done
if [ "$#" -gt 0 ]; then
    sed -n '2,5s/^# //p' "$0"
    exit 2
fi

inside() {
    local -a preload=()
    if [ "$LAB_MODE" = remora ]; then
        preload=("LD_PRELOAD=$REMORA_LIB")
    fi
    nsenter "--net=/run/netns/$LAB_PEER" /usr/bin/python3 "$LAB_SCRIPTS/bench/busy.py" peer "$T_PEER" "$count" &
    local peer=$!
    lab_retry 10 lab_listens peer tcp 4650
    nsenter "--net=/run/netns/$LAB_OURS" env "${preload[@]}" /usr/bin/python3 \
        "$LAB_SCRIPTS/bench/busy.py" ours "$T_PEER" $((count / 10 + 10)) &
    local ours=$!
    nsenter "--net=/run/netns/$LAB_PEER" ping -q -n -c "$count" -i 0.02 -W 2 "$T_LOCAL" | tail -n 2
    wait "$peer"
    kill "$ours"
    wait "$ours" 2>/dev/null || true
}

if [ "${BUSY_INSIDE:-}" = 1 ]; then
    inside
    exit
fi
for mode in kernel remora; do
    printf '== %s\n' "$mode"
    LAB_MODE="$mode" BUSY_INSIDE=1 "$LAB_SCRIPTS/lab.sh" with "$LAB_SCRIPTS/busy.sh" --count "$count"
done
