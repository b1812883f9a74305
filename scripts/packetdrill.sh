#!/usr/bin/env bash
# Google's packetdrill scripts on the kernel and on remora, side by side, counted by directory.
#   scripts/packetdrill.sh CHECKOUT [SCRIPT.pkt | DIRECTORY ...]
# CHECKOUT is a checkout of packetdrill whose gtests/net/packetdrill/packetdrill has been built (./configure && make).
# Scripts are named from gtests/net/tcp on; none names them all. Each runs in a namespace of its own: once on the kernel,
# once with the library preloaded onto packetdrill itself, in local mode over its TUN device, whose input the kernel drops,
# and once with the same rules and no library, which must fail (STRICT=1 checks that, too).
#   REMORA_LIB   the library (default: target/release/libremora.so); REMORA the program (default: the one beside it)
#   OUT          where logs go (default: a temporary directory); TRIES (default 2) runs before a script counts as failed
#   SCRIPTS      another directory of scripts: tools/testing/selftests/net/packetdrill of Linux's source, whose files are
#                counted by the first two words of their names
#   SIDES        which of "kernel remora" to run; TOLERANCE timing tolerance in microseconds (default 14000, for both)
set -uo pipefail
case "${1:---help}" in
--help | -h)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    [ "$#" -gt 0 ]
    exit
    ;;
esac
cd "$(dirname "$0")/.." || exit 1

CHECKOUT=$(realpath "${1:?usage: scripts/packetdrill.sh CHECKOUT [SCRIPT.pkt | DIRECTORY ...]}")
shift
BINARY=$CHECKOUT/gtests/net/packetdrill/packetdrill
SCRIPTS=$(realpath "${SCRIPTS:-$CHECKOUT/gtests/net/tcp}")
REMORA_LIB=$(realpath "${REMORA_LIB:-target/release/libremora.so}")
REMORA=${REMORA:-$(dirname "$REMORA_LIB")/remora}
OUT=${OUT:-$(mktemp -d)}
TRIES=${TRIES:-2}
SIDES=${SIDES:-kernel remora}
TOLERANCE=${TOLERANCE:-14000}
NAMESPACE=remora-pd-$$

[ -x "$BINARY" ] || { echo "build packetdrill first: (cd $CHECKOUT/gtests/net/packetdrill && ./configure && make)"; exit 1; }
if [ ! -x "$REMORA" ] || [ ! -r "$REMORA_LIB" ]; then
    echo "build the library first: cargo build --release"
    exit 1
fi
for tool in nft python3 cc; do
    command -v "$tool" > /dev/null || { echo "$tool is missing"; exit 1; }
done
mkdir -p "$OUT"
trap 'ip netns del "$NAMESPACE" 2> /dev/null' EXIT

# A kernel whose default is not CUBIC lets a namespace neither choose nor, without this, use it: the scripts are written
# for CUBIC. (TCP_CONGESTION by a process with CAP_NET_ADMIN is allowed.)
cc -shared -fPIC -o "$OUT/cubic.so" -xc - -ldl << 'C' || exit 1
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
int socket(int domain, int type, int protocol)
{
    static int (*original)(int, int, int);
    if (!original)
        original = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    int fd = original(domain, type, protocol);
    if (fd >= 0 && (type & 15) == SOCK_STREAM && (domain == AF_INET || domain == AF_INET6))
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
    return fd;
}
C

# nstat shows what the kernel counts; a script on remora that asks it is told of remora's counters: what has changed since
# the last call, in its form.
mkdir -p "$OUT/bin"
cat > "$OUT/bin/nstat" << SH
#!/bin/bash
unset LD_PRELOAD
"$REMORA" counters --all | grep -v '^#' | sort > "$OUT/counters.now"
comm -13 "$OUT/counters" "$OUT/counters.now"
mv "$OUT/counters.now" "$OUT/counters"
SH
chmod +x "$OUT/bin/nstat"

