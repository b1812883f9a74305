#!/usr/bin/env bash
# busy.sh [--count N] [--ordinary]: how soon a family answers whose program computes and
# never calls, or calls every 1.5 ms and never waits: N echo requests (300), and bytes whose
# delayed acknowledgement a timer sends, on the kernel and on remora. The rule is 2 ms for
# 99 of 100 echo requests. Keeper and program run with real-time priority, unless
# --ordinary, so that the figures are remora's and not those of the machine's other load;
# how long the keeper was kept waiting for a processor is printed.
# shellcheck source=lab.sh source-path=SCRIPTDIR
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
count=300 ordinary='' arguments=("$@")
while [ "$#" -gt 0 ]; do
    case "$1" in
    --count)
        count="${2:?}"
        shift
        ;;
    --ordinary) ordinary=1 ;;
    *)
        sed -n '2,8s/^# //p' "$0"
        exit 2
        ;;
    esac
    shift
done

keeper() {
    local pid
    for pid in $(ip netns pids "$LAB_OURS"); do
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = remora-keeper ]; then
            printf '%s\n' "$pid"
            return
        fi
    done
    return 1
}

# What a process has waited for a processor, in nanoseconds, and how often it got one.
waited() {
    cut -d ' ' -f 2,3 "/proc/$1/schedstat"
}

inside() {
    local what="$1" status=0 pid='' before=0 times=0 after again
    local -a preload=()
    if [ "$LAB_MODE" = remora ]; then
        preload=("LD_PRELOAD=$REMORA_LIB")
    fi
    nsenter "--net=/run/netns/$LAB_PEER" /usr/bin/python3 "$LAB_SCRIPTS/bench/busy.py" \
        peer "$T_PEER" "$T_LOCAL" "$count" &
    local peer=$!
    lab_retry 10 lab_listens peer tcp 4650
    nsenter "--net=/run/netns/$LAB_OURS" env "${preload[@]}" /usr/bin/python3 \
        "$LAB_SCRIPTS/bench/busy.py" ours "$T_PEER" $((count / 20 + 20)) "$what" &
    local ours=$!
    if [ "$LAB_MODE" = remora ]; then
        lab_retry 10 keeper >/dev/null
        pid="$(keeper)"
        if [ -z "$ordinary" ] && ! { chrt -f -p 2 "$pid" && chrt -r -p 1 "$ours"; } 2>/dev/null; then
            echo "no right to real-time priority: the figures are the machine's, too"
            ordinary=1
        fi
        read -r before times < <(waited "$pid")
    fi
    wait "$peer" || status=$?
    if [ -n "$pid" ]; then
        read -r after again < <(waited "$pid")
        awk -v waited=$((after - before)) -v times=$((again - times)) -v count="$count" 'BEGIN {
            printf "the keeper ran %d times, %.1f an echo request, and waited %.3f ms on average for a processor\n",
                times, times / count, waited / 1e6 / (times ? times : 1) }'
    fi
    kill "$ours"
    wait "$ours" 2>/dev/null || true
    if [ -n "$ordinary" ] && [ "$status" -eq 3 ]; then
        status=0
    fi
    return "$status"
}

if [ -n "${BUSY_INSIDE:-}" ]; then
    inside "$BUSY_INSIDE"
    exit
fi
status=0
for what in compute call; do
    for mode in kernel remora; do
        printf '== %s, on %s\n' "$what" "$mode"
        LAB_MODE="$mode" BUSY_INSIDE="$what" "$LAB_SCRIPTS/lab.sh" with "$LAB_SCRIPTS/busy.sh" "${arguments[@]}" || status=1
    done
done
exit "$status"
