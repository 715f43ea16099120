"""A grid alone runs no code of users: only code named with --trust or --plugin runs."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark.targets.loading.factories import find_factory
from torch import nn
from typer.testing import CliRunner

from benchmark.cli.main import app
from benchmark.errors import UserError
from benchmark.execution.observer import Silent
from benchmark.plugins.trust import Trust, read_trust
from benchmark.runs import PlannedRun, execute_run, plan_run
from studies import REPOSITORY

NETS = """
from pathlib import Path
from os import system
from functools import partial
from torch import nn
Path("harmed").touch()
def make(width=10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width))
shortened = partial(make, 10)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file that writes the file `harmed` if it is imported."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(f"{NETS}\n# {tmp_path}")  # a file of the same content is imported once
    return tmp_path


def plan(target: Any, trust: list[str] | None = None, plugins: list[str] | None = None) -> PlannedRun:
    grid = {
        "datasets": [{"name": "digits", "n": 2}],
        "targets": target if isinstance(target, list) else [target],
        "defenses": ["identity"],
        "attacks": ["noise"],
        "threats": ["black-box"],
    }
    return plan_run(grid, Silent(), store="store", device="cpu", trust=trust or [], plugins=plugins or [])


def refusal(target: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        plan(target, **options)
    return str(caught.value)


def module(factory: str, **arguments: Any) -> dict[str, Any]:
    return {"name": "module", "factory": factory, "arguments": arguments}


def package(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)


# --- model files ----------------------------------------------------------------------------------------


class Writing(nn.Module):
    """Overwrites a file of the user with operators of TorchScript."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        written = torch.from_file("victim", True, 8, dtype=torch.uint8).fill_(65)
        torch.save(x, "made")
        return x.flatten(1)[:, :10] + 0 * written.sum()


def test_torchscript_is_a_program_and_needs_trust() -> None:
    Path("victim").write_bytes(b"original")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Writing()).save("net.pt")
    message = refusal({"name": "saved-module", "file": "net.pt"}, trust=["nets.py"])
    assert Path("victim").read_bytes() == b"original"
    assert "'net.pt' is a TorchScript file, which is a program" in message
    assert "--trust net.pt" in message
    trusted = plan({"name": "saved-module", "file": "net.pt"}, trust=["net.pt"])
    execute_run(trusted, Silent(), Path("out"))
    assert Path("victim").read_bytes() == b"A" * 8  # a trusted program runs
    Path("made").unlink()
    # if weights are in TorchScript format, torch reads them by running the program
    assert "net.pt" in refusal(module("nets.py:make") | {"weights": "net.pt"}, trust=["nets.py"])
    assert not Path("made").exists()


class Touching:
    """Writes the file `harmed` when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors", "w.bin", "w.zip", "w.tar"])
@pytest.mark.parametrize("legacy", [True, False])
def test_weights_that_hold_a_pickle_are_not_unpickled(name: str, legacy: bool) -> None:
    Path("nets.py").write_text(NETS.replace('Path("harmed").touch()', ""))
    torch.save({"0.weight": Touching()}, name, _use_new_zipfile_serialization=not legacy)
    target = module("nets.py:make") | {"weights": name}
    try:
        prepared = plan(target, trust=["nets.py"])
    except UserError:
        pass
    else:  # a file named .safetensors is read as such, when the cells run
        assert execute_run(prepared, Silent(), Path("out")).failed
    assert not Path("harmed").exists()


@pytest.mark.parametrize("name", ["labels.npz", "labels.npy"])
def test_arrays_of_objects_are_not_unpickled(name: str) -> None:
    import numpy as np

    things = np.array([Touching()], dtype=object)
    np.savez("labels.npz", **dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), things))
    np.save("labels.npy", things)
    grid = {
        "datasets": [{"name": "npz", "path": str(Path(name).resolve())}],
        "targets": ["mnist-a"],
        "defenses": ["identity"],
        "attacks": ["noise"],
        "threats": ["black-box"],
    }
    with pytest.raises(UserError, match=r"cannot be read as an \.npz file"):
        plan_run(grid, Silent(), store="store", device="cpu")
    assert not Path("harmed").exists()


