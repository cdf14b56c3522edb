"""The hot path of a worker: fetch, run, finish and fetch the next in the same call."""
