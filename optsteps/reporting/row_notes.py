"""Notes on rows of a comparison that no search made, each for where such a row stands."""

from __future__ import annotations

from collections.abc import Iterable

_NOTES = {
    "own": "own: the schedule that the model comes with, such as that of its pipeline's scheduler.",
    "published": "published: the noise levels that the authors of AYS published for models of this kind, resampled to "
    "the number of steps.",
}


def row_notes(methods: Iterable[str]) -> list[str]:
    """A sentence on each of these methods whose name does not say what it is, in a fixed order."""
    # variants are named as in "published (model=sdxl)"
    names = {method.partition(" (")[0] for method in methods}
    return [note for name, note in _NOTES.items() if name in names]