# --- factories ------------------------------------------------------------------------------------------


def test_a_file_runs_only_if_it_is_named() -> None:
    message = refusal(module("nets.py:make"), trust=[])
    assert "the grid names a function in nets.py" in message
    assert "repeat the command with --trust nets.py" in message
    assert not Path("harmed").exists()
    plan(module("nets.py:make"), trust=["nets.py"])
    assert Path("harmed").exists()


def test_a_plugin_file_may_hold_the_factory() -> None:
    plugin = '@defense("own")\nclass Own(Defense[Config]): ...\n'
    head = "from benchmark.plugins.plugin import Config\nfrom benchmark.api.defense import Defense, defense\n"
    Path("nets.py").write_text(NETS + head + plugin)
    assert plan(module("nets.py:make"), plugins=["nets.py"])


def test_all_files_to_trust_are_named_at_once() -> None:
    Path("other nets.py").write_text(NETS)
    message = refusal([module("nets.py:make"), module("other nets.py:make")])
    assert "--trust nets.py" in message
    assert "--trust 'other nets.py'" in message


HOSTILE = [
    module("os:system", command="touch harmed"),
    module("posix:system", command="touch harmed"),
    module("subprocess:run", args=["touch", "harmed"]),
    module("builtins:exec", source="open('harmed', 'w')"),
    module("torch:load", f="evil.pt", weights_only=False),
    module("torch.hub:load", repo_or_dir=".", model="x", source="local"),
    module("torch.jit:load", f="evil.pt"),
    module("torch.serialization:load", f="evil.pt", weights_only=False),
    module("numpy:load", file="evil.npy", allow_pickle=True),
    module("pandas:read_pickle", filepath_or_buffer="evil.pt"),
    module("joblib:load", filename="evil.pt"),
    module("foolbox.zoo:get_model", url="."),
    module("benchmark.plugins.importing:import_file", path="nets.py"),
    module("torchvision.datasets.utils:download_url", url="file:///etc/passwd", root="."),
    module("torchvision.models.utils:load_state_dict_from_url", url="file:evil.pt"),
    module("torchvision.models._api:import_module", name="nets"),
    module("torchvision.models.resnet:partial", func="x"),
    module("torchvision.models._utils:OrderedDict"),
    module("torchvision.models:get_weight", name="x"),
    module("torchvision.models.resnet:resnet18", weights="file:/evil.pt"),
    module("torchvision.models:resnet18", norm_layer={"a": 1}),
    module("torchvision:os.system", command="touch harmed"),
    module("nets:make"),
    module("..nets:make"),
]


@pytest.mark.parametrize("target", HOSTILE, ids=lambda target: target["factory"])
def test_a_grid_alone_can_call_only_model_functions(
    target: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))  # as in a notebook, where the current folder comes first
    torch.save(Touching(), "evil.pt")
    assert "target module: " in refusal(target)
    assert not Path("harmed").exists()


@pytest.mark.parametrize("name", ["os", "torch", "builtins", "subprocess", "pandas", "benchmark"])
def test_packages_that_run_any_code_can_never_be_trusted(name: str) -> None:
    assert "cannot be trusted as a whole" in refusal(module("nets.py:make"), trust=[name])
    with pytest.raises(UserError, match="a grid never calls a function of"):
        find_factory(f"{name}:anything", Trust(packages=frozenset({name})), {})


def test_torchvision_models_need_no_trust() -> None:
    for factory in ("torchvision.models:resnet18", "torchvision.models.vgg:vgg11"):
        assert plan(module(factory, weights=None, num_classes=10))
    made = find_factory("torchvision.models:get_model", Trust(), {"name": "resnet18", "weights": "DEFAULT"})[
        1
    ]
    assert isinstance(made(name="squeezenet1_1"), nn.Module)


def test_a_package_is_trusted_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    package(folder, "own_nets", NETS + "import json\nloads = json.loads\n")
    message = refusal(module("own_nets:make"))
    assert "repeat the command with --trust own_nets" in message
    assert not Path("harmed").exists()
    assert plan(module("own_nets:make"), trust=["own_nets"])
    for name, home in (("system", "posix"), ("loads", "json"), ("shortened", "functools")):
        text = refusal(module(f"own_nets:{name}", command="touch x"), trust=["own_nets"])
        assert f"{name} is not defined in own_nets but in {home}" in text


