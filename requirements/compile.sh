#!/bin/sh
# Write the lock files anew: hash-pinned, for every supported Python, naming no index. Needs `uv`.
set -eu
cd "$(dirname "$0")"
for name in demo dev; do
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --annotation-style=line \
    --excludes excludes.in ../pyproject.toml "$name.in" --output-file "$name.lock" "$@"
done
