#!/usr/bin/env bash
# Runs every gate of the project in order, and ends with the line "N passed, N failed".
# Each gate's output goes to a log; what failed is shown. The gates themselves are cargo's,
# c-tests/run.sh and scripts/tests/; this script only runs and counts.
set -euo pipefail

scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$scripts")"
cd "$root"
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
target="${CARGO_TARGET_DIR:-$root/target}"
case "$target" in
/*) ;;
*) target="$root/$target" ;;
esac
export CARGO_TARGET_DIR="$target"
logs="$target/check"

passed=0
failed=0
skipped=0
failed_gates=()
gate_pid=
only=
lab=yes

usage() {
    cat <<'TEXT'
usage: scripts/check.sh [--no-lab] [--only NAME] [--list] [--help]

Runs every gate: tools, format, lints, documentation, tests, release build, C tests on the
kernel and on remora, real programs in a laboratory of network namespaces, shellcheck.
Ends with "N passed, N failed" and the number skipped; the status is 0 only without a
failure.

  --no-lab     leave out what needs network namespaces, and say how much that was
  --only NAME  run one gate (see --list); it takes what earlier gates built as it is
  --list       print the gates, in order
  --help       this text

Without root the laboratory runs in a user namespace. Where neither is possible the check
fails, unless told --no-lab. Logs: target/check/NAME.log.
TEXT
}

# --- gates ------------------------------------------------------------------------------

# name:seconds allowed:kind:needs the laboratory
# kind: plain counts as one test; cargo and tap are counted by their lines.
gates() {
    cat <<'TEXT'
setup:600:plain:no
fmt:60:plain:no
clippy:900:plain:no
doc:600:plain:no
shellcheck:120:plain:no
unsafe:30:plain:no
leftovers:30:plain:no
trace:30:plain:no
test:1200:cargo:no
simulation:300:cargo:no
release:1200:plain:no
lab:60:plain:yes
c-kernel:600:tap:yes
c-remora:600:tap:yes
c-compare:60:tap:yes
TEXT
    local script
    for script in "$scripts"/tests/[0-9][0-9]-*.sh "$scripts"/tests/[0-9][0-9][0-9]-*.sh; do
        printf '%s:300:tap:yes\n' "$(basename "$script" .sh)"
    done
}

# Runs as a process of its own (check.sh --gate NAME), so that it can be given a deadline;
# what is one command takes its place, and so hears the signal itself.
run_gate() {
    case "$1" in
    setup) exec "$scripts/setup.sh" ;;
    fmt) exec cargo fmt --all --check ;;
    clippy) exec cargo clippy --workspace --all-targets -- -D warnings ;;
    doc) RUSTDOCFLAGS="-D warnings" exec cargo doc --workspace --no-deps ;;
    shellcheck) gate_shellcheck ;;
    unsafe) gate_unsafe ;;
    leftovers) gate_leftovers ;;
    trace) exec "$scripts/trace.sh" ;;
    test) exec cargo test --workspace --no-fail-fast ;;
    simulation) exec cargo test -p remora-stack --test goodput -- --ignored ;;
    release) gate_release ;;
    lab) LAB_MODE=kernel exec "$scripts/lab.sh" run true ;;
    c-kernel) LAB_MODE=kernel OUT="$target/c-tests" exec "$scripts/lab.sh" with c-tests/run.sh kernel ;;
    c-remora) LAB_MODE=remora OUT="$target/c-tests" exec "$scripts/lab.sh" with c-tests/run.sh remora ;;
    c-compare) OUT="$target/c-tests" exec c-tests/run.sh compare ;;
    [0-9][0-9]-* | [0-9][0-9][0-9]-*) LAB_MODE=remora TMPDIR="$logs" exec "$scripts/tests/$1.sh" ;;
    *)
        printf 'check: there is no gate "%s"; see --list\n' "$1" >&2
        return 2
        ;;
    esac
}

sources() {
    find . \( -path ./target -o -path ./.git -o -path "$target" \) -prune -o -type f "$@" -print
}

gate_shellcheck() {
    local -a files
    mapfile -t files < <(sources -name '*.sh')
    if [ -f .ci/run ]; then
        files+=(.ci/run)
    fi
    printf '%s\n' "${files[@]}"
    shellcheck "${files[@]}"
}

gate_release() {
    cargo build --workspace --release
    test -f "$target/release/libremora.so"
    test -x "$target/release/remora"
}

# The word may stand in a comment; as code it stands only where ARCHITECTURE.md allows.
gate_unsafe() {
    local file found=0
    while read -r file; do
        case "$file" in
        ./stack/host/src/sys/* | ./stack/host/src/sys.rs) continue ;;
        ./shim/src/hooks.rs | ./shim/src/real.rs | ./shim/src/abi.rs) continue ;;
        ./shim/src/hooks/* | ./shim/src/real/* | ./shim/src/abi/*) continue ;;
        esac
        if sed 's,//.*,,' "$file" | grep -nw unsafe | sed "s,^,$file:,"; then
            found=1
        fi
    done < <(sources -name '*.rs')
    if ! grep -q 'forbid(unsafe_code)' stack/src/lib.rs; then
        printf 'stack/src/lib.rs does not forbid unsafe code\n'
        found=1
    fi
    return "$found"
}

# The words are put together here, so that this file is not its own finding.
gate_leftovers() {
    local words="\\b(TO""DO|FIX""ME)\\b|\\b(to""do|unimple""mented)!\\("
    local -a files
    mapfile -t files < <(sources \( -name '*.rs' -o -name '*.c' -o -name '*.h' -o -name '*.sh' \
        -o -name '*.py' -o -name '*.md' -o -name '*.toml' \))
    if grep -nE "$words" "${files[@]}"; then
        return 1
    fi
}

# --- counting ---------------------------------------------------------------------------

count() {
    grep -cE -- "$1" "$2" || true
}

# Adds the gate's lines; a gate that failed without a failed line counts as one.
count_cargo() {
    local good bad ignored
    good="$(sed -n 's/^test result: .* \([0-9][0-9]*\) passed;.*/\1/p' "$2" | paste -sd+ | sed 's/^$/0/')"
    bad="$(sed -n 's/^test result: .* \([0-9][0-9]*\) failed;.*/\1/p' "$2" | paste -sd+ | sed 's/^$/0/')"
    ignored="$(sed -n 's/^test result: .* \([0-9][0-9]*\) ignored;.*/\1/p' "$2" | paste -sd+ | sed 's/^$/0/')"
    add_counts "$1" $((${good:-0})) $((${bad:-0})) $((${ignored:-0}))
}

