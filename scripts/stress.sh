#!/usr/bin/env bash
# stress.sh [--seconds N] [--seed S] [--kills N]: the long runs, all bounded and seeded:
# 64 threads in eight processes at random, on the kernel and on remora, for N seconds (60);
# 10,000 idle connections beside 1,000 busy ones, on both; kills.sh with 1,000 kills.
# shellcheck source=lab.sh source-path=SCRIPTDIR disable=SC2317
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
seconds=60 seed=$RANDOM kills=1000
while [ "$#" -gt 1 ]; do
    case "$1" in
    --seconds) seconds="$2" ;;
    --seed) seed="$2" ;;
    --kills) kills="$2" ;;
    *) break ;;
    esac
    shift 2
done
if [ "$#" -gt 0 ]; then
    sed -n '2,4s/^# //p' "$0"
    exit 2
fi
directory="$(mktemp -d)"
flags=(-std=gnu11 -D_GNU_SOURCE -O1 -Wall -Wextra -Werror)
for name in peer stress_random stress/witness stress/many; do
    gcc "${flags[@]}" -o "$directory/$(basename "$name")" "$LAB_ROOT/c-tests/$name.c" -lpthread
done

# What runs inside the laboratory, on our side and the peer's.
inside() {
    local ours="$1" status=0
    local -a preload=()
    if [ "$LAB_MODE" = remora ]; then
        preload=("LD_PRELOAD=$REMORA_LIB")
    fi
    ulimit -n 20000
    nsenter "--net=/run/netns/$LAB_PEER" sysctl -qw net.core.somaxconn=4096
    nsenter "--net=/run/netns/$LAB_PEER" "$directory/peer" $((seconds + 60)) >/dev/null &
    local peer=$!
    nsenter "--net=/run/netns/$LAB_PEER" "$directory/witness" 4700 0 400 >/dev/null &
    local witness=$!
    sleep 0.5
    if [ "$ours" = random ]; then
        nsenter "--net=/run/netns/$LAB_OURS" env "${preload[@]}" "STRESS_SECONDS=$seconds" "STRESS_SEED=$seed" \
            "$directory/stress_random" || status=$?
    else
        nsenter "--net=/run/netns/$LAB_OURS" env "${preload[@]}" "$directory/many" 4700 10000 1000 5 || status=$?
    fi
    kill "$peer" "$witness"
    wait "$peer" "$witness" 2>/dev/null || true
    return "$status"
}
export -f inside
export directory seconds seed

status=0
for mode in kernel remora; do
    for what in random many; do
        printf '== %s: %s, seed %s\n' "$mode" "$what" "$seed"
        LAB_MODE="$mode" "$LAB_SCRIPTS/lab.sh" with bash -c "inside $what" || status=1
    done
done
"$LAB_SCRIPTS/kills.sh" --count "$kills" --seed "$seed" || status=1
rm -r "$directory"
exit "$status"
