#!/usr/bin/env bash
# The test laboratory: two network namespaces joined by a veth pair. Our side has an
# interface without any kernel address or route, so that only a stack in the program can
# reach the peer; the peer side is an ordinary Linux host. To be sourced, or run as a
# command (see --help). It removes exactly what it made, however it ends. What the tests
# do in the laboratory, and how they print, is left to tap.sh and tests/.
#
# shellcheck disable=SC2034  # several variables are for the scripts that source this one

LAB_SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
LAB_ROOT="$(dirname "$LAB_SCRIPTS")"
# Debian leaves the sbin directories, where ip, tcpdump and ethtool live, out of an
# ordinary user's PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export LAB_ROOT PATH

# LAB_NET and LAB_OUTER are the first octets of the link's /24 and of the three /24
# behind the peer; LAB_DEADLINE bounds, in seconds, every command run in the laboratory.
LAB_NET="${LAB_NET:-10.99.0}"
LAB_OUTER="${LAB_OUTER:-10.98}"
LAB_MTU="${LAB_MTU:-1500}"
LAB_MODE="${LAB_MODE:-remora}"
LAB_DEADLINE="${LAB_DEADLINE:-60}"
# How long, in seconds, a test waits at most for what a program should do by itself.
LAB_PATIENCE="${LAB_PATIENCE:-15}"
# How long a process may take to end after SIGTERM before it gets SIGKILL.
LAB_GRACE_SECONDS=3

LAB_OURS_IFACE=lab0
LAB_PEER_IFACE=peer0

LAB_MADE=()
LAB_PIDS=()
LAB_CAPTURE_PID=
LAB_CAPTURE_FILE=
LAB_CAPTURES=0
LAB_ENTER=netns
export LAB_NET LAB_OUTER LAB_MTU LAB_MODE LAB_DEADLINE LAB_PATIENCE LAB_OURS_IFACE LAB_PEER_IFACE LAB_ENTER

lab_say() {
    printf 'lab: %s\n' "$*" >&2
}

# lab_retry SECONDS CMD...: run CMD until it succeeds, at most so long.
lab_retry() {
    local end=$((${EPOCHREALTIME/[^0-9]/} + $1 * 1000000))
    shift
    until "$@"; do
        if [ "${EPOCHREALTIME/[^0-9]/}" -ge "$end" ]; then
            return 1
        fi
        sleep 0.05
    done
}

# --- rights -------------------------------------------------------------------------

lab_can_make_namespaces() {
    unshare -nm -- sh -c 'ip link add lab-try type veth peer name lab-try2' >/dev/null 2>&1
}

# lab_enter SCRIPT ARGS...: returns when network namespaces can be made here. For an
# ordinary user the script starts again inside a user namespace, where it may.
lab_enter() {
    local tool
    for tool in ip unshare ethtool tcpdump dumpcap timeout; do
        if ! command -v "$tool" >/dev/null 2>&1; then
            lab_say "$tool is missing: run scripts/setup.sh first"
            return 1
        fi
    done
    if [ "${LAB_UNSHARED:-}" = 1 ]; then
        lab_private_run_directory
        return
    fi
    if [ "$(id -u)" -eq 0 ] && lab_can_make_namespaces; then
        return 0
    fi
    if unshare -Urnm -- sh -c 'ip link add lab-try type veth peer name lab-try2' \
        >/dev/null 2>&1; then
        export LAB_UNSHARED=1
        exec unshare -Urnm -- bash "$@"
    fi
    lab_say "network namespaces cannot be made here: neither as this user (uid $(id -u))"
    lab_say "nor in a user namespace (unshare -Urnm fails). Run as root, or allow user"
    lab_say "namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces),"
    lab_say "or give the container CAP_SYS_ADMIN and CAP_NET_ADMIN."
    return 1
}

