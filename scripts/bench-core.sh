#!/usr/bin/env bash
# bench-core.sh [WORK...]: instructions that a piece of work of the stack takes, counted by
# valgrind, so that what else the machine does changes nothing. Each work of
# stack/benches/core.rs runs twice, with different times; the difference is shown:
#
#   request         512 bytes and an answer over one connection, both ends' work
#   request-1000    the same over 1,000 connections in turn
#   request-10000   over 10,000: what it costs more is what tables and timers cost
#   bulk            32 KiB sent, acknowledged and read, super-segments and no checksums
#   bulk-plain      the same in segments of 1,460 bytes with checksums
#   connection      a connection made, accepted and closed from both ends
#   datagram        64 bytes by UDP
#   checksum        of 1,500 bytes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

declare -A few=([request-10000]=10 [connection]=100)
works=("$@")
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
if [ "$#" -eq 0 ]; then
    works=(request request-1000 request-10000 bulk bulk-plain connection datagram checksum)
fi
if ! command -v valgrind >/dev/null; then
    echo 'bench-core.sh: valgrind is missing' >&2
    exit 1
fi

program="$(cargo bench --quiet -p remora-stack --bench core --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)"

# instructions WORK TIMES
instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected *: *//p'
}

for work in "${works[@]}"; do
    times="${few[$work]:-200}"
    one="$(instructions "$work" "$times")"
    two="$(instructions "$work" "$((2 * times))")"
    if [ -z "$one" ] || [ -z "$two" ]; then
        echo "bench-core.sh: $work cannot be counted" >&2
        exit 1
    fi
    printf '%-14s %8d instructions\n' "$work" "$(((two - one) / times))"
done
