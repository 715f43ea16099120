"""Declarations are read from the source text, and fingerprints depend on the code alone."""

from __future__ import annotations

import functools
import itertools
import textwrap
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.plugins import fingerprint as code
from benchmark.plugins.declarations import declarations

_NUMBERS = itertools.count()
KINDS = ["dataset", "target", "defense", "attack"]

PLUGIN = '''
"""A plugin."""
import math

class Toy:
    """Adds."""

    def purify(self, x):
        """Adds one."""
        if x is None:
            raise ValueError(f"no image in {self}", "nothing to add to")
        return x + 1  # one
'''


def _fingerprint(path: Path, module: str = "bench_plugin_toy") -> str:
    """The fingerprint of the current content of the files."""
    code.sources.cache_clear()
    code.fingerprint.cache_clear()
    code.release.cache_clear()
    return code.fingerprint(path, module)


def _of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "toy.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return _fingerprint(path)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty package that can be imported; its name is unique."""
    folder = tmp_path / f"toypackage{next(_NUMBERS)}"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# one", "# another comment"),
        ('"""Adds one."""', '"""Adds one.\n\n        At length.\n        """'),
        ('        """Adds one."""\n', ""),
        ('"""A plugin."""', ""),
        ("\nclass Toy", "\n\n\n# a class\nclass Toy"),
        ("x + 1", "(x+1)"),
        ("nothing to add to", "there is nothing to add to"),
        ('f"no image in {self}"', 'f"{self} has no image"'),
        ("def purify(self, x):", "def purify(self, x: Tensor) -> Tensor:"),
    ],
    ids=[
        "comment",
        "docstring",
        "no docstring",
        "no module docstring",
        "blank lines",
        "layout",
        "message",
        "formatted message",
        "annotations",
    ],
)
def test_changes_that_affect_no_result_keep_the_fingerprint(tmp_path: Path, old: str, new: str) -> None:
    assert old in PLUGIN
    assert _of(tmp_path, PLUGIN.replace(old, new)) == _of(tmp_path, PLUGIN)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x + 1", "x + 2"),
        ("x + 1", "x + 1.0"),
        ("def purify", "def clean"),
        ("import math", "import random"),
        ("return x + 1", 'return x + "1"'),
        ("raise ValueError", "raise TypeError"),
    ],
)
def test_a_change_of_code_changes_the_fingerprint(tmp_path: Path, old: str, new: str) -> None:
    assert old in PLUGIN
    assert _of(tmp_path, PLUGIN.replace(old, new)) != _of(tmp_path, PLUGIN)


def test_a_string_that_is_used_is_code_and_not_a_docstring(tmp_path: Path) -> None:
    assert _of(tmp_path, 'MODE = "reflect"') != _of(tmp_path, 'MODE = "constant"')


def test_a_plugin_file_has_the_same_fingerprint_in_every_folder(tmp_path: Path) -> None:
    found = set()
    for folder, name in [("a", "toy.py"), ("b/c", "toy.py"), ("a", "renamed.py")]:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PLUGIN + "from benchmark.api.noise import Noise\n")
        found.add(_fingerprint(path, f"bench_plugin_{path.stem}_{len(folder)}"))
    assert len(found) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "from {package}.helper import shift",
        "from {package} import helper",
        "import {package}.helper",
        "from .helper import shift",
        "from . import helper",
        "def late():\n    from .helper import shift",
        "class Within:\n    def late(self):\n        from .helper import shift",
        "if True:\n    pass\nelse:\n    from .helper import shift",
        "try:\n    from .helper import shift\nfinally:\n    pass",
        "try:\n    pass\nexcept ImportError:\n    from .helper import shift",
        "try:\n    pass\nexcept ImportError:\n    pass\nelse:\n    from .helper import shift",
        "try:\n    pass\nfinally:\n    from .helper import shift",
        "with open(__file__):\n    from .helper import shift",
        "for _ in ():\n    pass\nelse:\n    from .helper import shift",
        "match 1:\n    case 1:\n        from .helper import shift",
    ],
)
def test_a_change_in_an_imported_module_of_the_plugins_own_package_changes_the_fingerprint(
    package: Path, statement: str
) -> None:
    plugin, helper = package / "toy.py", package / "helper.py"
    plugin.write_text(statement.format(package=package.name) + "\n")
    helper.write_text("def shift(x):\n    return x + 1\n")
    before = _fingerprint(plugin, f"{package.name}.toy")
    helper.write_text("def shift(x):\n    return x + 1  # the same\n")
    assert _fingerprint(plugin, f"{package.name}.toy") == before
    helper.write_text("def shift(x):\n    return x + 2\n")
    assert _fingerprint(plugin, f"{package.name}.toy") != before


