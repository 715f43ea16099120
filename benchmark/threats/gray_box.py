"""The attacker who knows how the defense is made, but has not its weights."""

from __future__ import annotations

from benchmark.plugin import param
from benchmark.tasks import Candidate
from benchmark.threats.black_box import BlackBox
from benchmark.threats.contract import LoopConfig, Setting, Threat, in_the_loop
from benchmark.threats.transfer import Transfer


class GrayBoxConfig(LoopConfig):
    """`copies`: how many defenses of the same recipe the attacker trains, each from a seed of its own."""

    copies: int = param(2, ge=1, le=100)


class GrayBox(Threat):
    """Attack copies of the defense in front of the target, and show the images to the real one."""

    name = "gray-box"
    meaning = "knows the target and how the defense is made, and attacks copies trained from other seeds"
    title = "gray-box error"
    nested = (BlackBox.name, Transfer.name)
    config_type = GrayBoxConfig
    probes = ("target", "pipeline")
    images_made_on_target = False

    @classmethod
    def candidates(cls, setting: Setting) -> tuple[Candidate, ...]:
        routes = [setting.candidate("clean", None), setting.candidate("target-only", setting.craft("target"))]
        copies = setting.config.copies if isinstance(setting.config, GrayBoxConfig) else 1
        for number in range(1, copies + 1):
            for route, craft in in_the_loop(setting, setting.purifier.copy(number)):
                routes.append(setting.candidate(f"copy-{number}-{route}", craft))
        return tuple(routes)
