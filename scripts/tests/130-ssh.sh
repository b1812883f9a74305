#!/usr/bin/env bash
# OpenSSH: sshd on our side, which runs itself again for each connection and lets a child in
# a seccomp sandbox talk first; ssh, scp, sftp and rsync from the peer, forwarded ports both ways and
# SOCKS. Then the same clients on our side towards a kernel sshd, ProxyCommand, ProxyJump and a shared
# connection too. Keys are the script's own.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=2222
# The same server behind another port: ssh does not jump to where it comes from.
OTHER_PORT=2223

# configure NAME ADDRESS
configure() {
    cat >"$TAP_DIR/$1.conf" <<CONF
Port $PORT
Port $OTHER_PORT
ListenAddress $2
HostKey $TAP_DIR/host
AuthorizedKeysFile $TAP_DIR/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
PidFile none
GatewayPorts yes
MaxStartups 100
Subsystem sftp internal-sftp
LogLevel VERBOSE
CONF
    cat >"$TAP_DIR/ssh.conf" <<CONF
Host *
User $(id -un)
IdentityFile $TAP_DIR/user
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile $TAP_DIR/known
LogLevel ERROR
ConnectTimeout 10
KexAlgorithms curve25519-sha256
CONF
}

client() { "lab_$SIDE" "$@"; }
on_server() { client ssh -F "$TAP_DIR/ssh.conf" -p "$PORT" "$@"; }

commands() {
    equal hello "$(on_server "$SERVER" 'echo hello; exit 0')"
    exits 7 on_server "$SERVER" 'exit 7'
    on_server "$SERVER" cat <"$TAP_DIR/data" >"$TAP_DIR/back"
    same_data "$TAP_DIR/data" "$TAP_DIR/back"
    equal terminal "$(on_server -tt "$SERVER" 'tty >/dev/null && echo terminal' | tr -d '\r')"
}

many() {
    local number
    local -a jobs=()
    for number in $(seq 8); do
        on_server "$SERVER" "echo $number; cat $TAP_DIR/small" >"$TAP_DIR/many-$number" &
        jobs+=($!)
    done
    wait "${jobs[@]}"
    for number in $(seq 8); do
        (echo "$number" && cat "$TAP_DIR/small") | cmp - "$TAP_DIR/many-$number"
    done
}

copies() {
    client scp -q -F "$TAP_DIR/ssh.conf" -P "$PORT" "$TAP_DIR/data" "$SERVER:$TAP_DIR/copied"
    same_data "$TAP_DIR/data" "$TAP_DIR/copied"
    client scp -q -F "$TAP_DIR/ssh.conf" -P "$PORT" "$SERVER:$TAP_DIR/data" "$TAP_DIR/copied-back"
    same_data "$TAP_DIR/data" "$TAP_DIR/copied-back"
    printf 'put %s %s\nget %s %s\n' "$TAP_DIR/data" "$TAP_DIR/put" "$TAP_DIR/data" "$TAP_DIR/get" >"$TAP_DIR/batch"
    client sftp -q -F "$TAP_DIR/ssh.conf" -P "$PORT" -b "$TAP_DIR/batch" "$SERVER"
    same_data "$TAP_DIR/data" "$TAP_DIR/put"
    same_data "$TAP_DIR/data" "$TAP_DIR/get"
}

over_rsync() {
    rm -rf "$TAP_DIR/synced"
    client rsync -a -e "ssh -F $TAP_DIR/ssh.conf -p $PORT" "$TAP_DIR/tree" "$SERVER:$TAP_DIR/synced/"
    diff -r "$TAP_DIR/tree" "$TAP_DIR/synced/tree"
}

