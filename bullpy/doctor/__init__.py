"""`bullpy doctor`: why a queue is not consumed."""