def test_a_function_that_a_trusted_file_only_imports_is_refused() -> None:
    message = refusal(module("nets.py:system", command="touch harmed"), trust=["nets.py"])
    assert "system is not defined in nets.py but in posix" in message
    assert "define a function in nets.py that calls it" in message


def test_a_package_may_declare_its_factories(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    package(folder, "declaring_nets", NETS + "def other():\n    return make()\n")
    point = importlib.metadata.EntryPoint("make", "declaring_nets:make", "bench.factories")
    entry_points = importlib.metadata.entry_points

    def declared(**given: Any) -> Any:
        return [point] if given == {"group": "bench.factories"} else entry_points(**given)

    monkeypatch.setattr(importlib.metadata, "entry_points", declared)
    assert plan(module("declaring_nets:make"))
    assert "--trust declaring_nets" in refusal(module("declaring_nets:other"))


def test_a_folder_named_like_a_model_collection_needs_trust(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    for name in ("timm", "robustbench"):
        if name in sys.modules:
            pytest.skip(f"{name} is installed here")
        package(folder, name, 'open("harmed", "w")')
        for target in ({"name": name, "model": "any"}, module(f"{name}:create_model", model_name="any")):
            assert f"--trust {name}" in refusal(target)
    assert not Path("harmed").exists()


def test_timm_makes_models_and_reads_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake timm that has only the functions that are used."""
    timm: Any = types.ModuleType("timm")
    models: Any = types.ModuleType("timm.models")

    def create_model(**_: Any) -> nn.Module:
        return nn.Linear(1, 1)

    def load_checkpoint(**_: Any) -> nn.Module:
        raise AssertionError("a file was read")

    for function in (create_model, load_checkpoint):
        function.__module__ = "timm.models._factory"
        for place in (timm, models):
            setattr(place, function.__name__, function)
    timm.models, models.list_models, models.model_entrypoint = models, list, None
    for place in (timm, models):
        monkeypatch.setitem(sys.modules, place.__name__, place)
    monkeypatch.setattr("benchmark.targets.loading.factories.is_installed", lambda package: True)
    monkeypatch.setattr("benchmark.targets.loading.factories.is_importable", lambda package: True)
    for arguments in ({"model_name": "resnet18", "num_classes": 10, "drop_rate": 0.1}, {"model_name": "vit"}):
        assert find_factory("timm:create_model", Trust(), arguments)[1] is create_model
    for arguments in (
        {"model_name": "resnet18", "checkpoint_path": "evil.pth"},
        {"model_name": "resnet18", "pretrained_cfg": {"file": "evil.pth"}},
        {"model_name": "hf-hub:somebody/evil"},
        {"model_name": "local-dir:evil"},
        {"model_name": "../evil"},
        {"model_name": ["evil"]},
    ):
        with pytest.raises(UserError, match="from a grid"):
            find_factory("timm:create_model", Trust(), arguments)
    with pytest.raises(UserError, match="is not a model of timm"):
        find_factory("timm:load_checkpoint", Trust(), {})


@pytest.mark.parametrize(
    ("package", "function", "arguments"),
    [
        ("sympy", "sympify", {"a": "__import__('os').system('touch harmed')"}),
        ("sympy", "parsing.sympy_parser.parse_expr", {"s": "open('harmed', 'w')"}),
        ("jinja2", "Template", {"source": "x"}),
        ("torchvision", "load_image", {"path": "x"}),
        ("pytest", "main", {"args": []}),
        ("filelock", "FileLock", {"lock_file": "harmed"}),
    ],
)
def test_a_library_that_this_project_needs_is_never_trusted(
    package: str, function: str, arguments: dict[str, Any]
) -> None:
    place, _, name = f"{package}.{function}".rpartition(".")
    target = module(f"{place}:{name}", **arguments)
    message = refusal(target)
    assert "a grid never calls a function of" in message
    assert "file.py:function" in message
    assert "--trust" not in message
    assert "cannot be trusted as a whole" in refusal(target, trust=[package])
    with pytest.raises(UserError, match="a grid never calls a function of"):
        find_factory(target["factory"], Trust(packages=frozenset({package})), arguments)
    assert not Path("harmed").exists()


MORE = """
import functools
from typing import Any
def silent():
    return make()
def run(text: str) -> Any:
    exec(text)
def number() -> int:
    open("harmed", "w")
def lost() -> "Absent":
    open("harmed", "w")
def loading() -> "nn.Sequential":
    return make()
def noted(function):
    @functools.wraps(function)
    def call(*given, **named):
        return function(*given, **named)
    return call
@noted
def wrapped() -> nn.Module:
    return make()
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
class Other:
    def __init__(self):
        open("harmed", "w")
class Calling:
    def __call__(self):
        open("harmed", "w")
calling = Calling()
"""


def test_a_function_of_a_trusted_package_must_be_annotated_with_a_module(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    package(folder, "many_nets", NETS.replace('Path("harmed").touch()', "") + MORE)
    for name in ("make", "loading", "wrapped", "Net"):
        assert plan(module(f"many_nets:{name}"), trust=["many_nets"])
    for name in ("silent", "run", "number", "lost", "Other", "calling"):
        message = refusal(module(f"many_nets:{name}"), trust=["many_nets"])
        assert f"nothing says that many_nets:{name} makes a torch.nn.Module" in message
        assert "annotate it `-> nn.Module`" in message
    assert not Path("harmed").exists()
    Path("mine.py").write_text("import many_nets\ndef make():\n    return many_nets.silent()\n")
    assert plan(module("mine.py:make"), trust=["mine.py"])  # as the hint says


@pytest.mark.parametrize(
    "name", ["a b.pt", "x;touch harmed.pt", "--plugin.pt", "$(x).pt", "a\nb.pt", "\x1b[2Jé.pt"]
)
def test_a_hint_can_be_pasted_for_any_file_name(name: str) -> None:
    torch.save(nn.Linear(1, 1), name)
    hint = refusal({"name": "saved-module", "file": name}).rpartition("--trust ")[2].splitlines()[0]
    assert hint.isprintable()
    shell = ["bash", "-c", f"printf '%s|' {hint}"]
    given = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    assert given in (f"{name}|", f"./{name}|")
    assert "--trust" in refusal(module("nets.py:make") | {"weights": name}, trust=["nets.py"])


# --- the options ----------------------------------------------------------------------------------------


def test_trust_names_files_and_packages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    package(folder, "some_nets", "")
    trust = read_trust(["nets.py", "some_nets"], ["plugin.py"])
    assert Path("nets.py").resolve() in trust
    assert trust.packages == {"some_nets"}
    assert len(trust) == 2
    for wrong in ("absent.pt", "absent", ".", "some_nets.models", ""):
        with pytest.raises(UserError, match="there is no file"):
            read_trust([wrong])
    Path("some_nets.py").write_text("")
    Path("json").write_text("a pickle, perhaps")  # a file with the name of a package
    with pytest.raises(UserError, match="is a file here and also a package"):
        read_trust(["json"])
    assert Path("json").resolve() in read_trust(["./json"])


@pytest.mark.parametrize("command", [["run", "--dry-run", "--grid", "g.yaml"], ["run", "--grid", "g.yaml"]])
def test_a_command_refuses_before_anything_runs(command: list[str]) -> None:
    Path("g.yaml").write_text(
        "datasets: [{name: digits, n: 2}]\ndefenses: [identity]\nattacks: [noise]\nthreats: [black-box]\n"
        "targets: [{name: module, factory: 'nets.py:make'}]\n"
    )
    result = CliRunner().invoke(app, [*command, "--store", "store"])
    assert isinstance(result.exception, UserError)
    assert "--trust nets.py" in str(result.exception)
    assert not Path("harmed").exists()
    assert not Path("results").exists()


@pytest.mark.parametrize("name", ["json", "pathlib", "typing", "inspect"])
def test_a_file_in_the_current_folder_is_not_imported(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("print('this file ran')\nraise SystemExit(3)\n")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "benchmark", "list", "threats"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ran.returncode, "this file ran" in ran.stdout) == (0, False), ran.stderr
