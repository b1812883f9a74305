#!/usr/bin/env bash
# vsftpd on our side (a process per session, two with a user to become), passive and
# active transfers by the kernel's curl, lftp and ftp; then those three clients on our
# side against a kernel vsftpd, active transfers included, where the client listens.
# Its seccomp sandbox is off: Debian 12's kills sessions on the bare kernel too.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
PORT=2121
SITE="$TAP_DIR/site"

configure() {
    cat >"$TAP_DIR/vsftpd-$1.conf" <<CONF
listen=YES
listen_ipv6=NO
listen_address=$1
listen_port=$PORT
background=NO
anonymous_enable=YES
anon_root=$SITE
local_enable=NO
write_enable=YES
anon_upload_enable=YES
anon_other_write_enable=YES
anon_mkdir_write_enable=YES
anon_umask=022
no_anon_password=YES
connect_from_port_20=NO
pasv_min_port=21000
pasv_max_port=21099
port_enable=YES
pasv_enable=YES
xferlog_enable=YES
vsftpd_log_file=$TAP_DIR/vsftpd.log
secure_chroot_dir=$TAP_DIR/empty
ftp_username=daemon
nopriv_user=nobody
seccomp_sandbox=NO
CONF
}

client() { "lab_$SIDE" "$@"; }
fetch() { client curl -sS -m 30 "$@"; }

download() {
    fetch -o "$TAP_DIR/got" "ftp://$SERVER:$PORT/large"
    same_data "$SITE/large" "$TAP_DIR/got"
    fetch -r 1000-1099 -o "$TAP_DIR/got" "ftp://$SERVER:$PORT/large"
    dd if="$SITE/large" bs=100 skip=10 count=1 status=none | cmp - "$TAP_DIR/got"
    fetch "ftp://$SERVER:$PORT/" >"$TAP_DIR/list"
    says ' large$' "$TAP_DIR/list"
    exits 78 fetch -o /dev/null "ftp://$SERVER:$PORT/nothing"
}

# PORT: the server connects to the client.
active() {
    fetch -P - -o "$TAP_DIR/got" "ftp://$SERVER:$PORT/large"
    same_data "$SITE/large" "$TAP_DIR/got"
    fetch -P - --disable-eprt -T "$SITE/large" "ftp://$SERVER:$PORT/incoming/active"
    same_data "$SITE/large" "$SITE/incoming/active"
    rm "$SITE/incoming/active"
}

upload() {
    fetch -T "$SITE/large" "ftp://$SERVER:$PORT/incoming/passive"
    same_data "$SITE/large" "$SITE/incoming/passive"
    rm "$SITE/incoming/passive"
}

parallel() {
    local number
    local -a words=()
    for number in $(seq 8); do
        words+=(-o "$TAP_DIR/parallel-$number" "ftp://$SERVER:$PORT/large")
    done
    fetch -Z --parallel-immediate "${words[@]}"
    for number in $(seq 8); do
        cmp "$SITE/large" "$TAP_DIR/parallel-$number"
    done
}

mirror() {
    rm -rf "$TAP_DIR/mirror"
    client lftp -c "set net:timeout 10; set net:max-retries 2; set ftp:passive-mode $1; open ftp://$SERVER:$PORT;
        mirror --parallel=3 tree $TAP_DIR/mirror; mkdir incoming/$1; mirror --parallel=3 -R $TAP_DIR/mirror incoming/$1"
    diff -r "$SITE/tree" "$TAP_DIR/mirror"
    diff -r "$SITE/tree" "$SITE/incoming/$1"
    rm -rf "$SITE/incoming/${1:?}"
}

classic() {
    printf 'user anonymous x\nbinary\nget large %s\nls\nquit\n' "$TAP_DIR/classic" >"$TAP_DIR/commands"
    client tnftp -n "$1" "$SERVER" "$PORT" <"$TAP_DIR/commands"
    same_data "$SITE/large" "$TAP_DIR/classic"
    rm "$TAP_DIR/classic"
}

both_sides() {
    ok "$1: download, range, list, error" download
    ok "$1: upload" upload
    ok "$1: active transfers both ways" active
    ok "$1: 8 sessions in parallel" parallel
    ok "$1: lftp mirrors 30 files there and back, passive" mirror on
    ok "$1: lftp the same, active" mirror off
    ok "$1: ftp, passive" classic -p
    ok "$1: ftp, active" classic -A
}

if [ "${LAB_UNSHARED:-}" = 1 ]; then
    not_here "vsftpd" "it needs users to become"
    tap_end
fi
lab_up
chmod 755 "$TAP_DIR"
mkdir "$SITE" "$SITE/incoming" "$SITE/tree" "$TAP_DIR/empty"
chmod 777 "$SITE/incoming"
bytes 1000000 1 "$SITE/large"
for number in $(seq 30); do
    bytes $((number * 1000)) "$number" "$SITE/tree/file-$number"
done

SIDE=peer SERVER="$T_LOCAL"
configure "$T_LOCAL"
our_server "$PORT" vsftpd "$TAP_DIR/vsftpd-$T_LOCAL.conf" || true
DAEMON=$LAB_PID
both_sides "server"
lab_stop "$DAEMON"

SIDE=ours SERVER="$T_PEER"
configure "$T_PEER"
peer_server tcp "$PORT" vsftpd "$TAP_DIR/vsftpd-$T_PEER.conf"
both_sides "client"
tap_end
