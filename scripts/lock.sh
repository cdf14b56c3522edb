#!/usr/bin/env bash
# Writes requirements/dev.txt and requirements/demo.txt anew from pyproject.toml.
#
# Without arguments the locked versions are kept where they still fit; arguments go
# to `uv pip compile`, for example: scripts/lock.sh --upgrade
# The machine's own configuration (mirrors, local wheels) is shut out: a lock file
# names versions and hashes, never an address.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}

lock() {
  local out=$1
  shift
  env -u UV_INDEX -u UV_INDEX_URL -u UV_DEFAULT_INDEX -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS \
    "$uv" pip compile pyproject.toml --no-config --universal --python-version 3.11 \
    --generate-hashes --no-emit-index-url --no-header --quiet --output-file "$out" "$@"
}

lock requirements/dev.txt --all-extras --group dev "$@"
lock requirements/demo.txt --extra audio --extra embedded --group build \
  --constraints requirements/dev.txt "$@"
