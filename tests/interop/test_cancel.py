"""Node cancels a job that a Python worker runs, with the code that the documentation shows."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.node import Node, PeerError
from support.processes import ROOT, run

from bullpy import Job, Queue

HOW_TO = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
PROGRAM = """
import {{ Redis }} from 'ioredis';
import {{ Queue }} from 'bullmq{generation}';

const [url, name, id, reason] = process.argv.slice(2);
const redis = new Redis(url, {{ maxRetriesPerRequest: null }});
const queue = new Queue(name, {{ connection: redis }});
console.log(JSON.stringify(await cancelJob(queue, redis, id, reason)));
await queue.close();
redis.disconnect();

{documented}
"""


async def node_cancels(
    folder: Path, generation: str, url: str, queue_name: str, job_id: str, reason: str
) -> bool:
    """Run the documented function in a Node process of its own."""
    (documented,) = (
        code
        for code in re.findall(r"^```js\n(.*?)^```", HOW_TO, re.MULTILINE | re.DOTALL)
        if "cancelJob" in code
    )
    program = folder / "cancel.mjs"
    program.write_text(PROGRAM.format(generation=generation, documented=documented))
    modules = folder / "node_modules"
    if not modules.exists():
        modules.symlink_to(ROOT / "tests" / "node" / "node_modules")
    node = shutil.which("node")
    assert node, "Node is needed for this test"
    done = await asyncio.to_thread(run, node, program, url, queue_name, job_id, reason)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Hold:
    """A processor whose jobs run until they are cancelled, or `released`."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self, job: Job[Any]) -> str:
        self.began.set()
        await self.released.wait()
        return "whole"


@pytest.fixture
def hold() -> Hold:
    return Hold()


async def test_node_cancels_its_job_in_a_python_worker_and_sees_why(
    node: Node, start_worker: Any, hold: Hold, redis_url: str, tmp_path: Path
) -> None:
    await node.follow()
    await start_worker(hold)
    job_id = await node.add("import", {"file": "wrong.csv"}, {"attempts": 3})
    await asyncio.wait_for(hold.began.wait(), 10)
    generation = node.generation
    assert await node_cancels(
        tmp_path, generation, redis_url, node.queue_name, job_id, "the wrong file ü"
    )
    failed = await node.event("failed", job_id)
    assert failed["args"]["failedReason"].startswith("The job was cancelled: the wrong file ü")
    with pytest.raises(PeerError, match="The job was cancelled: the wrong file"):
        await node.wait(job_id)
    job = await node.job(job_id)
    assert job["state"] == "failed"
    assert (job["attemptsMade"], job["attemptsStarted"]) == (1, 1)


async def test_node_hears_that_there_is_nothing_to_cancel(
    node: Node, start_worker: Any, hold: Hold, redis_url: str, tmp_path: Path
) -> None:
    waiting = await node.add("import")
    for job_id in (waiting, "no-such-job"):
        where = (tmp_path, node.generation, redis_url, node.queue_name)
        assert not await node_cancels(*where, job_id, "too early")
    await start_worker(hold)
    hold.released.set()
    assert await node.wait(waiting) == "whole"


async def test_a_bare_entry_of_node_is_enough(node: Node, start_worker: Any, hold: Hold) -> None:
    await node.follow()
    await start_worker(hold)
    job_id = await node.add("import")
    await asyncio.wait_for(hold.began.wait(), 10)
    key = await node.queue("toKey", "cancel")
    await node.redis("XADD", key, "*", "id", job_id)
    failed = await node.event("failed", job_id)
    assert failed["args"]["failedReason"] == "The job was cancelled."


async def test_a_job_in_a_node_worker_goes_on(node: Node, queue: Queue) -> None:
    # Documented: Node's workers do not read the stream.
    worker = await node.start_worker("hold")
    job = await queue.add("import")
    await worker.event("processing", job.id)
    await queue.cancel(job.id, "unheard")
    await worker.release()
    await job.wait_until_finished(10)
    assert await job.get_state() == "completed"
