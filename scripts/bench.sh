#!/usr/bin/env bash
# Measures remora against the kernel's own stack: same machine, same veth pair, same programs,
# runs taken in turn (kernel, remora, kernel, remora, ...), so that what drifts hits both. It
# reports and never judges. The programs and the reporter are in bench/, the rows in
# bench/rows.tsv, the namespaces in lab.sh.
#
# shellcheck source=lab.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
set -euo pipefail

BENCH_PARTS="$LAB_SCRIPTS/bench"
BENCH_ROWS="$BENCH_PARTS/rows.tsv"
BENCH_PORT=7000
# connect and accept use this many ports from BENCH_PORT on: CONNECT_PORTS in common.h.
BENCH_LAST_CONNECT_PORT=$((BENCH_PORT + 15))
# At most so many connections in a run: a sixteenth of it per port stays far below the number
# of ephemeral ports, with the TIME_WAIT of the runs before.
BENCH_CONNECTIONS=20000
BENCH_IDLE_CONNECTIONS=1000
BENCH_STARTS=50
# What the peer thinks before it answers, in the rows in which nobody spins: longer than any
# stack looks for frames before it sleeps.
BENCH_THINK_MICROSECONDS=300
BENCH_WEB_CLIENTS=50
BENCH_REDIS_CLIENTS=50
# What a run may take beside the seconds it measures.
BENCH_SLACK_SECONDS=25
# The MTU that podman gives slirp4netns: the largest it takes.
BENCH_SLIRP_MTU=65520
# Length of the first, unrecorded run of each side.
BENCH_WARM_UP_SECONDS=0.2

bench_pairs=5
bench_seconds=2
bench_json=
bench_svg=
bench_wanted=
bench_against=remora
bench_cpus=
bench_dir=
bench_smoltcp=
bench_behind=

usage() {
    cat <<'TEXT'
usage: scripts/bench.sh [--rows NAME,...] [--runs N] [--seconds S] [--cpus P,Q] [--aa]
                        [--json FILE] [--svg FILE] [--list] [--help]

Runs each measurement in turn on the kernel's stack and under libremora.so, over a veth pair
between two network namespaces, and prints one row per figure: both medians, and the ratio
remora/kernel as the median of the pairs' ratios, with its 95 % bootstrap interval and
min..max. In the rows smoltcp-* and slirp4netns-* these two stand in remora's place. It
measures and never judges: the status is 1 only when a row could not be measured.

  --rows NAME,...  only these rows (see --list)
  --runs N         pairs of runs (5)
  --seconds S      length of a run, where the row does not say its own amount of work (2)
  --cpus P,Q       the program's CPU and the peer's (the first two that are allowed)
  --aa             the kernel against itself: what the machine's noise alone looks like
  --json FILE      every figure of every run as well, as JSON
  --svg FILE       the ratios with their intervals, drawn by remora-plot (needs cargo)
  --list           the rows, one a line
  --help           this text

The rows smoltcp-* need cargo, and the network when the crate is built for the first time.

Environment: REMORA_LIB, the library (target/release/libremora.so); CC (cc); what
scripts/lab.sh --help names. Needs no right that the laboratory does not need.
TEXT
}

bench_say() {
    printf 'bench: %s\n' "$*" >&2
}

bench_refuse() {
    bench_say "$*"
    exit 2
}

bench_rows() {
    grep -vE '^(#|$)' "$BENCH_ROWS"
}

# --- arguments --------------------------------------------------------------------------

