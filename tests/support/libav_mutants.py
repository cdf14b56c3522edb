"""Measures damaged copies of files, in a process of its own, and says what became of them.

    python -W error libav_mutants.py COUNT FILE...

Prints one JSON object: how many ended in which way; the process ends with 0 only when each gave
a report or a typed error. Memory is limited: a header that makes a decoder allocate without
bounds is an error of this process.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bullpy.audio import AudioError, analyze

MEMORY = 3 * 1024**3
"""Bytes of address space; two threads and the libraries take about one GiB of it."""


def main() -> None:
    count, files = int(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(count):
            source = files[seed % len(files)]
            path = Path(folder) / source.name
            path.write_bytes(mutant(source.read_bytes(), random.Random(seed)))
            print(f"{seed} {source.name}", file=sys.stderr, flush=True)
            try:
                report = analyze(path)
            except AudioError as error:
                found[type(error).__name__] += 1
            else:
                json.dumps(report.to_wire(), allow_nan=False)
                found["read"] += 1
    print(json.dumps(found))


def mutant(content: bytes, chance: random.Random) -> bytes:
    """A copy with one kind of damage, half of the time within the header."""
    changed = bytearray(content)
    last = len(changed) if chance.random() < 0.5 else min(len(changed), 1024)
    at = chance.randrange(16, last)
    kind = chance.choice(["bits", "bytes", "zeros", "cut", "gap", "insert", "ones"])
    length = chance.choice([1, 4, 100, 3000])
    if kind == "bits":
        for _ in range(length):
            changed[chance.randrange(16, last)] ^= 1 << chance.randrange(8)
    elif kind == "bytes":
        changed[at : at + length] = chance.randbytes(length)
    elif kind == "zeros":
        changed[at : at + length] = bytes(length)
    elif kind == "ones":
        changed[at : at + 4] = b"\xff" * 4
    elif kind == "cut":
        del changed[at:]
    elif kind == "gap":
        del changed[at : at + length]
    else:
        changed[at:at] = chance.randbytes(length)
    return bytes(changed)


if __name__ == "__main__":
    main()
