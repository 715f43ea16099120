"""One line in the report of a check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The result of one check. As text it is a line with a mark: `ok`, `BAD` or `skip`.

    Attributes:
        ok: False for a fault; None if the check does not apply or could not be made.
        subject: What was checked.
        detail: What was found, or why the check could not be made.
    """

    ok: bool | None
    subject: str
    detail: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "BAD", None: "skip"}[self.ok]
        return f"{mark:<4} {self.subject}: {self.detail}"