bench_arguments() {
    while [ "$#" -gt 0 ]; do
        case "$1" in
        --help | -h)
            usage
            exit 0
            ;;
        --list)
            bench_rows | awk -F '\t' '{ printf "%-20s %-7s %-6s  %s\n", $1, $4, $5, $6 }'
            exit 0
            ;;
        --aa)
            bench_against=kernel
            shift
            continue
            ;;
        --rows | --runs | --seconds | --cpus | --json | --svg)
            [ "$#" -ge 2 ] || bench_refuse "$1 needs a value; see --help"
            ;;
        *) bench_refuse "unknown argument $1; see --help" ;;
        esac
        case "$1" in
        --rows) bench_wanted="$2" ;;
        --runs) bench_pairs="$2" ;;
        --seconds) bench_seconds="$2" ;;
        --cpus) bench_cpus="$2" ;;
        --json) bench_json="$2" ;;
        --svg) bench_svg="$2" ;;
        esac
        shift 2
    done
    [[ "$bench_pairs" =~ ^[1-9][0-9]{0,3}$ ]] || bench_refuse "--runs $bench_pairs: a number from 1 to 9999"
    [[ "$bench_seconds" =~ ^[0-9]{1,3}(\.[0-9]+)?$ && "$bench_seconds" =~ [1-9] ]] ||
        bench_refuse "--seconds $bench_seconds: seconds above 0 and below 1000"
    if [ -n "$bench_json" ] && [ ! -d "$(dirname "$bench_json")" ]; then
        bench_refuse "--json $bench_json: there is no such directory"
    fi
    bench_choose_rows
}

# Fills bench_chosen with the names of the rows, and bench_cases with what measures them.
bench_choose_rows() {
    local name row case_name rest
    local -a wanted
    IFS=, read -ra wanted <<<"$bench_wanted"
    for name in "${wanted[@]}"; do
        bench_rows | cut -f 1 | grep -Fx -- "$name" >/dev/null || bench_refuse "there is no row $name; see --list"
    done
    bench_chosen=()
    bench_cases=()
    while IFS=$'\t' read -r row case_name rest; do
        if [ -z "$bench_wanted" ] || [[ ",$bench_wanted," == *",$row,"* ]]; then
            bench_chosen+=("$row")
            if [[ " ${bench_cases[*]} " != *" $case_name "* ]]; then
                bench_cases+=("$case_name")
            fi
        fi
    done < <(bench_rows)
}

# The CPUs that this shell may use, one a line: "0-2,5" is 0 1 2 5.
bench_allowed_cpus() {
    local part
    for part in $(sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status | tr , ' '); do
        seq "${part%-*}" "${part#*-}"
    done
}

bench_choose_cpus() {
    local -a allowed
    mapfile -t allowed < <(bench_allowed_cpus)
    if [ -z "$bench_cpus" ]; then
        bench_our_cpu="${allowed[0]}"
        bench_peer_cpu="${allowed[1]:-${allowed[0]}}"
        return
    fi
    [[ "$bench_cpus" =~ ^([0-9]+),([0-9]+)$ ]] || bench_refuse "--cpus $bench_cpus: two numbers, as in 0,1"
    bench_our_cpu="${BASH_REMATCH[1]}"
    bench_peer_cpu="${BASH_REMATCH[2]}"
    local cpu
    for cpu in "$bench_our_cpu" "$bench_peer_cpu"; do
        [[ " ${allowed[*]} " == *" $cpu "* ]] || bench_refuse "CPU $cpu is not among those allowed: ${allowed[*]}"
    done
}

# --- the laboratory ---------------------------------------------------------------------

bench_build() {
    local program
    for program in ours peer spawn; do
        "${CC:-cc}" -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror \
            -o "$bench_dir/$program" "$BENCH_PARTS/$program.c"
    done
}

# The client over smoltcp is built when a row asks for it.
bench_build_smoltcp() {
    local target="${CARGO_TARGET_DIR:-$LAB_ROOT/target}/smoltcp"
    if [ -z "$bench_smoltcp" ]; then
        cargo build --quiet --release --manifest-path "$BENCH_PARTS/smoltcp/Cargo.toml" --target-dir "$target" >&2 ||
            return 1
        bench_smoltcp="$target/release/bench-smoltcp"
    fi
}

# A namespace whose only way out is slirp4netns, which stands where our side's kernel does.
bench_start_slirp4netns() {
    if [ -z "$bench_behind" ]; then
        bench_behind="remora-slirp-$LAB_ID"
        lab_make_namespace "$bench_behind"
    fi
    lab_start ours taskset -c "$bench_our_cpu" slirp4netns --configure --mtu="$BENCH_SLIRP_MTU" --disable-dns \
        --netns-type=path "/run/netns/$bench_behind" tap0 >"$bench_dir/slirp.out" 2>&1
    lab_retry 10 bench_slirp4netns_is_up
}

