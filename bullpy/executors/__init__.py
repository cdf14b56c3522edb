"""Where a processor runs: on the event loop, or in a thread."""