count_tap() {
    local good bad skips plan status="$1"
    skips="$(count '^ok .*# SKIP' "$2")"
    good=$(($(count '^ok ' "$2") - skips))
    bad="$(count '^not ok ' "$2")"
    plan="$(sed -n 's/^1\.\.\([0-9]*\).*/\1/p' "$2" | tail -n 1)"
    # Lines that never came are failures.
    if [ "${plan:-none}" != "$((good + bad + skips))" ]; then
        status=1
        bad=$((bad + 1))
        printf 'check: the plan is %s, the lines are %d\n' "${plan:-missing}" $((good + bad + skips - 1)) >>"$2"
    fi
    if [ "$((good + bad + skips))" -eq 0 ]; then
        bad=1
    fi
    add_counts "$status" "$good" "$bad" "$skips"
}

add_counts() {
    local status="$1" good="$2" bad="$3" skips="$4"
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    skipped=$((skipped + skips))
    gate_good="$good" gate_bad="$bad" gate_skips="$skips"
}

# How many tests a gate that is left out would have run, by its text.
tests_in() {
    local number=1
    case "$1" in
    c-*) number="$(find c-tests -name '*.c' ! -name peer.c 2>/dev/null | wc -l)" ;;
    [0-9][0-9]-* | [0-9][0-9][0-9]-*) number="$(count '^ *(ok|ok_remora) "' "$scripts/tests/$1.sh")" ;;
    esac
    printf '%s\n' "$number"
}

# --- running ----------------------------------------------------------------------------

show_failure() {
    local log="$1" kind="$2"
    if [ "$kind" = tap ] && grep -q '^not ok' "$log"; then
        grep -A 14 '^not ok' "$log" | grep -E '^(not ok|#)' | grep -v '^# log and' |
            head -n 80 | sed 's/^/    /' || true
        grep -E '^(Bail out|# log and captures|check:)' "$log" | sed 's/^/    /' || true
    else
        tail -n 40 "$log" | sed 's/^/    /'
    fi
    printf '    log: %s\n' "$log"
}

