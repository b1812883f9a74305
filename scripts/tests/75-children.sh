#!/usr/bin/env bash
# Programs that use no internet socket are unharmed by the library: same output, status,
# open descriptors and the same system calls that make or open something.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"
lab_up

run_plain() { lab_bare "$@"; }
run_loaded() { lab_ours "$@"; }

the_library_is_loaded() {
    says 'libremora|remora' <(run_loaded cat /proc/self/maps | grep '\.so')
}

same_behaviour() {
    local plain=0 loaded=0
    run_plain "$@" >"$TAP_DIR/plain.out" 2>"$TAP_DIR/plain.err" || plain=$?
    run_loaded "$@" >"$TAP_DIR/loaded.out" 2>"$TAP_DIR/loaded.err" || loaded=$?
    equal "$plain" "$loaded" status
    diff -u "$TAP_DIR/plain.out" "$TAP_DIR/loaded.out"
    diff -u "$TAP_DIR/plain.err" "$TAP_DIR/loaded.err"
    # Without a library the two are the same for no reason.
    the_library_is_loaded
}

# What a program makes: descriptors of any kind, processes, mappings others can see. The
# dynamic loader's look for the library and what it needs is not the program's doing.
makes() {
    cat "$1".* | sed -E -e 's/0x[0-9a-f]+/ADDRESS/g' -e 's/(tid|pid)=\[?[0-9]+\]?/PID/g' \
        -e 's/ = [0-9]+$/ = N/' |
        grep -E '^(socket|socketpair|open|openat|openat2|creat|pipe|pipe2|eventfd|eventfd2|memfd_create|epoll_create|epoll_create1|timerfd_create|signalfd4|inotify_init1|clone|clone3|fork|vfork|connect|bind|pidfd_open|userfaultfd|prctl|setsockopt)\(' |
        grep -vE '\.so([.0-9]*)"|/etc/ld\.so|glibc-hwcaps|ENOENT' |
        sort || true
}

same_calls() {
    rm -f "$TAP_DIR"/*.trace.*
    # One file per process (-ff): the order between processes is chance.
    LAB_DEADLINE=30 lab_bare strace -ff -qq -o "$TAP_DIR/plain.trace" "$@" >/dev/null 2>&1 || true
    LAB_DEADLINE=30 lab_bare strace -ff -qq -E "LD_PRELOAD=${REMORA_LIB:?}" -o "$TAP_DIR/loaded.trace" "$@" >/dev/null 2>&1 || true
    makes "$TAP_DIR/plain.trace" >"$TAP_DIR/plain.calls"
    makes "$TAP_DIR/loaded.trace" >"$TAP_DIR/loaded.calls"
    says '^[a-z]' "$TAP_DIR/plain.calls"
    diff -u "$TAP_DIR/plain.calls" "$TAP_DIR/loaded.calls"
    grep -qhE '^openat\(.*libremora[^"]*", .* = [0-9]+$' "$TAP_DIR"/loaded.trace.*
}

# A descriptor of the library's would show here.
same_descriptors() {
    run_plain sh -c 'ls /proc/$$/fd; true' >"$TAP_DIR/plain.fds"
    run_loaded sh -c 'ls /proc/$$/fd; true' >"$TAP_DIR/loaded.fds"
    equal "$(cat "$TAP_DIR/plain.fds")" "$(cat "$TAP_DIR/loaded.fds")" descriptors
    the_library_is_loaded
}

leaves_no_process() {
    run_loaded sh -c 'ls / >/dev/null; sysctl -n net.ipv4.ip_forward >/dev/null'
    retry 5 lab_namespace_is_empty "$LAB_OURS"
    the_library_is_loaded
}

if [ "$LAB_MODE" = kernel ]; then
    not_here "programs without an internet socket" "there is no library on the bare kernel"
    tap_end
fi

# The configuration must not be read before an address is used: this one would complain.
export REMORA_MTU=nonsense

# shellcheck disable=SC2016  # the inner shell expands it
{
    ok "sh -c keeps output and status" same_behaviour sh -c 'echo out; echo err >&2; exit 3'
    ok "a pipeline of children" same_behaviour sh -c 'printf "b\na\n" | sort | tr a-z A-Z; (exit 4); echo $?'
    ok "ls" same_behaviour ls -l /etc/hostname /nonexistent
    ok "ip link" same_behaviour ip -o link show dev lo
    ok "ip route" same_behaviour ip route show table all
    ok "sysctl" same_behaviour sysctl net.ipv4.tcp_sack net.nothing
    ok "bash with a here document and a substitution" same_behaviour bash -c 'cat <<<"$(echo inner)"; kill -TERM $$'
    ok "closed standard descriptors" same_behaviour sh -c 'exec 0<&- 1>&-; ls /proc/self/fd >&2'
    ok "python without a socket" same_behaviour /usr/bin/python3 -c 'import os; print(sorted(os.listdir("/proc/self/fd")))'
    ok "an AF_UNIX pair stays the kernel's" same_behaviour /usr/bin/python3 -c 'import socket as s
a, b = s.socketpair()
a.sendall(b"x"); print(b.recv(1), a.family, a.fileno(), b.fileno())'
    ok "sh makes nothing more" same_calls sh -c 'ls / | sort >/dev/null'
    ok "ip link makes nothing more" same_calls ip link
    ok "sysctl makes nothing more" same_calls sysctl net.ipv4.tcp_sack
    ok "ls makes nothing more" same_calls ls -l /
    ok "descriptors are the same" same_descriptors
    ok "no process is left behind" leaves_no_process
}
tap_end
