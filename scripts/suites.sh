#!/usr/bin/env bash
# Runs the socket test suites of interpreters and libraries, as Debian packages have them, and directories of test
# programs, twice: on the kernel, and under the
# library with both ends of every connection in stacks (REMORA_LOOPBACK=stack). Prints for each suite how many tests
# passed on either, and every test whose result differs. Each run has a network namespace of its own.
# Python's suite is of libpython3-testsuite; the others are in the packages' sources, given by a directory.
set -euo pipefail
scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$scripts")"
library="${REMORA_LIB:-${CARGO_TARGET_DIR:-$root/target}/release/libremora.so}"
seconds="${SUITE_SECONDS:-900}"
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# Those of python3's `test` package that open sockets, or watch, hand over and inherit descriptors.
python_suites=(
    test_socket test_ssl test_asyncio test_select test_selectors test_epoll test_poll test_socketserver test_httplib
    test_ftplib test_smtplib test_smtpd test_poplib test_imaplib test_telnetlib test_urllib2_localnet test_xmlrpc
    test_docxmlrpc test_httpservers test_timeout test_wsgiref test_nntplib test_asyncore test_asynchat test_logging
    test_os test_subprocess test_signal test_threading test_concurrent_futures test_multiprocessing_fork
    test_multiprocessing_spawn test_multiprocessing_forkserver test_pty test_eintr
)

usage() {
    cat <<'TEXT'
usage: scripts/suites.sh [python] [tcl=DIR] [ruby=DIR] [perl=DIR] [node=DIR] [libuv=DIR] [gtest=DIR]
                         [programs=DIR] [NAME...]

  python      python3's test package (Debian: libpython3-testsuite), the modules that open sockets
  tcl=DIR     socket.test, http.test and event.test of Tcl's source (apt-get source tcl8.6)
  ruby=DIR    test/socket of Ruby's source (apt-get source ruby3.1)
  perl=DIR    t/ of Socket, IO, IO::Socket::IP, libnet, Net::Ping and HTTP::Tiny in Perl's source (apt-get source perl)
  node=DIR    test/parallel of node's source, its files for net and dgram (apt-get source nodejs)
  libuv=DIR   where libuv's uv_run_tests_a was built (apt-get source libuv1; cmake -DBUILD_TESTING=ON)
  gtest=DIR   every program in DIR, each made with googletest
  programs=DIR  every program in DIR is one test: status 0 is passed, 4 skipped
  NAME        one module of python3's test package (test_socket, ...)

Without arguments: python. Root is needed. Status 1 when a test that passes on the kernel does not under the library.

environment: REMORA_LIB  the library (target/release/libremora.so)
             SUITE_SECONDS  the longest that one suite may take (900)
TEXT
}

# in_namespace kernel|remora CMD...: lo is up, and a link whose other end hears everything and says nothing.
in_namespace() {
    local mode="$1"
    shift
    # shellcheck disable=SC2016 # expands inside
    TMPDIR="$work" MODE="$mode" LIBRARY="$library" SECONDS_ALLOWED="$seconds" unshare -n bash -c '
        ip link set lo up
        ip link add lab0 type veth peer name peer0
        ip link set lab0 up
        ip link set peer0 up
        if [ "$MODE" = remora ]; then
            export REMORA_IFACE=lab0 REMORA_ADDR=10.99.0.1/24 REMORA_LOOPBACK=stack REMORA_STRICT=1
            LD_PRELOAD="$LIBRARY" exec timeout -k 5 "$SECONDS_ALLOWED" "$@"
        fi
        ip addr add 10.99.0.1/24 dev lab0
        exec timeout -k 5 "$SECONDS_ALLOWED" "$@"' in "$@"
}

