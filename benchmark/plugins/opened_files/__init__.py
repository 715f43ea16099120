"""Finds the files that plugins open without declaring them as parameters.

The key of a result contains the parameters of its plugins, and the content of the files among them. A file
that a plugin opens by itself is in no key, so old results stay in use when that file changes. Such files are
recorded while plugin code runs. They are stored with each result that depends on them and raise the doubt
`undeclared-file`.

`readers` notices that a file is opened. `exempt` decides which files do not count. `recorder` has the
contexts in which plugin code runs. `records` holds what each plugin opened.
"""

from benchmark.plugins.opened_files.recorder import record_import, record_use, unwatched, watching
from benchmark.plugins.opened_files.records import UsedPlugins, merge_opened, opened_by

__all__ = ["UsedPlugins", "merge_opened", "opened_by", "record_import", "record_use", "unwatched", "watching"]