bench_slirp4netns_is_up() {
    ip -n "$bench_behind" route show default 2>/dev/null | grep . >/dev/null
}

bench_exit() {
    trap - EXIT
    trap '' HUP INT TERM
    lab_down || true
    if [ -n "$bench_dir" ]; then
        rm -rf "$bench_dir"
    fi
}

# default is what a veth pair comes up with: everything but receive aggregation.
bench_offloads() {
    if [ "$bench_offloads_now" = "$1" ]; then
        return 0
    fi
    bench_offloads_now=
    if [ "$1" = off ]; then
        lab_offloads off || return 1
    else
        lab_offloads on || return 1
    fi
    if [ "$1" = default ]; then
        nsenter "--net=/run/netns/$LAB_OURS" ethtool -K "$LAB_OURS_IFACE" gro off
        nsenter "--net=/run/netns/$LAB_PEER" ethtool -K "$LAB_PEER_IFACE" gro off
    fi
    bench_offloads_now="$1"
}

# Neither end remembers the link address of the run before.
bench_mode() {
    bench_stack="$1"
    case "$1" in
    kernel | slirp4netns)
        lab_kernel_mode
        ip -n "$LAB_OURS" neigh flush dev "$LAB_OURS_IFACE"
        ip -n "$LAB_PEER" neigh flush dev "$LAB_PEER_IFACE"
        ;;
    *) lab_remora_mode ;;
    esac
}

# After a run nothing of it is alive, a process that the library left behind included: it
# would answer for the address that the kernel has next.
bench_settle() {
    if [ -n "$bench_behind" ]; then
        lab_end_processes "$bench_behind"
    fi
    lab_end_processes "$LAB_OURS"
    lab_end_processes "$LAB_PEER"
    wait 2>/dev/null || true
    LAB_PIDS=()
}

# --- cases ------------------------------------------------------------------------------

