"""One process per measured worker: it prints `ready`, waits for `go`, and reports as JSON."""
