"""A real server that speaks S3's protocol: s3rver, in Node, on the loopback."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PROGRAM = Path(__file__).parents[1] / "node" / "s3.mjs"
BUCKET = "audio"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}


class ObjectServer(NamedTuple):
    """Where it is."""

    endpoint: str

    def url(self, prefix: str = "", bucket: str = BUCKET) -> str:
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region=us-east-1"


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """The server with one empty bucket."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            ["node", str(PROGRAM), folder, BUCKET],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield ObjectServer(f"http://127.0.0.1:{port}")
        finally:
            process.kill()