gate() {
    local name="$1" seconds="$2" kind="$3" status=0 start=$SECONDS log word=ok detail=
    log="$logs/$name.log"
    printf '%-14s ' "$name"
    # A background job that is waited for, so that a signal is heard at once (see
    # interrupted); the watchdog passes it on to the gate and all its children. Background
    # jobs ignore SIGINT, which programs under test must not.
    timeout -k 20 "$seconds" env --default-signal=INT --default-signal=QUIT \
        "$scripts/check.sh" --gate "$name" >"$log" 2>&1 </dev/null &
    gate_pid=$!
    wait "$gate_pid" || status=$?
    gate_pid=
    if [ "$status" -eq 124 ]; then
        printf 'check: no end after %d s\n' "$seconds" >>"$log"
    fi
    case "$kind" in
    plain) add_counts "$status" "$((status == 0))" "$((status != 0))" 0 ;;
    cargo) count_cargo "$status" "$log" ;;
    tap) count_tap "$status" "$log" ;;
    esac
    if [ "$gate_bad" -gt 0 ]; then
        word=FAILED
        failed_gates+=("$name")
    fi
    if [ "$kind" != plain ]; then
        detail="$gate_good passed, $gate_bad failed"
        if [ "$gate_skips" -gt 0 ]; then
            detail+=", $gate_skips skipped"
        fi
    fi
    printf '%-7s %4d s  %s\n' "$word" "$((SECONDS - start))" "$detail"
    if [ "$gate_bad" -gt 0 ]; then
        show_failure "$log" "$kind"
        return 1
    fi
}

# The gate that runs removes what it made before this script ends.
interrupted() {
    trap '' INT TERM HUP
    if [ -n "$gate_pid" ]; then
        kill -TERM "$gate_pid" 2>/dev/null || true
        wait "$gate_pid" 2>/dev/null || true
    fi
    printf '\ncheck: interrupted\n'
    exit "$1"
}

leave_out() {
    local number
    number="$(tests_in "$1")"
    skipped=$((skipped + number))
    printf '%-14s left out, %s tests: %s\n' "$1" "$number" "$2"
}

run_all() {
    local name seconds kind needs_lab reason=
    if [ "$lab" = no ]; then
        reason="--no-lab"
    fi
    mkdir -p "$logs"
    trap 'interrupted 129' HUP
    trap 'interrupted 130' INT
    trap 'interrupted 143' TERM
    while IFS=: read -r name seconds kind needs_lab; do
        if [ -n "$only" ] && [ "$name" != "$only" ]; then
            continue
        fi
        if [ "$needs_lab" = yes ] && [ -n "$reason" ]; then
            leave_out "$name" "$reason"
            continue
        fi
        if ! gate "$name" "$seconds" "$kind" && [ "$name" = lab ]; then
            reason="no laboratory"
            printf 'check: network namespaces cannot be made here, so this check FAILS.\n'
            printf 'check: run it as root or where user namespaces are allowed, or give --no-lab.\n'
        fi
    done < <(gates)
}

main() {
    while [ "$#" -gt 0 ]; do
        case "$1" in
        --gate)
            run_gate "$2"
            return
            ;;
        --no-lab) lab=no ;;
        --only)
            if [ "$#" -lt 2 ]; then
                usage >&2
                return 2
            fi
            shift
            only="$1"
            ;;
        --list)
            gates | cut -d: -f1
            return 0
            ;;
        --help | -h)
            usage
            return 0
            ;;
        *)
            usage >&2
            return 2
            ;;
        esac
        shift
    done
    if [ -n "$only" ] && ! gates | cut -d: -f1 | grep -xF -- "$only" >/dev/null; then
        printf 'check: there is no gate "%s"; see --list\n' "$only" >&2
        return 2
    fi
    run_all
    printf '\n'
    if [ "${#failed_gates[@]}" -gt 0 ]; then
        printf 'failed gates: %s\n' "${failed_gates[*]}"
    fi
    printf '%d skipped\n' "$skipped"
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
}

main "$@"
