"""Files that are no parameters of a plugin: those of Python, of libraries, of the system and of caches."""

from __future__ import annotations

import getpass
import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_SYSTEM = (
    *("/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sys", "/usr/lib", "/usr/lib64", "/usr/local/lib"),
    *("/usr/share", "/usr/local/share", "/var/cache", "/System", "/Library"),
)

_SHARED_MEMORY = "/dev/shm"
"""A file system like any other, although it is below /dev."""

_CACHES = ("fontconfig", "matplotlib", "numba", "torch_extensions", "torch/kernels")
"""Folders of the user's cache whose files are made from code or from the system."""

_HOME = (".art", ".config/matplotlib", ".nv", ".triton")

_VARIABLES = (
    "CUDA_CACHE_PATH",
    "MPLCONFIGDIR",
    "NUMBA_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
)

_BROAD = ("/", "/usr", "/usr/local")
"""Prefixes of a Python that is the system's: people keep files of their own below them."""

_PARTS = ("/__pycache__/", ".dist-info/", ".egg-info/")

_SOURCES = (".py", ".pyc", ".pyi")


def is_library_file(path: str) -> bool:
    """Whether an absolute path belongs to Python, a library, the system or a cache."""
    if path.startswith(_SHARED_MEMORY + os.sep):
        return False
    return path.startswith(_prefixes()) or any(part in path for part in _PARTS)


def is_standard_library(path: str) -> bool:
    """Whether a source file is of Python's own library; libraries that are installed are not."""
    return path.startswith("<") or (path.startswith(_standard()) and not path.startswith(_installed()))


def is_imported_source(path: str) -> bool:
    """Whether a file is the source of an imported module: code is in the keys in its own way."""
    if not path.endswith(_SOURCES):
        return False
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return os.path.realpath(path) in {os.path.realpath(file) for file in files if isinstance(file, str)}


def is_temporary(path: str) -> bool:
    """Whether a file is in the folder for temporary files."""
    return path.startswith(_with_links([tempfile.gettempdir()]))


@cache
def _prefixes() -> tuple[str, ...]:
    return _with_links([*_SYSTEM, *_python(), *_cache_folders()])


@cache
def _standard() -> tuple[str, ...]:
    return _with_links([sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")])


@cache
def _installed() -> tuple[str, ...]:
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return _with_links([*folders, site.getusersitepackages()])


def _python() -> Iterator[str]:
    yield from sysconfig.get_paths().values()
    yield from (*site.getsitepackages(), site.getusersitepackages())
    for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix):
        if prefix not in _BROAD and Path(prefix) != Path.home():
            yield prefix
    if "SYSTEMROOT" in os.environ:
        yield os.environ["SYSTEMROOT"]


def _cache_folders() -> Iterator[str]:
    home = Path.home()
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    yield from (str(cache_home / name) for name in _CACHES)
    yield from (str(home / name) for name in _HOME)
    yield from (os.environ[name] for name in _VARIABLES if os.environ.get(name))
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return
    yield str(Path(tempfile.gettempdir()) / f"torchinductor_{user}")


def _with_links(folders: list[str]) -> tuple[str, ...]:
    """The folders as prefixes, as they are named and as they are after links."""
    absolute = [os.path.abspath(folder) for folder in folders]
    named = dict.fromkeys([*absolute, *map(os.path.realpath, absolute)])
    return tuple(folder.rstrip(os.sep) + os.sep for folder in named)
