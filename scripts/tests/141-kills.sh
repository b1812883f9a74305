#!/usr/bin/env bash
# Families killed at random instants leave nothing behind: peers are reset or ended at once
# (also those of a family that dies inside the stack), names and ports are free, no keeper
# stays, and a family beside them on the same address goes on. The long run is
# scripts/kills.sh.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

kills() {
    "$LAB_SCRIPTS/kills.sh" --count 40 --seed "$1"
}

ok_remora "forty families die at random instants" kills "$RANDOM"
tap_end