# forwards ADDRESS-THAT-THE-CLIENT-LISTENS-ON: -L and -D there, -R on the server.
forwards() {
    lab_start "$SIDE" ssh -F "$TAP_DIR/ssh.conf" -p "$PORT" -N -o ExitOnForwardFailure=yes \
        -L "$1:5001:$T_PEER:8080" -D "$1:5002" -R "$SERVER:5003:$T_PEER:8080" "$SERVER"
    local tunnel=$LAB_PID status=0
    (
        retry 10 lab_peer curl -sS -m 20 -o "$TAP_DIR/forwarded" "http://$SERVER:5003/bytes/1000000?seed=4"
        same_data "$TAP_DIR/wanted" "$TAP_DIR/forwarded"
        lab_peer curl -sS -m 20 -o "$TAP_DIR/forwarded" "http://$1:5001/bytes/1000000?seed=4"
        same_data "$TAP_DIR/wanted" "$TAP_DIR/forwarded"
        lab_peer curl -sS -m 20 -x "socks5h://$1:5002" -H 'Expect:' --data-binary "@$TAP_DIR/wanted" \
            -o "$TAP_DIR/forwarded" "http://$T_PEER:8080/echo"
        same_data "$TAP_DIR/wanted" "$TAP_DIR/forwarded"
    ) || status=$?
    lab_stop "$tunnel"
    return "$status"
}

proxies() {
    equal "by nc" "$(on_server -o "ProxyCommand=nc.openbsd %h %p" "$SERVER" 'echo by nc')"
    equal "by socat" "$(on_server -o "ProxyCommand=socat - TCP:%h:%p" "$SERVER" 'echo by socat')"
    equal "by jump" "$(client ssh -F "$TAP_DIR/ssh.conf" -J "$SERVER:$PORT" -p "$OTHER_PORT" "$SERVER" 'echo by jump')"
}

shared() {
    local number
    local -a master=(-o "ControlPath=$TAP_DIR/master")
    on_server -M -f -N "${master[@]}" "$SERVER" >/dev/null 2>&1
    for number in $(seq 5); do
        equal "$number" "$(on_server "${master[@]}" "$SERVER" "echo $number")"
    done
    on_server "${master[@]}" "$SERVER" cat <"$TAP_DIR/data" >"$TAP_DIR/back"
    same_data "$TAP_DIR/data" "$TAP_DIR/back"
    on_server "${master[@]}" -O exit "$SERVER"
}

if [ "${LAB_UNSHARED:-}" = 1 ]; then
    not_here "OpenSSH" "its server needs users to become"
    tap_end
fi
lab_up
made=
if [ ! -d /run/sshd ]; then
    mkdir -m 755 /run/sshd
    made=/run/sshd
fi
for name in host user; do
    ssh-keygen -q -t ed25519 -N '' -f "$TAP_DIR/$name"
done
mkdir "$TAP_DIR/tree"
for number in $(seq 20); do
    bytes $((number * 5000)) "$number" "$TAP_DIR/tree/file-$number"
done
bytes 3000000 1 "$TAP_DIR/data"
bytes 50000 2 "$TAP_DIR/small"
bytes 1000000 4 "$TAP_DIR/wanted"
peer_http 8080

SIDE=peer SERVER="$T_LOCAL"
configure sshd "$T_LOCAL"
our_server "$PORT" /usr/sbin/sshd -D -e -f "$TAP_DIR/sshd.conf" || true
DAEMON=$LAB_PID
ok "server: commands, 3 MB there and back, terminal" commands
ok "server: 8 sessions at once" many
ok "server: scp and sftp both ways" copies
ok "server: rsync" over_rsync
ok "server: -L, -D and -R" forwards "$T_PEER"
lab_stop "$DAEMON"

SIDE=ours SERVER="$T_PEER"
configure peer "$T_PEER"
peer_server tcp "$PORT" /usr/sbin/sshd -D -e -f "$TAP_DIR/peer.conf"
ok "client: commands, 3 MB there and back, terminal" commands
ok "client: 8 sessions at once" many
ok "client: scp and sftp both ways" copies
ok "client: rsync" over_rsync
ok "client: -L, -D and -R" forwards "$T_LOCAL"
ok "client: ProxyCommand and ProxyJump" proxies
ok "client: sessions over one connection" shared
[ -z "$made" ] || rmdir "$made"
tap_end