# `ip netns` keeps its names in /run/netns, which belongs to the real root: put an empty
# file system of our own there, visible in our mount namespace only.
lab_private_run_directory() {
    if [ "${LAB_RUN_MOUNTED:-}" = 1 ]; then
        return 0
    fi
    local place=/run
    if [ -d /run/netns ]; then
        place=/run/netns
    fi
    if ! mount -t tmpfs tmpfs "$place"; then
        lab_say "a private $place cannot be mounted in this user namespace"
        return 1
    fi
    if [ "$place" = /run ] && [ -n "${XDG_RUNTIME_DIR:-}" ]; then
        mkdir -p "$XDG_RUNTIME_DIR" 2>/dev/null || unset XDG_RUNTIME_DIR
    fi
    export LAB_RUN_MOUNTED=1
}

# --- up and down --------------------------------------------------------------------

lab_export() {
    export LAB_OURS="remora-ours-$LAB_ID" LAB_PEER="remora-peer-$LAB_ID"
    export T_PEER="$LAB_NET.2" T_LOCAL="$LAB_NET.1"
    # Nobody has this address: ARP for it is never answered.
    export T_NET_DEAD="$LAB_NET.77"
    # The peer drops what goes to the first in silence, answers ICMP host unreachable for
    # the second, ICMP administratively prohibited for the third.
    export T_BLACKHOLE="$LAB_OUTER.0.1" T_UNREACH="$LAB_OUTER.1.1" T_PROHIBIT="$LAB_OUTER.2.1"
    # Nowhere (RFC 5737): through the gateway the peer answers ICMP net unreachable;
    # without one (lab_without_gateway) there is no route at all. ENETUNREACH either way.
    export T_NOROUTE=203.0.113.1
    export REMORA_IFACE="$LAB_OURS_IFACE" REMORA_ADDR="$T_LOCAL/24" REMORA_GATEWAY="$T_PEER"
    export REMORA_LIB="${REMORA_LIB:-${CARGO_TARGET_DIR:-$LAB_ROOT/target}/release/libremora.so}"
    export REMORA_BIN="${REMORA_BIN:-${CARGO_TARGET_DIR:-$LAB_ROOT/target}/release/remora}"
    export LAB_MODE
    # A proxy of the user's would carry the requests elsewhere.
    unset http_proxy https_proxy all_proxy ALL_PROXY HTTP_PROXY HTTPS_PROXY
}

lab_make_namespace() {
    ip netns add "$1"
    LAB_MADE+=("$1")
    # Without IPv6 no router solicitation or neighbour discovery disturbs a capture.
    lab_sysctl "$1" net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    ip -n "$1" link set lo up
}

# Both forms of entering: a container may forbid the mount of /sys that `ip netns exec`
# makes, and then nsenter, which leaves /sys alone, still works.
lab_choose_enter() {
    if ip netns exec "$LAB_PEER" true 2>/dev/null; then
        LAB_ENTER=netns
    else
        LAB_ENTER=nsenter
    fi
    export LAB_ENTER
}

lab_sysctl() {
    local namespace="$1" setting
    shift
    for setting in "$@"; do
        if [ -e "/proc/sys/${setting%%=*}" ] || [ -e "/proc/sys/$(tr . / <<<"${setting%%=*}")" ]; then
            nsenter "--net=/run/netns/$namespace" sysctl -q -w "$setting" >/dev/null
        fi
    done
}

