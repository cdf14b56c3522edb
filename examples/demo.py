"""The main job, from a Node producer to a Python worker, on a server of its own.

    make demo

Starts an embedded Valkey, makes eight tracks (one of them is not audio), runs
`examples/audio_worker.py` on them and shows the results. Without Node, Python produces the jobs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from bullpy import EmbeddedServer, Queue, QueueEvents

HERE = Path(__file__).parent
NODE_API = HERE / "node-api"
BAD_FILE = "not-audio.mp3"
TIMEOUT = 50.0

PROGRESS = re.compile(r"(?P<file>\S+)\s+active (?P<percent>\d+) %")

Event = dict[str, Any]
Results = dict[str, Event]
Process = asyncio.subprocess.Process


async def main() -> int:
    """Run the demo and give its exit code."""
    console = Console()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bullpy-demo-") as folder, EmbeddedServer() as server:
        console.print(f"Valkey at {server.url}")
        files = await make_tracks(Path(folder))
        console.print(f"{len(files)} files made")
        environment = os.environ | {"REDIS_URL": server.url, "BULLPY_AUDIO_ROOT": folder}
        async with running_worker(environment, Path(folder)) as worker:
            showing = show(console, files, produce(console, files, environment))
            results = await while_alive(worker, showing)
    show_table(console, results)
    console.print(f"done in {time.monotonic() - started:.1f} s, everything stopped")
    bad = results.get(BAD_FILE, {})
    good = [event for name, event in results.items() if name != BAD_FILE]
    as_expected = (
        len(results) == len(files)
        and all(event["state"] == "completed" for event in good)
        and bad.get("state") == "failed"
        and bool(bad.get("failedReason"))
    )
    return 0 if as_expected else 1


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


async def make_tracks(folder: Path) -> list[str]:
    """Make the tracks and give their names."""
    making = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "make_tracks.py"), str(folder)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        names, _ = await making.communicate()
    finally:
        if making.returncode is None:
            making.kill()
            await making.wait()
    if making.returncode != 0:
        raise DemoError(f"make_tracks.py ended with code {making.returncode}")
    return names.decode().split()


@asynccontextmanager
async def running_worker(environment: dict[str, str], folder: Path) -> AsyncIterator[Process]:
    """A worker process, ended by SIGTERM as a supervisor would; its log is shown if it fails."""
    command = [sys.executable, "-m", "bullpy", "worker", str(HERE / "audio_worker.py")]
    with (folder / "worker.log").open("w+b") as log:
        worker = await asyncio.create_subprocess_exec(
            *command, "--concurrency", "2", env=environment, stdout=log, stderr=log
        )
        interrupted = False
        try:
            yield worker
        except asyncio.CancelledError:
            interrupted = True
            raise
        finally:
            code = await ended(worker)
            if code != 0 and not interrupted:
                log.seek(0)
                print(log.read().decode(errors="replace"), file=sys.stderr)
    if code != 0:
        raise DemoError(f"the worker ended with code {code}")


async def ended(process: Process) -> int:
    """End a process if it still runs, first politely; gives its exit code."""
    with suppress(ProcessLookupError):
        if process.returncode is None:
            process.terminate()
    try:
        return await asyncio.wait_for(process.wait(), 30)
    except TimeoutError:
        process.kill()
        return await process.wait()


async def while_alive(worker: Process, showing: Coroutine[Any, Any, Results]) -> Results:
    """What `showing` gives, unless the worker ends before, or it takes too long."""
    task = asyncio.create_task(showing)
    death = asyncio.create_task(worker.wait())
    try:
        done, _ = await asyncio.wait(
            {task, death}, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        if task in done:
            return task.result()
        raise DemoError("the worker ended early" if done else f"not done within {TIMEOUT:.0f} s")
    finally:
        for either in (task, death):
            either.cancel()
        await asyncio.gather(task, death, return_exceptions=True)


def produce(
    console: Console, files: list[str], environment: dict[str, str]
) -> AsyncGenerator[Event]:
    """Add the jobs from Node if it is there, else from Python; gives what happens to them."""
    if shutil.which("node") and (NODE_API / "node_modules").is_dir():
        console.print("producer: Node, bullmq 5.61.2")
        return produce_with_node(files, environment)
    console.print("producer: Python, because Node or its packages are not installed here")
    return produce_with_python(files, environment["REDIS_URL"])


async def produce_with_node(files: list[str], environment: dict[str, str]) -> AsyncGenerator[Event]:
    """Run produce.mjs: what goes on comes on stderr, the results as JSON lines on stdout."""
    command = ["node", str(NODE_API / "produce.mjs"), "--json", *files]
    producer = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    assert producer.stdout is not None
    assert producer.stderr is not None
    said = ""
    try:
        async for line in producer.stderr:
            said = line.decode(errors="replace").strip()
            found = PROGRESS.fullmatch(said)
            if found:
                yield {"file": found["file"], "progress": int(found["percent"])}
        async for line in producer.stdout:
            result = json.loads(line)
            yield {"file": result["fileName"], **result}
        if await asyncio.wait_for(producer.wait(), 5) != 0:
            raise DemoError(f"the producer failed: {said}")
    finally:
        await ended(producer)


async def produce_with_python(files: list[str], url: str) -> AsyncGenerator[Event]:
    """The same from Python."""
    happened: asyncio.Queue[Event] = asyncio.Queue()
    names: dict[str, str] = {}

    def tell(args: Event, state: str | None) -> None:
        if args["jobId"] in names:
            happened.put_nowait({"file": names[args["jobId"]], "state": state, **args})

    async with (
        Queue("audio-analyzer", redis=url) as queue,
        QueueEvents("audio-analyzer", redis=url) as events,
    ):
        events.on("progress", lambda args, _: tell({**args, "progress": args["data"]}, None))
        events.on(
            "completed",
            lambda args, _: tell({**args, "result": args["returnvalue"]}, "completed"),
        )
        events.on("failed", lambda args, _: tell(args, "failed"))
        for name in files:
            job_id = f"audio-{time.time_ns() // 1_000_000}-{uuid4().hex[:8]}"
            names[job_id] = name
            data = {
                "jobId": str(uuid4()),
                "externalId": job_id,
                "fileKey": name,
                "fileName": name,
                "mode": "genre",
            }
            await queue.add(
                "process-audio", data, job_id=job_id, priority=1, attempts=3, backoff=2.0
            )
        left = set(files)
        while left:
            event = await happened.get()
            if event["state"]:
                left.discard(event["file"])
            yield event


async def show(console: Console, files: list[str], events: AsyncGenerator[Event]) -> Results:
    """Show progress until every file has its result; gives the results by file."""
    results: Results = {}
    width = max(len(name) for name in files)
    columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[state]}"))
    async with aclosing(events):
        with Progress(*columns, console=console) as progress:
            bars: dict[str, TaskID] = {
                name: progress.add_task(name.ljust(width), total=100, state="waiting")
                for name in files
            }
            async for event in events:
                bar = bars[event["file"]]
                if event.get("state"):
                    results[event["file"]] = event
                    progress.update(bar, completed=100, state=event["state"])
                elif isinstance(event.get("progress"), int | float):
                    progress.update(bar, completed=event["progress"], state="active")
    return results


def show_table(console: Console, results: Results) -> None:
    """The numbers, and the reasons of what failed."""
    table = Table(title="Results")
    table.add_column("file", no_wrap=True)
    for heading in ("state", "LUFS", "true peak", "length", "note"):
        table.add_column(heading, overflow="fold")
    for name, event in results.items():
        result = event.get("result") or {}
        metadata = result.get("metadata", {})
        notes = ", ".join(dict.fromkeys(warning["code"] for warning in result.get("warnings", [])))
        table.add_row(
            name,
            event["state"],
            number(result.get("loudness", {}).get("integrated"), "{:.1f}"),
            number(result.get("truePeak", {}).get("maxDbtp"), "{:+.1f} dBTP"),
            number(metadata.get("duration"), "{:.1f} s"),
            event.get("failedReason") or notes,
        )
    console.print(table)


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else form.format(value)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        print("interrupted, everything stopped", file=sys.stderr)
        sys.exit(130)
    except DemoError as error:
        sys.exit(f"error: {error}")
