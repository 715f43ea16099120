"""The comparison of libraries: which ones it calls weak, and that no default backend is weak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmark.attacks.fgsm import Fgsm

import benchmark
from benchmark.plugins.registry import default_registry
from studies.strength import TABLE, mark_weak, measurements, replace_rows
from tests.conftest import Runner

ROW = {
    "dataset": "d",
    "target": "t",
    "attack": "a",
    "attack_config": "{}",
    "norm": "l2",
    "eps": None,
    "n": 100,
    "attack_success": 1.0,
    "l2": 1.0,
    "l0": 10.0,
    "linf": 0.1,
    "forwards": 1,
    "backwards": 1,
    "craft_ms": 1,
}


@pytest.mark.parametrize(
    ("changed", "weak"),
    [
        ({}, False),
        ({"attack_success": 0.97}, True),
        ({"attack_success": 0.98}, False),
        ({"l2": 1.06}, True),
        ({"l2": 1.04}, False),
        ({"attack_success": 0.98, "l2": 1.06}, True),
        ({"eps": 0.1, "l2": 2.0}, False),
        ({"eps": 0.1, "attack_success": 0.9}, True),
    ],
)
def test_a_library_is_weak_by_success_or_by_norm(changed: dict[str, Any], weak: bool) -> None:
    eps = changed.get("eps")
    rows = [
        ROW | {"backend": "one", "eps": eps},
        ROW | {"backend": "other"} | changed,
        ROW | {"backend": "other", "attack_success": 0.1, "eps": eps},
    ]
    table = mark_weak(measurements(pd.DataFrame(rows)))
    assert list(table["weak"]) == [False, weak, False]
    assert list(table["tuned"]) == [False, False, True]


def test_a_part_of_the_table_can_be_measured_again() -> None:
    rows = [ROW | {"backend": name, "attack_config": name} for name in ("one", "other")]
    table = measurements(pd.DataFrame(rows))
    better = measurements(pd.DataFrame([rows[1] | {"l2": 0.9}]))
    assert list(mark_weak(replace_rows(table, better))["weak"]) == [True, False]
    with pytest.raises(SystemExit, match="not in strength"):
        replace_rows(table, measurements(pd.DataFrame([rows[1] | {"attack_config": "third"}])))


def test_the_published_table_and_the_plugins_agree_on_weak_backends() -> None:
    """A library counts as weak if it is weak on any classifier and ball of the table."""
    published = pd.read_csv(TABLE)
    assert set(published["target"]) == {"mnist-a", "mnist-c"}
    registry = default_registry()
    for name, rows in published.groupby("attack"):
        plugin: Any = registry.get("attack", str(name)).load()
        assert plugin.weak_backends == set(rows.loc[rows["weak"], "backend"]), name
        eps = {"eps": 0.1} if "eps" in plugin.config_type().model_fields else {}
        assert not plugin(plugin.config_type()(**eps)).weak_backend, name


def test_a_weak_backend_is_marked(small_run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fgsm, "weak_backends", frozenset({"art"}))
    attack = {"name": "fgsm", "eps": 0.1}
    records = small_run(attacks=[attack, attack | {"backend": "art"}], threats=["black-box"])
    assert list(records["flags"].str.contains("weak-backend", na=False)) == [False, True]


def test_no_default_is_weak_on_digits(tmp_path: Path) -> None:
    attacks: list[Any] = []
    # one of 60 images is less than 2 points, so one random start decides nothing
    fast_and_slow: tuple[dict[str, Any], ...] = (
        {"name": "fgsm", "eps": 0.1},
        {"name": "bim", "eps": 0.1, "steps": 10},
        {"name": "pgd", "eps": 0.1, "steps": 10},
        {"name": "mim", "eps": 0.1, "steps": 10},
        {"name": "deepfool", "n": 12},
        {"name": "jsma", "n": 12},
    )
    for attack in fast_and_slow:
        # ART's DeepFool takes seconds per image; `make strength` compares it
        libraries = {"jsma": ("art",), "deepfool": ("foolbox",)}.get(str(attack["name"]), ("foolbox", "art"))
        attacks += [attack, *(attack | {"backend": library} for library in libraries)]
    carlini = {"name": "cw-l2", "steps": 60, "search_steps": 3, "n": 12}
    attacks += [carlini, carlini | {"backend": "foolbox"}]
    records = benchmark.run(
        {
            "name": "strength-of-digits",
            "datasets": [{"name": "digits", "n": 60}],
            "targets": [{"name": "mnist-c", "epochs": 3, "min_steps": 0, "batch_size": 32, "lr": 2e-3}],
            "defenses": ["identity"],
            "attacks": attacks,
            "threats": ["black-box"],
        },
        store=tmp_path / "store",
        out=tmp_path / "out",
    )
    table = mark_weak(measurements(records))
    assert (records["status"] == "ok").all()
    assert not table.loc[table["backend"] == "native", "weak"].any(), table.to_string()
