"""Model cards: what a trained network was made from, how, and how well it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optsteps.text.escaping import markdown


def model_card(facts: Mapping[str, str], history: Sequence[Mapping[str, float]], curve: str) -> str:
    """Markdown.

    Args:
        facts: what to list, by name.
        history: rows of `LossHistory`; the last value of every figure is listed.
        curve: file name of the loss curve.
    """
    latest = {name: row[name] for row in history for name in row if name != "step"}
    lines = [f"# {markdown(facts['name'])}", ""]
    lines += [f"- {name}: {markdown(str(value))}" for name, value in facts.items() if name != "name"]
    lines += [f"- last {name}: {value:.4g}" for name, value in latest.items()]
    return "\n".join([*lines, "", f"![loss curve]({curve})", ""])
