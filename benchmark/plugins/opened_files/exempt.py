"""Files that do not count as opened by a plugin: those of Python, libraries, the system and caches."""

from __future__ import annotations

import getpass
import importlib.util
import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from benchmark.checkout import PLUGIN_FOLDERS, checkout

_SYSTEM = (
    *("/dev", "/etc", "/lib", "/lib64", "/proc", "/sys", "/usr/lib", "/usr/lib64", "/usr/local/lib"),
    *("/usr/share", "/usr/local/share", "/var/cache", "/System", "/Library"),
    *("/run/nscd", "/run/nvidia-persistenced", "/run/resolvconf", "/run/systemd", "/run/udev"),
)

_CACHES = ("fontconfig", "matplotlib", "numba", "torch_extensions", "torch/kernels")
"""Folders in the user's cache folder that hold compiled code or facts about the system."""

_HOME = (".art", ".config/matplotlib", ".nv", ".triton")

_VARIABLES = (
    "CUDA_CACHE_PATH",
    "MPLCONFIGDIR",
    "NUMBA_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
)

_BROAD = ("/", "/usr", "/usr/local")
"""Prefixes of a system Python, not exempt as a whole: users keep files of their own below them."""

_METADATA = (
    *("METADATA", "PKG-INFO", "RECORD", "SOURCES.txt", "WHEEL", "direct_url.json", "entry_points.txt"),
    *("requires.txt", "top_level.txt"),
)
"""Metadata files of packages; those of an editable package lie outside the library folders."""


def is_library_file(path: str) -> bool:
    """Whether an absolute path belongs to Python, a library, the system or a cache."""
    real = os.path.realpath(path)  # `/proc/self/cwd/weights.pt` is a file in the current folder
    if real.startswith("/dev/shm/"):  # an ordinary file system, although it is below /dev
        return False
    if real.startswith(_prefixes()) or path.startswith(_libraries()):
        return True
    if is_source(real) and real.startswith(_project()):
        return True
    folder, name = os.path.split(real)
    if folder.endswith("__pycache__"):
        return name.endswith((".nbc", ".nbi"))  # code that numba compiled
    return folder.endswith((".dist-info", ".egg-info")) and name in _METADATA


def is_source(path: str) -> bool:
    """Whether the name of a file is that of Python code."""
    return path.endswith((".py", ".pyi"))


def source_of(path: str) -> str:
    """The source file of a compiled module in `__pycache__`; for any other file its own path."""
    if path.endswith(".pyc"):
        with suppress(ValueError, NotImplementedError):
            source = importlib.util.source_from_cache(path)
            return source if os.path.exists(source) else path
    return path


def is_standard_library(path: str) -> bool:
    """Whether a source file belongs to the standard library; installed libraries do not."""
    return path.startswith("<") or (path.startswith(_standard()) and not path.startswith(_installed()))


def is_temporary(path: str) -> bool:
    """Whether a file is in the folder for temporary files."""
    return path.startswith(_with_links([tempfile.gettempdir()]))


@cache
def _prefixes() -> tuple[str, ...]:
    return _with_links([*_SYSTEM, *_python(), *_cache_folders()])


@cache
def _libraries() -> tuple[str, ...]:
    """The folders of Python and libraries. Files in them count also if they are links to another place."""
    return _with_links(list(_python()))


@cache
def _project() -> tuple[str, ...]:
    beside = [os.path.join(root, name) for name in PLUGIN_FOLDERS] if (root := checkout()) else []
    return _with_links([str(Path(__file__).parents[2]), *beside])


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
    with suppress(KeyError, OSError):  # a container may run under a user id without a name
        yield str(Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}")


def _with_links(folders: list[str]) -> tuple[str, ...]:
    """Prefixes for paths in these folders: each as given (made absolute), and with its links resolved."""
    both = dict.fromkeys([*map(os.path.abspath, folders), *map(os.path.realpath, folders)])
    return tuple(folder.rstrip(os.sep) + os.sep for folder in both)
