#!/usr/bin/env bash
# Mutation testing of TCP with cargo-mutants: small faults are put into the code one by one, and the core tests and packet
# scripts must notice. Prints the share that they notice and the faults that they do not. Bounded by files and shards; it
# builds in a copy of the tree, at the lowest priority.
set -euo pipefail

root="$(dirname "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)")"
cd "$root"
target="${CARGO_TARGET_DIR:-$root/target}"

usage() {
    cat <<'TEXT'
usage: scripts/mutants.sh [--file GLOB]... [--shard K/N] [--timeout SECONDS] [--list]

  --file GLOB        these sources only (default: stack/src/tcp/**; 'stack/src/tcp/rto.rs' is a small one)
  --shard K/N        every Nth fault, from the Kth on (K from 0), so that a sample takes minutes
  --timeout SECONDS  for the tests of one fault (default 120; they take about 3 on a quiet machine)
  --list             names the faults and runs nothing

Needs cargo-mutants (cargo install --locked cargo-mutants). Results: target/mutants/mutants.out.

Measured once, on the 222 faults of shard 9/24 that can be switched (of 239; the rest does not build, or is in a
constant): packet scripts noticed 85, unit tests 60 more, the snapshot of transfers 30 more: 175, or
79 % (95 % interval 73 to 84 %). For that the faults were all in one build, one of them switched on
for each run, which needs no build a fault; the slowest unit tests were left out.
TEXT
}

count() {
    if [ -f "$1" ]; then wc -l <"$1"; else echo 0; fi
}

report() {
    local out="$1" caught missed slow unviable viable
    caught="$(count "$out/caught.txt")"
    missed="$(count "$out/missed.txt")"
    slow="$(count "$out/timeout.txt")"
    unviable="$(count "$out/unviable.txt")"
    viable=$((caught + missed + slow))
    if [ "$missed" -gt 0 ]; then
        printf 'not noticed:\n'
        cat "$out/missed.txt"
    fi
    if [ "$viable" -gt 0 ]; then
        printf '%d faults: %d noticed, %d ran for ever, %d not noticed (%d do not build): %d %% noticed\n' \
            "$viable" "$caught" "$slow" "$missed" "$unviable" $(((caught + slow) * 100 / viable))
    fi
}

main() {
    local -a files=() arguments=()
    local timeout=120 list=no status=0
    while [ "$#" -gt 0 ]; do
        case "$1" in
        --help | -h)
            usage
            return 0
            ;;
        --list) list=yes ;;
        --file | --shard | --timeout)
            if [ "$#" -lt 2 ]; then
                usage >&2
                return 2
            fi
            case "$1" in
            --file) files+=(--file "$2") ;;
            --shard) arguments+=(--shard "$2" --sharding round-robin) ;;
            --timeout) timeout="$2" ;;
            esac
            shift
            ;;
        *)
            usage >&2
            return 2
            ;;
        esac
        shift
    done
    if [ "${#files[@]}" -eq 0 ]; then
        files=(--file 'stack/src/tcp/**')
    fi
    # What only shows itself to a reader is left out.
    arguments+=("${files[@]}" --package remora-stack --exclude-re 'fmt' --output "$target/mutants")
    if [ "$list" = yes ]; then
        cargo mutants --list "${arguments[@]}"
        return
    fi
    mkdir -p "$target/mutants"
    # Without debug information a fault is built in half of the time.
    env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=1 \
        nice -n 19 cargo mutants "${arguments[@]}" --jobs 1 --timeout "$timeout" --build-timeout 900 --no-times --colors never \
        --cargo-test-arg=--lib --cargo-test-arg=--test=packet --cargo-test-arg=--test=ledger || status=$?
    report "$target/mutants/mutants.out"
    # 2 and 3: faults that were not noticed or ran for ever. They are the result, not a failure of the run.
    [ "$status" -le 3 ]
}

main "$@"