# bench_case NAME SECONDS: how a case of rows.tsv is run. case_kind: `client` (our program
# calls the peer, prints the figures), `server` (the peer calls and prints), `command` (a
# command's life on our side, the peer serving it), `start` (the same without a peer), `tool`
# (a program of others on our side calls one on the peer's, and its output is read by
# bench/figures.py), `service` (the other way round: ours serves, the peer's output is read).
bench_case() {
    case_kind=client
    case_tool=
    case_our_cpus="$bench_our_cpu"
    case_offloads=default
    case_peer_cpu="$bench_peer_cpu"
    case_wait=(tcp "$BENCH_PORT")
    case_ours=()
    case_peer=()
    # Who stands in the kernel's place in the second run of a pair.
    case_stack=remora
    case "$1" in
    smoltcp-* | slirp4netns-*)
        case_stack="${1%%-*}"
        bench_case_of_others "$1" "$2"
        ;;
    send-on | send-off)
        case_offloads="${1#*-}"
        case_ours=(send -t "$2")
        case_peer=(sink)
        ;;
    receive-on | receive-off)
        case_offloads="${1#*-}"
        case_ours=(receive -t "$2")
        case_peer=(source)
        ;;
    roundtrip | roundtrip-onecpu)
        case_ours=(roundtrip -t "$2" -z 1)
        case_peer=(echo -z 1)
        if [ "$1" = roundtrip-onecpu ]; then
            case_peer_cpu="$bench_our_cpu"
        fi
        ;;
    roundtrip-1k)
        case_ours=(roundtrip -t "$2" -z 1024)
        case_peer=(echo -z 1024)
        ;;
    roundtrip-sleep)
        case_ours=(roundtrip -t "$2" -z 1 -w "$BENCH_THINK_MICROSECONDS")
        case_peer=(echo -z 1 -w "$BENCH_THINK_MICROSECONDS")
        ;;
    roundtrip-1k-sleep)
        case_ours=(roundtrip -t "$2" -z 1024 -w "$BENCH_THINK_MICROSECONDS")
        case_peer=(echo -z 1024 -w "$BENCH_THINK_MICROSECONDS")
        ;;
    roundtrip-1k-onecpu)
        case_ours=(roundtrip -t "$2" -z 1024)
        case_peer=(echo -z 1024)
        case_peer_cpu="$bench_our_cpu"
        ;;
    busy-*)
        case_ours=(busy -t "$2" -z 512 -n "${1#busy-}")
        case_peer=(echo-many -n "${1#busy-}")
        ;;
    iperf3-send | iperf3-receive)
        case_kind=tool
        case_tool=iperf3
        case_peer=(iperf3 -s -1 -p "$BENCH_PORT")
        # Whole seconds are all it takes.
        case_ours=(iperf3 -c "$T_PEER" -p "$BENCH_PORT" -J -t "$(awk -v s="$2" 'BEGIN { print (s < 1) ? 1 : int(s + 0.5) }')")
        if [ "$1" = iperf3-receive ]; then
            case_ours+=(-R)
        fi
        ;;
    redis-*)
        case_kind=service
        case_tool=redis
        case_ours=(redis-server --port "$BENCH_PORT" --bind 0.0.0.0 --protected-mode no --save '' --appendonly no --logfile '')
        case_peer=(redis-benchmark -h "$T_LOCAL" -p "$BENCH_PORT" -c "$BENCH_REDIS_CLIENTS" --csv)
        case "$1" in
        redis-get | redis-set) case_peer+=(-t "${1#redis-}" -n "$(bench_amount "$2" 60000)") ;;
        redis-get-16) case_peer+=(-t get -P 16 -n "$(bench_amount "$2" 400000)") ;;
        redis-set-16) case_peer+=(-t set -P 16 -n "$(bench_amount "$2" 400000)") ;;
        redis-get-one) case_peer=(redis-benchmark -h "$T_LOCAL" -p "$BENCH_PORT" -c 1 --csv -t get -n "$(bench_amount "$2" 10000)") ;;
        esac
        ;;
    nginx-*)
        case_kind=service
        case_tool=wrk
        local workers=1 clients="$BENCH_WEB_CLIENTS"
        if [[ "$1" = *-2 ]]; then
            workers=2
            case_our_cpus="$bench_our_cpu,$bench_peer_cpu"
        fi
        bench_nginx_configuration "$workers"
        case_ours=(nginx -p "$bench_dir/nginx" -c "$bench_dir/nginx/nginx.conf")
        # wrk takes whole seconds.
        case_peer=(wrk -t 1 -c "$clients" -d "$(awk -v s="$2" 'BEGIN { print (s < 1) ? 1 : int(s + 0.5) }')s" --latency)
        if [[ "$1" = nginx-close* ]]; then
            case_peer+=(-H 'Connection: close')
        fi
        case_peer+=("http://$T_LOCAL:$BENCH_PORT/")
        ;;
    connect)
        case_ours=(connect -t "$2" -n "$BENCH_CONNECTIONS")
        case_peer=(accept)
        case_wait=(tcp "$BENCH_LAST_CONNECT_PORT")
        ;;
    accept)
        case_kind=server
        case_ours=(accept)
        case_peer=(client -t "$2" -n "$BENCH_CONNECTIONS")
        ;;
    udp-roundtrip)
        case_ours=(udp-roundtrip -t "$2" -z 1)
        case_peer=(udp-echo)
        case_wait=(udp "$BENCH_PORT")
        ;;
    udp-send)
        case_ours=(udp-send -t "$2")
        case_peer=(udp-sink)
        case_wait=(udp "$BENCH_PORT")
        ;;
    udp-receive)
        case_ours=(udp-receive)
        case_peer=(udp-source -t "$2")
        case_wait=(udp "$BENCH_PORT")
        ;;
    curl)
        case_kind="command"
        case_ours=(1 curl -sS -o /dev/null "http://$T_PEER:$BENCH_PORT/")
        case_peer=(http)
        ;;
    idle)
        case_ours=(idle -n "$BENCH_IDLE_CONNECTIONS")
        case_peer=(hold -n "$BENCH_IDLE_CONNECTIONS")
        ;;
    start-true)
        case_kind=start
        case_ours=("$BENCH_STARTS" true)
        ;;
    start-curl)
        case_kind=start
        case_ours=("$BENCH_STARTS" curl --version)
        ;;
    *)
        bench_say "rows.tsv names the case $1, which nothing here runs"
        return 1
        ;;
    esac
}