# The tests of one module, a line each: its name and how it ended. AF_VSOCK has no other end on a machine without guests.
run_python() {
    in_namespace "$1" /usr/bin/python3 -m test -i '*VSOCK*' -i '*Vsock*' --timeout "$seconds" \
        --junit-xml "$work/junit.xml" "$2" >"$work/$2.$1.log" 2>&1 || true
    /usr/bin/python3 - "$work/junit.xml" "$work/$2.$1.log" <<'PYTHON'
import re, sys, xml.etree.ElementTree as tree
tests = {}
try:
    for case in tree.parse(sys.argv[1]).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        tests[case.get("name")] = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
except (OSError, tree.ParseError):
    pass
# Some modules run without the package's runner: the module is one test then.
whole = re.search(r"^Tests result: (\w+)", open(sys.argv[2], errors="replace").read(), re.M)
tests["(the module)"] = "passed" if whole and whole.group(1) == "SUCCESS" else "failed"
for name, result in sorted(tests.items()):
    print(result, name)
PYTHON
    rm -f "$work/junit.xml"
}

run_tcl() {
    (cd "$2/tests" && in_namespace "$1" tclsh all.tcl -verbose 'pass error skip' -tmpdir "$work" \
        -file 'socket.test http.test event.test') >"$work/tcl.$1.log" 2>&1 || true
    sed -n -e 's/^++++ \([^ ]*\) PASSED$/passed \1/p' -e 's/^==== \([^ ]*\) .*FAILED$/failed \1/p' \
        -e 's/^++++ \([^ ]*\) SKIPPED: .*/skipped \1/p' "$work/tcl.$1.log" | sort -u
}

run_ruby() {
    (cd "$2" && in_namespace "$1" ruby -W0 -Itool/lib -Ilib test/runner.rb -v test/socket) >"$work/ruby.$1.log" 2>&1 || true
    # Each test has a line when it ends; what did not pass is listed at the end, by number, its name on the next line.
    awk -v RS='\n' '
        match($0, /^\[ *[0-9]+\/[0-9]+\] *[A-Za-z_:]+#[^ ]+ = /) { sub(/^\[[^]]*\] */, ""); result[$1] = "passed" }
        /^ +[0-9]+\) (Failure|Error|Skipped):$/ { kind = $2 == "Skipped:" ? "skipped" : "failed"; next }
        kind != "" { sub(/:$/, "", $1); result[$1] = kind; kind = "" }
        END { for (name in result) print result[name], name }' "$work/ruby.$1.log" | sort
}

# run_files MODE LOG SKIPPED CMD FILE...: one test for each file, by what CMD says (the pattern SKIPPED) or ends with.
run_files() {
    local mode="$1" log="$2" skipped="$3"
    shift 3
    # shellcheck disable=SC2016 # expands inside
    in_namespace "$mode" bash -c '
        skipped="$1" command="$2" result=
        shift 2
        for file in "$@"; do
            said="$(timeout -k 5 60 bash -c "$command" in "$file" 2>&1)" && status=0 || status=$?
            result=failed
            if grep -q -e "$skipped" <<<"$said"; then
                result=skipped
            elif [ "$status" -eq 0 ]; then
                result=passed
            elif [ "$status" -eq 4 ]; then
                result=skipped
            fi
            printf "%s %s\n" "$result" "${file##*/}"
        done' in "$skipped" "$@" 2>"$log" || true
}

# Each file of tests says "ok N" or "not ok N" for each of its tests (TAP).
run_perl() {
    # shellcheck disable=SC2016 # expands inside
    (cd "$2" && in_namespace "$1" bash -c '
        for part in cpan/Socket dist/IO cpan/IO-Socket-IP cpan/libnet dist/Net-Ping cpan/HTTP-Tiny; do
            cd "$part" || exit
            for file in t/*.t; do
                PERL_HASH_SEED=0 timeout -k 5 60 perl "$file" </dev/null 2>/dev/null | sed -n -E \
                    -e "s~^ok ([0-9]+).*# (skip|SKIP).*~skipped $part/$file \\1~p;t" \
                    -e "s~^ok ([0-9]+).*~passed $part/$file \\1~p" \
                    -e "s~^not ok ([0-9]+).*~failed $part/$file \\1~p"
            done
            cd - >/dev/null
        done') 2>"$work/perl.$1.log" | sort -u || true
}

run_node() {
    # shellcheck disable=SC2016 # expands inside
    (cd "$2" && run_files "$1" "$work/node.$1.log" '^1\.\.0 # Skipped' \
        'exec node $(sed -n "s|^// Flags: ||p" "$1") "$1"' test/parallel/test-{net,dgram}-*.js)
}

# libuv's runner does not like root, and its limits are for an idle machine.
run_libuv() {
    local runner="$2/uv_run_tests_a"
    local -a tests
    mapfile -t tests < <(UV_RUN_AS_ROOT=1 "$runner" --list | sed 's/ .*//' |
        grep -E '^(tcp|udp|poll|getaddr|getname|pipe|ipc|connect|delayed|shutdown|socket|multiple|callback|close|watcher)')
    export UV_RUN_AS_ROOT=1 UV_TEST_TIMEOUT_MULTIPLIER=5
    run_files "$1" "$work/libuv.$1.log" '^ok 1 - .* # SKIP' "exec '$runner' \"\$1\"" "${tests[@]}"
}

