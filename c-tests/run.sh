#!/bin/bash
# Runs the C tests and prints TAP, one line per program; keeps each program's output in $OUT/results/MODE/NAME.tap.
#
#   run.sh kernel    our side on the kernel's stack    } in the laboratory of the caller: LAB_OURS and LAB_PEER name the
#   run.sh remora    our side under libremora.so       } two namespaces, T_* the addresses (defaults: t.h)
#   run.sh compare   the two results must not differ
#   run.sh self      makes two namespaces of its own, runs `kernel` there, removes them
#
# remora needs REMORA_LIB (the library's path), REMORA_IFACE, REMORA_ADDR and REMORA_GATEWAY; our namespace has the
# interface up and no address or route of the kernel's. OUT is where the programs lie (default: out beside this file).
# ONLY="name name" runs only these programs.
set -u

here=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-$here/out}
mode=${1:-}
# Longer than the programs' own deadline (t.h), so that their message comes first.
limit=20

export T_PEER="${T_PEER:-10.99.0.2}"
export T_LOCAL="${T_LOCAL:-10.99.0.1}"
export T_NET_DEAD="${T_NET_DEAD:-10.99.0.77}"
export T_BLACKHOLE="${T_BLACKHOLE:-10.98.0.1}"
export T_UNREACH="${T_UNREACH:-10.98.0.2}"
export T_PROHIBIT="${T_PROHIBIT:-10.98.0.3}"
export T_NOROUTE="${T_NOROUTE:-192.0.2.1}"

peer_pid=
made_ours=
made_peer=

fail() {
    echo "Bail out! $*"
    exit 1
}

