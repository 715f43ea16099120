"""Threats: what the attacker knows. The threat alone decides the surfaces that an attack is run on."""

from __future__ import annotations

from benchmark.plan.threats.base import Threat
from benchmark.plan.threats.black_box import BlackBox
from benchmark.plan.threats.gray_box import GrayBox
from benchmark.plan.threats.query import Query
from benchmark.plan.threats.transfer import Transfer
from benchmark.plan.threats.white_box import WhiteBox

THREATS: dict[str, type[Threat]] = {
    threat.name: threat for threat in (BlackBox, Transfer, Query, GrayBox, WhiteBox)
}
"""The threats by name. They are part of the harness, so that no plugin can weaken them."""

ALIASES: dict[str, str] = {"unaware": BlackBox.name}

__all__ = ["ALIASES", "THREATS", "Threat"]
