"""A process forks after it has used Redis: the socket stays the parent's."""

from __future__ import annotations

import asyncio
import os
import signal
import warnings
from collections.abc import Callable

from support.faults import Program

from bullpy import Queue, errors


def forked(child: Callable[[], int]) -> int:
    """Run a function in a forked child; gives its exit code."""
    with warnings.catch_warnings():
        # Python 3.12 warns of forking with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = child()
        finally:
            os._exit(code)
    return pid


async def exit_code(pid: int) -> int:
    async with asyncio.timeout(20):
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - WNOHANG does not wait
            if done:
                return os.waitstatus_to_exitcode(status)
            await asyncio.sleep(0.02)


def refused(call: Callable[[], object]) -> int:
    try:
        call()
    except errors.ForkedClientError as error:
        return 0 if "fork" in str(error) else 2
    except BaseException:
        return 3
    return 1


async def test_inherited_socket_is_refused_in_the_child_and_works_in_the_parent(
    queue: Queue,
) -> None:
    await queue.add("job", 1)
    pipeliner = queue.shared.pipeliner
    in_flight = [asyncio.create_task(queue.add("job", number)) for number in range(20)]
    await asyncio.sleep(0)
    child = forked(lambda: refused(lambda: pipeliner.call(b"*1\r\n$4\r\nPING\r\n")))
    assert await exit_code(child) == 0
    jobs = await asyncio.wait_for(asyncio.gather(*in_flight), 5.0)
    assert len({job.id for job in jobs}) == 20
    assert await queue.count() == 21


async def test_child_with_a_loop_of_its_own_gets_a_connection_of_its_own(queue: Queue) -> None:
    await queue.add("job", 1)
    identity = await queue.client.client_id()

    def child() -> int:
        async def use() -> int:
            await queue.add("job", 2)
            own = await queue.client.client_id()
            await queue.close()
            return 0 if own != identity else 2

        asyncio._set_running_loop(None)
        return asyncio.new_event_loop().run_until_complete(use())

    code = await exit_code(forked(child))
    assert code == 0
    assert await queue.client.client_id() == identity
    assert await queue.count() == 2
    replies = await asyncio.gather(*(queue.client.echo(str(number)) for number in range(100)))
    assert replies == [str(number) for number in range(100)]


async def test_worker_goes_on_while_its_processors_fork(
    queue: Queue, queue_name: str, redis_url: str
) -> None:
    source = """
    import asyncio, os, warnings
    from bullpy import Worker, run
    warnings.simplefilter("ignore")
    worker = Worker(os.environ["QUEUE"], redis=os.environ["REDIS"], concurrency=3)

    @worker.processor()
    async def process(job):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        await asyncio.to_thread(os.waitpid, pid, 0)
        return pid

    worker.on("ready", lambda: print("ready", flush=True))
    worker.on("drained", lambda: print("drained", flush=True))
    run(worker)
    """
    async with Program(source, QUEUE=queue_name, REDIS=redis_url) as program:
        await program.says("ready")
        jobs = await queue.add_bulk([{"name": "job", "data": number} for number in range(20)])
        results = await asyncio.gather(*(job.wait_until_finished(timeout=15) for job in jobs))
        assert len(results) == 20
        program.signal(signal.SIGTERM)
        assert await program.ends(5.0) == 0
