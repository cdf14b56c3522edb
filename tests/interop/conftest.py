"""Fixtures of the interop tests: each test runs beside both generations of Node `bullmq`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
from support.node import VERSIONS, Node, Peer

from bullpy import EmbeddedServer


@pytest.fixture(scope="session")
def peers(server: EmbeddedServer) -> Iterator[dict[str, Peer]]:
    """The Node processes that tests share, by generation; started on first use."""
    started: dict[str, Peer] = {}
    with ExitStack() as stack:

        class Peers(dict[str, Peer]):
            def __missing__(self, generation: str) -> Peer:
                peer = Peer(generation, server.url)
                stack.callback(peer.stop)
                peer.start()
                self[generation] = peer
                return peer

        started = Peers()
        yield started


@pytest.fixture(params=sorted(VERSIONS), ids=lambda generation: f"node-{VERSIONS[generation]}")
def generation(request: pytest.FixtureRequest) -> str:
    """Which generation of Node `bullmq` the test runs beside."""
    return request.param


@pytest.fixture
async def node(peers: dict[str, Peer], generation: str, queue_name: str) -> AsyncIterator[Node]:
    """Node's side of the test's queue."""
    opened = Node(peers[generation], queue_name)
    yield opened
    await opened.close()


@pytest.fixture
def other_peer(server: EmbeddedServer, generation: str) -> Iterator[Peer]:
    """A Node process for one test alone, to be killed."""
    peer = Peer(generation, server.url)
    peer.start()
    yield peer
    peer.stop()
