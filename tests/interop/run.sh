#!/usr/bin/env bash
# Public OAuth libraries for JavaScript against the real server.
#
#   cargo build && tests/interop/run.sh                    the debug build
#   ACTCHAIN_BIN=path/to/actchain tests/interop/run.sh     any other
#
# Arguments go to `node --test`, such as --test-name-pattern=replayed.
set -euo pipefail

for program in node npm; do
  command -v "$program" >/dev/null || { echo "interop tests: $program is missing (Node.js 20 or newer, with npm)" >&2; exit 1; }
done
if [ "$(node -p 'parseInt(process.versions.node)')" -lt 20 ]; then
  echo "interop tests: Node.js $(node --version) is too old, 20 or newer is needed" >&2
  exit 1
fi

# Said relative to where we were called from, which is about to change.
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
