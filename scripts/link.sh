# The laboratory with an emulated link: between our side and the peer stands a middle
# namespace, in which remora-link bridges the two halves with rate, delay, loss and the
# rest (remora-link --help). To be sourced after lab.sh or tap.sh; what the link does to
# programs is left to those who use it.
# shellcheck shell=bash

LINK_A=to-ours
LINK_B=to-peer
LINK_PID=

# link_lab_up: lab_up, with the veth pair cut in two. Same names, addresses and modes.
link_lab_up() {
    lab_up
    REMORA_LINK="${REMORA_LINK:-$(dirname "$REMORA_BIN")/remora-link}"
    # shellcheck disable=SC2153  # lab.sh sets it
    LINK_MIDDLE="remora-middle-$LAB_ID"
    LINK_OUTPUT="${TAP_DIR:-${TMPDIR:-/tmp}}/remora-link-$LAB_ID.json"
    LINK_LOG="$LINK_OUTPUT.log"
    export REMORA_LINK LINK_MIDDLE LINK_OUTPUT LINK_LOG
    lab_make_namespace "$LINK_MIDDLE"
    ip -n "$LAB_OURS" link del "$LAB_OURS_IFACE"
    link_half "$LAB_OURS" "$LAB_OURS_IFACE" "$LINK_A"
    link_half "$LAB_PEER" "$LAB_PEER_IFACE" "$LINK_B"
    ip -n "$LAB_PEER" addr add "$T_PEER/24" dev "$LAB_PEER_IFACE"
    ip -n "$LAB_PEER" ntable change name arp_cache dev "$LAB_PEER_IFACE" retrans 100
    if ! lab_retry 5 lab_link_is_up; then
        lab_say "the halves of the link did not come up"
        return 1
    fi
    if [ "$LAB_MODE" = kernel ]; then
        lab_kernel_mode
    fi
}

link_half() {
    ip -n "$1" link add "$2" mtu "$LAB_MTU" type veth \
        peer name "$3" mtu "$LAB_MTU" netns "$LINK_MIDDLE"
    ip -n "$LINK_MIDDLE" link set "$3" up
    ip -n "$1" link set "$2" up
}

# link_knows_neighbours: no ARP on the link, so that what is counted is what was sent. In
# kernel mode only; a stack in the program asks for itself.
link_knows_neighbours() {
    ip -n "$LAB_OURS" neigh replace "$T_PEER" lladdr "$(lab_mac peer)" \
        dev "$LAB_OURS_IFACE" nud permanent
    ip -n "$LAB_PEER" neigh replace "$T_LOCAL" lladdr "$(lab_mac ours)" \
        dev "$LAB_PEER_IFACE" nud permanent
}

# link_start OPTIONS...: the emulator, forwarding when this returns. Direction a-to-b is
# the one from our side to the peer. What an earlier one left behind in the middle ends.
link_start() {
    lab_end_processes "$LINK_MIDDLE"
    : >"$LINK_OUTPUT"
    : >"$LINK_LOG"
    if [ "$LAB_ENTER" = netns ]; then
        LAB_ARGV=(ip netns exec "$LINK_MIDDLE")
    else
        LAB_ARGV=(nsenter "--net=/run/netns/$LINK_MIDDLE")
    fi
    env --default-signal=INT timeout -k "$LAB_GRACE_SECONDS" "$LAB_DEADLINE" \
        "${LAB_ARGV[@]}" "$REMORA_LINK" "$LINK_A" "$LINK_B" "$@" >"$LINK_OUTPUT" 2>"$LINK_LOG" &
    LINK_PID=$!
    LAB_PIDS+=("$LINK_PID")
    if ! lab_retry 5 link_has_started || ! grep -q '^remora-link: ready' "$LINK_LOG"; then
        lab_say "the emulator does not start: $(cat "$LINK_LOG")"
        return 1
    fi
}

link_has_started() {
    grep -q '^remora-link: ready' "$LINK_LOG" || lab_has_ended "$LINK_PID"
}

# link_process: the emulator itself, not the watchdog in front of it.
link_process() {
    ip netns pids "$LINK_MIDDLE" | head -n 1
}

# link_stop: ends the emulator; its last line of statistics is there when this returns.
link_stop() {
    lab_stop "$LINK_PID"
    LINK_PID=
    link_statistics >/dev/null
}

link_statistics() {
    tail -n 1 "$LINK_OUTPUT" | grep '^{.*}$'
}

# link_count a_to_b|b_to_a NAME: a number of the last line of statistics.
link_count() {
    link_statistics | /usr/bin/python3 -c '
import json, sys
print(json.load(sys.stdin)[sys.argv[1]][sys.argv[2]])' "$1" "$2"
}

# link_is_balanced: every packet is accounted for, and the emulator itself lost none. An
# ordinary user's receive buffer is small and may overflow; root's must not.
link_is_balanced() {
    link_statistics | /usr/bin/python3 -c '
import json, os, sys
faults = ["truncated", "receive_errors", "send_failed", "no_link", "dropped_memory", "uncut"]
if os.environ.get("LAB_UNSHARED") != "1":
    faults.append("kernel_dropped")
for name, counts in json.load(sys.stdin).items():
    if name not in ("a_to_b", "b_to_a"):
        continue
    ends = ("delivered", "lost_alone", "lost_in_burst", "dropped_queue", "dropped_memory",
            "send_failed", "no_link", "in_flight")
    went_in = counts["packets"] + counts["duplicated"]
    came_out = sum(counts[end] for end in ends)
    print(name, went_in, came_out, counts)
    if went_in != came_out:
        sys.exit(f"{name}: {went_in} packets went in, {came_out} are accounted for")
    for fault in faults:
        if counts[fault] != 0:
            sys.exit(f"{name}: {fault} is {counts[fault]}")'
}
