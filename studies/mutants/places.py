"""The places where a silent fault would make a figure wrong or a defense look strong, with their tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A source file, what it does, and the tests that a fault in it must fail.

    Attributes:
        area: What the file does, for the table.
        path: The file, relative to the repository.
        tests: Arguments of pytest: the tests that run first, within a few seconds.
        slower: The same for tests that run if a mutant survives the first ones.
    """

    area: str
    path: str
    tests: Sequence[str]
    slower: Sequence[str] = ()


_JUDGING = ("tests/execution/test_judging.py",)
_SURFACES = ("tests/execution/test_surfaces.py",)
_RANKS = ("tests/results/test_leaderboard.py", "-k", "not written")
_STEPS = (
    "tests/attacks/test_steps.py",
    "tests/attacks/test_declarations.py",
    "tests/attacks/test_library_options.py",
)
_NEAREST = ("tests/attacks/test_nearest.py", *_STEPS[1:])
_DISTANCES = ("tests/attacks/test_minimal_norm.py", "-k", "not foolbox and not art")
_IN_BALLS = ("tests/attacks/test_attacks.py", "-k", "not foolbox and not art")
_LOSSES = ("tests/defenses/test_losses.py",)
_PURIFIERS = ("tests/defenses/test_purifiers.py",)

PLACES = (
    Place("judging", "benchmark/execution/judges.py", _JUDGING),
    Place("choosing", "benchmark/execution/score.py", _JUDGING, ("tests/execution/test_contract.py",)),
    Place("worst case", "benchmark/results/worst_case.py", ("tests/results/test_worst_case.py",), _RANKS),
    Place("worst case", "benchmark/results/cell_outcomes.py", ("tests/results/test_worst_case.py", *_RANKS)),
    Place("ranking", "benchmark/results/leaderboard.py", _RANKS),
    Place("ranking", "benchmark/publishing/board_files.py", ("tests/publishing/test_ranks.py",),
          ("tests/publishing/test_publishing.py",)),
    Place("flags", "benchmark/results/flags.py", ("tests/results/test_flags.py",)),
    Place("flags", "benchmark/results/cross_checks.py", ("tests/results/test_cross_checks.py",)),
    Place("comparisons", "benchmark/metrics/statistics.py", ("tests/metrics/test_stats.py",),
          ("tests/results/test_target_flags.py", "-k", "chance or exchanged or weak or merged or guess")),
    Place("comparisons", "benchmark/metrics/image_quality.py", ("tests/metrics/test_metrics.py",)),
    Place("comparisons", "benchmark/results/significance.py", ("tests/results/test_significance.py",)),
    Place("records", "benchmark/results/records.py", ("tests/results/test_records.py",)),
    Place("records", "benchmark/results/external_images.py", ("tests/results/test_external_entries.py",),
          ("tests/results/test_external_images.py",)),
    Place("surfaces", "benchmark/execution/surfaces.py", _SURFACES, ("tests/execution/test_attackers.py",)),
    Place("surfaces", "benchmark/execution/purifier.py", ("tests/execution/test_purifier.py",),
          ("tests/execution/test_contract.py",)),
    Place("surfaces", "benchmark/execution/score_scale.py",
          ("tests/execution/test_scores.py", "-k", "not_scaled or size or tiny")),
    Place("checks", "benchmark/execution/diagnostics.py",
          ("tests/execution/test_diagnostics.py", "tests/execution/test_random_search.py"),
          ("tests/execution/test_white_box.py", "-k", "doubted or slope or full_sanity")),
    Place("checks", "benchmark/execution/convergence.py",
          ("tests/execution/test_attackers.py", "-k", "converge or misclassified_along")),
    Place("checks", "benchmark/execution/craft.py", ("tests/execution/test_gradient_probe.py",),
          ("tests/execution/test_threats.py",)),
    Place("losses", "benchmark/api/losses.py", ("tests/attacks/test_goals.py", "tests/api/test_balls.py")),
    Place("losses", "benchmark/api/adversarial_training.py", _STEPS, ("tests/api/test_training.py",)),
    Place("attacks", "benchmark/api/balls.py", ("tests/api/test_balls.py", _STEPS[1]), _IN_BALLS),
    Place("attacks", "attacks/steps/goal.py", ("tests/attacks/test_goals.py",)),
    Place("attacks", "attacks/steps/iterative.py", _STEPS, _IN_BALLS),
    Place("attacks", "attacks/steps/auto_pgd.py", _STEPS, _IN_BALLS),
    Place("attacks", "attacks/steps/carlini_wagner.py", _NEAREST, _DISTANCES),
    Place("attacks", "attacks/fgsm.py", _STEPS),
    Place("attacks", "attacks/bim.py", _STEPS),
    Place("attacks", "attacks/pgd.py", _STEPS, _IN_BALLS),
    Place("attacks", "attacks/mim.py", _STEPS),
    Place("attacks", "attacks/apgd_ce.py", _STEPS, _IN_BALLS),
    Place("attacks", "attacks/apgd_dlr_targeted.py", _STEPS, _IN_BALLS),
    Place("attacks", "attacks/jsma.py", _STEPS, _DISTANCES),
    Place("attacks", "attacks/deepfool.py", _NEAREST, _DISTANCES),
    Place("attacks", "attacks/cw_l0.py", _NEAREST, _DISTANCES),
    Place("attacks", "attacks/cw_l2.py", _NEAREST, _DISTANCES),
    Place("attacks", "attacks/cw_linf.py", _NEAREST, _DISTANCES),
    Place("attacks", "attacks/on_manifold.py",
          ("tests/attacks/test_on_manifold.py", "tests/attacks/test_declarations.py")),
    Place("attacks", "attacks/uniform_noise.py", _STEPS),
    Place("losses", "defenses/ape_gan.py", ("tests/defenses/test_defenses.py", "-k", "ape_gan"), _PURIFIERS),
    Place("losses", "defenses/iso_gan.py", _LOSSES, _PURIFIERS),
    Place("losses", "defenses/magnet.py", _LOSSES, _PURIFIERS),
    Place("losses", "defenses/puvae.py", _LOSSES, _PURIFIERS),
    Place("losses", "defenses/defense_gan.py", _LOSSES, _PURIFIERS),
    Place("losses", "defenses/nets/training_steps.py", _LOSSES, _PURIFIERS),
)  # fmt: skip
