#!/usr/bin/env bash
# The console in a real Chromium, against the real server.
#
#   cargo build && tests/console/run.sh                    the debug build
#   ACTCHAIN_BIN=path/to/actchain tests/console/run.sh     any other
#
# Arguments go to `node --test`. SHOTS=1 writes the pictures in docs/console.
set -euo pipefail

for program in node npm chromium; do
  command -v "$program" >/dev/null || { echo "console tests: $program is missing" >&2; exit 1; }
done
case "${ACTCHAIN_BIN:-/}" in /*) ;; *) export ACTCHAIN_BIN="$PWD/$ACTCHAIN_BIN" ;; esac
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

# npm writes this file at the end of an installation.
installed=node_modules/.package-lock.json
if [ ! -e "$installed" ] || [ package-lock.json -nt "$installed" ]; then
  npm ci --no-audit --no-fund
fi
# Two files at once, for two cores. A file that hangs is ended, and named, long before everything is. The first versions of
# Node.js 20 have neither option.
options=(--test-concurrency=2 --test-timeout=1200000)
node "${options[@]}" --version >/dev/null 2>&1 || options=()
exec node --test ${options[@]+"${options[@]}"} "$@"
