#!/usr/bin/env bash
# Installs the tools that the tests need and that a fresh Debian 12 with Rust and gcc
# lacks. Runs apt only when a tool is missing, so a second run costs nothing and works
# without the network. Leaves Rust and gcc themselves to the user.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/setup.sh [--demo] [--list] [--help]

Installs with apt whatever of the test tools is missing. Nothing happens when all are
there. Needs root (or sudo without a password) only when something is missing.

  --demo   only what the demo needs
  --list   print each tool, its package and whether it is there; install nothing
  --help   this text
TEXT
}

# tool:package. The tool is looked for on the PATH and in the sbin directories, which an
# ordinary user's PATH on Debian leaves out.
tools=(
    gcc:gcc
    curl:curl
    wget:wget
    nc.openbsd:netcat-openbsd
    nc.traditional:netcat-traditional
    socat:socat
    tcpdump:tcpdump
    tshark:tshark
    ethtool:ethtool
    ip:iproute2
    ping:iputils-ping
    sysctl:procps
    strace:strace
    shellcheck:shellcheck
    /usr/bin/python3:python3
    unshare:util-linux
    make:make
    man:man-db
    # Servers and clients of scripts/tests/1NN-*.sh. None of them is started as a service.
    nginx:nginx-light
    apache2:apache2-bin
    ab:apache2-utils
    wrk:wrk
    redis-server:redis-server
    redis-cli:redis-tools
    memcached:memcached
    memccat:libmemcached-tools
    psql:postgresql
    pgbench:postgresql
    haproxy:haproxy
    lighttpd:lighttpd
    vsftpd:vsftpd
    lftp:lftp
    tnftp:tnftp
    dnsmasq:dnsmasq-base
    dig:bind9-dnsutils
    host:bind9-host
    iperf3:iperf3
    slirp4netns:slirp4netns
    traceroute.db:traceroute
    inetutils-traceroute:inetutils-traceroute
    tracepath:iputils-tracepath
    mtr:mtr-tiny
    inetutils-telnet:inetutils-telnet
    telnetd:inetutils-telnetd
    tmux:tmux
    ncat:ncat
    node:nodejs
    perl:perl
    ruby:ruby
    stunnel4:stunnel4
    named:bind9
    mosquitto:mosquitto
    mosquitto_pub:mosquitto-clients
    gunicorn:gunicorn
    php:php-cli
    nmap:nmap
    aria2c:aria2
    openssl:openssl
    sshd:openssh-server
    ssh:openssh-client
    rsync:rsync
    git:git
    inetd:openbsd-inetd
    busybox:busybox
    systemd-socket-activate:systemd
    setpriv:util-linux
)
demo_tools=(gcc:gcc curl:curl ip:iproute2)

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing_packages() {
    local entry tool package
    for entry in "${tools[@]}"; do
        tool="${entry%%:*}"
        package="${entry##*:}"
        command -v "$tool" >/dev/null 2>&1 || printf '%s\n' "$package"
    done
}

list_tools() {
    local entry tool state
    for entry in "${tools[@]}"; do
        tool="${entry%%:*}"
        state=missing
        command -v "$tool" >/dev/null 2>&1 && state=present
        printf '%-18s %-20s %s\n' "$tool" "${entry##*:}" "$state"
    done
}

require_rust() {
    if ! command -v cargo >/dev/null 2>&1; then
        printf 'setup: cargo is missing. Install Rust first: https://rustup.rs\n' >&2
        return 1
    fi
    # A minimal toolchain has no formatter or linter.
    local part
    for part in fmt clippy; do
        if ! cargo "$part" --version >/dev/null 2>&1; then
            if ! command -v rustup >/dev/null 2>&1; then
                printf 'setup: cargo %s is missing and there is no rustup to add it\n' "$part" >&2
                return 1
            fi
            rustup component add "${part/fmt/rustfmt}"
        fi
    done
}

install_packages() {
    local -a apt
    if [ "$(id -u)" -eq 0 ]; then
        apt=(env DEBIAN_FRONTEND=noninteractive)
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        apt=(sudo -n env DEBIAN_FRONTEND=noninteractive)
    else
        printf 'setup: these packages are missing and only root can install them:\n' >&2
        printf '    apt-get install --no-install-recommends %s\n' "$*" >&2
        return 1
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        printf 'setup: no apt-get here; install by hand what gives: %s\n' "$*" >&2
        return 1
    fi
    printf 'setup: installing %s\n' "$*"
    # An index that cannot be refreshed is no reason to stop: the packages may still be
    # known from the last time. tshark asks a debconf question, hence noninteractive.
    "${apt[@]}" apt-get -qq update || printf 'setup: apt-get update failed, trying on\n' >&2
    local status=0
    forbid_services
    "${apt[@]}" apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=120 install "$@" >/dev/null || status=$?
    allow_services
    return "$status"
}

# Debian starts what it installs, unless this file says 101 (invoke-rc.d's policy layer).
# One that is there already is the owner's, and stays.
policy=/usr/sbin/policy-rc.d
policy_is_mine=

forbid_services() {
    if [ -e "$policy" ]; then
        return 0
    fi
    policy_is_mine=yes
    trap allow_services EXIT
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
}

allow_services() {
    if [ -n "$policy_is_mine" ]; then
        policy_is_mine=
        as_root rm -f "$policy"
    fi
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

main() {
    case "${1:-}" in
    --help | -h)
        usage
        return 0
        ;;
    --demo) tools=("${demo_tools[@]}") ;;
    --list)
        list_tools
        return 0
        ;;
    "") ;;
    *)
        usage >&2
        return 2
        ;;
    esac

    local -a packages
    mapfile -t packages < <(missing_packages)
    if [ "${#packages[@]}" -gt 0 ]; then
        install_packages "${packages[@]}"
        mapfile -t packages < <(missing_packages)
        if [ "${#packages[@]}" -gt 0 ]; then
            printf 'setup: still missing after the installation: %s\n' "${packages[*]}" >&2
            return 1
        fi
    fi
    require_rust
    printf 'setup: every tool is there\n'
}

main "$@"