cleanup() {
    if [ -n "$peer_pid" ]; then
        kill "$peer_pid" 2>/dev/null
        wait "$peer_pid" 2>/dev/null
    fi
    [ -z "$made_ours" ] || ip netns del "$made_ours"
    [ -z "$made_peer" ] || ip netns del "$made_peer"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

names() {
    if [ -n "${ONLY:-}" ]; then
        tr ' ' '\n' <<<"$ONLY"
        return
    fi
    local source
    for source in "$here"/*.c; do
        source=$(basename "$source" .c)
        [ "$source" = peer ] || echo "$source"
    done
}

# The routes on which the peer refuses, and no limit on the ICMP messages that it refuses with.
prepare_peer() {
    # shellcheck disable=SC2016 # the variables are exported and expand inside
    ip netns exec "$LAB_PEER" sh -e -c '
        echo 1 >/proc/sys/net/ipv4/ip_forward
        echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
        echo 3 >/proc/sys/net/ipv4/tcp_fastopen
        echo 100000 >/proc/sys/net/ipv4/icmp_msgs_per_sec 2>/dev/null || true
        ip route replace blackhole "$T_BLACKHOLE"
        ip route replace unreachable "$T_UNREACH"
        ip route replace prohibit "$T_PROHIBIT"
        # Groups are on the link.
        link=$(ip -o -4 address show to "$T_PEER" | { read -r _ name _; echo "$name"; })
        ip route replace 239.7.7.0/24 dev "$link"'
}

start_peer() {
    local log="$results/peer.log" waited=0
    : >"$log"
    # Its life is bounded even when this script is killed.
    ip netns exec "$LAB_PEER" "$OUT/peer" 1800 >"$log" 2>&1 &
    peer_pid=$!
    until grep -q ready "$log"; do
        kill -0 "$peer_pid" 2>/dev/null || fail "the peer ended: $(cat "$log")"
        waited=$((waited + 1))
        [ "$waited" -lt 100 ] || fail "the peer is not ready after 10 s"
        sleep 0.1
    done
}

# Runs one program in our namespace; its output goes to the standard output.
run_program() {
    local name=$1
    if [ "$mode" = remora ]; then
        # A program whose name says so runs without a gateway.
        case $name in
        *_noroute) set -- -u REMORA_GATEWAY ;;
        # One whose calls no hook sees.
        deep_*) set -- REMORA_DEEP=1 ;;
        *) set -- ;;
        esac
        ip netns exec "$LAB_OURS" timeout "$limit" env "$@" LD_PRELOAD="$REMORA_LIB" "$OUT/$name"
        return
    fi
    local status gateway=
    case $name in
    *_noroute)
        gateway=$(ip -n "$LAB_OURS" route show default | head -n 1)
        # shellcheck disable=SC2086 # the route is words
        [ -z "$gateway" ] || ip -n "$LAB_OURS" route del $gateway
        ;;
    esac
    ip netns exec "$LAB_OURS" timeout "$limit" "$OUT/$name"
    status=$?
    # shellcheck disable=SC2086
    [ -z "$gateway" ] || ip -n "$LAB_OURS" route add $gateway
    return "$status"
}

run_all() {
    local name number=0 passed=0 failed=0 status reason tap
    results=$OUT/results/$mode
    mkdir -p "$results"
    prepare_peer || fail "the peer's namespace cannot be prepared"
    start_peer
    for name in $(names); do
        number=$((number + 1))
        tap=$results/$name.tap
        run_program "$name" >"$tap" 2>"$results/$name.err" </dev/null
        status=$?
        reason=
        if [ "$status" -eq 124 ]; then
            reason="no end after $limit s"
        elif [ "$status" -ne 0 ]; then
            reason="status $status"
        elif grep -q '^not ok' "$tap"; then
            reason="a check failed"
        elif [ "$(grep -c '^ok' "$tap")" != "$(sed -n 's/^1\.\.//p' "$tap")" ]; then
            reason="the plan does not match"
        fi
        if [ -z "$reason" ]; then
            passed=$((passed + 1))
            echo "ok $number - $name"
        else
            failed=$((failed + 1))
            echo "not ok $number - $name # $reason"
            grep -A 1 '^not ok' "$tap" | grep -v '^ok\|^--' | sed 's/^/#   /'
            sed 's/^/#   stderr: /' "$results/$name.err" | head -n 5
        fi
    done
    echo "1..$number"
    echo "# $mode: $passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

# A result that one side lacks is a difference too.
compare() {
    local name number=0 passed=0 failed=0 kernel remora
    for name in $(names); do
        number=$((number + 1))
        kernel=$OUT/results/kernel/$name.tap
        remora=$OUT/results/remora/$name.tap
        if [ -s "$kernel" ] && [ -s "$remora" ] && cmp -s "$kernel" "$remora"; then
            passed=$((passed + 1))
            echo "ok $number - $name is the same on the kernel and on remora"
        else
            failed=$((failed + 1))
            echo "not ok $number - $name differs between the kernel and remora"
            diff -u "$kernel" "$remora" 2>&1 | sed 's/^/#   /' | head -n 40
        fi
    done
    echo "1..$number"
    echo "# compare: $passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

# Two namespaces and a veth of our own.
make_laboratory() {
    LAB_OURS=remora-c-ours-$$
    LAB_PEER=remora-c-peer-$$
    export LAB_OURS LAB_PEER
    ip netns add "$LAB_OURS" || fail "no right to make a network namespace"
    made_ours=$LAB_OURS
    ip netns add "$LAB_PEER" || fail "no second network namespace"
    made_peer=$LAB_PEER
    ip -n "$LAB_OURS" link add veth0 type veth peer name veth0 netns "$LAB_PEER" || fail "no veth"
    ip -n "$LAB_OURS" address add "$T_LOCAL/24" dev veth0
    ip -n "$LAB_PEER" address add "$T_PEER/24" dev veth0
    local namespace
    for namespace in "$LAB_OURS" "$LAB_PEER"; do
        ip -n "$namespace" link set lo up
        ip -n "$namespace" link set veth0 up
    done
    ip -n "$LAB_OURS" route add default via "$T_PEER"
}

case $mode in
kernel | remora)
    : "${LAB_OURS:?names the namespace of our side}" "${LAB_PEER:?names the namespace of the peer}"
    [ "$mode" = kernel ] || : "${REMORA_LIB:?is the path of libremora.so}" "${REMORA_IFACE:?}" "${REMORA_ADDR:?}"
    ;;
self | compare) ;;
*)
    echo "usage: run.sh kernel | remora | compare | self" >&2
    exit 2
    ;;
esac

if [ "$mode" = compare ]; then
    compare
    exit
fi
# Only what is to run is built.
mapfile -t targets < <(names | sed "s|^|$OUT/|")
make -s -C "$here" OUT="$OUT" "$OUT/peer" "${targets[@]}" || fail "the programs do not build"
if [ "$mode" = self ]; then
    make_laboratory
    mode=kernel
fi
run_all
