"""A script whose rare functions are made when they are called, on a server."""

from __future__ import annotations

import pytest
import redis

from bullpy import EmbeddedServer, luafunctions

SCRIPT = """
local rcall = redis.call
--[[ double(n) doubles ]]
local function double(n) return n * 2
end
local function getQueueMetadata(n)
  return double(n) + 1
end
-- Recursive, and spread over lines
local function countdown(n,
  steps)
  if n == 0 then return steps end
  return countdown(n - 1, steps + 1)
end
local incremented = function (key)
  for _ = 1, countdown(3, 0) do rcall("INCR", key) end
  return getQueueMetadata(tonumber(rcall("GET", key)))
end
if ARGV[1] == "rare" then return incremented(KEYS[1]) end
return getQueueMetadata(10)
"""


@pytest.mark.parametrize("argument", ["rare", "often"])
def test_does_what_the_original_does(server: EmbeddedServer, argument: str) -> None:
    deferred = luafunctions.defer("moveToActive", SCRIPT)
    assert 'rarely("countdown")(' in deferred
    with redis.Redis.from_url(server.url) as client:
        replies = [
            client.eval(text, 1, f"luafunctions:{argument}:{number}", argument)
            for number, text in enumerate([SCRIPT, deferred])
        ]
    assert replies == [{"rare": 7, "often": 21}[argument]] * 2
