"""Calls without a queue: bullpy's executors, `concurrent.futures` and `pebble`; see direct.py.

Nothing is imported here, because a child process of `multiprocessing` that is started afresh
loads its parent's main module.
"""

if __name__ == "__main__":
    from benchmarks.workers import direct

    direct.main()
