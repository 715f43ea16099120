"""Classifiers of users: from functions, files and model collections, and which of them are refused."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from benchmark.targets.loading.model_files import code_identity
from safetensors.torch import save_file
from torch import nn

import benchmark
from benchmark.cli.main import main
from benchmark.errors import UserError
from benchmark.execution.observer import Silent
from benchmark.runs import plan_run
from tests.attacks.trained_classifiers import dense

CODE = """
import torch
from torch import nn

def make(classes=10):
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 64), nn.Tanh(), nn.Linear(64, classes))

def coloured():
    return nn.Sequential(nn.Conv2d(3, 4, 28), nn.Flatten(), nn.Linear(4, 10))

def text():
    return "not a module"

def raises():
    raise KeyError("no such layer")

class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = make()
    def forward(self, x):
        return nn.functional.dropout(self.inner(x), 0.5)

def random():
    return Dropping()

class Mixing(nn.Module):
    def forward(self, x):
        return (x - x.mean(dim=0)).flatten(1)[:, :10]

mixing = Mixing
constant = 3
"""


def _network() -> nn.Module:
    """A network as made by `make`, trained on digits."""
    network = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 64), nn.Tanh(), nn.Linear(64, 10))
    network.load_state_dict(dense().surface.target.state_dict())
    return network.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `own.py` and the weights of a trained network."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(CODE)
    save_file(_network().state_dict(), "good.safetensors")
    return tmp_path


def _run(
    *targets: dict[str, Any], eps: float = 0.2, trust: Sequence[str] = (), **options: Any
) -> pd.DataFrame:
    """The records of a run that trusts `own.py` and `trust`."""
    grid = {
        "name": "own",
        "datasets": [{"name": "digits", "n": 20}],
        "targets": list(targets),
        "defenses": ["identity"],
        "attacks": [{"name": "fgsm", "eps": eps}],
        "threats": ["black-box"],
    }
    trust = ["own.py", *trust]
    return benchmark.run(grid, out="out", store="store", device="cpu", trust=trust, **options)


def _module(factory: str = "own.py:make", **parameters: Any) -> dict[str, Any]:
    return {"name": "module", "factory": factory, "weights": "good.safetensors"} | parameters


def _refusal(*targets: dict[str, Any], **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        _run(*targets, **options)
    return str(caught.value)


def _keys(target: dict[str, Any]) -> set[str]:
    """The keys of all tasks of a grid with this target."""
    grid = {
        "datasets": [{"name": "digits", "n": 20}],
        "targets": [target],
        "defenses": ["identity"],
        "attacks": [{"name": "fgsm", "eps": 0.2}],
        "threats": ["black-box"],
    }
    plan = plan_run(grid, Silent(), store="store", device="cpu", trust=["own.py"]).plan
    return {task.key for task in plan.tasks if task.kind in ("train-target", "craft", "score")}


# --- accepted -----------------------------------------------------------------------------------------


def test_a_module_keeps_its_own_weights_and_is_not_trained(folder: Path) -> None:
    (row,) = _run(_module()).to_dict("records")
    assert row["status"] == "ok"
    assert row["clean_error"] <= 0.15
    assert row["error"] > row["clean_error"] + 0.3
    assert pd.isna(row["target_seed"])
    assert "good.safetensors" in row["target_config"]
    assert not list(Path("store").glob("train-target/module/*.pt"))


def _save_script(path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(_network()).save(path)


def _save_export(path: str) -> None:
    program = torch.export.export(
        _network(), (torch.rand(2, 1, 28, 28),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, path)


def test_every_file_format_gives_the_same_errors(folder: Path) -> None:
    _save_script("net.pt")
    _save_export("net.pt2")
    torch.save(_network(), "pickled.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in _network().state_dict().items()}}, "weights.pth")
    records = _run(
        _module(),
        _module(weights="weights.pth"),
        *({"name": "saved-module", "file": file} for file in ("net.pt", "net.pt2", "pickled.pt")),
        trust=["net.pt", "net.pt2", "pickled.pt"],
    )
    assert list(records["status"]) == ["ok"] * 5, list(records["reason"])
    assert records["clean_error"].nunique() == 1
    assert records["error"].nunique() == 1


def test_a_saved_module_can_be_the_source_classifier(folder: Path, constructed: Path) -> None:
    """The training of a defense copies the source classifier and uses the gradients of the copy."""
    _save_export("net.pt2")
    grid = {
        "datasets": [{"name": "few-digits", "n": 2}],
        "targets": [{"name": "saved-module", "file": "net.pt2"}],
        "defenses": [{"name": "ape-gan", "epochs": 1, "min_steps": 0, "batch_size": 16}],
        "source": "target",
        "attacks": [{"name": "fgsm", "eps": 0.2}],
        "threats": ["black-box"],
    }
    records = benchmark.run(
        grid, out="out", store="store", device="cpu", plugins=[constructed], trust=["net.pt2"]
    )
    assert set(records["status"]) == {"ok"}, list(records["reason"])


def test_images_are_normalised_and_resized_as_configured(folder: Path) -> None:
    (plain,) = _run(_module()).to_dict("records")
    (odd,) = _run(_module(mean=[0.5], std=[0.1], size=28)).to_dict("records")
    assert odd["key"] != plain["key"]
    assert _refusal(_module(mean=[0.5])).endswith(
        "mean and std go together: one number in each for every channel"
    )
    (row,) = _run(_module(mean=[0.5] * 3, std=[0.1] * 3)).to_dict("records")
    assert row["status"] == "failed"
    assert "own.py:make" in row["reason"]
    assert "takes images of 3 channels, got 1" in row["reason"]


def test_the_key_depends_on_the_content_and_not_on_the_path(folder: Path) -> None:
    before = _keys(_module())
    assert _keys(_module()) == before
    Path("good.safetensors").rename("moved.safetensors")
    assert _keys(_module(weights="moved.safetensors")) == before
    Path("own.py").write_text(CODE + "\n# a remark\n")
    assert _keys(_module(weights="moved.safetensors")) == before
    Path("own.py").write_text(CODE.replace("Tanh", "ReLU"))
    assert not _keys(_module(weights="moved.safetensors")) & before
    Path("own.py").write_text(CODE)
    weights = {name: tensor + 0.01 for name, tensor in _network().state_dict().items()}
    save_file(weights, "moved.safetensors")
    assert not _keys(_module(weights="moved.safetensors")) & before


def test_tables_distinguish_two_files(folder: Path) -> None:
    save_file({name: 0 * tensor for name, tensor in _network().state_dict().items()}, "zero.safetensors")
    _run(_module(), _module(weights="zero.safetensors"))
    text = Path("out/tables.md").read_text()
    assert "module (weights good.safetensors)" in text
    assert "module (weights zero.safetensors)" in text


def test_a_change_after_the_plan_fails_the_cells(folder: Path) -> None:
    from benchmark.runs import execute_run

    grid = {
        "datasets": [{"name": "digits", "n": 2}],
        "targets": [_module()],
        "defenses": ["identity"],
        "attacks": ["noise"],
        "threats": ["black-box"],
    }
    prepared = plan_run(grid, Silent(), store="store", device="cpu", trust=["own.py"])
    save_file({name: 0 * tensor for name, tensor in _network().state_dict().items()}, "good.safetensors")
    (row,) = execute_run(prepared, Silent(), Path("out")).failed
    assert "the file of weights has changed since the run began" in row["reason"]


def test_the_code_identity_of_an_installed_package_is_its_release() -> None:
    assert code_identity(torch.nn.functional) == f"torch-{torch.__version__.partition('+')[0]}"


# --- refused before anything runs ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (_module("own.py"), "no factory 'own.py'"),
        (_module("own.py:absent"), "own.py has no function 'absent'"),
        (_module("own.py:constant"), "own.py has no function 'constant'"),
        (_module("nowhere.py:make"), "there is no file 'nowhere.py'"),
        (_module("no_such_package.models:make"), "no_such_package.models cannot be imported"),
        (_module("broken.py:make"), "broken.py cannot be imported: ZeroDivisionError"),
        (
            _module(weights="absent.safetensors"),
            "the file 'absent.safetensors' of the parameter weights",
        ),
        (
            {"name": "saved-module", "file": "absent.pt2"},
            "the file 'absent.pt2' of the parameter file",
        ),
        ({"name": "module"}, "target module needs 'factory'"),
    ],
)
def test_a_missing_file_or_function_is_refused_at_once(
    folder: Path, target: dict[str, Any], message: str
) -> None:
    Path("broken.py").write_text("1 / 0\n")
    assert message in _refusal(target, trust=["broken.py"])


def test_a_damaged_file_is_reported_without_a_hint_to_trust_it(folder: Path) -> None:
    torch.save(_network().state_dict(), "whole.pth")
    _save_script("whole.pt")
    for name, target in (
        ("cut.pth", _module(weights="cut.pth")),
        ("empty.pth", _module(weights="empty.pth")),
        ("spoilt.pth", _module(weights="spoilt.pth")),
        ("cut.pt", {"name": "saved-module", "file": "cut.pt"}),
        ("empty.pt", {"name": "saved-module", "file": "empty.pt"}),
        ("spoilt.pt", {"name": "saved-module", "file": "spoilt.pt"}),
    ):
        content = Path(f"whole{Path(name).suffix}").read_bytes()
        spoilt = content.replace(
            b"PK\x01\x02", b"PK\x09\x09"
        )  # no directory at the offset that the end states
        kinds = {"cut": content[: len(content) // 2], "empty": b"", "spoilt": spoilt}
        Path(name).write_bytes(kinds[Path(name).stem])
        message = _refusal(target)
        assert f"{name!r} is damaged" in message
        assert "--trust" not in message
        if target["name"] == "saved-module":
            assert _refusal(target, trust=[name]) == message


def test_a_network_with_hidden_weights_is_identified_by_its_outputs(folder: Path) -> None:
    Path("own.py").write_text(
        CODE
        + """