# The same for the rows of other stacks. smoltcp has no offloads, so the link has none either.
bench_case_of_others() {
    if [ "$case_stack" = smoltcp ]; then
        case_offloads=off
    fi
    case "${1#*-}" in
    send)
        case_ours=(send -t "$2")
        case_peer=(sink)
        ;;
    receive)
        case_ours=(receive -t "$2")
        case_peer=(source)
        ;;
    roundtrip)
        case_ours=(roundtrip -t "$2" -z 1)
        case_peer=(echo -z 1)
        ;;
    connect)
        case_ours=(connect -t "$2" -n "$BENCH_CONNECTIONS")
        case_peer=(accept)
        case_wait=(tcp "$BENCH_LAST_CONNECT_PORT")
        ;;
    esac
}

# bench_amount SECONDS PER_SECOND: an amount of work for about so long.
bench_amount() {
    awk -v s="$1" -v n="$2" 'BEGIN { printf "%d\n", s * n }'
}

# A small file of 1,000 bytes, as many workers as $1.
bench_nginx_configuration() {
    mkdir -p "$bench_dir/nginx/html" "$bench_dir/nginx/logs"
    chmod 755 "$bench_dir" "$bench_dir/nginx" "$bench_dir/nginx/html"
    head -c 1000 /dev/zero | tr '\0' x >"$bench_dir/nginx/html/index.html"
    cat >"$bench_dir/nginx/nginx.conf" <<TEXT
daemon off;
worker_processes $1;
error_log stderr crit;
pid nginx.pid;
events { worker_connections 4096; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    server { listen $BENCH_PORT; root html; }
}
TEXT
    if [ "$(id -u)" -eq 0 ]; then
        printf 'user root;\n' >>"$bench_dir/nginx/nginx.conf"
    fi
}

bench_start_peer() {
    local mode="$1" address=0.0.0.0
    if [ "$case_kind" = tool ] || [ "$case_kind" = service ]; then
        lab_start peer taskset -c "$case_peer_cpu" "$@" >"$bench_dir/peer.out" 2>"$bench_dir/peer.err"
        return
    fi
    shift
    if [ "$case_kind" = server ]; then
        address="$T_LOCAL"
    fi
    lab_start peer "$bench_dir/peer" "$mode" -a "$address" -p "$BENCH_PORT" \
        -c "$case_peer_cpu" -l "$LAB_DEADLINE" "$@" >"$bench_dir/peer.out" 2>"$bench_dir/peer.err"
}

bench_start_ours() {
    local mode="$1" address="$T_PEER" library=- times
    if [ "$case_kind" = tool ] || [ "$case_kind" = service ]; then
        lab_start ours taskset -c "$case_our_cpus" "$@" >"$bench_dir/ours.out" 2>"$bench_dir/ours.err"
        return
    fi
    shift
    if [ "$bench_stack" = smoltcp ]; then
        # Of the options it takes -t alone, which is the first.
        lab_start bare taskset -c "$bench_our_cpu" "$bench_smoltcp" "$mode" "$LAB_OURS_IFACE" "$(lab_mac ours)" \
            "$T_LOCAL/24" "$T_PEER" "$BENCH_PORT" "$2" >"$bench_dir/ours.out" 2>"$bench_dir/ours.err"
        return
    fi
    if [ "$bench_stack" = slirp4netns ]; then
        timeout -k "$LAB_GRACE_SECONDS" "$LAB_DEADLINE" nsenter "--net=/run/netns/$bench_behind" \
            "$bench_dir/ours" "$mode" -a "$address" -p "$BENCH_PORT" -c "$bench_our_cpu" -l "$LAB_DEADLINE" "$@" \
            >"$bench_dir/ours.out" 2>"$bench_dir/ours.err" &
        LAB_PID=$!
        LAB_PIDS+=("$LAB_PID")
        return
    fi
    case "$case_kind" in
    client | server)
        if [ "$case_kind" = server ]; then
            address="$T_LOCAL"
        fi
        lab_start ours "$bench_dir/ours" "$mode" -a "$address" -p "$BENCH_PORT" \
            -c "$bench_our_cpu" -l "$LAB_DEADLINE" "$@" >"$bench_dir/ours.out" 2>"$bench_dir/ours.err"
        ;;
    command | start)
        times="$mode"
        if [ "$LAB_MODE" = remora ]; then
            library="$REMORA_LIB"
        fi
        lab_start bare "$bench_dir/spawn" run -n "$times" -c "$bench_our_cpu" -l "$LAB_DEADLINE" \
            "$library" "$@" >"$bench_dir/ours.out" 2>"$bench_dir/ours.err"
        ;;
    esac
}

