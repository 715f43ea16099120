"""`report.html`: a run as one page that opens offline in any browser and loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.report.images import Images


def write_report(run: Path, images: Images, out: Path) -> Path:
    """Write the report of the run in a folder to a file, and return the file.

    Raises:
        UserError: The folder holds no run, or the file cannot be written.
    """
    from benchmark.errors import UserError
    from benchmark.files.writing import make_output_folder, write_text
    from benchmark.report.html_page import render

    if out.is_dir():
        raise UserError(f"{out} is a folder", hint="name a file with --out, e.g. report.html")
    make_output_folder(out.parent)
    write_text(out, render(run, images))
    return out
