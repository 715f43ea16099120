"""`python -m benchmark` is `bench`."""

import os
import sys

# With -m Python looks for modules in the current folder first. That may be the folder of somebody else's
# run, and a file `json.py` in it must not run. `bench` does not look there. The folder that holds this
# package stays.
_HOME = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()) != _HOME:
    del sys.path[0]

from benchmark.cli import main  # noqa: E402

main()
