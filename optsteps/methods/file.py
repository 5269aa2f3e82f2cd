"""A schedule of a file as a method: somebody's schedule, judged on one's own model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult, checked_steps
from optsteps.methods.handmade import HandMade
from optsteps.schedules import PUBLISHED, Schedule, resampled
from optsteps.schedules.reading import NOISY_END, read_schedule
from optsteps.schedules.schedule import FORMAT
from optsteps.storage.documents import read_text
from optsteps.storage.workers import Workers

_PUBLISHED = "published:"
# printed digits do not explain a greater excess over the model's range
_TOLERANCE = 1.02


class FileSchedules(Method):
    """The schedule of a file, resampled to other step counts.

    Args:
        path: a schedule file; a file in one of the forms of `read_schedule` (a list of sigmas or timesteps, a workflow
            of ComfyUI, a table), read as it is listed for the problem's process; or "published:NAME" for a list of
            `optsteps.schedules.PUBLISHED`, which ends as the family `published` does.
        resample: whether step counts other than the file's are resampled by `optsteps.schedules.resampled`. Otherwise
            they are refused.

    `SearchResult.evidence`: "decisions", sentences on schedules that are resampled, and on those whose samples stay
    noisy.

    Raises:
        ValueError: a damaged schedule file; in `check` and `search`, a file that cannot be read as a schedule, another
            process than the problem's, noise levels outside the teacher's range (see `check`), an amplitude for other
            channels, weights or told times that the solver cannot obey, a step count that is not the file's, or as
            `resampled`.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str, resample: bool = True) -> None:
        self.resample = resample
        self.published = path.removeprefix(_PUBLISHED) if path.startswith(_PUBLISHED) else None
        self.name = path if self.published else Path(path).name
        # all of it: a run's key knows the file by its content
        self.text = "" if self.published else read_text(Path(path).expanduser())
        self.schedule = Schedule.load(Path(path).expanduser()) if f'"{FORMAT}"' in self.text else None

    def chooses_orders(self, problem: SearchProblem) -> bool:
        return self._listed(problem).orders is not None

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        """Refuse what does not fit the problem, before anything is evaluated.

        The noise levels may exceed the teacher's first by 2 %, and where the teacher ends above noise level 0, lie
        below its last by 2 % (0 itself is allowed): the model was not made for others.
        """
        listed = self._listed(problem)
        if listed.process != problem.process:
            raise ValueError(
                f"{self.name} holds a schedule for {listed.process!r}, and the model has {problem.process!r}: take one "
                "that was made for a model of this process"
            )
        if listed.amplitude is not None and listed.amplitude.shape[1] != problem.noise.shape[1]:
            raise ValueError(
                f"{self.name} holds an amplitude for {listed.amplitude.shape[1]} channels, and the model has "
                f"{problem.noise.shape[1]}"
            )
        self._check_range(problem, listed)
        try:
            problem.solver.check(listed)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        for n in checked_steps(steps):
            self._of(problem, n)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        return Evaluations(0)

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        schedules, own = {n: self._of(problem, n) for n in steps}, self._listed(problem).steps
        sentences = [f"{n} steps: resampled from the {own} of {self.name}" for n in steps if n != own]
        for n, schedule in schedules.items():
            level = float(schedule.noise_levels[-1])
            if level > max(NOISY_END, float(problem.teacher.noise_levels[-1]) * _TOLERANCE):
                sentences.append(f"{n} steps: it ends at noise level {level:.3g}, so its samples stay noisy")
        return SearchResult(schedules, evidence={"decisions": sentences} if sentences else {})

    def _listed(self, problem: SearchProblem) -> Schedule:
        """The schedule with as many steps as the file has."""
        if self.published is not None:
            own_steps = PUBLISHED[self.published].steps if self.published in PUBLISHED else 1
            return HandMade("published", model=self.published).schedules(problem, own_steps)[0]
        if self.schedule is not None:
            return self.schedule
        try:
            return read_schedule(self.text, problem.process)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def _of(self, problem: SearchProblem, steps: int) -> Schedule:
        """The schedule of so many steps."""
        listed = self._listed(problem)
        if steps != listed.steps and not self.resample:
            raise ValueError(
                f"{self.name} holds a schedule of {listed.steps} steps, not of {steps}: run with "
                f"steps=[{listed.steps}], or resample it (method.resample=true)"
            )
        if self.published is not None:  # its levels are resampled before the last of them is replaced, as its users do
            return HandMade("published", model=self.published).schedules(problem, steps)[0]
        schedule = resampled(listed, steps)
        return replace(schedule, metadata={**schedule.metadata, "range": "its file's"})

    def _check_range(self, problem: SearchProblem, listed: Schedule) -> None:
        highest, levels = problem.teacher.noise_levels[0], listed.noise_levels
        if levels[0] > highest * _TOLERANCE:
            raise ValueError(
                f"{self.name} begins at noise level {levels[0].item():g}, above the model's range, which begins at "
                f"{highest.item():g}: take a schedule for this range, or raise the model's noise_max"
            )
        lowest, last = problem.teacher.noise_levels[-1], levels[levels > 0][-1]
        if last * _TOLERANCE < lowest:
            raise ValueError(
                f"{self.name} goes down to noise level {last.item():g}, below the model's range, which ends at "
                f"{lowest.item():g}: take a schedule for this range, or lower the model's noise_min"
            )