lab_up() {
    LAB_ID="${LAB_ID:-$$}"
    lab_export
    local namespace
    for namespace in "$LAB_OURS" "$LAB_PEER"; do
        if [ -e "/run/netns/$namespace" ]; then
            lab_say "$namespace exists already; remove it with: lab.sh down $LAB_ID"
            return 1
        fi
    done
    lab_make_namespace "$LAB_OURS"
    lab_make_namespace "$LAB_PEER"
    lab_choose_enter
    ip -n "$LAB_OURS" link add "$LAB_OURS_IFACE" mtu "$LAB_MTU" type veth \
        peer name "$LAB_PEER_IFACE" mtu "$LAB_MTU" netns "$LAB_PEER"
    ip -n "$LAB_PEER" addr add "$T_PEER/24" dev "$LAB_PEER_IFACE"
    ip -n "$LAB_PEER" link set "$LAB_PEER_IFACE" up
    ip -n "$LAB_OURS" link set "$LAB_OURS_IFACE" up
    ip -n "$LAB_PEER" route add blackhole "$LAB_OUTER.0.0/24"
    ip -n "$LAB_PEER" route add unreachable "$LAB_OUTER.1.0/24"
    ip -n "$LAB_PEER" route add prohibit "$LAB_OUTER.2.0/24"
    lab_sysctl "$LAB_PEER" net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 \
        net.ipv4.conf.default.send_redirects=0 \
        "net.ipv4.conf.$LAB_PEER_IFACE.send_redirects=0" \
        net.ipv4.icmp_ratelimit=0
    # A kernel client that asks before our side is there asks again soon: 0.1 s in place
    # of a second between ARP requests.
    ip -n "$LAB_PEER" ntable change name arp_cache dev "$LAB_PEER_IFACE" retrans 100
    if ! lab_retry 5 lab_link_is_up; then
        lab_say "the veth pair did not come up"
        return 1
    fi
    case "$LAB_MODE" in
    kernel) lab_kernel_mode ;;
    remora) lab_remora_mode ;;
    *)
        lab_say "LAB_MODE=$LAB_MODE: allowed are remora and kernel"
        return 1
        ;;
    esac
}

lab_link_is_up() {
    ip -n "$LAB_OURS" -o link show dev "$LAB_OURS_IFACE" | grep 'state UP' >/dev/null &&
        ip -n "$LAB_PEER" -o link show dev "$LAB_PEER_IFACE" | grep 'state UP' >/dev/null
}

# Safe to call at any time and more than once.
lab_down() {
    local pid namespace
    if [ "${#LAB_MADE[@]}" -eq 0 ]; then
        return 0
    fi
    for pid in "${LAB_PIDS[@]}" "$LAB_CAPTURE_PID"; do
        if [ -n "$pid" ]; then
            kill -TERM "$pid" 2>/dev/null || true
        fi
    done
    for namespace in "${LAB_MADE[@]}"; do
        lab_end_processes "$namespace"
    done
    for namespace in "${LAB_MADE[@]}"; do
        # The pair goes with either end. It is deleted by hand, for a namespace whose
        # last process is still on its way out would keep it.
        ip -n "$namespace" link del "$LAB_OURS_IFACE" 2>/dev/null || true
        ip netns del "$namespace" 2>/dev/null || true
    done
    LAB_MADE=()
    LAB_PIDS=()
    LAB_CAPTURE_PID=
}

lab_namespace_is_empty() {
    [ -z "$(ip netns pids "$1" 2>/dev/null)" ]
}

# Whatever runs in a namespace that we made was started by us, keepers included.
lab_end_processes() {
    local signal pid
    for signal in TERM KILL; do
        if lab_namespace_is_empty "$1"; then
            return 0
        fi
        for pid in $(ip netns pids "$1" 2>/dev/null); do
            kill "-$signal" "$pid" 2>/dev/null || true
        done
        lab_retry "$LAB_GRACE_SECONDS" lab_namespace_is_empty "$1" || true
    done
    if ! lab_namespace_is_empty "$1"; then
        lab_say "processes in $1 do not end: $(ip netns pids "$1" | tr '\n' ' ')"
    fi
}

