#!/usr/bin/env bash
# The remora command: run (status, settings, what it refuses and how it says so), config,
# help, and the demo.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
URL="http://$LAB_NET.2:8080"

# The launcher on our side, with nothing of remora in its environment.
remora() {
    lab_bare env -u REMORA_IFACE -u REMORA_ADDR -u REMORA_GATEWAY -u REMORA_LOG -u REMORA_LOG_FILE \
        -u REMORA_LIB "$REMORA_BIN" "$@"
}

remora_run() {
    remora run --iface "$REMORA_IFACE" --addr "$REMORA_ADDR" --gateway "$REMORA_GATEWAY" "$@"
}

passes_status() {
    exits 0 remora_run -- true
    exits 7 remora_run -- sh -c 'exit 7'
    # shellcheck disable=SC2016  # the inner shell expands it
    exits 143 remora_run -- sh -c 'kill -TERM $$'
}

passes_arguments() {
    equal 'a b|--iface|' "$(remora_run -- printf '%s|' 'a b' --iface)" output
}

# The library is in front of what the user preloads, and in the program.
preloads() {
    # shellcheck disable=SC2016  # the inner shell expands it
    remora_run -- sh -c 'cat /proc/self/maps; echo "$LD_PRELOAD"' >"$TAP_DIR/maps"
    says 'libremora\.so' "$TAP_DIR/maps"
    equal first "$(LD_PRELOAD='' remora_run -- env | sed -n 's/^LD_PRELOAD=[^: ]*libremora\.so.*/first/p')" LD_PRELOAD
}

fetches() {
    bytes 1000000 51 "$TAP_DIR/want"
    remora_run -- curl -sS -m 30 -o "$TAP_DIR/got" "$URL/bytes/1000000?seed=51"
    same_data "$TAP_DIR/want" "$TAP_DIR/got"
}

environment_is_enough() {
    lab_bare "$REMORA_BIN" run curl -sS -m 30 "$URL/" >"$TAP_DIR/got"
    says remora "$TAP_DIR/got"
}

writes_pcap() {
    remora_run --pcap "$TAP_DIR/run.pcapng" --log debug -- curl -sS -m 30 -o /dev/null "$URL/" 2>"$TAP_DIR/err"
    equal 1 "$(frame_count "$TAP_DIR/run.pcapng" "ip.src == $T_LOCAL && tcp.flags.syn == 1")" SYNs
}

# refuses WORD... -- ARGS...: does not start the program, and names every word.
refuses() {
    local status=0 word
    local -a words=()
    while [ "$1" != -- ]; do
        words+=("$1")
        shift
    done
    shift
    remora run "$@" >"$TAP_DIR/out" 2>"$TAP_DIR/err" || status=$?
    cat "$TAP_DIR/err"
    equal "" "$(cat "$TAP_DIR/out")" "what the program printed"
    # 126 and 127 are the shell's words for "cannot run" and "not found"; 2 is usage.
    [[ "$status" =~ ^(1|2|12[567])$ ]]
    for word in "${words[@]}"; do
        if ! grep -qiE -- "$word" "$TAP_DIR/err"; then
            printf 'nothing about %s\n' "$word"
            return 1
        fi
    done
}

bad_variable() {
    export REMORA_MTU=huge
    refuses REMORA_MTU huge -- --iface "$REMORA_IFACE" --addr "$REMORA_ADDR" -- echo ran
}

static_program() {
    printf 'int puts(const char *); int main(void) { return puts("ran") < 0; }\n' >"$TAP_DIR/static.c"
    gcc -static -o "$TAP_DIR/static" "$TAP_DIR/static.c"
    refuses static -- --iface "$REMORA_IFACE" --addr "$REMORA_ADDR" -- "$TAP_DIR/static"
}

# Owned by another user, so that the loader really would ignore LD_PRELOAD.
setuid_program() {
    cp "$(type -P true)" "$TAP_DIR/setuid"
    chown nobody "$TAP_DIR/setuid"
    chmod 4755 "$TAP_DIR/setuid"
    refuses setuid -- --iface "$REMORA_IFACE" --addr "$REMORA_ADDR" -- "$TAP_DIR/setuid"
}

prints_config() {
    lab_bare "$REMORA_BIN" config >"$TAP_DIR/config"
    says "REMORA_IFACE.*$REMORA_IFACE" "$TAP_DIR/config"
    says "$T_LOCAL" "$TAP_DIR/config"
    says 'tcp_timestamps|tcp_sack' "$TAP_DIR/config"
    # Every value with its source.
    says 'REMORA_IFACE|environment' "$TAP_DIR/config"
}

config_shows_sysctl() {
    REMORA_SYSCTL=net.ipv4.tcp_sack=0 lab_bare "$REMORA_BIN" config >"$TAP_DIR/config"
    says 'tcp_sack.*0.*REMORA_SYSCTL' "$TAP_DIR/config"
}

helps() {
    local command
    lab_bare "$REMORA_BIN" --help >"$TAP_DIR/help"
    for command in run config demo; do
        says "$command" "$TAP_DIR/help"
        lab_bare "$REMORA_BIN" "$command" --help >"$TAP_DIR/help-$command"
        [ -s "$TAP_DIR/help-$command" ]
    done
    says '--gateway' "$TAP_DIR/help-run"
    says '--strict' "$TAP_DIR/help-run"
}

# It makes what it needs itself, so it does not run inside the laboratory.
demo() {
    env -u REMORA_IFACE -u REMORA_ADDR -u REMORA_GATEWAY -u REMORA_LOG -u REMORA_LOG_FILE -u REMORA_LIB \
        timeout -k 5 90 "$REMORA_BIN" demo >"$TAP_DIR/demo"
    cat "$TAP_DIR/demo"
    local word
    for word in connect ARP SYN ESTABLISHED GET FIN; do
        says "$word" "$TAP_DIR/demo"
    done
    # Colour is for a terminal.
    if grep -q $'\033' "$TAP_DIR/demo"; then
        return 1
    fi
}

if [ "$LAB_MODE" = kernel ]; then
    not_here "the launcher" "there is no library on the bare kernel"
    tap_end
fi

lab_up
peer_http 8080
lab_capture_start "$TAP_DIR/peer.pcap" 160
ok "run passes the program's status on" passes_status
ok "run passes the arguments on" passes_arguments
ok "run preloads the library first" preloads
ok "run curl" fetches
ok "run without flags takes the environment" environment_is_enough
ok "run --pcap --log" writes_pcap
ok "a missing interface is named" refuses nowhere0 -- --iface nowhere0 --addr "$REMORA_ADDR" -- echo ran
ok "a bad address is named" refuses '10\.99\.0\.300' -- --iface "$REMORA_IFACE" --addr 10.99.0.300/24 -- echo ran
ok "a bad device is named" refuses token-ring packet unix -- --iface "$REMORA_IFACE" --addr "$REMORA_ADDR" --device token-ring -- echo ran
ok "a bad variable is named" bad_variable
ok "a missing program is named" refuses no-such-program -- --iface "$REMORA_IFACE" --addr "$REMORA_ADDR" -- no-such-program
ok "a static program is refused" static_program
if [ "${LAB_UNSHARED:-}" = 1 ]; then
    not_here "a setuid program is refused" "a user namespace has no second user"
else
    ok "a setuid program is refused" setuid_program
fi
ok "config prints values and sources" prints_config
ok "config shows what REMORA_SYSCTL sets" config_shows_sysctl
ok "help for every command" helps
ok "demo tells the story of a connection" demo
tap_end