# bench_run CASE SECONDS: one run in the mode that is set; the figures in bench_dir/figures.
# What went wrong is in bench_problem.
bench_run() {
    local status=0 measured=ours pid
    bench_problem=
    bench_case "$1" "$2"
    : >"$bench_dir/ours.err"
    : >"$bench_dir/peer.err"
    if [ "$case_kind" = server ]; then
        bench_start_ours "${case_ours[@]}"
        measured=peer
        bench_start_peer "${case_peer[@]}"
    elif [ "$case_kind" = service ]; then
        bench_start_ours "${case_ours[@]}"
        measured=peer
        if ! lab_peer "$bench_dir/peer" await -a "$T_LOCAL" -p "$BENCH_PORT" 2>"$bench_dir/peer.err"; then
            bench_problem="our side does not serve: $(cat "$bench_dir/ours.err" "$bench_dir/peer.err" | tail -n 1)"
            return 1
        fi
        bench_start_peer "${case_peer[@]}"
    else
        if [ "${#case_peer[@]}" -gt 0 ]; then
            bench_start_peer "${case_peer[@]}"
            if ! lab_retry 10 lab_listens peer "${case_wait[@]}"; then
                bench_problem="the peer does not listen: $(tail -n 1 "$bench_dir/peer.err")"
                return 1
            fi
        fi
        case "$bench_stack" in
        smoltcp) bench_build_smoltcp || bench_problem="the client over smoltcp cannot be built" ;;
        slirp4netns) bench_start_slirp4netns || bench_problem="slirp4netns: $(tail -n 1 "$bench_dir/slirp.out")" ;;
        esac
        if [ -n "$bench_problem" ]; then
            return 1
        fi
        bench_start_ours "${case_ours[@]}"
    fi
    pid="$LAB_PID"
    # No polling here: it would take time from what is measured.
    wait "$pid" || status=$?
    # ld.so goes on without a library that it cannot load.
    if grep -q 'cannot be preloaded' "$bench_dir/ours.err"; then
        status=127
    fi
    if [ "$status" -ne 0 ]; then
        bench_problem="status $status: $(cat "$bench_dir/ours.err" "$bench_dir/peer.err" | tail -n 3 | tr '\n\t' '; ')"
        return 1
    fi
    if [ -z "$case_tool" ]; then
        cp "$bench_dir/$measured.out" "$bench_dir/figures"
    elif ! /usr/bin/python3 "$BENCH_PARTS/figures.py" "$case_tool" "$bench_dir/$measured.out" \
        >"$bench_dir/figures" 2>"$bench_dir/figures.err"; then
        bench_problem="what $case_tool says is not understood: $(tail -n 1 "$bench_dir/figures.err")"
        return 1
    fi
}

# bench_record CASE PAIR SIDE: a and b are the sides; the raw file's columns are case, pair,
# side, name, value.
bench_record() {
    local name value
    if [ -n "$bench_problem" ]; then
        bench_say "$1, pair $2, $4: $bench_problem"
        printf '%s\t%s\t%s\terror\t%s\n' "$1" "$2" "$3" "$bench_problem" >>"$bench_dir/raw"
        return
    fi
    while read -r name value; do
        printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$name" "$value" >>"$bench_dir/raw"
    done <"$bench_dir/figures"
}

bench_side() {
    bench_mode "$2"
    bench_run "$1" "$3" || true
    bench_settle
}

