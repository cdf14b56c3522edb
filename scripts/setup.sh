#!/usr/bin/env bash
# Sets up what a make target needs, once, and is silent when nothing is to do.
#
#   scripts/setup.sh python dev|demo [PYTHON]   .venv from requirements/dev.txt or demo.txt
#   scripts/setup.sh node FOLDER                FOLDER/node_modules from its package-lock.json
#   scripts/setup.sh ffmpeg                     Debian's ffmpeg, where this user may install it
#
# A copy of the lock file beside what it installed says that it is up to date, so
# a fresh checkout with newer file times sets nothing up again.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

# Two `make` at once wait for each other. Where flock is missing (macOS) they do not.
exclusive() {
  exec 9>.setup.lock
  if command -v flock >/dev/null; then flock 9; fi
}

suitable() {
  command -v "$1" >/dev/null &&
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if suitable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed and none was found." \
    "Install one, or name it: make PYTHON=/path/to/python3.12 setup"
}

minor_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

make_venv() {
  local python=$1
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    fail "$python cannot make virtual environments: its venv or ensurepip module is missing." \
      "On Debian and Ubuntu: sudo apt-get install python$(minor_version "$python")-venv"
  fi
  rm -rf .venv
  "$python" -m venv .venv
}

setup_python() {
  local which=$1 wanted=${2:-} lock="requirements/$1.txt" python
  local done_lock=".venv/.$1.txt" done_project=.venv/.pyproject.toml
  if [ -n "$wanted" ] && ! suitable "$wanted"; then
    fail "$wanted is not a Python 3.11 or newer."
  fi
  if [ ! -x .venv/bin/python ] || [ -z "$(minor_version .venv/bin/python)" ] ||
    { [ -n "$wanted" ] && [ "$(minor_version "$wanted")" != "$(minor_version .venv/bin/python)" ]; }; then
    python=${wanted:-$(find_python)}
    echo "setup: .venv with $("$python" --version)"
    make_venv "$python"
  fi
  if ! cmp -s "$lock" "$done_lock"; then
    echo "setup: installing $lock"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
      --require-hashes -r "$lock"
    cp "$lock" "$done_lock"
    # Everything of demo.txt is in dev.txt, at the same versions.
    if [ "$which" = dev ]; then cp requirements/demo.txt .venv/.demo.txt; fi
  fi
  if ! cmp -s pyproject.toml "$done_project"; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
      --no-deps --no-build-isolation --editable .
    cp pyproject.toml "$done_project"
  fi
  # Silent while the compiled kernel is that of the sources; without a compiler it says so.
  .venv/bin/python bullpy/audio/kernel/build.py
}

setup_node() {
  local folder=$1 stamp="$1/node_modules/.installed-lock.json"
  if cmp -s "$folder/package-lock.json" "$stamp"; then return; fi
  if ! command -v npm >/dev/null; then
    echo "setup: npm is not installed; $folder is left alone (its Node side cannot run)" >&2
    return
  fi
  echo "setup: npm ci in $folder"
  npm ci --prefix "$folder" --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null
  cp "$folder/package-lock.json" "$stamp"
}

# Loudness is compared with ffmpeg's; without it the tests take FFmpeg's filter from PyAV.
setup_ffmpeg() {
  if command -v ffmpeg >/dev/null; then return; fi
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return; fi
  echo "setup: apt-get install ffmpeg"
  export DEBIAN_FRONTEND=noninteractive
  local install=(apt-get install -qq -y --no-install-recommends ffmpeg)
  "${install[@]}" >/dev/null 2>&1 && return
  # The package lists of a fresh image are missing or old.
  if ! { apt-get update -qq && "${install[@]}"; } >/dev/null 2>&1; then
    echo "setup: ffmpeg could not be installed; the tests use PyAV's" >&2
  fi
}

exclusive
case "${1:-}" in
  python) setup_python "$2" "${3:-}" ;;
  node) setup_node "$2" ;;
  ffmpeg) setup_ffmpeg ;;
  *) fail "usage: scripts/setup.sh python dev|demo [PYTHON], node FOLDER, or ffmpeg" ;;
esac