def test_imports_are_followed_through_modules_that_import_each_other(package: Path) -> None:
    (package / "toy.py").write_text("from . import first\n")
    (package / "first.py").write_text("from . import second\n")
    (package / "second.py").write_text("from . import first\nCONSTANT = 1\n")
    before = _fingerprint(package / "toy.py", f"{package.name}.toy")
    (package / "second.py").write_text("from . import first\nCONSTANT = 2\n")
    assert _fingerprint(package / "toy.py", f"{package.name}.toy") != before


def test_modules_that_are_not_imported_do_not_count(package: Path) -> None:
    (package / "toy.py").write_text("X = 1\n")
    before = _fingerprint(package / "toy.py", f"{package.name}.toy")
    (package / "other.py").write_text("Y = 1\n")
    assert _fingerprint(package / "toy.py", f"{package.name}.toy") == before


def test_the_code_of_the_harness_is_in_the_fingerprint_and_that_of_libraries_is_not(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package replaces one of the harness, whose files a test should not change."""
    path = tmp_path / "plugin.py"
    path.write_text(f"from {package.name} import helper\n")
    monkeypatch.setattr(code, "release", functools.cache(lambda library: "toy-1"))
    found = {}
    for project in (False, True):
        if project:
            monkeypatch.setattr(code, "PROJECT_PACKAGES", code.PROJECT_PACKAGES | {package.name})
        for value in (1, 2):
            (package / "helper.py").write_text(f"X = {value}\n")
            found[project, value] = _fingerprint(path)
    assert found[False, 1] == found[False, 2]
    assert found[True, 1] != found[True, 2]


def test_another_release_of_a_library_changes_no_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releases are stored with each result, but not in its key."""
    library = f"toylibrary{next(_NUMBERS)}"
    info = tmp_path / f"{library}-1.dist-info"
    info.mkdir()
    (info / "top_level.txt").write_text(f"{library}\n")
    (info / "RECORD").write_text(f"{library}.py,,\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 1\n")
    (tmp_path / f"{library}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    using = tmp_path / "using.py"
    using.write_text(f"import {library}\n")
    before = _fingerprint(using)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 2\n")
    (tmp_path / f"{library}.py").write_text("changed = True\n")
    assert _fingerprint(using) == before


def test_an_own_plugin_is_identified_by_its_files_and_the_versions_that_it_imports(
    package: Path, tmp_path: Path
) -> None:
    (package / "net.py").write_text("WIDTH = 8\n")
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        f"from {package.name} import net\n"
        "from benchmark.defenses.ape_gan import ApeGan\n\nclass Mine(ApeGan): ...\n"
    )

    def own() -> str:
        code.own_fingerprint.cache_clear()
        return code.own_fingerprint(plugin, "bench_plugin_mine")

    before = own()
    (package / "net.py").write_text("WIDTH = 16\n")
    assert own() != before
    assert code.versions_used(plugin, "bench_plugin_mine") == {}


def test_versions_that_a_module_states_are_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stated.py").write_text(
        textwrap.dedent(
            """
            raise SystemExit("never imported")

            @defense("toy")
            class Toy(Defense[Config]):
                version: ClassVar[int] = 3

            class Craft(Task):
                kind = "craft"
                version = 2

            class BlackBox(Threat):
                name = "black-box"

            class WhiteBox(Threat):
                name = "white-box"
                version = 4
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code, "PROJECT_PACKAGES", frozenset({"stated"}))
    plugin = tmp_path / "using.py"
    plugin.write_text("import stated\n")
    stated = {"defense toy": 3, "task craft": 2, "threat white-box": 4}
    assert code.versions_used(plugin, "bench_plugin_using") == stated


def _installed(folder: Path, name: str, version: str, *, record: str = "", top_level: str = "") -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(record)
    if top_level:
        (info / "top_level.txt").write_text(top_level)


@pytest.mark.parametrize(
    ("module", "record", "top_level", "owned"),
    [
        ("package", "package/__init__.py,sha256=1,2\n", "", True),
        ("space", "space/inner/module.py,,\n", "", True),
        ("single", "other/x.py,,\nsingle.py,,\n", "", True),
        ("built", "built.cpython-311-x86_64-linux-gnu.so,,\n", "", True),
        ("declared", "declared/__init__.py,,\nelsewhere/__init__.py,,\n", "declared\n", True),
        ("absent", "elsewhere/__init__.py,,\n", "absent\n", False),
        ("finder", "__editable___finder_1_finder.py,,\n__editable__.pth,,\n", "finder\n", False),
        ("elsewhere", "elsewhere/__init__.py,,\n", "declared\n", False),
        ("editable", "editable.pth,,\neditable-1.dist-info/RECORD,,\n", "", False),
        ("config", "config.json,,\n", "", False),
        ("inner", "outer/inner/__init__.py,,\n", "", False),
    ],
)
def test_a_distribution_owns_the_modules_that_it_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, record: str, top_level: str, owned: bool
) -> None:
    name = f"toy{next(_NUMBERS)}"
    unique = f"{module}{name}"
    _installed(
        tmp_path,
        name,
        "1.5",
        record=record.replace(module, unique),
        top_level=top_level.replace(module, unique),
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert code.release(unique) == (f"{name}-1.5" if owned else "")


def test_if_two_copies_are_installed_the_imported_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"toy{next(_NUMBERS)}"
    for version in ("1", "2"):
        _installed(tmp_path / version, name, version, record=f"{name}/__init__.py,,\n")
        monkeypatch.syspath_prepend(str(tmp_path / version))
    assert code.release(name) == f"{name}-2"


def test_declarations_are_found_without_running_the_file(tmp_path: Path) -> None:
    path = tmp_path / "many.py"
    path.write_text(
        textwrap.dedent(
            '''
            raise RuntimeError("this file was run")

            import contracts
            from benchmark.api.defense import defense

            @defense("first")
            class First:
                """Purifies
                in one line.

                And a long story.
                """

            @functools.wraps(None)
            @contracts.attack("second")
            class Second:
                pass

            class NotAPlugin:
                pass

            @unrelated("third")
            class Third:
                pass

            @defense(NAME)
            class NotLiteral:
                pass

            @defense("function")
            def function():
                pass
            '''
        )
    )
    found = list(declarations(path, KINDS))
    assert [(d.kind, d.name, d.attribute, d.summary) for d in found] == [
        ("defense", "first", "First", "Purifies in one line."),
        ("attack", "second", "Second", ""),
    ]
    lines = path.read_text().splitlines()
    assert [lines[d.line - 1] for d in found] == ["class First:", "class Second:"]
    assert found[0].origin == f"{path}:{found[0].line}"


def test_only_declarations_of_the_requested_kinds_are_returned(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text('@defense("a")\nclass A: ...\n@attack("b")\nclass B: ...\n')
    assert [d.name for d in declarations(path, ["attack"])] == ["b"]


def test_a_syntax_error_is_shown_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\n\ny = = 2\n")
    with pytest.raises(UserError) as caught:
        list(declarations(path, KINDS))
    assert str(caught.value).startswith(f"{path}:3: not valid Python: ")


def test_a_missing_file_is_shown_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "missing.py"
    with pytest.raises(UserError) as caught:
        list(declarations(path, KINDS))
    assert str(caught.value) == f"{path}: cannot read the plugin file: No such file or directory"


def test_a_file_beside_a_plugin_that_no_distribution_owns_counts(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin = tmp_path / "plugin_with_neighbour.py"
    plugin.write_text("from neighbour_of_plugin import FACTOR\n")
    found = []
    for factor in (0, 1):
        (tmp_path / "neighbour_of_plugin.py").write_text(f"FACTOR = {factor}\n")
        code.fingerprint.cache_clear()
        found.append(code.fingerprint(plugin, "bench_plugin_x"))
    assert found[0] != found[1]


@pytest.mark.parametrize("record", [True, False])
def test_the_code_of_an_editable_package_counts(
    record: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its release stays the same when its files are edited."""
    name = f"toy{next(_NUMBERS)}"
    (tmp_path / "src" / name).mkdir(parents=True)
    (tmp_path / "src" / name / "__init__.py").write_text("")
    inner = tmp_path / "src" / name / "plugin.py"
    if record:
        _installed(
            tmp_path / "site", name, "1", record=f"__editable__.{name}-1.pth,,\n", top_level=f"{name}\n"
        )
    else:  # as with `setup.py develop`
        info = tmp_path / "src" / f"{name}.egg-info"
        info.mkdir()
        (info / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "top_level.txt").write_text(f"{name}\n")
    for folder in ("src", "site"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    using = tmp_path / "using.py"
    using.write_text(f"from {name}.plugin import SCALE\n")
    found = []
    for scale in (1, 2):
        inner.write_text(f"SCALE = {scale}\n")
        found.append(_fingerprint(using))
    assert found[0] != found[1]
