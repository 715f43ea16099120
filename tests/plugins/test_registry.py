"""Finding plugins, and the messages about wrong ones."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.api.attack import Attack
from benchmark.api.dataset import Dataset
from benchmark.api.defense import Defense
from benchmark.api.target import Target
from benchmark.errors import UserError
from benchmark.plugins.plugin import Plugin
from benchmark.plugins.registry import KINDS, Registry, default_registry
from studies import REPOSITORY

BUILT_IN = {
    "dataset": {"digits", "mnist", "fashion-mnist", "folder", "npz", "cifar10", "cifar100", "imagenet"},
    "target": {"mnist-a", "mnist-b", "mnist-c"},
    "defense": {"identity", "round8", "jpeg", "median", "ape-gan"},
    "attack": {"fgsm", "bim", "pgd", "deepfool", "noise"},
}
CONTRACTS: dict[str, type[Plugin]] = {
    "dataset": Dataset,
    "target": Target,
    "defense": Defense,
    "attack": Attack,
}

_NUMBERS = itertools.count()

PLUGIN = """
from benchmark.plugins.plugin import Config
from benchmark.api.defense import Defense, defense


@defense("{name}")
class Toy(Defense[Config]):
    \"\"\"Gives the image back.\"\"\"

    def purify(self, x, noise):
        return x
"""


def _file(tmp_path: Path, content: str, name: str = "toy.py") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def _refusal(path: Path, registry: Registry | None = None) -> str:
    """The message of the error for a file that cannot be added."""
    with pytest.raises(UserError) as caught:
        (registry or Registry()).add_file(path)
    return str(caught.value)


def test_listing_the_plugins_imports_none_of_their_libraries() -> None:
    script = (
        "import json, sys; from benchmark.plugins.registry import KINDS, default_registry; "
        "r = default_registry(); "
        "print(json.dumps([{kind: r.names(kind) for kind in KINDS}, sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    names, modules = json.loads(done.stdout)
    for kind, expected in BUILT_IN.items():
        assert expected <= set(names[kind])
    assert not {"torch", "torchvision", "sklearn", "foolbox", "art", "pandas"} & set(modules)


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_plugin_loads_as_listed(kind: str) -> None:
    registry = default_registry()
    assert BUILT_IN[kind] <= set(registry.names(kind))
    for entry in registry.entries(kind):
        plugin = entry.load()
        assert issubclass(plugin, CONTRACTS[kind])
        assert plugin.name == entry.name
        assert entry.summary
        path, _, line = entry.origin.rpartition(":")
        assert f"class {plugin.__name__}(" in Path(path).read_text().splitlines()[int(line) - 1]


def test_a_file_adds_its_plugins(tmp_path: Path) -> None:
    registry = default_registry()
    path = _file(tmp_path, PLUGIN.format(name="toy"))
    (entry,) = registry.add_file(path)
    assert "toy" in registry.names("defense")
    assert registry.get("defense", "toy") is entry
    assert (entry.summary, entry.origin) == ("Gives the image back.", f"{path}:7")
    assert entry.load().name == "toy"
    assert entry.load() is entry.load()


def test_files_with_the_same_name_in_two_folders_are_two_plugins(tmp_path: Path) -> None:
    registry = Registry()
    for name in ("one", "two"):
        registry.add_file(_file(tmp_path, PLUGIN.format(name=name), f"{name}/toy.py"))
    assert [registry.get("defense", name).load().name for name in ("one", "two")] == ["one", "two"]


def test_a_plugin_file_is_fingerprinted_by_its_code(tmp_path: Path) -> None:
    def fingerprint(folder: str, text: str) -> str:
        (entry,) = Registry().add_file(_file(tmp_path, text, f"{folder}/toy.py"))
        return entry.fingerprint()

    text = PLUGIN.format(name="toy")
    assert fingerprint("a", text) == fingerprint("b", text) == fingerprint("c", "# a comment\n" + text)
    assert fingerprint("d", text.replace("return x", "return x.clone()")) != fingerprint("a", text)


def test_a_name_that_is_taken_is_refused_with_both_origins(tmp_path: Path) -> None:
    registry = default_registry()
    path = _file(tmp_path, PLUGIN.format(name="identity"))
    known = registry.get("defense", "identity")
    message = _refusal(path, registry)
    assert "two defenses are named 'identity'" in message
    assert known.origin in message
    assert f"{path}:7" in message
    assert registry.get("defense", "identity") is known


def test_the_same_name_in_another_kind_is_another_plugin(tmp_path: Path) -> None:
    registry = default_registry()
    registry.add_file(_file(tmp_path, PLUGIN.format(name="fgsm")))
    assert registry.get("defense", "fgsm").load() is not registry.get("attack", "fgsm").load()


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        ("defense", "apegan", "ape-gan"),
        ("defense", "ape_gan", "ape-gan"),
        ("attack", "deep-fool", "deepfool"),
        ("dataset", "fashion", "fashion-mnist"),
        ("target", "mnistc", "mnist-c"),
    ],
)
def test_an_unknown_name_suggests_the_nearest_one(kind: str, given: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        default_registry().get(kind, given)
    message, hint = str(caught.value).split("\n")
    assert message == f"unknown {kind} {given!r}"
    assert "did you mean" in hint
    assert repr(meant) in hint


def test_an_unknown_name_without_a_near_one_lists_all_names() -> None:
    registry = default_registry()
    with pytest.raises(UserError) as caught:
        registry.get("attack", "zzz")
    assert "known: " + ", ".join(registry.names("attack")) in str(caught.value)


def test_a_file_without_a_plugin_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = _file(tmp_path, "class Toy:\n    pass\n")
    message = _refusal(path)
    assert message.startswith(f"{path}: declares no plugin")
    assert '@defense("name")' in message


def test_a_file_with_a_syntax_error_is_refused_with_the_line(tmp_path: Path) -> None:
    path = _file(tmp_path, PLUGIN.format(name="toy") + "\ndef (:\n")
    assert _refusal(path).startswith(f"{path}:13: not valid Python: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "missing.py"
    assert _refusal(path) == f"{path}: cannot read the plugin file: No such file or directory"


def test_a_file_that_raises_when_imported_is_shown_with_the_line(tmp_path: Path) -> None:
    content = PLUGIN.format(name="toy") + "\ndef half(x):\n    return x / 0\n\nhalf(1)\n"
    path = _file(tmp_path, content)
    (entry,) = Registry().add_file(path)
    for _ in range(2):  # the module of a failed import is not reused
        with pytest.raises(UserError) as caught:
            entry.load()
        assert str(caught.value) == f"{path}:14: cannot be imported: ZeroDivisionError: division by zero"


def test_a_file_that_lacks_a_library_is_shown_with_the_line(tmp_path: Path) -> None:
    path = _file(tmp_path, PLUGIN.format(name="toy") + "\nimport no_such_library\n")
    (entry,) = Registry().add_file(path)
    with pytest.raises(UserError) as caught:
        entry.load()
    assert str(caught.value).startswith(f"{path}:13: cannot be imported: ModuleNotFoundError: ")
    assert "no_such_library" in str(caught.value)


def test_a_class_that_is_not_a_defense_is_shown_with_the_line(tmp_path: Path) -> None:
    path = _file(tmp_path, PLUGIN.format(name="toy").replace("Toy(Defense[Config])", "Toy"))
    (entry,) = Registry().add_file(path)
    with pytest.raises(UserError) as caught:
        entry.load()
    assert str(caught.value).startswith(f"{path}:6: cannot be imported: TypeError: ")
    assert "needs a subclass of Defense" in str(caught.value)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a package with one plugin as an entry point, as pip does."""

    def install(name: str, content: str, attribute: str = "Toy", group: str = "bench.defenses") -> str:
        module = f"toymodule{next(_NUMBERS)}"
        (tmp_path / f"{module}.py").write_text(content)
        info = tmp_path / f"{module}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{attribute}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        return module

    return install


