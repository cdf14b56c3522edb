#!/usr/bin/env bash
# Installs what benchmarks/audio.py compares with: packages to build/bench-audio, where they
# change nothing of .venv, and ffmpeg from the system's packages when this is root on Debian.
set -euo pipefail
cd "$(dirname "$0")/.."

target=build/bench-audio
wanted=(pyloudnorm==0.2.0 librosa==0.11.0 av==18.1.0)

if [ "$(cat "$target/.installed" 2>/dev/null)" != "${wanted[*]}" ]; then
  echo "bench-audio: installing ${wanted[*]}"
  rm -rf "$target"
  .venv/bin/uv pip install --quiet --python .venv/bin/python --target "$target" "${wanted[@]}"
  echo "${wanted[*]}" >"$target/.installed"
fi
if ! command -v ffmpeg >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "bench-audio: installing ffmpeg"
    apt-get install -y -qq ffmpeg >/dev/null
  else
    echo "bench-audio: ffmpeg is not installed; PyAV's filter is measured instead" >&2
  fi
fi
