#!/usr/bin/env bash
# The laboratory proves itself: our side's kernel cannot reach the peer, offloads can be
# turned, every other test fails when the library is absent, and nothing stays behind.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
others() {
    find "$LAB_SCRIPTS/tests" -name '[2-9]*.sh' | sort
}

no_address_or_route() {
    equal "127.0.0.1/8" "$(ip -n "$LAB_OURS" -o -4 addr show | awk '{print $4}')" "IPv4 addresses"
    equal "" "$(ip -n "$LAB_OURS" route show)" "routes"
    equal "" "$(ip -n "$LAB_OURS" -o -6 addr show dev "$LAB_OURS_IFACE")" "IPv6 addresses"
    equal "" "$(ip -n "$LAB_PEER" -o -6 addr show dev "$LAB_PEER_IFACE")" "the peer's IPv6 addresses"
}

kernel_cannot_reach() {
    exits 7 lab_bare curl -sS -m 5 "http://$T_PEER:8080/"
    if lab_bare ping -c 1 -W 1 "$T_PEER"; then
        return 1
    fi
    # The peer itself is well: its server answers on its own side.
    lab_peer curl -sS -m 5 "http://$T_PEER:8080/" | grep remora >/dev/null
}

peer_cannot_reach_ours() {
    exits 7 lab_peer curl -sS -m 5 "http://$T_LOCAL:8080/"
}

both_settings() {
    lab_offloads off
    lab_offloads on
}

in_kernel_mode() {
    LAB_MODE=kernel LAB_ID="kernel-$$" "$LAB_SCRIPTS/lab.sh" run "$@"
}

answers() {
    in_kernel_mode ping -c 1 -W 1 "$2" >"$TAP_DIR/ping" || true
    says "$1" "$TAP_DIR/ping"
}

capture_is_complete() {
    lab_capture_start "$TAP_DIR/own.pcap"
    exits 1 lab_peer ping -c 1 -W 1 "$T_NET_DEAD"
    lab_capture_stop
    # The last frame is the mark; before it stands the peer's question for the dead address.
    [ "$(frame_count "$TAP_DIR/own.pcap" "arp.dst.proto_ipv4 == $T_NET_DEAD")" -ge 1 ]
    equal 0x88b5 "$(frames "$TAP_DIR/own.pcap" eth -T fields -e eth.type | tail -n 1)" "type of the last frame"
}

status_comes_through() {
    exits 7 env LAB_MODE=kernel LAB_ID="status-$$" "$LAB_SCRIPTS/lab.sh" run sh -c 'exit 7'
}

is_gone() {
    [ ! -e "/run/netns/remora-ours-$1" ] && [ ! -e "/run/netns/remora-peer-$1" ]
}

exists() {
    [ -e "/run/netns/remora-ours-$1" ] && [ -e "/run/netns/remora-peer-$1" ]
}

# A script that is told to end takes its namespaces and what runs in them with it.
signal_cleans_up() {
    local id="signal-$1-$$" pid inside
    LAB_MODE=kernel LAB_ID="$id" env --default-signal=INT "$LAB_SCRIPTS/lab.sh" \
        run sh -c "echo \$\$ >$TAP_DIR/inside-$1; sleep 300 & exec sleep 300" &
    pid=$!
    retry 10 test -s "$TAP_DIR/inside-$1"
    inside="$(cat "$TAP_DIR/inside-$1")"
    exists "$id"
    kill "-$1" "$pid"
    retry 10 lab_has_ended "$pid"
    is_gone "$id"
    lab_has_ended "$inside"
}

ends_by_itself() {
    local id="end-$$"
    LAB_MODE=kernel LAB_ID="$id" "$LAB_SCRIPTS/lab.sh" run sh -c 'sleep 300 & true'
    is_gone "$id"
}

# The parts run side by side, each in a laboratory of its own.
start_without_library() {
    local script
    for script in $(others); do
        env -u LAB_ID LAB_MODE=remora LAB_DEADLINE=8 LAB_PATIENCE=2 TMPDIR="$TAP_DIR" \
            REMORA_LIB=/nonexistent/libremora.so REMORA_BIN=/nonexistent/remora \
            bash "$script" >"$TAP_DIR/absent-$(basename "$script")" 2>&1 &
        ABSENT+=("$!:$(basename "$script")")
        TAP_CHILDREN+=("$!")
    done
}

# Ends in `not ok`, not in a script that broke for another reason.
fails_without_library() {
    local file="$TAP_DIR/absent-$1"
    cat "$file"
    equal 1 "$2" "status"
    says '^not ok ' "$file"
    says '^1\.\.' "$file"
}

lab_up
peer_http 8080

ok_remora "our side has no kernel address and no route" no_address_or_route
ok_remora "our side's kernel cannot reach the peer" kernel_cannot_reach
ok_remora "the peer cannot reach our side's kernel" peer_cannot_reach_ours
ok "offloads of both ends go off and on" both_settings
ok "a capture holds every frame up to its end" capture_is_complete
ok "a route of the peer answers host unreachable" answers 'Destination Host Unreachable' "$T_UNREACH"
ok "a route of the peer answers prohibited" answers 'Packet filtered' "$T_PROHIBIT"
ok "a route of the peer is silent" answers '100% packet loss' "$T_BLACKHOLE"
ok "an unknown network answers net unreachable" answers 'Destination Net Unreachable' "$T_NOROUTE"
ok "the status of the program comes through" status_comes_through
ok "SIGTERM leaves nothing behind" signal_cleans_up TERM
ok "SIGINT leaves nothing behind" signal_cleans_up INT
ok "a process that was left behind ends with the laboratory" ends_by_itself

ABSENT=()
start_without_library
for entry in "${ABSENT[@]}"; do
    status=0
    wait "${entry%%:*}" || status=$?
    ok "${entry#*:} fails without the library" fails_without_library "${entry#*:}" "$status"
done

lab_down
ok "the namespaces are gone afterwards" is_gone "$LAB_ID"
tap_end
