"""What the attacker knows. A threat alone decides the surfaces that an attack is run on."""

from __future__ import annotations

from benchmark.threats.black_box import BlackBox
from benchmark.threats.contract import Threat
from benchmark.threats.gray_box import GrayBox
from benchmark.threats.query import Query
from benchmark.threats.transfer import Transfer
from benchmark.threats.white_box import WhiteBox

THREATS: dict[str, type[Threat]] = {
    threat.name: threat for threat in (BlackBox, Transfer, Query, GrayBox, WhiteBox)
}
"""The threats by name. They belong to the harness: plugins cannot weaken them."""

ALIASES: dict[str, str] = {"unaware": BlackBox.name}

__all__ = ["ALIASES", "THREATS", "Threat"]
