"""`make lock`: writes `versions.lock`, unless a version must be raised first.

If code changed and its version did not, it must give the same results. The golden outcomes are computed from
the commit of the lock and from the working tree, on this machine, and compared bit for bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from studies import REPOSITORY
from tests.lock_contents import (
    LOCK,
    Finding,
    Lock,
    compare,
    contents,
    figures,
    raised,
    short,
    write,
)

_SHOWN = 4
_LINES = 20

Outcomes = Mapping[str, Mapping[str, Any]]


def main() -> None:
    """Write the lock.

    Raises:
        SystemExit: A version must be raised, or outcomes cannot be computed; the lock is unchanged.
    """
    now = contents()
    commit = _git("log", "-1", "--format=%H", "--", LOCK.name).decode().strip()
    if commit:
        lock: Lock = json.loads(_git("show", f"{commit}:{LOCK.name}"))
        findings = compare(lock, now)
        _refuse([finding.message for finding in findings if finding.need == "version"])
        changed = {finding.title for finding in findings if finding.need == "proof"} - now["exempt"].keys()
        if changed:
            prove(lock, now, changed, commit)
        for finding in findings:
            print(_done(finding, now))
    write(now | {"figures": figures()})
    print(f"written: {LOCK.name}")


def _done(finding: Finding, now: Lock) -> str:
    """The message of a finding after the lock was written."""
    if finding.need == "lock":
        return finding.message.partition(": run `make lock`")[0]
    reason = now["exempt"].get(finding.title)
    return f"{short(finding.title)}: " + (f"not compared ({reason})" if reason else "the same outcomes")


def prove(lock: Lock, now: Lock, changed: Collection[str], commit: str) -> None:
    """Compute the golden outcomes of the commit and of the working tree, and compare them.

    Raises:
        SystemExit: They differ, or those of the commit cannot be computed.
    """
    print(f"computing the golden outcomes of {commit[:10]} and of the working tree (minutes)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=_git("archive", commit), check=True)
        before, after = computed(Path(folder), changed), computed(REPOSITORY, changed)
    renewed = bool(raised(lock, now)) or now["schema"] > lock["schema"]
    _refuse(differences(before, after, changed, renewed=renewed))


def computed(tree: Path, wanted: Collection[str]) -> Outcomes:
    """The golden outcomes of a tree, computed by its own program; it may compute more than wanted.

    Raises:
        SystemExit: The program fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.json"
        done = subprocess.run(
            [sys.executable, "-m", "tests.lock_outcomes", str(file), *sorted(wanted)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{done.stderr}\nthe golden outcomes of {tree} cannot be computed")
        outcomes: Outcomes = json.loads(file.read_text(encoding="utf-8"))
    return outcomes


def differences(before: Outcomes, after: Outcomes, changed: Collection[str], *, renewed: bool) -> list[str]:
    """Why the changed code is not proved to give the same results.

    Outcomes are compared if their keys are equal: another key means a raised version. A difference that
    follows from another difference is not listed.

    Args:
        before: The outcomes of the lock's commit.
        after: The outcomes of the working tree.
        changed: The plugins, kinds of tasks and threats whose code changed.
        renewed: Whether a version was raised, so that some outcomes cannot be compared.
    """
    common = before.keys() & after.keys()
    others = {key for key in common if before[key]["parts"] != after[key]["parts"]}
    reasons = []
    for key in after:
        outcome = after[key]
        if key in others and not others & set(outcome["needs"]):
            parts = _unequal(before[key]["parts"], outcome["parts"])
            runs = ", ".join(short(name) for name in outcome["of"] if name in changed)
            reasons.append(
                f"{outcome['name']} on {outcome['dataset']} differs in {', '.join(parts)}: raise a version"
                + (f" (it runs what changed: {runs})" if runs else "")
            )
    reasons = list(dict.fromkeys(reasons))
    compared = {name for key in common for name in after[key]["of"]}
    alone = [short(name) for name in sorted(set(changed) - compared)]
    if alone and renewed:
        print(f"not compared, because a version that it depends on was raised: {', '.join(alone)}")
    elif alone:
        reasons.append(f"there is no outcome to compare of {', '.join(alone)}: raise the version")
    return reasons


def _unequal(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    return names[:_SHOWN] + ["…"] * (len(names) > _SHOWN)


def _refuse(reasons: list[str]) -> None:
    if reasons:
        more = [f"… and {len(reasons) - _LINES} more"] if len(reasons) > _LINES else []
        raise SystemExit("\n".join([*reasons[:_LINES], *more, f"{LOCK.name} is unchanged"]))


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, check=True).stdout


if __name__ == "__main__":
    main()
