"""The blocks of the notebook page print the output on the page."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from studies import REPOSITORY

PAGE = (REPOSITORY / "docs" / "notebook.md").read_text(encoding="utf-8")


def test_each_block_prints_the_text_below_it(
    tmp_path: Path, session_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_STORE", session_store)
    pairs = re.findall(r"```python\n(.*?)```\s+```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(pairs) == PAGE.count("```python") == 4
    names: dict[str, Any] = {}
    for code, expected in pairs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/notebook.md", "exec"), names)
        assert printed.getvalue() == expected


def test_the_report_page_names_every_table() -> None:
    from benchmark.report.table_data import KINDS

    page = (REPOSITORY / "docs" / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(KINDS)
