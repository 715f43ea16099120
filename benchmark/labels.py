"""What rows and columns of tables are called: names, told apart by the parameters in which they differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

_BASE = "craft_on "

_UNTOLD = ("preset", "preset_changed", "name", "sha256")
"""Parameters that are shown elsewhere in a label, or say nothing to people."""


def labelled(records: pd.DataFrame) -> pd.DataFrame:
    """The records with what their cells are called: `dataset` and `target` as they are told apart, and

    `column` (the defense), `attack_label` (the attack without its eps), `line` (with it) and `attacker` (the
    threat with its settings).
    """
    shown: pd.DataFrame = records.copy()
    shown["column"] = _labels(records, "defense", "defense_config")
    shown["attack_label"] = _attack_labels(records)
    eps = records["eps"].map(lambda value: "" if pd.isna(value) else f" ε {value:g}")
    shown["line"] = shown["attack_label"] + eps + _made_on(records)
    shown["attack_label"] += _made_on(records)
    shown["target"] = _labels(records, "target", "target_config")
    shown["attacker"] = _labels(records, "threat", "threat_config")
    return shown


def names(records: pd.DataFrame, name: str, config: str) -> dict[tuple[str, str], str]:
    """The label of each plugin and configuration (as JSON) in two columns of the records."""
    pairs = list(dict.fromkeys(zip(records[name], records[config], strict=True)))
    parsed = {pair: json.loads(pair[1]) for pair in pairs}
    flat = {pair: _flat(given) for pair, given in parsed.items()}
    telling = {plugin: _telling([flat[pair] for pair in pairs if pair[0] == plugin]) for plugin, _ in flat}
    return {pair: _label(pair[0], flat[pair], telling[pair[0]]) + _presets(parsed[pair]) for pair in pairs}


def _labels(records: pd.DataFrame, name: str, config: str) -> pd.Series[str]:
    known = names(records, name, config)
    pairs = zip(records[name], records[config], strict=True)
    return pd.Series([known[pair] for pair in pairs], index=records.index, dtype=object)


def _telling(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The parameters in which configurations of one plugin differ; of a base, among those that have one."""
    configs = list(configs)
    keys = dict.fromkeys(key for config in configs for key in config)

    def settings(key: str) -> set[str]:
        with_it = [config for config in configs if key in config or not key.startswith(_BASE)]
        return {json.dumps(config.get(key)) for config in with_it}

    return [key for key in keys if len(settings(key)) > 1]


def _label(name: str, config: Mapping[str, Any], telling: Iterable[str]) -> str:
    inside = ", ".join(_told(key, config[key]) for key in telling if config.get(key) is not None)
    return f"{name} ({inside})" if inside else name


def _told(key: str, value: Any) -> str:
    """A parameter in words: of one that is a mapping, what is text goes without its name."""
    if not isinstance(value, Mapping):
        return f"{key} {value}"
    members = (member if isinstance(member, str) else f"{name} {member}" for name, member in value.items())
    return f"{key} {' '.join(members)}"


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The parameters that tell rows apart: of a chain those of each part, of a target its own; no presets."""
    parts = config.get("chain")
    if parts is not None:
        config = {
            f"{i + 1} {part['name']} {key}": value
            for i, part in enumerate(parts)
            for key, value in part.items()
        }
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key == "craft_on":
            flat |= {f"{_BASE}{inner}": setting for inner, setting in value.items()}
        else:  # a source that was named is told by its name; the record has the rest
            named = key.rpartition(" ")[2] == "source" and isinstance(value, dict)
            flat[key] = value["name"] if named else value
    return {key: value for key, value in flat.items() if key.rpartition(" ")[2] not in _UNTOLD}


def _presets(config: dict[str, Any]) -> str:
    """The preset that it was trained by: a small one must not pass for the paper's."""
    presets = dict.fromkeys(
        f"{part['preset']}, changed" if part.get("preset_changed") else part["preset"]
        for part in config.get("chain", [config])
        if "preset" in part
    )
    return "".join(f" [{preset}]" for preset in presets)


def _attack_labels(records: pd.DataFrame) -> pd.Series[str]:
    labels = _labels(records, "attack", "attack_config")
    many = records.groupby("attack")["backend"].nunique()
    via = [
        f" via {backend}" if many[attack] > 1 else ""
        for attack, backend in zip(records["attack"], records["backend"], strict=True)
    ]
    return labels + pd.Series(via, index=records.index, dtype=object)


def _made_on(records: pd.DataFrame) -> pd.Series[str]:
    """The target that images were made on, where that is not the one they are shown to."""
    bases = records["attack_config"].map(lambda text: json.loads(text).get("craft_on"))
    return bases.map(lambda base: f", made on {base['name']}" if base else "")
