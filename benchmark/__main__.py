"""`python -m benchmark` is `bench`."""

import os
import sys

# With `-m` Python searches modules in the current folder first. This may be the folder of an untrusted run,
# and a file `json.py` in it must not be imported. So the current folder is removed from the path, unless it
# is the folder of this package. (The command `bench` does not search the current folder.)
_HOME = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()) != _HOME:
    del sys.path[0]

from benchmark.cli.main import main  # noqa: E402

main()