# once SIDE SCRIPT LOG: one run in a namespace of its own.
once() {
    local side=$1 script=$2 log=$3 status
    local environment=()
    : > "$OUT/counters"
    ip netns add "$NAMESPACE" && ip -n "$NAMESPACE" link set lo up || return 1
    case $side in
        kernel) environment=(LD_PRELOAD="$OUT/cubic.so") ;;
        remora)
            environment=(PATH="$OUT/bin:$PATH" LD_PRELOAD="$REMORA_LIB" REMORA_IFACE=tun0 REMORA_ADDR=iface REMORA_STRICT=1
                REMORA_SYSCTL="net.ipv4.tcp_congestion_control=cubic")
            ;;
    esac
    if [ "$side" != kernel ]; then
        printf '%s\n' 'table inet remora {' 'chain input {' 'type filter hook input priority 0;' \
            'iifname "tun0" drop' '}' '}' | ip netns exec "$NAMESPACE" nft -f - || return 1
    fi
    (
        cd "$(dirname "$script")" && timeout 60 ip netns exec "$NAMESPACE" env "${environment[@]}" "$BINARY" \
            --send_omit_free --tolerance_usecs="$TOLERANCE" --ip_version=ipv4 \
            --local_ip=192.168.0.1 --gateway_ip=192.168.0.1 --netmask_ip=255.255.0.0 --remote_ip=192.0.2.1 \
            -D TFO_COOKIE=3021b9d889017eeb -D TFO_COOKIE_ZERO=b7c12350a90dc8f5 -D CODE=host_unreachable \
            -D CMSG_LEVEL_IP=SOL_IP -D CMSG_TYPE_RECVERR=IP_RECVERR "$(basename "$script")"
    ) > "$log" 2>&1 < /dev/null
    status=$?
    ip netns del "$NAMESPACE"
    return "$status"
}

# passes SIDE SCRIPT: whether one of TRIES runs passes; timing suffers when the machine is busy.
passes() {
    local try
    for try in $(seq "$TRIES"); do
        once "$1" "$2" "$OUT/$1.$(tr / . <<< "${2#"$SCRIPTS/"}").log" && return 0
        : "$try"
    done
    return 1
}

[ $# -gt 0 ] || set -- .
mapfile -t LIST < <(cd "$SCRIPTS" && find "$@" -name '*.pkt' | sed 's,^\./,,' | sort)
declare -A TOTAL KERNEL REMORA BOTH
for name in "${LIST[@]}"; do
    case $name in
        */*) directory=${name%%/*} ;;
        *) directory=$(cut -d_ -f1,2 <<< "${name%.pkt}") ;;
    esac
    TOTAL[$directory]=$((${TOTAL[$directory]:-0} + 1))
    line=
    good=1
    for side in $SIDES; do
        if passes "$side" "$SCRIPTS/$name"; then
            line+=" $side: ok  "
            case $side in
                kernel) KERNEL[$directory]=$((${KERNEL[$directory]:-0} + 1)) ;;
                remora)
                    REMORA[$directory]=$((${REMORA[$directory]:-0} + 1))
                    [ "$good" = 1 ] && BOTH[$directory]=$((${BOTH[$directory]:-0} + 1))
                    ;;
            esac
        else
            line+=" $side: FAIL"
            [ "$side" = kernel ] && good=0
        fi
    done
    if [ "${STRICT:-0}" = 1 ] && once none "$SCRIPTS/$name" "$OUT/none.log"; then
        line+=" (passes without library, too)"
    fi
    printf '%s  %s\n' "$line" "$name"
done
printf '\n%-18s %8s %8s %8s %14s\n' directory scripts kernel remora 'both pass'
for directory in $(printf '%s\n' "${!TOTAL[@]}" | sort) ; do
    printf '%-18s %8d %8d %8d %14d\n' "$directory" "${TOTAL[$directory]}" "${KERNEL[$directory]:-0}" \
        "${REMORA[$directory]:-0}" "${BOTH[$directory]:-0}"
done
echo "logs: $OUT"
