#!/usr/bin/env bash
# Goodput of each congestion control over virtual links must be what stack/tests/goodput.txt says, and two flows must
# share a bottleneck; all in virtual time, without the library. REMORA_BLESS=1 writes the table anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
echo 1..1
if cargo test -q -p remora-stack --test goodput -- --ignored >&2; then
    echo "ok 1 - goodput and fairness on virtual links"
else
    echo "not ok 1 - goodput and fairness on virtual links"
    exit 1
fi
