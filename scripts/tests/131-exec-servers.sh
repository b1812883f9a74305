#!/usr/bin/env bash
# Programs that give their sockets to other programs: socat EXEC, ncat --exec and
# --sh-exec, nc -e, inetd, bash's /dev/tcp, git daemon and rsync daemon, python's pass_fds and send_fds,
# busybox, systemd-socket-activate. What they exec runs under the library too; data is compared.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
export LAB_DEADLINE=30

# echoed PORT: the data there and back, from the peer, twice.
echoed() {
    local round
    for round in 1 2; do
        lab_peer socat -t 8 - "TCP:$T_LOCAL:$1" <"$TAP_DIR/data" >"$TAP_DIR/back-$round"
        same_data "$TAP_DIR/data" "$TAP_DIR/back-$round"
    done
}

# server PORT CMD...: started, checked, stopped.
server() {
    local port="$1" status=0
    our_server "$@"
    echoed "$port" || status=$?
    lab_stop "$LAB_PID"
    return "$status"
}

# A server for one connection: nobody may try it before.
once() {
    local port="$1"
    shift
    lab_start ours "$@"
    lab_peer socat -t 8 - "TCP:$T_LOCAL:$port,retry=100,interval=0.1" <"$TAP_DIR/data" >"$TAP_DIR/back"
    same_data "$TAP_DIR/data" "$TAP_DIR/back"
    lab_wait "$LAB_PID" 10
}

# A client that gives its connection to another program: the peer listens. INPUT is how socat reads.
once_as_client() {
    local port="$1" listener
    shift
    lab_start peer socat -t 8 "$INPUT" "TCP-LISTEN:$port,reuseaddr" <"$TAP_DIR/$DATA" >"$TAP_DIR/back"
    listener=$LAB_PID
    lab_retry 15 lab_listens peer tcp "$port"
    lab_ours "$@" "$T_PEER" "$port"
    lab_wait "$listener" 15
    same_data "$TAP_DIR/$DATA" "$TAP_DIR/back"
}

# ncat ends its program when the peer has ended its half: so the program ends first.
ncat_server() {
    local port="$1" option="$2" command="$3" round
    our_server "$port" ncat -l --keep-open "$option" "$command" "$T_LOCAL" "$port"
    for round in 1 2; do
        lab_peer socat -t 8 "-,ignoreeof" "TCP:$T_LOCAL:$port" <"$TAP_DIR/small" >"$TAP_DIR/back-$round"
        same_data "$TAP_DIR/small" "$TAP_DIR/back-$round"
    done
    lab_stop "$LAB_PID"
}

inetd() {
    printf '%s:%s stream tcp nowait root /bin/cat cat\n' "$T_LOCAL" 5110 >"$TAP_DIR/inetd.conf"
    printf '%s:%s stream tcp nowait root /bin/sh sh -c cat\n' "$T_LOCAL" 5111 >>"$TAP_DIR/inetd.conf"
    our_server 5110 inetd -i "$TAP_DIR/inetd.conf"
    local status=0
    (echoed 5110 && echoed 5111) || status=$?
    lab_stop "$LAB_PID"
    return "$status"
}

bash_client() {
    # shellcheck disable=SC2016  # for the inner shell
    lab_ours bash -c 'exec 3<>/dev/tcp/$0/$1; (cat $2 >&3; printf "\nend\n" >&3) &
        head -c 3000000 <&3; read -r -u 3; read -r -u 3 last; echo "$last"' "$T_PEER" 7777 "$TAP_DIR/data" >"$TAP_DIR/back"
    (cat "$TAP_DIR/data" && echo end) | cmp - "$TAP_DIR/back"
}

git_daemon() {
    local clone="$TAP_DIR/clone-$1"
    "lab_$1" git clone -q "git://$2:9418/site.git" "$clone"
    diff -r -x .git "$TAP_DIR/work" "$clone"
    echo "$1" >"$clone/$1"
    git -C "$clone" add "$1"
    git -C "$clone" -c user.name=t -c user.email=t@t commit -qm "$1"
    "lab_$1" git -C "$clone" push -q origin HEAD
    equal "$1" "$(git -C "$TAP_DIR/site.git" log -1 --format=%s)"
    git -C "$TAP_DIR/work" pull -q "$TAP_DIR/site.git"
}

rsync_daemon() {
    rm -rf "$TAP_DIR/got"
    "lab_$1" rsync -a "rsync://$2:8730/site/" "$TAP_DIR/got/"
    diff -r "$TAP_DIR/site" "$TAP_DIR/got"
    "lab_$1" rsync -a "$TAP_DIR/got/" "rsync://$2:8730/site/back-$1/"
    diff -r "$TAP_DIR/got" "$TAP_DIR/site/back-$1"
    rm -r "$TAP_DIR/site/back-$1"
}

rsync_configure() {
    printf 'use chroot = no\naddress = %s\nport = 8730\n[site]\npath = %s\nread only = no\nuid = 0\ngid = 0\n' \
        "$1" "$TAP_DIR/site" >"$TAP_DIR/rsync-$1.conf"
}

passing='
import os, socket, subprocess, sys
port, way = int(sys.argv[1]), sys.argv[2]
echo = "import socket, sys\nwith socket.socket(fileno=int(sys.argv[1])) as c:\n  while data := c.recv(65536): c.sendall(data)\n"
taker = "import socket, sys\np = socket.socket(fileno=int(sys.argv[1]))\n" \
    "while (m := socket.recv_fds(p, 1, 1))[0]:\n with socket.socket(fileno=m[1][0]) as c:\n  while data := c.recv(65536): c.sendall(data)\n"
