#!/bin/sh
# Write the lock files anew: hash-pinned, for every supported Python, naming no index. Needs `uv`.
set -eu
cd "$(dirname "$0")"
compile() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --annotation-style=line \
    --excludes excludes.in "$@"
}
compile "$@" ../pyproject.toml demo.in --output-file demo.lock
compile "$@" ../pyproject.toml dev.in --extra server --extra telemetry --output-file dev.lock
compile "$@" ../pyproject.toml serve.in --extra server --constraints dev.lock --output-file serve.lock
compile "$@" servers.in --output-file servers.lock
# The same versions as in dev.lock, and the hub client that engines do use.
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-header --annotation-style=line \
  --constraints dev.lock "$@" ../pyproject.toml engines.in --extra server --extra telemetry \
  --output-file engines.lock
# vLLM's wheels are for Linux; it names a build of torch that isn't published (vllm-overrides.in).
uv pip compile --quiet --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --annotation-style=line \
  --override vllm-overrides.in "$@" ../pyproject.toml vllm.in --output-file vllm.lock
