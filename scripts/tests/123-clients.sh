#!/usr/bin/env bash
# Small clients on our side against servers on the peer: telnet, ftp (tnftp) and lftp,
# passive and active, ncat as client and as listener.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
SIZE=2000000
FTP=2121
SITE="$TAP_DIR/site"

# What keeps a client's input open until the answer is there.
has_come() { retry 10 grep -qs "$1" "$TAP_DIR/out"; }

# telnet to a line server; it ends when the server does.
by_telnet() {
    # shellcheck disable=SC2016  # the words are sh's at the other end
    peer_server tcp 4230 socat TCP-LISTEN:4230,reuseaddr 'SYSTEM:read line; echo "you said $line"'
    rm -f "$TAP_DIR/out"
    { printf 'hello\r\n'; has_come 'you said hello'; } |
        lab_ours inetutils-telnet "$T_PEER" 4230 >"$TAP_DIR/out" 2>&1 || true
    says "Connected to $T_PEER" "$TAP_DIR/out"
    says 'you said hello' "$TAP_DIR/out"
}

telnet_refused() {
    exits 1 lab_ours inetutils-telnet "$T_PEER" 1 </dev/null >"$TAP_DIR/out" 2>&1
    says 'Connection refused' "$TAP_DIR/out"
}

ftp_server() {
    mkdir -p "$SITE/incoming" "$TAP_DIR/empty"
    bytes "$SIZE" 61 "$SITE/large"
    chmod 755 "$TAP_DIR" "$SITE"
    chmod 777 "$SITE/incoming"
    cat >"$TAP_DIR/vsftpd.conf" <<CONF
listen=YES
listen_ipv6=NO
listen_address=$T_PEER
listen_port=$FTP
background=NO
anonymous_enable=YES
anon_root=$SITE
local_enable=NO
write_enable=YES
anon_upload_enable=YES
anon_umask=022
no_anon_password=YES
connect_from_port_20=NO
port_enable=YES
pasv_enable=YES
secure_chroot_dir=$TAP_DIR/empty
ftp_username=daemon
nopriv_user=nobody
seccomp_sandbox=NO
CONF
    peer_server tcp "$FTP" vsftpd "$TAP_DIR/vsftpd.conf"
}

by_ftp() {
    rm -f "$SITE/incoming/by-ftp$1" "$TAP_DIR/got"
    (
        cd "$TAP_DIR"
        printf '%s\n' "user anonymous none" "passive $1" binary "get large got" \
            "put got incoming/by-ftp$1" "ls" quit |
            lab_ours tnftp -n -v "$T_PEER" "$FTP" >"$TAP_DIR/out" 2>&1
    )
    same_data "$SITE/large" "$TAP_DIR/got"
    same_data "$SITE/large" "$SITE/incoming/by-ftp$1"
    says ' large' "$TAP_DIR/out"
}

by_lftp() {
    rm -f "$SITE/incoming/by-lftp$1" "$TAP_DIR/got"
    lab_ours lftp -c "set ftp:passive-mode $1; set net:max-retries 2; set net:timeout 20; set ftp:ssl-allow no;
        set dns:order inet; open -u anonymous,none -p $FTP $T_PEER; get large -o $TAP_DIR/got;
        put -O incoming $TAP_DIR/got -o by-lftp$1; cls" >"$TAP_DIR/out"
    same_data "$SITE/large" "$TAP_DIR/got"
    same_data "$SITE/large" "$SITE/incoming/by-lftp$1"
    says '^large' "$TAP_DIR/out"
}

lftp_segments() {
    rm -f "$TAP_DIR/got"
    lab_ours lftp -c "set ftp:ssl-allow no; open -u anonymous,none -p $FTP $T_PEER; pget -n 3 large -o $TAP_DIR/got"
    same_data "$SITE/large" "$TAP_DIR/got"
}

ncat_client() {
    peer_server tcp 4231 socat -t 20 TCP-LISTEN:4231,reuseaddr,fork EXEC:cat
    lab_ours ncat -n "$T_PEER" 4231 <"$SITE/large" >"$TAP_DIR/echoed"
    same_data "$SITE/large" "$TAP_DIR/echoed"
    peer_server udp 4232 socat UDP-RECVFROM:4232,fork EXEC:cat
    rm -f "$TAP_DIR/out"
    { printf 'a datagram'; has_come 'a datagram'; } |
        lab_ours ncat -n -u -w 10s "$T_PEER" 4232 >"$TAP_DIR/out" 2>/dev/null || true
    equal 'a datagram' "$(cat "$TAP_DIR/out")" answer
    exits 1 lab_ours ncat -n "$T_PEER" 1 </dev/null 2>"$TAP_DIR/err"
    says 'Connection refused' "$TAP_DIR/err"
}

ncat_listens() {
    lab_start ours ncat -n -l "$T_LOCAL" 4233 <"$SITE/large" >"$TAP_DIR/sink"
    lab_peer socat -t 20 - "TCP:$T_LOCAL:4233,retry=100,interval=0.1" <"$SITE/large" >"$TAP_DIR/echoed"
    lab_wait "$LAB_PID" 20
    same_data "$SITE/large" "$TAP_DIR/sink"
    same_data "$SITE/large" "$TAP_DIR/echoed"
}

lab_up
ftp_server
ok "telnet" by_telnet
ok "telnet: refused" telnet_refused
ok "ftp: passive" by_ftp on
ok "ftp: active" by_ftp off
ok "lftp: passive" by_lftp on
ok "lftp: active" by_lftp off
ok "lftp: three connections for one file" lftp_segments
ok "ncat: client by TCP and UDP" ncat_client
ok "ncat: listener" ncat_listens
tap_end
