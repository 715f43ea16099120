"""The labels of rows and columns in tables: names with the parameters in which they differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

_BASE = "craft_on "

_NEVER_SHOWN = ("preset", "preset_changed", "name", "sha256")
"""Parameters that stand elsewhere in a label, or mean nothing to a reader."""


def labelled(records: pd.DataFrame) -> pd.DataFrame:
    """Add labels to the records.

    The column `target` becomes a label. New columns are `column` (the defense), `attack_label` (the attack
    without its eps), `line` (the attack with its eps) and `attacker` (the threat with its settings).
    """
    backends = records.groupby("attack")["backend"].transform("nunique")
    attack = _labels(records, "attack") + (" via " + records["backend"]).where(backends > 1, "")
    bases = records["attack_config"].map(lambda text: json.loads(text).get("craft_on"))
    made_on = bases.map(lambda base: f", made on {base['name']}" if base else "")
    eps = records["eps"].map(lambda value: "" if pd.isna(value) else f" ε {value:g}")
    shown: pd.DataFrame = records.assign(
        column=_labels(records, "defense"),
        attack_label=attack + made_on,
        line=attack + eps + made_on,
        target=_labels(records, "target"),
        attacker=_labels(records, "threat"),
    )
    return shown


def config_labels(records: pd.DataFrame, name: str, config: str) -> dict[tuple[str, str], str]:
    """The label of each plugin and configuration (as JSON) in two columns of the records."""
    pairs = dict.fromkeys(zip(records[name], records[config], strict=True))
    parsed = {pair: json.loads(pair[1]) for pair in pairs}
    flat = {pair: _flat(parameters) for pair, parameters in parsed.items()}
    shown = {plugin: _differing([flat[pair] for pair in pairs if pair[0] == plugin]) for plugin, _ in flat}
    return {pair: _label(pair[0], flat[pair], shown[pair[0]]) + _presets(parsed[pair]) for pair in pairs}


def _labels(records: pd.DataFrame, name: str) -> pd.Series[str]:
    labels = config_labels(records, name, f"{name}_config")
    pairs = zip(records[name], records[f"{name}_config"], strict=True)
    return pd.Series([labels[pair] for pair in pairs], index=records.index, dtype=object)


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """Parameters in which configurations of a plugin differ; those of `craft_on` only where it is set."""
    keys = dict.fromkeys(key for config in configs for key in config)

    def settings(key: str) -> set[str]:
        relevant = [config for config in configs if key in config or not key.startswith(_BASE)]
        return {json.dumps(config.get(key)) for config in relevant}

    return [key for key in keys if len(settings(key)) > 1]


def _label(name: str, config: Mapping[str, Any], shown: Iterable[str]) -> str:
    def text(value: Any) -> str:  # the text members of a mapping are shown without their names
        if not isinstance(value, Mapping):
            return str(value)
        return " ".join(v if isinstance(v, str) else f"{key} {v}" for key, v in value.items())

    parameters = ", ".join(f"{key} {text(config[key])}" for key in shown if config.get(key) is not None)
    return f"{name} ({parameters})" if parameters else name


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The parameters that can distinguish rows, without presets; a chain has those of each part."""
    parts = config.get("chain")
    if parts is not None:
        named = [(f"{number} {part['name']}", part) for number, part in enumerate(parts, 1)]
        config = {f"{name} {key}": value for name, part in named for key, value in part.items()}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key == "craft_on":
            flat |= {f"{_BASE}{inner}": setting for inner, setting in value.items()}
        else:  # a source is shown by its name; the record has its other parameters
            is_source = key.rpartition(" ")[2] == "source" and isinstance(value, dict)
            flat[key] = value["name"] if is_source else value
    return {key: value for key, value in flat.items() if key.rpartition(" ")[2] not in _NEVER_SHOWN}


def _presets(config: dict[str, Any]) -> str:
    """The training preset, so that a small one is not mistaken for the paper's."""
    presets = dict.fromkeys(
        f"{part['preset']}, changed" if part.get("preset_changed") else part["preset"]
        for part in config.get("chain", [config])
        if "preset" in part
    )
    return "".join(f" [{preset}]" for preset in presets)
