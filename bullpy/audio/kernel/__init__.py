"""The passes again, compiled: C sources, the script that builds them, and their Python side.

`build.py` compiles the sources to one shared library beside them, for the machine it runs on.
`library.py` loads it with ctypes, which releases the interpreter lock during every call and
works with any version of Python. Where there is no library, `bullpy.audio.passes` is used.
"""