class Hiding(nn.Module):
    def __init__(self):
        super().__init__()
        from safetensors.torch import load_file
        self.nets = [make()]
        self.nets[0].load_state_dict(load_file("hidden.safetensors"))
    def forward(self, x):
        return self.nets[0](x)
"""
    )
    weights = _network().state_dict()
    save_file(weights, "hidden.safetensors")
    hiding = _module("own.py:Hiding", weights=None)
    assert _run(hiding)["status"].tolist() == ["ok"]
    assert _run(hiding, eps=0.1)["status"].tolist() == ["ok"]
    save_file(weights | {"4.bias": torch.arange(10.0)}, "hidden.safetensors")
    changed = _run(hiding, eps=0.3)
    assert changed["status"].tolist() == ["failed"]
    assert "other weights than when its results" in changed["reason"][0]


class Harmful(nn.Module):
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


def test_a_pickle_that_could_run_code_is_refused_unless_trusted(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": Harmful()}, "harmful.pt")
    _save_export("net.pt2")
    for target, file in (
        (_module(weights="harmful.pt"), "harmful.pt"),
        ({"name": "saved-module", "file": "harmful.pt"}, "harmful.pt"),
        ({"name": "saved-module", "file": "net.pt2"}, "net.pt2"),
    ):
        message = _refusal(target, trust=["good.safetensors"])
        assert f"{file!r}" in message
        assert f"--trust {file}" in message
    assert not Path("harmed").exists()
    Path("g.yaml").write_text(
        "datasets: [{name: digits, n: 2}]\ndefenses: [identity]\nattacks: [noise]\nthreats: [black-box]\n"
        "targets: [{name: module, factory: 'own.py:make', weights: harmful.pt}]\n"
    )
    command = ["bench", "run", "--grid", "g.yaml", "--store", "store", "--out", "out", "--trust", "own.py"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "reading it can run code" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*command, "--trust", "harmful.pt"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert Path("harmed").exists()  # the trusted file was read
    assert ended.value.code == 1
    assert "weights harmful.pt hold no state dict" in capsys.readouterr().err


def test_trusting_a_missing_file_is_refused(folder: Path) -> None:
    assert "there is no file 'absent.pt'" in _refusal(_module(), trust=["absent.pt"])


# --- failures of single cells ---------------------------------------------------------------------------


def _bad_weights() -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    weights = _network().state_dict()
    save_file({name: weights[name] for name in ("2.weight", "2.bias")}, "part.safetensors")
    yield (
        _module(weights="part.safetensors"),
        ("part.safetensors", "own.py:make", "2 missing (4.weight, 4.bias)"),
    )
    save_file(weights | {"4.weight": torch.zeros(7, 64)}, "shape.safetensors")
    yield (
        _module(weights="shape.safetensors"),
        ("shape.safetensors", "1 of another shape (4.weight (7, 64) for (10, 64))"),
    )
    save_file(weights | {"extra": torch.zeros(1)}, "more.safetensors")
    yield _module(weights="more.safetensors"), ("more.safetensors", "1 not in the module (extra)")
    save_file(weights | {"4.bias": torch.full((10,), torch.nan)}, "nan.safetensors")
    yield _module(weights="nan.safetensors"), ("nan.safetensors", "4.bias are not finite")
    whole = {name: value.to(torch.int8) for name, value in weights.items()}
    save_file(whole, "whole.safetensors")
    yield (
        _module(weights="whole.safetensors"),
        ("whole.safetensors", "4 of another kind of number (2.weight torch.int8 for torch.float32"),
    )
    Path("torn.safetensors").write_bytes(Path("good.safetensors").read_bytes()[:50])
    yield _module(weights="torn.safetensors"), ("torn.safetensors", "cannot be read")


def _bad_modules() -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    def bare(function: str, **arguments: Any) -> dict[str, Any]:
        return _module(f"own.py:{function}", weights=None, arguments=arguments)

    yield bare("text"), ("factory own.py:text", "returned str, not a torch.nn.Module")
    yield bare("raises"), ("factory own.py:raises", "KeyError", "no such layer")
    yield bare("make", layers=3), ("factory own.py:make", "unexpected keyword argument 'layers'")
    yield bare("make", classes=7), ("own.py:make", "(3, 7) for 3 images", "10 classes")
    yield bare("coloured"), ("own.py:coloured", "cannot take batches of 1×28×28 images", "channels")
    yield bare("random"), ("own.py:random", "other scores for the same images")
    yield bare("mixing"), ("own.py:mixing", "depend on the other images of the batch")
    torch.jit.save(torch.jit.trace(lambda x: x.flatten(1)[:, :9], torch.rand(1, 1, 28, 28)), "nine.pt")
    yield {"name": "saved-module", "file": "nine.pt"}, ("nine.pt", "(3, 9) for 3 images")
    torch.jit.save(
        torch.jit.trace(lambda x: x.flatten(1)[:, :10].double(), torch.rand(1, 1, 28, 28)), "double.pt"
    )
    yield {"name": "saved-module", "file": "double.pt"}, ("double.pt", "scores of torch.float64")
    torch.save(_network().state_dict(), "state.pt")
    yield {"name": "saved-module", "file": "state.pt"}, ("state.pt", "OrderedDict", "target `module`")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cases", [_bad_weights, _bad_modules])
def test_an_unsuitable_target_fails_alone_and_is_named(folder: Path, cases: Any) -> None:
    bad = list(cases())
    records = _run(
        *(target for target, _ in bad),
        _module(),
        trust=sorted(map(str, Path().glob("*.pt"))),
    )
    assert list(records["status"]) == ["failed"] * len(bad) + ["ok"]
    for reason, (_, parts) in zip(records["reason"], bad, strict=False):
        for part in parts:
            assert part in reason
        assert "\n" not in reason
        assert "Traceback" not in reason


# --- collections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm", "robustbench"])
def test_the_message_for_a_missing_collection_names_its_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in (name, f"{name}.utils"):
        monkeypatch.setitem(sys.modules, module, None)
    message = _refusal({"name": name, "model": "any"})
    assert f"target {name} needs the package {name}" in message
    assert f'pip install "purifier-benchmark[{name}]"' in message


def test_a_timm_model_gets_the_preprocessing_of_timm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake timm that has only the functions that are used."""
    fake: Any = types.ModuleType("timm")
    arguments = {}

    def create_model(model_name: str, pretrained: bool) -> nn.Module:
        arguments.update(model_name=model_name, pretrained=pretrained)
        return nn.Sequential(Shifted(), _network()).train()

    class Shifted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0.25 + 0.5

    settings = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.25,)}
    fake.create_model = create_model
    fake.is_model = lambda name: name == "net"
    fake.data = types.SimpleNamespace(resolve_model_data_config=lambda _: settings)
    monkeypatch.setitem(sys.modules, "timm", fake)
    assert "timm has no model 'absent'" in _refusal({"name": "timm", "model": "absent"})
    own, theirs = _run(_module(), {"name": "timm", "model": "net.tag"}).to_dict("records")
    assert arguments == {"model_name": "net.tag", "pretrained": True}
    assert theirs["status"] == "ok", theirs["reason"]
    assert theirs["clean_error"] == own["clean_error"]
    settings["input_size"] = (3, 28, 28)
    (row,) = _run({"name": "timm", "model": "net.other"}).to_dict("records")
    assert "timm model net.other takes 3 channel(s), got 1" in row["reason"]


def test_a_robustbench_model_needs_colour_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = types.ModuleType("robustbench.utils")
    monkeypatch.setitem(sys.modules, "robustbench", types.ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", fake)
    (row,) = _run({"name": "robustbench", "model": "Carmon2019Unlabeled"}).to_dict("records")
    assert "RobustBench model Carmon2019Unlabeled (cifar10, Linf) takes RGB images, got 1" in row["reason"]
