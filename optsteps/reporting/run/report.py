"""Report of a run as one page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optsteps.comparison import TEACHER, Row, VerdictRow
from optsteps.metrics.second import SECOND
from optsteps.reporting.run.decided import CAPTION, Decided, decided_markdown
from optsteps.reporting.run.recommendation import recommendations
from optsteps.reporting.run.tables import (
    NO_VERDICT,
    figure_names,
    markdown_table,
    range_table,
    steps_table,
    verdict_sentences,
    verdict_table,
)
from optsteps.text.escaping import markdown

# the fact that PSNR refers to, which the notes repeat
DATA_RANGE = "PSNR data range"


def report_markdown(
    title: str,
    rows: Sequence[Row],
    verdicts: Sequence[VerdictRow],
    facts: Mapping[str, str],
    images: Mapping[str, str],
    decisions: Mapping[str, Sequence[str]] | None = None,
    rate: float | None = None,
    decided: Mapping[str, Decided] | None = None,
) -> str:
    """The text of report.md: what to use, the tables behind them, how to read these, pictures, and facts about the run.

    Args:
        title: heading.
        rows, verdicts: of the comparison.
        facts: about the run (model, solver, process, teacher, seed, versions, command), by name. `PSNR data range` also
            stands in the notes.
        images: link of each picture relative to the report, by caption.
        decisions: sentences on what a search decided on its way, by method.
        rate: network evaluations per second; None where it was not measured.
        decided: numbers on how searches decided, by method (`how_decided`).
    """
    said = [f"**{markdown(sentence)}**" for sentence in recommendations(rows, verdicts)]
    parts = [f"# {markdown(title)}", *(said or [NO_VERDICT]), "## Figures", markdown_table(rows, rate)]
    if verdicts:
        parts += ["## Verdicts", *map(markdown, verdict_sentences(verdicts)), verdict_table(verdicts)]
    if decided:
        parts.append(decided_markdown(decided, rate, images.get(CAPTION)))
    if any(row.schedule is not None for row in rows):
        parts += ["## Ranges", range_table(rows)]
    if any(row.schedule is not None and row.schedule.carried for row in rows):
        parts += ["## Weights and told times", steps_table(rows)]
    if decisions:
        parts.append("## What the searches decided")
        for name, sentences in decisions.items():
            parts += [f"{markdown(name)}:", _bullets(map(markdown, sentences))]
    parts += ["## How to read this", _bullets(_notes(rows, facts))]
    if others := {caption: link for caption, link in images.items() if caption != CAPTION}:
        parts += ["## Pictures", *(f"![{markdown(caption)}]({link})" for caption, link in others.items())]
    if facts:
        parts += [
            "## The run",
            _bullets(f"**{markdown(name)}**: {markdown(str(value))}" for name, value in facts.items()),
        ]
    return "\n\n".join(parts) + "\n"


def _notes(rows: Sequence[Row], facts: Mapping[str, str]) -> list[str]:
    names = {name.removeprefix(SECOND) for name in figure_names(rows)}
    judged = next((len(row.samples) for row in rows if not row.oracle), 0)
    notes = [
        f"Every row starts from the same noise: {judged} samples that no search saw, an oracle from the first n.",
        "Intervals are 95 % bootstrap intervals over the samples, for figures that every single sample has.",
        "A verdict rests on the differences on the same noise, sample by sample or set by set, at equal NFE, so it can "
        'be sharper than two intervals side by side. "No better": the interval of the difference covers 0, a draw, not '
        "a proof of equality.",
    ]
    if names & {"fid", "kid", "sliced_wasserstein", "precision", "recall"}:
        notes.append(
            "FID, KID, precision, recall and sliced Wasserstein distance belong to a set of samples and are biased "
            "under resampling: KID's interval comes from the spread over disjoint sets, the others' from a jackknife."
        )
    if names & {"geneval", "pixel_geneval"}:
        notes.append(
            "GenEval: the part of the images that show what their prompts ask for, by task, and the mean of the tasks; "
            "retention: the student's mean as a part of the teacher's. Intervals and verdicts come from a bootstrap "
            "over prompts within each task, paired prompt by prompt."
        )
    if "fid" in names:
        notes.append("FID falls with the number of samples: compare it only with FIDs of as many.")
    if "psnr" in names:
        data_range = f", data range {markdown(facts[DATA_RANGE])}" if DATA_RANGE in facts else ""
        notes.append(f"PSNR is to the teacher's sample from the same noise{data_range}, averaged over the samples.")
    if "mse" in names:
        notes.append("MSE is to the teacher's sample from the same noise, per dimension.")
    if "nll" in names:
        notes.append("NLL has no direction: samples that crowd the modes score below the true entropy.")
    if any(row.method.endswith("_without_orders") for row in rows):
        notes.append(
            "A schedule whose steps have orders of their own has a further row, _without_orders: its times under the "
            "orders that the solver gives to every rival."
        )
    if any(row.schedule is not None and row.schedule.weights is not None for row in rows):
        notes.append(
            "Weights of a schedule take the place of the solver's own. Weight k multiplies the difference of the "
            "output of k steps before and the newest output."
        )
    if any(row.schedule is not None and row.schedule.told_times is not None for row in rows):
        notes.append(
            "A told time is what the network is called with at a step, whose coefficients are its own time's. Where it "
            "is a slope, the step takes the slope of the answer there, otherwise its estimate of x_0."
        )
    if any(row.teacher is not None for row in rows):
        notes.append(
            "A schedule that its users start below the teacher's first time is compared with a teacher from the same "
            "start: its figures say how well its steps are spent, not what the start costs."
        )
    if any(row.method == TEACHER for row in rows):
        notes.append("The teacher has no figure that compares with the teacher, and takes no part in verdicts.")
    return notes


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
