"""The tables that people read: error by attack and defense, one block for each data set and target."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from benchmark.flags import FLAGS, is_doubt
from benchmark.threats import THREATS

_MARKS = "†‡§¶‖※"

_UNTOLD = ("preset", "preset_changed", "name", "sha256")
"""Parameters that are shown elsewhere in a label, or say nothing to people."""

_MOST_ACROSS = 8
"""Tables of more defenses than this list them downwards."""


def markdown(records: pd.DataFrame, title: str) -> str:
    """All tables of a run as Markdown; errors in percent.

    Args:
        records: The records, as `records.csv` holds them.
        title: The heading.
    """
    tried = records[records["status"] != "skipped"].copy()
    marks = _flag_marks(tried)
    parts = [f"# {title}", _legend(tried, marks)]
    if not tried.empty:
        tried["column"] = _labels(tried, "defense", "defense_config")
        tried["line"] = _attack_labels(tried)
        tried["target"] = _labels(tried, "target", "target_config")
        tried["attacker"] = _labels(tried, "threat", "threat_config")
        for (dataset, target, n), block in tried.groupby(["dataset", "target", "n"], sort=False):
            parts.append(f"## {dataset}, {target} (n = {n}{_seeds(block)})")
            for threat in THREATS:
                attackers = block[block["threat"] == threat].groupby("attacker", sort=False)
                parts += [_errors(part, str(attacker), marks) for attacker, part in attackers]
            parts.append(_fidelity(block[block["status"] == "ok"]))
    parts += _troubles(records)
    return "\n\n".join(part for part in parts if part) + "\n"


def _legend(records: pd.DataFrame, marks: dict[str, str]) -> str:
    lines = ["Errors in percent; 95 % Wilson intervals are in `records.csv`."]
    lines += [
        f"- **{t.name}**: the attacker {t.meaning}."
        for n, t in THREATS.items()
        if (records["threat"] == n).any()
    ]
    lines += [f"- {mark} {name}: {FLAGS[name].raised_if}." for name, mark in marks.items()]
    if any(is_doubt(name) for name in marks):
        lines.append("- ≥: a doubt; the attack proves no more than this, and robustness is not claimed.")
    return "\n".join(lines)


def _flag_marks(records: pd.DataFrame) -> dict[str, str]:
    """The mark of every flag that was raised: one for the whole file, as its legend explains them once."""
    raised = {flag for flags in records["flags"].fillna("") for flag in flags.split()}
    marks = [mark * times for times in (1, 2, 3, 4) for mark in _MARKS]
    return dict(zip([name for name in FLAGS if name in raised], marks, strict=False))


def _errors(part: pd.DataFrame, attacker: str, marks: dict[str, str]) -> str:
    """One table of one kind of attacker: attacks down, defenses across."""
    cells = part.groupby(["line", "column"], sort=False).apply(lambda rows: _shown(rows, marks))
    clean = part.groupby("column", sort=False)["clean_error"].mean().map(_percent)
    baseline = part.groupby("line", sort=False)["error_baseline"].mean().map(_percent)
    table = cells.unstack("column")[list(dict.fromkeys(part["column"]))]
    table = table.loc[list(dict.fromkeys(part["line"]))]
    table.insert(0, "no defense", baseline)
    top = pd.DataFrame(
        [{"no defense": _percent(part["clean_error_target"].mean()), **clean}], index=["clean"]
    )
    title = THREATS[part["threat"].iloc[0]].title
    return f"### {attacker}: {title}\n\n" + _to_markdown(pd.concat([top, table]))


def _shown(rows: pd.DataFrame, marks: dict[str, str]) -> str:
    for status in ("failed", "budget"):
        if (rows["status"] == status).any():
            return status
    flags = [flag for flag in marks if rows["flags"].fillna("").str.split().map(lambda f: flag in f).any()]  # noqa: B023
    bound = "≥ " if any(is_doubt(flag) for flag in flags) else ""
    return f"{bound}{_percent(rows['error'].mean())}{''.join(marks[flag] for flag in flags)}"


def _fidelity(block: pd.DataFrame) -> str:
    """PSNR and SSIM before and after each defense, of the images that all defenses share."""
    on_target = [name for name, threat in THREATS.items() if threat.images_made_on_target]
    part = block[block["threat"].isin(on_target)]
    if part.empty:
        return ""
    index = ["line", "column"]
    after = part.groupby(index, sort=False)[["psnr", "ssim"]].mean()
    before = part.groupby("line", sort=False)[["psnr_adv", "ssim_adv"]].mean()
    shown = (after["psnr"].map("{:.1f}".format) + " / " + after["ssim"].map("{:.3f}".format)).unstack(
        "column"
    )
    shown = shown[list(dict.fromkeys(part["column"]))].loc[list(dict.fromkeys(part["line"]))]
    attacked = before["psnr_adv"].map("{:.1f}".format) + " / " + before["ssim_adv"].map("{:.3f}".format)
    shown.insert(0, "attacked", attacked)
    return "### PSNR (dB) / SSIM against the clean image, black-box\n\n" + _to_markdown(shown)


def _troubles(records: pd.DataFrame) -> Iterable[str]:
    headings = {
        "failed": "Failed cells: no error rate",
        "budget": "Cells that ran into the budget: no error rate",
        "skipped": "Skipped cells",
    }
    for status, heading in headings.items():
        rows = records[records["status"] == status]
        if not rows.empty:
            counted = rows.groupby(["attack", "defense", "threat", "reason"], sort=False).size()
            lines = [f"- {d}, {a}, {t} ({count}): {r}" for (a, d, t, r), count in counted.items()]
            yield f"## {heading}\n\n" + "\n".join(lines)


def _to_markdown(table: pd.DataFrame) -> str:
    """Attacks down and defenses across; the other way round where the table would be too wide."""
    wide = len(table.columns) > _MOST_ACROSS
    table = (table.T if wide else table).fillna("–")
    table.index.name = "defense" if wide else "attack"
    table.columns.name = None
    return str(table.to_markdown(disable_numparse=True, stralign="right"))


def _percent(rate: float) -> str:
    return "–" if math.isnan(rate) else f"{100 * rate:.1f}"


def _seeds(block: pd.DataFrame) -> str:
    """How many trainings and attack runs a figure is the mean of, where that is more than one."""
    columns = ("target_seed", "defense_seed", "attack_seed")
    many = {column: block[column].nunique() for column in columns if block[column].nunique() > 1}
    return "".join(f", mean of {count} {column.replace('_', ' ')}s" for column, count in many.items())


def _labels(records: pd.DataFrame, name: str, config: str) -> pd.Series[str]:
    """Names, told apart by the parameters in which they differ."""
    distinct = records.drop_duplicates([name, config]).groupby(name)[config].apply(list).to_dict()
    label = _labeller({str(key): [json.loads(text) for text in texts] for key, texts in distinct.items()})
    return records.apply(lambda row: label(row[name], json.loads(row[config])), axis=1)


def _labeller(configs: dict[str, list[dict[str, Any]]]) -> Callable[[str, dict[str, Any]], str]:
    def label(name: str, given: dict[str, Any]) -> str:
        others, config = [_flat(other) for other in configs[name]], _flat(given)
        names = dict.fromkeys(key for other in others for key in other)
        telling = [key for key in names if len({json.dumps(other.get(key)) for other in others}) > 1]
        inside = ", ".join(_told(key, config[key]) for key in telling if config.get(key) is not None)
        return (f"{name} ({inside})" if inside else name) + _presets(given)

    return label


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
            flat |= {f"{key} {inner}": setting for inner, setting in value.items()}
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
    via = records.apply(lambda row: f" via {row['backend']}" if many[row["attack"]] > 1 else "", axis=1)
    eps = records["eps"].map(lambda value: "" if pd.isna(value) else f" ε {value:g}")
    made_on = records["attack_config"].map(lambda text: json.loads(text).get("craft_on"))
    return labels + via + eps + made_on.map(lambda base: f", made on {base['name']}" if base else "")
