"""How searches decided: the race of their candidates, what refinement gained, and what every stage took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from optsteps.methods.auto.race import Heat
from optsteps.methods.base import SearchResult
from optsteps.methods.candidates import Candidate
from optsteps.methods.refine.gauss_newton import LEVEL, Refined
from optsteps.metrics.statistics import Interval
from optsteps.reporting.markdown import NOTHING, markdown_lines
from optsteps.reporting.number_format import number_format
from optsteps.reporting.search_cost import cost_and_time
from optsteps.text.escaping import markdown

# of one search, as JSON data: "stages", the evaluations of every stage; "races" and "refinements" by step count
Decided = Mapping[str, Any]

# candidates that a table names for a step count, at most
_NAMED = 8
CAPTION = "How it was decided: the race of the candidates, and the refinement"
READING = (
    "Every line is a candidate, held against the winner of the race on the same samples; those far below are cut off. "
    "To the right are the iterates of the refinement on the first selection samples, the winner first. They go on from "
    "one of the best three, which need not be the winner. A ring marks the best of them, and is filled if it was taken."
)


def how_decided(searches: Mapping[str, SearchResult]) -> dict[str, Decided]:
    """What searches left on how they decided, by method; those that left nothing are left out.

    A search leaves under `SearchResult.evidence`:
        "stages": evaluations by name of the stage.
        "heats": by step count the rounds of a race of candidates.
        "refined": by step count the refinements, one after the other.
    """
    found = {name: _decided(result.evidence) for name, result in searches.items()}
    return {name: decided for name, decided in found.items() if decided}


def _decided(evidence: Mapping[str, Any]) -> Decided:
    parts = {
        "stages": dict(evidence.get("stages", {})),
        "races": {n: _race(heats) for n, heats in evidence.get("heats", {}).items() if heats},
        "refinements": {
            n: [_refinement(one) for one in some] for n, some in evidence.get("refined", {}).items() if some
        },
    }
    return {name: part for name, part in parts.items() if part}


def _race(heats: Sequence[Heat]) -> dict[str, Any]:
    """Rounds, and the candidates with their levels in all rounds that they ran in: the winner first, then those that
    left last; of one round the best first."""
    ran = [len(heat.ran) for heat in heats]
    candidates: list[Candidate] = []
    for heat in reversed(heats):
        candidates += [one for one in heat.ran if one not in candidates]
    return {
        "rounds": [
            {"samples": heat.samples, "ran": count, "went_on": after}
            for heat, count, after in zip(heats, ran, [*ran[1:], 1], strict=True)
        ],
        "candidates": [
            {
                "names": list(one.names),
                "hand_made": "family" in one.schedule.metadata,
                "levels": [heat.levels[heat.ran.index(one)] for heat in heats if one in heat.ran],
            }
            for one in candidates
        ],
    }


def _refinement(refined: Refined) -> dict[str, Any]:
    return {
        "moved": refined.moved,
        "gain": asdict(refined.gain),
        "samples": refined.samples,
        "taken": refined.taken,
        "best": refined.best,
        "held": list(refined.held),
    }


def decided_markdown(decided: Mapping[str, Decided], rate: float | None = None, picture: str | None = None) -> str:
    """The part of a report on how searches decided, with its heading.

    Args:
        decided: of at least one method.
        rate: network evaluations per second; None where it was not measured.
        picture: link of the picture; None for none.
    """
    parts = ["## How it was decided"]
    parts += [f"![{CAPTION}]({picture})", READING] if picture else []
    for method, one in decided.items():
        parts += [f"### {markdown(method)}", *_tables(one, rate)]
    return "\n\n".join(parts)


def _tables(decided: Decided, rate: float | None) -> list[str]:
    """The tables of one method, each below a line on how to read it."""
    parts = []
    if races := decided.get("races"):
        parts += ["The race: how many candidates went on after so many samples.", _rounds_table(races)]
        parts += [
            f"The best {_NAMED} of each race. dB: the mean of -10 log10 of the squared error to the teacher over the "
            "samples that the candidate has seen; to the winner: the difference to the winner on the same samples.",
            _candidates_table(races),
        ]
    if refinements := decided.get("refinements"):
        parts += [
            "Refinement: its gain over the winner of the race, or over what was refined before, on selection samples. "
            "Nothing was fitted on them. "
            f"It is taken if the {100 * LEVEL:g} % interval lies above 0.",
            _refinements_table(refinements),
        ]
    if stages := decided.get("stages"):
        parts += ["Network evaluations of the search by stage.", _stages_table(stages, rate)]
    return parts


def _rounds_table(races: Mapping[int, Any]) -> str:
    samples = sorted({one["samples"] for race in races.values() for one in race["rounds"]})
    lines = []
    for n, race in races.items():
        rounds = {one["samples"]: f"{one['went_on']} of {one['ran']}" for one in race["rounds"]}
        lines.append([str(n), *(rounds.get(count, NOTHING) for count in samples)])
    return markdown_lines(["steps", *(f"{count} samples" for count in samples)], lines, left=0)


def _candidates_table(races: Mapping[int, Any]) -> str:
    lines = []
    for n, race in races.items():
        winner = race["candidates"][0]
        for one in race["candidates"][:_NAMED]:
            level, last = one["levels"][-1], len(one["levels"]) - 1
            behind = level - winner["levels"][last]
            left = f"after {race['rounds'][last]['samples']} samples"
            cells = [str(n), markdown(", ".join(one["names"])), f"{level:.2f}"]
            lines.append([*cells, *((NOTHING, "won the race") if one is winner else (f"{behind:+.2f}", left))])
    return markdown_lines(["steps", "candidate", "dB", "to the winner", "left"], lines, left=2)


def _refinements_table(refinements: Mapping[int, Any]) -> str:
    lines, shown = [], number_format("psnr")
    for n, some in refinements.items():
        for one in some:
            gain = Interval(**one["gain"])
            said = (
                f"{shown.number(gain.value, '+')} {shown.interval(gain, '+')}" if one["best"] else "no step is better"
            )
            lines.append([str(n), one["moved"], said, str(one["samples"]), "taken" if one["taken"] else "not taken"])
    header = ["steps", "refined", f"gain in dB [{100 * LEVEL:g} %]", "selection samples", "verdict"]
    return markdown_lines(header, lines, left=2)


def _stages_table(stages: Mapping[str, int], rate: float | None) -> str:
    total = sum(stages.values())
    lines = []
    for name, count in [*stages.items(), ("all", total)]:
        cost = cost_and_time([count], [] if rate is None else [count / rate])
        lines.append([markdown(name), " ".join(cost).strip(), f"{100 * count / total:.0f} %" if total else NOTHING])
    return markdown_lines(["stage", "evaluations", "share"], lines)
