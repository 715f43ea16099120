"""`report.html`: a run as one page that opens offline, in any browser, and asks nothing of anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.report.images import Images


def write_report(run: Path, images: Images, out: Path) -> Path:
    """Write the report of a run.

    Args:
        run: The folder of the run.
        images: Where the images of its cells are.
        out: The file to write.

    Returns:
        The file.

    Raises:
        UserError: The folder holds no run, or the file cannot be written.
    """
    from benchmark.errors import UserError
    from benchmark.output import open_out, write_text
    from benchmark.report.page import render

    if out.is_dir():
        raise UserError(f"{out} is a folder", hint="name a file with --out, e.g. report.html")
    open_out(out.parent)
    write_text(out, render(run, images))
    return out
