"""Which files plugins open without declaring them as parameters.

The key of a result names the parameters of its plugins, and so the content of the files among them. A file
that a plugin opens by itself is in no key: the file may change, and the results stay. Such files are
recorded while a plugin's code runs, stored with each result that depends on them, and lead to the doubt
`undeclared-file`.

`readers` notices that a file is opened, `exempt` says which files are no parameters, and `recorder` keeps
what each plugin opened.
"""

from benchmark.opened_files.recorder import (
    Used,
    merged,
    opened_by,
    record_import,
    record_use,
    unwatched,
    watching,
)

__all__ = [
    "Used",
    "merged",
    "opened_by",
    "record_import",
    "record_use",
    "unwatched",
    "watching",
]
