#!/usr/bin/env bash
# kills.sh [--count N] [--seed S]: kills families of processes under load at random
# instants, N times (1,000 unless told), and looks at what is left after each: peers reset
# or ended at once, names and ports free, no keeper, another family on the same address
# undisturbed. Counts the kills inside the lock and the families lost by them.
# shellcheck source=lab.sh source-path=SCRIPTDIR
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
directory="$(mktemp -d)"
for name in family witness bystander; do
    gcc -std=gnu11 -D_GNU_SOURCE -O1 -Wall -Wextra -Werror -o "$directory/$name" "$LAB_ROOT/c-tests/stress/$name.c"
done
status=0
"$LAB_SCRIPTS/lab.sh" with python3 "$LAB_SCRIPTS/stress/kills.py" "$@" --out "$directory" --directory "$directory" || status=$?
if [ "$status" -eq 0 ]; then
    rm -r "$directory"
else
    printf 'left for a look: %s\n' "$directory"
fi
exit "$status"