def test_an_installed_package_adds_its_plugin(install) -> None:
    module = install("installed", PLUGIN.format(name="installed"))
    registry = default_registry()
    entry = registry.get("defense", "installed")
    assert module not in sys.modules
    assert module in entry.origin
    plugin = entry.load()
    assert issubclass(plugin, Defense)
    assert (plugin.name, plugin.__module__) == ("installed", module)
    assert len(entry.fingerprint()) == 64


def test_an_entry_point_of_another_group_is_not_a_defense(install) -> None:
    install("installed", PLUGIN.format(name="installed"), group="other.defenses")
    assert "installed" not in default_registry().names("defense")


def test_an_installed_plugin_cannot_replace_a_built_in_one(install) -> None:
    module = install("identity", PLUGIN.format(name="identity"))
    with pytest.raises(UserError) as caught:
        default_registry()
    assert "two defenses are named 'identity'" in str(caught.value)
    assert module in str(caught.value)
    assert "identity.py" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "attribute", "reason"),
    [
        ("1 / 0", "Toy", "ZeroDivisionError"),
        (PLUGIN.format(name="installed"), "Missing", "AttributeError"),
    ],
)
def test_an_installed_plugin_that_cannot_be_imported_names_its_package(
    install, content: str, attribute: str, reason: str
) -> None:
    module = install("installed", content, attribute)
    entry = default_registry().get("defense", "installed")
    with pytest.raises(UserError) as caught:
        entry.load()
    assert f"defense 'installed' of {module} cannot be imported" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("content", [PLUGIN.format(name="another"), "class Toy:\n    name = 'installed'\n"])
def test_an_entry_point_to_something_else_is_refused(install, content: str) -> None:
    install("installed", content)
    entry = default_registry().get("defense", "installed")
    with pytest.raises(UserError, match=r"'installed' is not a class decorated with @defense\('installed'\)"):
        entry.load()
