"""Plugin files that use old module names, and modules that lie beside a plugin file."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.plugins.registry import Registry

OLD = """
from attacks.ball import lengths
from benchmark.noise import Noise
from benchmark.plugin import Config, infer
from benchmark.datasets.contract import TrainingData
from benchmark.adversarial import perturbed
from defenses.contract import Defense, defense
from defenses.jpeg import Jpeg

@defense("old")
class Old(Defense[Config]):
    def purify(self, x, noise):
        return x
"""

NEW = """
from benchmark.api import Config, Defense, defense
{imports}

@defense("{name}")
class Mine(Defense[Config]):
    value = {value}

    def purify(self, x, noise):
        return x
"""


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def _load(path: Path) -> type:
    (entry,) = Registry().add_file(path)
    return entry.load()


def _new(path: Path, imports: str, value: str, name: str = "mine") -> type:
    return _load(_write(path, NEW.format(imports=imports, value=value, name=name)))


def test_old_names_resolve_and_the_warning_says_what_to_write(tmp_path: Path) -> None:
    path = _write(tmp_path / "old.py", OLD)
    with pytest.warns(FutureWarning) as caught:
        loaded = _load(path)
    assert loaded.__name__ == "Old"
    texts = {warning.lineno: str(warning.message) for warning in caught}
    assert texts[7] == ("defenses.contract is an old name; write: from benchmark.api import Defense, defense")
    assert texts[6].endswith("write: from benchmark.api import perturb")
    assert texts[8].endswith("write: from benchmark.defenses.jpeg import Jpeg")
    assert {warning.filename for warning in caught} == {str(path)}


def test_old_names_are_gone_after_the_file_was_loaded(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _load(_write(tmp_path / "old_again.py", OLD))
    import benchmark

    for name in ("attacks", "attacks.ball", "defenses", "defenses.contract", "benchmark.noise"):
        assert name not in sys.modules
    assert not hasattr(benchmark, "noise")
    with pytest.raises(ModuleNotFoundError):
        __import__("benchmark.noise")


def test_a_package_of_the_users_comes_first(tmp_path: Path) -> None:
    _write(tmp_path / "defenses" / "__init__.py", "OWNER = 'user'")
    _write(tmp_path / "attacks.py", "OWNER = 'user too'")
    loaded = _new(tmp_path / "mine.py", "import attacks, defenses", "(attacks.OWNER, defenses.OWNER)")
    assert loaded.value == ("user too", "user")  # type: ignore[attr-defined]
    assert "defenses" not in sys.modules


def test_a_package_of_the_users_without_the_old_module_is_not_added_to(tmp_path: Path) -> None:
    _write(tmp_path / "defenses" / "__init__.py", "")
    path = _write(tmp_path / "mine.py", "from defenses.contract import Defense, defense\n" + NEW)
    path.write_text(path.read_text().format(imports="", value=1, name="mine"))
    with (
        pytest.warns(FutureWarning, match=r"from benchmark\.api import Defense, defense"),
        pytest.raises(UserError, match=r"No module named 'defenses\.contract'"),
    ):
        _load(path)


def test_modules_beside_a_plugin_file_belong_to_it_alone(tmp_path: Path) -> None:
    for folder, number in (("one", 1), ("two", 2)):
        _write(tmp_path / folder / "nets.py", f"WIDTH = {number}")
    first = _new(tmp_path / "one" / "mine.py", "import nets", "nets.WIDTH")
    second = _new(tmp_path / "two" / "mine.py", "import nets", "nets.WIDTH")
    assert (first.value, second.value) == (1, 2)  # type: ignore[attr-defined]
    assert "nets" not in sys.modules
    assert str(tmp_path / "one") not in sys.path


def test_a_module_beside_a_plugin_file_does_not_hide_a_library(tmp_path: Path) -> None:
    _write(tmp_path / "json.py", "raise RuntimeError('not this one')")
    _write(tmp_path / "torch.py", "raise RuntimeError('not this one')")
    loaded = _new(tmp_path / "mine.py", "import json, torch", "json.dumps([])")
    assert loaded.value == "[]"  # type: ignore[attr-defined]


def test_an_edited_module_beside_a_plugin_file_is_another_plugin(tmp_path: Path) -> None:
    nets = _write(tmp_path / "nets.py", "WIDTH = 1")
    path = tmp_path / "mine.py"
    before = _new(path, "import nets", "nets.WIDTH")
    (entry,) = Registry().add_file(path)
    code = entry.code()
    nets.write_text("WIDTH = 22")
    (entry,) = Registry().add_file(path)
    assert (before.value, entry.load().value) == (1, 22)  # type: ignore[attr-defined]
    assert entry.code() != code


def test_nothing_resolves_for_files_that_are_no_plugins(tmp_path: Path) -> None:
    script = "import benchmark\nfrom benchmark.plugins.importing import import_file\n"
    script += "from pathlib import Path\nimport_file(Path('nets.py'))"
    for line in ("import beside_me", "from defenses.contract import Defense"):
        _write(tmp_path / "beside_me.py", "")
        _write(tmp_path / "nets.py", line)
        ran = subprocess.run(
            [sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True
        )
        assert "ModuleNotFoundError" in ran.stderr, line


def test_an_old_attribute_of_an_attack_is_refused(tmp_path: Path) -> None:
    text = """
    from benchmark.api import Attack, Config, attack

    @attack("old")
    class Old(Attack[Config]):
        norm = "linf"
        grows = True

        def craft(self, surface, x, labels, noise, start=None):
            return x
    """
    with pytest.raises(UserError, match=r"`grows` is an old name; write `scalable`"):
        _load(_write(tmp_path / "old.py", text))


def test_star_imports_and_modules_of_old_packages_resolve(tmp_path: Path) -> None:
    text = """
    from defenses.contract import *
    from benchmark.plugin import *
    from attacks import noise
    import attacks.ball as ball

    @defense("starred")
    class Starred(Defense[Config]):
        value = noise.__name__, ball.lengths.__module__

        def purify(self, x, noise):
            return x
    """
    with pytest.warns(FutureWarning) as caught:
        loaded = _load(_write(tmp_path / "starred.py", text))
    assert loaded.value == ("attacks.noise", "benchmark.api.balls")  # type: ignore[attr-defined]
    lines = {warning.lineno for warning in caught}
    assert lines == {2, 3, 4, 5}


def test_equal_plugins_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    first, second = (_new(tmp_path / name / "mine.py", "", "__file__") for name in ("one", "two"))
    assert first.value != second.value  # type: ignore[attr-defined]


def test_the_fingerprint_is_read_without_running_modules_beside_the_plugin(tmp_path: Path) -> None:
    _write(tmp_path / "fast" / "__init__.py", "raise RuntimeError('no compiler')")
    _write(tmp_path / "fast" / "kernels.py", "")
    handled = "try:\n    from fast import kernels\nexcept RuntimeError:\n    kernels = None"
    assert _new(tmp_path / "mine.py", handled, "kernels").value is None  # type: ignore[attr-defined]


def test_an_edit_within_a_second_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    values = []
    for number in range(1, 5):
        _write(tmp_path / "nets.py", f"WIDTH = {number}")
        loaded = _new(tmp_path / "mine.py", "import nets", f"(nets.WIDTH, {number})")
        values.append(loaded.value)  # type: ignore[attr-defined]
    assert values == [(number, number) for number in range(1, 5)]


def test_a_package_of_the_users_below_the_checkout_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.plugins.old_names.checkout", lambda: str(tmp_path))
    _write(tmp_path / "mine" / "defenses" / "__init__.py", "OWNER = 'user'")
    loaded = _new(tmp_path / "mine" / "mine.py", "import defenses", "defenses.OWNER")
    assert loaded.value == "user"  # type: ignore[attr-defined]


def test_a_library_below_the_folder_of_a_plugin_stays_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of `make install` lies in the checkout, where `bench new` writes."""
    _write(tmp_path / "venv" / "library_of_a_venv.py", "WIDTH = 3")
    monkeypatch.syspath_prepend(tmp_path / "venv")
    loaded = _new(tmp_path / "mine.py", "import library_of_a_venv as library", "library")
    assert sys.modules.pop("library_of_a_venv") is loaded.value  # type: ignore[attr-defined]


def test_modules_of_other_packages_are_no_old_names(tmp_path: Path) -> None:
    _write(tmp_path / "chain" / "__init__.py", "")
    _write(tmp_path / "chain" / "contract.py", "PRICE = 2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = _new(tmp_path / "mine.py", "from chain.contract import PRICE", "PRICE")
    assert loaded.value == 2  # type: ignore[attr-defined]


def test_a_plugin_in_the_current_folder_leaves_the_modules_of_python_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = dict(sys.modules)
    _write(tmp_path / "nets.py", "WIDTH = 1")
    loaded = _new(Path("mine.py"), "import nets, sys, time", "sys, time, nets.WIDTH")
    assert loaded.value == (sys, sys.modules["time"], 1)  # type: ignore[attr-defined]
    assert {name for name in before if sys.modules.get(name) is not before[name]} == set()
