"""The forms of surfaces: how a surface is built from a target and a purifier.

A form is text, because it is part of the keys of results.
"""

from __future__ import annotations

TARGET = "target"
"""The bare target, without the defense."""
PIPELINE = "pipeline"
"""The pipeline with its exact gradient; a prefix of all forms whose forward pass is the pipeline itself."""
BPDA_IDENTITY = "pipeline-bpda-identity"
"""The pipeline; the backward pass replaces the purifier by the identity (BPDA)."""
BPDA_NETWORK = "pipeline-bpda-network"
"""The pipeline; the backward pass replaces the purifier by a trained network (BPDA)."""
QUERY = "pipeline-query"
"""The deployed pipeline without gradients: one draw per call."""
PURIFIED_SET = "purified-set"
"""Distances to purified training images of each class."""

_SURROGATE = "surrogate:"


def surrogate_form(name: str) -> str:
    """The form of the surface that uses the defense's surrogate of that name."""
    return _SURROGATE + name


def surrogate_name(form: str) -> str | None:
    """The name of the surrogate that a form uses; None if it uses no surrogate."""
    return form.removeprefix(_SURROGATE) if form.startswith(_SURROGATE) else None