listener = socket.create_server(("0.0.0.0", port))
if way == "send":
    near, far = socket.socketpair()
    subprocess.Popen([sys.executable, "-c", taker, str(far.fileno())], pass_fds=[far.fileno()])
    far.close()
while True:
    connection, peer = listener.accept()
    if way == "pass":
        subprocess.Popen([sys.executable, "-c", echo, str(connection.fileno())], pass_fds=[connection.fileno()])
    else:
        socket.send_fds(near, [b"c"], [connection.fileno()])
    connection.close()
'

busybox_http() {
    lab_start ours busybox httpd -f -p "$T_LOCAL:5160" -h "$TAP_DIR"
    retry 10 ours_answers 5160
    lab_peer curl -sS -m 20 -o "$TAP_DIR/back" "http://$T_LOCAL:5160/data"
    lab_stop "$LAB_PID"
    same_data "$TAP_DIR/data" "$TAP_DIR/back"
    lab_ours busybox wget -q -O "$TAP_DIR/back" "http://$T_PEER:8080/bytes/3000000?seed=1"
    same_data "$TAP_DIR/data" "$TAP_DIR/back"
}

many_curls() {
    # shellcheck disable=SC2016  # for the inner shell
    seq 20 | lab_ours xargs -P 5 -I{} curl -sS -m 20 -o "$TAP_DIR/many-{}" "http://$T_PEER:8080/bytes/100000?seed={}"
    local number
    for number in $(seq 20); do
        bytes 100000 "$number" "$TAP_DIR/wanted"
        cmp "$TAP_DIR/wanted" "$TAP_DIR/many-$number"
    done
}

lab_up
bytes 3000000 1 "$TAP_DIR/data"
bytes 20000 2 "$TAP_DIR/small"
peer_http 8080
LAB_DEADLINE=250 peer_server tcp 7777 socat TCP-LISTEN:7777,fork,reuseaddr EXEC:cat
ok "socat: fork, EXEC" server 5101 socat "TCP-LISTEN:5101,fork,reuseaddr" EXEC:cat
ok "socat: fork, EXEC with the socket itself" server 5103 socat "TCP-LISTEN:5103,fork,reuseaddr" EXEC:cat,nofork
ok "ncat --exec --keep-open" ncat_server 5104 --exec "/usr/bin/head -c 20000"
ok "ncat --sh-exec --keep-open" ncat_server 5105 --sh-exec "head -c 20000"
ok "nc -e" once 5106 nc.traditional -l -p 5106 -e /bin/cat
ok "nc -c" once 5107 nc.traditional -l -p 5107 -c cat
DATA=data INPUT=-
ok "nc -e as client" once_as_client 5141 nc.traditional -e /bin/cat
ok "nc -c as client" once_as_client 5142 nc.traditional -c cat
DATA=small INPUT="-,ignoreeof"
ok "ncat --exec as client" once_as_client 5143 ncat --exec "/usr/bin/head -c 20000"
ok "ncat --sh-exec as client" once_as_client 5144 ncat --sh-exec "head -c 20000"
ok "inetd: cat, and a shell" inetd
ok "python: pass_fds" server 5120 /usr/bin/python3 -c "$passing" 5120 pass
ok "python: send_fds" server 5121 /usr/bin/python3 -c "$passing" 5121 send
ok "systemd-socket-activate --inetd" server 5130 systemd-socket-activate -l "$T_LOCAL:5130" --inetd -a /bin/cat
ok "bash /dev/tcp" bash_client
# A static one is 87-static's.
if ldd "$(command -v busybox)" >/dev/null 2>&1; then
    ok "busybox: httpd and wget" busybox_http
fi
ok "xargs -P: 20 curls" many_curls

git init -q -b main "$TAP_DIR/work"
bytes 500000 3 "$TAP_DIR/work/large"
seq 1000 >"$TAP_DIR/work/lines"
git -C "$TAP_DIR/work" add .
git -C "$TAP_DIR/work" -c user.name=t -c user.email=t@t commit -qm first
git clone -q --bare "$TAP_DIR/work" "$TAP_DIR/site.git"
daemon=(git daemon --export-all --enable=receive-pack --reuseaddr "--base-path=$TAP_DIR")
our_server 9418 "${daemon[@]}" "--listen=$T_LOCAL" "$TAP_DIR" || true
ok "git daemon: clone and push" git_daemon peer "$T_LOCAL"
lab_stop "$LAB_PID"
peer_server tcp 9418 "${daemon[@]}" "--listen=$T_PEER" "$TAP_DIR"
ok "git: clone and push" git_daemon ours "$T_PEER"

mkdir "$TAP_DIR/site"
for number in $(seq 20); do
    bytes $((number * 5000)) "$number" "$TAP_DIR/site/file-$number"
done
rsync_configure "$T_LOCAL"
our_server 8730 rsync --daemon --no-detach "--config=$TAP_DIR/rsync-$T_LOCAL.conf" || true
ok "rsync daemon: both ways" rsync_daemon peer "$T_LOCAL"
lab_stop "$LAB_PID"
rsync_configure "$T_PEER"
peer_server tcp 8730 rsync --daemon --no-detach "--config=$TAP_DIR/rsync-$T_PEER.conf"
ok "rsync: both ways" rsync_daemon ours "$T_PEER"
tap_end