# Every way out leads to lab_down: the end of the script, and the signals that ask for it.
lab_trap() {
    trap lab_down EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# --- modes --------------------------------------------------------------------------

# The same test on the bare kernel: address and route are the kernel's, nothing preloaded.
lab_kernel_mode() {
    LAB_MODE=kernel
    ip -n "$LAB_OURS" addr replace "$T_LOCAL/24" dev "$LAB_OURS_IFACE"
    ip -n "$LAB_OURS" route replace default via "$T_PEER"
    ip -n "$LAB_OURS" ntable change name arp_cache dev "$LAB_OURS_IFACE" retrans 100
}

# Our side's kernel has no address but loopback's and no route: it reaches nobody.
lab_remora_mode() {
    LAB_MODE=remora
    ip -n "$LAB_OURS" addr flush dev "$LAB_OURS_IFACE"
    ip -n "$LAB_OURS" route flush table main
    # What the peer remembers of the other mode's link address goes as well.
    ip -n "$LAB_PEER" neigh flush dev "$LAB_PEER_IFACE"
}

# lab_without_gateway CMD...: CMD with no default route on our side.
lab_without_gateway() {
    local status=0
    if [ "$LAB_MODE" = kernel ]; then
        ip -n "$LAB_OURS" route del default
        "$@" || status=$?
        ip -n "$LAB_OURS" route replace default via "$T_PEER"
    else
        (
            unset REMORA_GATEWAY
            "$@"
        ) || status=$?
    fi
    return "$status"
}

# --- commands in the laboratory -----------------------------------------------------

# lab_argv ours|bare|peer: fills LAB_ARGV with the words that go before a command.
# `bare` is our side without the library, and without the kernel's help in remora mode.
# Background jobs of a script ignore SIGINT and SIGQUIT: programs under test must not.
lab_argv() {
    local namespace="$LAB_OURS"
    if [ "$1" = peer ]; then
        namespace="$LAB_PEER"
    fi
    if [ "$LAB_ENTER" = netns ]; then
        LAB_ARGV=(ip netns exec "$namespace")
    else
        LAB_ARGV=(nsenter "--net=/run/netns/$namespace")
    fi
    LAB_ARGV+=(env --default-signal=INT --default-signal=QUIT --default-signal=PIPE)
    if [ "$1" = ours ] && [ "$LAB_MODE" = remora ]; then
        LAB_ARGV+=("LD_PRELOAD=$REMORA_LIB${LD_PRELOAD:+:$LD_PRELOAD}")
    fi
}

lab_within_deadline() {
    lab_argv "$1"
    shift
    timeout -k "$LAB_GRACE_SECONDS" "$LAB_DEADLINE" "${LAB_ARGV[@]}" "$@"
}

lab_ours() { lab_within_deadline ours "$@"; }
lab_bare() { lab_within_deadline bare "$@"; }
lab_peer() { lab_within_deadline peer "$@"; }

# lab_start ours|bare|peer CMD...: in the background, its pid in LAB_PID. Redirections of
# the call are those of CMD. LAB_DEADLINE bounds its life too.
lab_start() {
    lab_argv "$1"
    shift
    timeout -k "$LAB_GRACE_SECONDS" "$LAB_DEADLINE" "${LAB_ARGV[@]}" "$@" <&0 &
    LAB_PID=$!
    LAB_PIDS+=("$LAB_PID")
}

lab_has_ended() {
    ! kill -0 "$1" 2>/dev/null
}

# lab_wait PID SECONDS: the status of a background command, or 124 when it is too slow.
lab_wait() {
    local status=0
    if ! lab_retry "$2" lab_has_ended "$1"; then
        kill -KILL "$1" 2>/dev/null || true
        return 124
    fi
    wait "$1" || status=$?
    return "$status"
}

# lab_stop PID: ends a background command and waits for it. The watchdog in front passes
# the signal on, and kills what does not obey.
lab_stop() {
    kill -TERM "$1" 2>/dev/null || true
    lab_wait "$1" "$((LAB_GRACE_SECONDS + 2))" 2>/dev/null || true
}

# lab_listens ours|peer tcp|udp PORT: has the kernel of that side a socket on the port?
lab_listens() {
    local namespace="$LAB_PEER" kind=-ltn
    if [ "$1" = ours ]; then
        namespace="$LAB_OURS"
    fi
    if [ "$2" = udp ]; then
        kind=-lun
    fi
    ip netns exec "$namespace" ss -H "$kind" "sport = :$3" 2>/dev/null | grep . >/dev/null ||
        nsenter "--net=/run/netns/$namespace" ss -H "$kind" "sport = :$3" | grep . >/dev/null
}

# lab_mac ours|peer: the link address of that end of the veth pair.
lab_mac() {
    local namespace="$LAB_PEER" iface="$LAB_PEER_IFACE"
    if [ "$1" = ours ]; then
        namespace="$LAB_OURS" iface="$LAB_OURS_IFACE"
    fi
    ip -n "$namespace" -o link show dev "$iface" |
        sed -n 's/.*link\/ether \([0-9a-f:]*\).*/\1/p'
}

# lab_offloads on|off: segmentation, receive aggregation, checksums and scatter-gather of
# both ends. Succeeds only when the devices say that it is so.
lab_offloads() {
    local side namespace iface
    for side in ours peer; do
        namespace="$LAB_PEER" iface="$LAB_PEER_IFACE"
        if [ "$side" = ours ]; then
            namespace="$LAB_OURS" iface="$LAB_OURS_IFACE"
        fi
        # ethtool complains about what follows from another setting; what counts is the
        # state afterwards.
        nsenter "--net=/run/netns/$namespace" ethtool -K "$iface" \
            tx "$1" sg "$1" tso "$1" gso "$1" gro "$1" >/dev/null 2>&1 || true
        if [ "$(nsenter "--net=/run/netns/$namespace" ethtool -k "$iface" | grep -cE \
            "^(tx-checksumming|scatter-gather|tcp-segmentation-offload|generic-(segmentation|receive)-offload): $1")" -ne 5 ]; then
            lab_say "offloads of $iface cannot be turned $1"
            return 1
        fi
    done
}

# --- capture ------------------------------------------------------------------------

# lab_capture_start FILE [SNAPLEN]: everything the peer's end sees, as pcap.
lab_capture_start() {
    LAB_CAPTURE_FILE="$1"
    local -a tool=(tcpdump -n -U --immediate-mode -B 8192 -Z root)
    if [ "${LAB_UNSHARED:-}" = 1 ]; then
        # tcpdump insists on changing its user and groups, which a user namespace refuses.
        tool=(dumpcap -q -P)
    fi
    lab_argv peer
    "${LAB_ARGV[@]}" "${tool[@]}" -i "$LAB_PEER_IFACE" -s "${2:-0}" -w "$1" >/dev/null 2>"$1.log" &
    LAB_CAPTURE_PID=$!
    # Either tool's line about its open device.
    if ! lab_retry 10 grep -qsE 'listening on|^File: ' "$1.log"; then
        lab_say "the capture does not start: $(cat "$1.log")"
        return 1
    fi
}

# Stops when all that came before is in the file: a last frame of a type that nobody
# speaks (0x88b5, IEEE 802 local experimental) marks the end, and comes after the rest.
lab_capture_stop() {
    if [ -z "$LAB_CAPTURE_PID" ]; then
        return 0
    fi
    LAB_CAPTURES=$((LAB_CAPTURES + 1))
    local mark="end of remora capture $$ $LAB_CAPTURES" status=0
    lab_argv peer
    "${LAB_ARGV[@]}" /usr/bin/python3 - "$LAB_PEER_IFACE" "$mark" <<'PYTHON' || status=$?
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((sys.argv[1], 0))
link.send(bytes.fromhex("020000000000" "020000000000" "88b5") + sys.argv[2].encode())
PYTHON
    if [ "$status" -eq 0 ]; then
        lab_retry 10 grep -qaF "$mark" "$LAB_CAPTURE_FILE" || status=1
    fi
    kill -TERM "$LAB_CAPTURE_PID" 2>/dev/null || true
    wait "$LAB_CAPTURE_PID" 2>/dev/null || true
    LAB_CAPTURE_PID=
    if grep -qE '[1-9][0-9]* packets? dropped by kernel|[0-9]+/[1-9][0-9]* \(pcap' "$LAB_CAPTURE_FILE.log"; then
        lab_say "the capture is not complete: $(grep dropped "$LAB_CAPTURE_FILE.log")"
        status=1
    fi
    return "$status"
}

# --- the command --------------------------------------------------------------------

lab_usage() {
    cat <<'TEXT'
usage: scripts/lab.sh COMMAND

  run CMD...    make the laboratory, run CMD on our side under libremora.so, remove it;
                the exit status is CMD's
  with CMD...   make the laboratory, run CMD where you are, with LAB_*, T_* and REMORA_*
                in its environment, remove it
  shell         a shell on our side under libremora.so
  up            make the laboratory and leave it; prints its variables for `eval`
  down [ID]     remove the one made by `up` (ID is LAB_ID; taken from the environment)
  --help        this text

The laboratory: our side (no kernel address, no route) <-- veth --> peer, a Linux host
at 10.99.0.2/24. Behind the peer 10.98.0.0/24 is silent, 10.98.1.0/24 unreachable,
10.98.2.0/24 prohibited. An ordinary user gets it inside a user namespace.

Environment:
  LAB_MODE      remora (default), or kernel: kernel address 10.99.0.1, no library
  LAB_NET       first three numbers of the link's network (10.99.0)
  LAB_OUTER     first two numbers of the networks behind the peer (10.98)
  LAB_MTU       MTU of the veth pair (1500)
  LAB_DEADLINE  seconds any one command may take in a test (60)
  REMORA_LIB    the library (target/release/libremora.so)
  REMORA_*      passed on to the program; REMORA_IFACE, _ADDR and _GATEWAY are set here
TEXT
}

lab_print_variables() {
    local name
    printf 'export LAB_ID=%q\n' "$LAB_ID"
    for name in LAB_OURS LAB_PEER LAB_OURS_IFACE LAB_PEER_IFACE LAB_MODE LAB_ENTER \
        T_PEER T_LOCAL T_NET_DEAD T_BLACKHOLE T_UNREACH T_PROHIBIT T_NOROUTE \
        REMORA_IFACE REMORA_ADDR REMORA_GATEWAY REMORA_LIB; do
        printf 'export %s=%q\n' "$name" "${!name}"
    done
}

lab_command_down() {
    LAB_ID="${1:-${LAB_ID:-}}"
    if [[ ! "$LAB_ID" =~ ^[A-Za-z0-9_-]+$ ]]; then
        lab_say "down needs the LAB_ID that up printed"
        return 2
    fi
    lab_export
    if [ ! -e "/run/netns/$LAB_OURS" ] && [ ! -e "/run/netns/$LAB_PEER" ]; then
        lab_say "there is no laboratory $LAB_ID"
        return 1
    fi
    local namespace
    for namespace in "$LAB_OURS" "$LAB_PEER"; do
        if [ -e "/run/netns/$namespace" ]; then
            LAB_MADE+=("$namespace")
        fi
    done
    lab_down
}

# CMD is a background job that is waited for, so that a signal to this script is heard
# at once and not only when CMD has ended.
lab_run_and_wait() {
    local status=0
    "$@" <&0 &
    local pid=$!
    LAB_PIDS+=("$pid")
    wait "$pid" || status=$?
    return "$status"
}

lab_main() {
    set -euo pipefail
    local command="${1:-}" status=0
    case "$command" in
    --help | -h | help)
        lab_usage
        return 0
        ;;
    run | with | shell | up | down) ;;
    *)
        lab_usage >&2
        return 2
        ;;
    esac
    if { [ "$command" = run ] || [ "$command" = with ]; } && [ "$#" -lt 2 ]; then
        lab_usage >&2
        return 2
    fi
    lab_enter "$0" "$@"
    shift
    if [ "$command" = down ]; then
        lab_command_down "$@"
        return
    fi
    if [ "$command" = up ] && [ "${LAB_UNSHARED:-}" = 1 ]; then
        lab_say "up needs root: what an ordinary user makes ends with the script. Use run or shell."
        return 1
    fi
    lab_trap
    lab_up
    case "$command" in
    up)
        lab_print_variables
        trap - EXIT
        ;;
    run)
        lab_argv ours
        lab_run_and_wait "${LAB_ARGV[@]}" "$@" || status=$?
        ;;
    with)
        lab_run_and_wait env --default-signal=INT --default-signal=QUIT "$@" || status=$?
        ;;
    shell)
        lab_argv ours
        "${LAB_ARGV[@]}" bash --norc -i || status=$?
        ;;
    esac
    return "$status"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    lab_main "$@"
fi