bench_measure() {
    local case_name="$1" pair against="$bench_against"
    bench_case "$case_name" "$bench_seconds"
    if [ "$against" = remora ]; then
        against="$case_stack"
    fi
    if ! bench_offloads "$case_offloads"; then
        bench_problem="offloads cannot be turned $case_offloads"
        bench_record "$case_name" 1 a kernel
        return
    fi
    bench_side "$case_name" kernel "$BENCH_WARM_UP_SECONDS"
    bench_side "$case_name" "$against" "$BENCH_WARM_UP_SECONDS"
    for ((pair = 1; pair <= bench_pairs; pair++)); do
        bench_side "$case_name" kernel "$bench_seconds"
        bench_record "$case_name" "$pair" a kernel
        bench_side "$case_name" "$against" "$bench_seconds"
        bench_record "$case_name" "$pair" b "$against"
    done
}

# --- report -----------------------------------------------------------------------------

# What the figures were taken on, name and value a line.
bench_circumstances() {
    local library=none load rest
    read -r load rest </proc/loadavg
    if [ "$bench_against" = remora ]; then
        library="$REMORA_LIB, sha256 $(sha256sum "$REMORA_LIB" | cut -c 1-12)"
    fi
    cat <<TEXT
against $bench_against
date $(date -u +%Y-%m-%dT%H:%M:%SZ)
linux $(uname -r)
processor $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)
cpus $(bench_allowed_cpus | wc -l)
pinning program on CPU $bench_our_cpu, peer on CPU $bench_peer_cpu; onecpu rows: both on CPU $bench_our_cpu
load $load
pairs $bench_pairs
seconds $bench_seconds
mtu $LAB_MTU
library $library
commit $(git -C "$LAB_ROOT" describe --always --dirty 2>/dev/null || echo unknown)
TEXT
}

bench_main() {
    local case_name done_cases=0
    lab_enter "$LAB_SCRIPTS/bench.sh" "$@"
    bench_arguments "$@"
    bench_choose_cpus
    LAB_DEADLINE=$((${bench_seconds%.*} + BENCH_SLACK_SECONDS))
    LAB_MODE=kernel
    # Without the stack a remora run is an error, never a kernel run by another name.
    export REMORA_STRICT=1
    lab_trap
    trap bench_exit EXIT
    bench_dir="$(mktemp -d "${TMPDIR:-/tmp}/remora-bench.XXXXXX")"
    bench_build
    lab_up
    if [ "$bench_against" = remora ] && [ ! -f "$REMORA_LIB" ]; then
        bench_refuse "there is no $REMORA_LIB: build it, set REMORA_LIB, or compare the kernel with itself (--aa)"
    fi
    # ld.so looks for a name without a slash elsewhere.
    REMORA_LIB="$(realpath -m "$REMORA_LIB")"
    bench_offloads_now=default
    : >"$bench_dir/raw"
    bench_circumstances >"$bench_dir/circumstances"
    for case_name in "${bench_cases[@]}"; do
        done_cases=$((done_cases + 1))
        bench_say "$done_cases of ${#bench_cases[@]}: $case_name"
        bench_measure "$case_name"
    done
    local load rest
    read -r load rest </proc/loadavg
    printf 'load_after %s\n' "$load" >>"$bench_dir/circumstances"
    local -a json=()
    if [ -n "$bench_json" ]; then
        json=(--json "$bench_json")
    fi
    if [ -n "$bench_svg" ]; then
        json+=(--points "$bench_dir/points")
    fi
    local status=0
    /usr/bin/python3 "$BENCH_PARTS/report.py" "${json[@]}" "$BENCH_ROWS" "$bench_dir/raw" \
        "$bench_dir/circumstances" "${bench_chosen[@]}" || status=$?
    if [ -n "$bench_svg" ]; then
        cargo run --quiet --manifest-path "$LAB_ROOT/Cargo.toml" -p remora-plot -- \
            --bench "$bench_dir/points" --out "$bench_svg" || status=$?
    fi
    return "$status"
}

for word in "$@"; do
    case "$word" in
    # Neither needs a laboratory, nor the right to one.
    --help | -h | --list) bench_arguments "$@" ;;
    esac
done
bench_main "$@"