run_gtest() {
    local program
    for program in "$2"/*; do
        if [ ! -f "$program" ] || [ ! -x "$program" ]; then
            continue
        fi
        in_namespace "$1" "$program" 2>&1 | sed -n -E -e "s|^\[       OK \] ([^ ]+) .*|passed ${program##*/} \1|p" \
            -e "s/^\[  FAILED  \] ([^ ,]+),? (.* )?\([0-9]+ ms\)\$/failed ${program##*/} \1/p" \
            -e "s|^\[  SKIPPED \] ([^ ]+) .*|skipped ${program##*/} \1|p" || true
    done | sort -u
}

run_programs() {
    local -a programs
    mapfile -t programs < <(find "$2" -maxdepth 1 -type f -executable | sort)
    # shellcheck disable=SC2016 # expands inside
    run_files "$1" "$work/programs.$1.log" '^1\.\.0 # SKIP' 'exec "$1"' "${programs[@]}"
}

count() {
    grep -c "^$1 " "$2" || true
}

# compare NAME: what passes on the kernel must pass under the library.
compare() {
    local kernel="$work/kernel.txt" remora="$work/remora.txt" lost
    printf '%-32s kernel: %4d passed, %3d skipped, %3d failed   remora: %4d passed, %3d skipped, %3d failed\n' "$1" \
        "$(count passed "$kernel")" "$(count skipped "$kernel")" "$(count failed "$kernel")" \
        "$(count passed "$remora")" "$(count skipped "$remora")" "$(count failed "$remora")"
    total=$((total + $(count passed "$kernel")))
    lost="$(comm -23 <(sed -n 's/^passed //p' "$kernel" | sort) <(sed -n 's/^passed //p' "$remora" | sort))"
    if [ -n "$lost" ]; then
        printf '    only on the kernel: %s\n' "$lost" | sed '2,$s/^/                        /'
        differences=$((differences + $(wc -l <<<"$lost")))
    fi
}

suite() {
    local name="$1" mode
    shift
    for mode in kernel remora; do
        "$@" "$mode" "$directory" >"$work/$mode.txt"
    done
    compare "$name"
}

main() {
    local -a wanted=("$@")
    local one
    case "${1:-}" in
    --help | -h)
        usage
        return 0
        ;;
    "") wanted=(python) ;;
    esac
    if [ ! -f "$library" ]; then
        printf 'suites: %s is missing: cargo build --release\n' "$library" >&2
        return 2
    fi
    work="$(mktemp -d "${TMPDIR:-/tmp}/remora-suites.XXXXXX")"
    trap 'rm -rf "$work"' EXIT
    total=0 differences=0
    for one in "${wanted[@]}"; do
        directory="${one#*=}"
        case "$one" in
        python)
            local module
            for module in "${python_suites[@]}"; do
                directory="$module"
                suite "$module" run_python
            done
            ;;
        tcl=*) suite tcl run_tcl ;;
        ruby=*) suite ruby run_ruby ;;
        perl=*) suite perl run_perl ;;
        node=*) suite node run_node ;;
        libuv=*) suite libuv run_libuv ;;
        gtest=*) suite gtest run_gtest ;;
        programs=*) suite programs run_programs ;;
        test_*) suite "$one" run_python ;;
        *)
            usage >&2
            return 2
            ;;
        esac
    done
    printf '%d tests pass on the kernel; %d of them do not under the library\n' "$total" "$differences"
    [ "$differences" -eq 0 ]
}

main "$@"
