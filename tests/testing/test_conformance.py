"""The conformance suite: built-in defenses pass it, and the check for each fault finds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.findings import Finding
from benchmark.plugins.registry import Entry, Registry, default_registry
from benchmark.testing import defense_under_test
from benchmark.testing.conformance import check_defense
from tests.plugin_files.broken import FAULTS, TRAINING

FEWER = {"restarts": 2, "iterations": 2, "attack_iterations": 1, "batch_size": 8}
"""Shorter inner loops and smaller batches, for defenses with such parameters."""

HEAD = """
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.plugins.plugin import Config, infer, param, train
from benchmark.api.defense import Defense, defense


class Steps(Config):
    depth: int = train(1, ge=1)
    steps: int = infer(4, ge=1)


class Faultless(Defense[Steps]):
    def purify(self, x, noise):
        return x * 0.5


class Trained(Faultless):
    trainable = True

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.factor = nn.Parameter(torch.tensor(0.5))

    def fit(self, data, source, generator):
        with torch.no_grad():
            self.factor.mul_(0.5)
        self.report(1, 1, loss=0.0)

    def purify(self, x, noise):
        return x * self.factor


@defense("subject")
"""


def found(
    entry: Entry,
    *shapes: tuple[int, int, int],
    config: Mapping[str, Any] | None = None,
) -> tuple[list[Finding], set[str]]:
    """All findings, and the subjects of the faults without their shape."""
    findings = list(check_defense(entry, shapes=shapes or ((1, 28, 28),), config=config))
    assert all("\n" not in finding.detail for finding in findings)
    bad = {finding.subject for finding in findings if finding.ok is False}
    return findings, {subject.removeprefix("1×28×28 ") for subject in bad}


def subject(folder: Path, body: str) -> Entry:
    path = folder / "subject.py"
    path.write_text(HEAD + body.lstrip(), encoding="utf-8")
    registry = Registry()
    registry.add_file(path)
    return registry.get("defense", "subject")


def detail(findings: list[Finding], name: str) -> str:
    return next(finding.detail for finding in findings if finding.subject == f"1×28×28 {name}")


@pytest.mark.parametrize("name", default_registry().names("defense"))
def test_built_in_defenses_keep_the_contract(name: str) -> None:
    entry = default_registry().get("defense", name)
    fewer = {key: n for key, n in FEWER.items() if key in entry.load().config_type().model_fields}
    findings, _ = found(entry, (1, 28, 28), (3, 32, 32), config=fewer)
    assert [finding for finding in findings if finding.ok is False] == []
    assert len(findings) > 15


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_for_a_fault_finds_it(fault: str, tmp_path: Path) -> None:
    expected, body = FAULTS[fault]
    assert found(subject(tmp_path, body))[1] == {expected}


@pytest.mark.parametrize(
    "body",
    [
        "class Subject(Faultless):\n    pass\n",
        "class Subject(Trained):\n    pass\n",
        "class Subject(Faultless):\n    control = True\n    def purify(self, x, noise):\n        return x\n",
        "class Subject(Faultless):\n    stochastic = True\n    def purify(self, x, noise):\n"
        "        return (x + noise.uniform_like(x)) / 2\n",
        "class Subject(Faultless):\n    decides_label = True\n    def purify_and_decide(self, x, noise):\n"
        "        return self.purify(x, noise), x.flatten(1).argmax(dim=1) % self.num_classes\n",
    ],
)
def test_a_defense_without_a_fault_has_no_bad_finding(body: str, tmp_path: Path) -> None:
    assert found(subject(tmp_path, body))[1] == set()


def test_after_a_decisive_failure_checks_are_skipped(tmp_path: Path) -> None:
    findings, _ = found(subject(tmp_path, FAULTS["leaves something behind"][1]))
    assert next(f.ok for f in findings if f.subject == "1×28×28 batch") is None
    assert detail(findings, "batch") == "skipped: repeated calls failed"


def test_one_of_the_shapes_is_enough(tmp_path: Path) -> None:
    body = """
class Subject(Faultless):
    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        if image_shape[0] != {channels}:
            raise ValueError("wrong colours")
"""
    findings, bad = found(subject(tmp_path, body.format(channels=3)), (1, 28, 28), (3, 32, 32))
    assert bad == set()
    assert findings[0] == Finding(None, "1×28×28 images", "cannot accept them: wrong colours")
    _, bad = found(subject(tmp_path, body.format(channels=4)), (1, 28, 28), (3, 32, 32))
    assert bad == {"images"}


def test_a_parameter_without_a_default_is_required(tmp_path: Path) -> None:
    body = """
class Subject(Defense[type("Needy", (Config,), {"__annotations__": {"depth": int}})]):
    def purify(self, x, noise):
        return x / self.config.depth
"""
    entry = subject(tmp_path, body)
    findings, bad = found(entry)
    assert bad == {"parameters"}
    assert "depth: Field required" in findings[0].detail
    assert found(entry, config={"depth": 2})[1] == set()


@pytest.mark.parametrize(
    ("output", "expected"),
    [("x * 0.5", "nonzero"), ("(x * 8).round() / 8", "zero"), ("x.detach() * 0.5", "absent")],
)
def test_the_gradient_is_reported(output: str, expected: str, tmp_path: Path) -> None:
    body = f"class Subject(Faultless):\n    def purify(self, x, noise):\n        return {output}\n"
    assert detail(found(subject(tmp_path, body))[0], "gradient").partition(":")[0] == expected


def test_a_training_that_exceeds_the_step_limit_is_reported(tmp_path: Path) -> None:
    body = """
class Subject(Trained):
    def fit(self, data, source, generator):
        super().fit(data, source, generator)
        self.report(50, 50, loss=0.0)
"""
    findings, bad = found(subject(tmp_path, body))
    assert bad == set()
    assert "past a step_limit of 3" in detail(findings, TRAINING)


def test_a_slow_defense_is_compared_with_its_setting_for_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defense_under_test, "_SLOW", 0.0)
    body = """
class Subject(Trained):
    last = None

    @classmethod
    def in_attack(cls, config):
        return config.model_copy(update={"steps": 1})

    def forget(self):
        self.last = None

    def purify(self, x, noise):
        x = x * self.factor
        if self.config.steps == 1:
            warm = self.last is not None and self.last.shape == x.shape
            x, self.last = (x + self.last) / 2 if warm else x, x.detach()
        return x
"""
    findings, bad = found(subject(tmp_path, body))
    assert bad == set()
    assert "with the setting for attacks, on 2 images" in detail(findings, "speed")
    assert detail(findings, "in_attack") == "changes steps"
    # weights are checked with the given parameters, not with those for attacks
    assert found(subject(tmp_path, FAULTS["keeps what it learnt to itself"][1]))[1] == {"saved weights"}


def test_the_global_generators_are_left_as_they_were() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found(default_registry().get("defense", "gaussian-noise"))
    assert torch.equal(torch.get_rng_state(), before)
