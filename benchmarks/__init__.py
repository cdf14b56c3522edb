"""Measurements beside Node and the upstream port, in the same run on the same server."""
