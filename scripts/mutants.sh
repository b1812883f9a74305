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
usage: scripts/mutants.sh [--schema] [--file GLOB]... [--shard K/N] [--timeout SECONDS] [--list]

  --schema           all faults in one build, each behind a switch (scripts/mutants): a fault costs a run of the tests,
                     under a second, and no build. Says which tests noticed: packet scripts first, then the
                     unit tests, then the snapshot of transfers
  --file GLOB        these sources only (default: stack/src/tcp/**; 'stack/src/tcp/rto.rs' is a small one)
  --shard K/N        every Nth fault, from the Kth on (K from 0), so that a sample takes minutes
  --timeout SECONDS  for the tests of one fault (default 120, with --schema 20; they take about 1 on a quiet machine)
  --list             names the faults and runs nothing

Needs cargo-mutants (cargo install --locked cargo-mutants). Results: target/mutants/mutants.out, with --schema
target/mutants/verdicts. scripts/mutants/equivalent.txt has the faults that were looked at and change nothing that
anybody can see, each with the reason.

Measured with --schema on two shards that no test was written for (2/24 and 14/24, 469 faults that can be
switched; the rest does not build, or is in a constant): packet scripts noticed 243, unit tests 118 more, the snapshot
of transfers 39 more: 400, or 85.3 % (95 % interval 81.8 to 88.2 %). A little earlier two others, 1/24 and 17/24, gave
390 of 478, 81.6 % (77.9 to 84.8 %).
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

# Runs the tests with one fault on: its number and the suite that noticed, `slow` if it ran for ever, or `missed`.
verdict() {
    local suite status
    # A fault that eats memory for ever fails before the machine does.
    ulimit -v 6000000
    for suite in packet remora_stack ledger; do
        status=0
        REMORA_FAULT="$1" timeout "$2" "$3/$suite" -q >/dev/null 2>&1 || status=$?
        case "$status" in
        0) continue ;;
        124) suite=slow ;;
        esac
        printf '%s\t%s\n' "$1" "$suite"
        return
    done
    printf '%s\tmissed\n' "$1"
}

# All faults in one build, in a copy of the tree.
run_schema() {
    local shard="$1" seconds="$2" out="$target/mutants" path name
    shift 2
    rm -rf "$out/tree" "$out/suites"
    mkdir -p "$out/tree" "$out/suites"
    git ls-files -z --cached --others --exclude-standard -- Cargo.toml Cargo.lock stack shim |
        xargs -0 cp --parents -t "$out/tree"
    cargo mutants --list --json "$@" >"$out/list.json"
    nice -n 10 cargo build --quiet --release --manifest-path scripts/mutants/Cargo.toml --target-dir "$out/schema"
    export CARGO_TARGET_DIR="$out/build" CARGO_PROFILE_DEV_DEBUG=0
    nice -n 10 "$out/schema/release/mutant-schema" "$out/list.json" "$out/tree" "$out/faults.tsv"
    (cd "$out/tree" && RUSTFLAGS=--cap-lints=allow nice -n 10 cargo test --quiet -p remora-stack --lib --test packet \
        --test ledger --no-run --message-format=json) >"$out/build.json"
    grep -o '"executable":"[^"]*"' "$out/build.json" | cut -d'"' -f4 >"$out/executables"
    while read -r path; do
        name="$(basename "$path")"
        ln -s "$path" "$out/suites/${name%-*}"
    done <"$out/executables"
    export -f verdict
    # The tests read their files from the directory of the package.
    (cd "$out/tree/stack" &&
        awk -F'\t' -v "k=${shard%/*}" -v "n=${shard#*/}" '$1 % n == k { print $1 }' "$out/faults.tsv" |
        nice -n 10 xargs -P "$(nproc)" -I{} bash -c 'verdict "$@"' verdict {} "$seconds" "$out/suites") >"$out/verdicts"
    awk -F'\t' -v OFS='\t' '
        FILENAME ~ /verdicts$/ { verdict[$1] = $2; sum[$2]++; all++ }
        FILENAME ~ /equivalent.txt$/ && !/^#/ { reason[$1 OFS $2] = $3 }
        FILENAME ~ /faults.tsv$/ && verdict[$1] == "missed" {
            if (($2 OFS $3) in reason) equal++
            else { if (!told++) print "not noticed:"; print $2, $3 }
        }
        END {
            if (!all) exit
            noticed = all - sum["missed"]
            printf "%d faults can be switched: packet scripts notice %d, unit tests %d more, the snapshot %d more, ", \
                all, sum["packet"], sum["remora_stack"], sum["ledger"]
            printf "%d run for ever: %d, or %.1f %%.\n", sum["slow"], noticed, 100 * noticed / all
            p = noticed / all; z = 1.96; c = 1 + z * z / all; m = p + z * z / (2 * all)
            d = z * sqrt(p * (1 - p) / all + z * z / (4 * all * all))
            printf "95 %% interval, if these are a sample: %.1f to %.1f %%.\n", 100 * (m - d) / c, 100 * (m + d) / c
            printf "%d of the others change nothing (scripts/mutants/equivalent.txt); without them %.1f %%.\n", \
                equal, 100 * noticed / (all - equal)
        }' "$out/verdicts" scripts/mutants/equivalent.txt "$out/faults.tsv"
}

main() {
    local -a files=() arguments=()
    local timeout='' shard=0/1 list=no schema=no status=0
    while [ "$#" -gt 0 ]; do
        case "$1" in
        --help | -h)
            usage
            return 0
            ;;
        --list) list=yes ;;
        --schema) schema=yes ;;
        --file | --shard | --timeout)
            if [ "$#" -lt 2 ]; then
                usage >&2
                return 2
            fi
            case "$1" in
            --file) files+=(--file "$2") ;;
            --shard) shard="$2" ;;
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
    if [ "$schema" = yes ] && [ "$list" = no ]; then
        run_schema "$shard" "${timeout:-20}" "${arguments[@]}"
        return
    fi
    arguments+=(--shard "$shard" --sharding round-robin)
    if [ "$list" = yes ]; then
        cargo mutants --list "${arguments[@]}"
        return
    fi
    mkdir -p "$target/mutants"
    # Without debug information a fault is built in half of the time.
    env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=1 \
        nice -n 19 cargo mutants "${arguments[@]}" --jobs 1 --timeout "${timeout:-120}" --build-timeout 900 --no-times --colors never \
        --cargo-test-arg=--lib --cargo-test-arg=--test=packet --cargo-test-arg=--test=ledger || status=$?
    report "$target/mutants/mutants.out"
    # 2 and 3: faults that were not noticed or ran for ever. They are the result, not a failure of the run.
    [ "$status" -le 3 ]
}

main "$@"
