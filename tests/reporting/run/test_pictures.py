import io
import math

import numpy as np
import pytest
import torch
from made_up import image_rows, made_up, noise, point_rows
from PIL import Image

from optsteps.comparison import Row
from optsteps.processes import EDM, VP, Flow
from optsteps.reporting.model_card import loss_curve_png
from optsteps.reporting.plot_style import COLOURS, LevelScale, looks
from optsteps.reporting.run import pictures
from optsteps.reporting.run.pictures import density_png, path_error_png, samples_figure, samples_png, schedules_png


def _pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert min(image.shape[:2]) > 100
    assert (image[[0, -1]] == 255).all(), "something is cut off at the top or the bottom"
    assert (image[:, 0] == 255).all(), "something is cut off at the left"
    return image


def _has(image: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((image == wanted).all(-1).sum()) > 20


@pytest.mark.parametrize("draw", [schedules_png, path_error_png])
@pytest.mark.parametrize(
    ("process", "t_max", "final"),
    [
        (EDM(), 80.0, "zero"),
        (Flow(), 1.0, "zero"),
        (VP.from_betas(torch.linspace(1e-4, 0.02, 1000)), 999.0, "zero"),
    ],
)
@pytest.mark.mostly_slow(3)
def test_curves_of_every_method_in_its_colour(draw, process, t_max, final) -> None:
    rows = made_up(torch.zeros(8, 2), process, t_max, final)
    image = _pixels(draw(rows))
    assert all(_has(image, colour) for colour in COLOURS[:4])
    assert not _has(image, COLOURS[4])


def test_the_same_rows_give_the_same_bytes() -> None:
    assert schedules_png(image_rows(8)) == schedules_png(image_rows(8))


def test_the_main_method_is_the_most_salient() -> None:
    found = looks(["teacher", "oss", "edm", "oss", "logsnr"])
    assert list(found) == ["oss", "edm", "logsnr"]
    assert found["oss"].colour == COLOURS[0]
    assert found["oss"].width > found["edm"].width == found["logsnr"].width
    many = looks([f"method {i}" for i in range(20)])
    assert len({(look.colour, look.marker, look.dashes) for look in many.values()}) == 20


def test_zero_and_infinity_have_a_place_on_a_log_axis() -> None:
    levels = torch.tensor([math.inf, 9.0, 0.3, 0.0], dtype=torch.float64)
    axis = LevelScale(levels)
    assert axis.place(levels).tolist() == pytest.approx([27.0, 9.0, 0.3, 0.1])
    assert axis.hollow(levels).tolist() == [True, False, False, True]
    ends = LevelScale(torch.tensor([math.inf, 0.0]))  # one step of a flow, from t = 1 to 0
    assert ends.ceiling > ends.floor > 0


def test_an_image_grid_shows_every_row_and_column() -> None:
    samples = {"a": torch.full((3, 3, 8, 8), -1.0), "a long label for this row": torch.full((5, 3, 8, 8), 2.0)}
    samples["a"][:, 0] = 1.0  # pure red; the other is clipped to white
    image = _pixels(samples_png(samples, "title"))
    red = (image == [255, 0, 0]).all(-1)
    edges = np.diff(red[red.any(1)][5].astype(int))
    assert (edges == 1).sum() == 3


def test_samples_are_drawn_by_their_shape() -> None:
    for rows in (image_rows(32), image_rows(32, channels=3), point_rows()):
        teacher, *others = [row for row in rows if row.steps in (5, 100)]
        image = _pixels(samples_figure(others, teacher, 10))
        assert len(np.unique(image.sum(-1))) > 50
    assert _has(image, "#c4c4c4")
    series = Row("teacher", 100, 100, None, noise(4, 7), {})
    assert samples_figure([series], series, 10) is None


@pytest.mark.parametrize("rows", [image_rows(32), point_rows(), point_rows(4000)], ids=["images", "points", "density"])
def test_the_main_method_stands_right_after_the_teacher(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[list[str]] = []
    for drawing in ("samples_png", "scatter_png", "density_png"):
        monkeypatch.setattr(pictures, drawing, lambda samples, title: labels.append(list(samples)) or b"")
    teacher, *others = [row for row in rows if row.steps in (5, 100)]
    samples_figure([others[0], others[-1], *others[1:-1]], teacher)
    names = ["oss", "edm", "logsnr", "time_uniform", "oss_per_sample (oracle)"]
    assert labels == [["teacher (100 NFE)", *names]]


def test_many_points_are_drawn_as_a_density() -> None:
    """Two rows of one set of points differ where one of them has collapsed."""
    points = noise(5000, 2)
    image = _pixels(density_png({"teacher": points, "collapsed": 0.1 * points}, "title"))
    dark = (image.sum(-1) < 60).sum(0)  # nearly black, by column of the picture
    half = image.shape[1] // 2
    assert dark[half:].sum() > 1.2 * dark[:half].sum() > 0
    rows = [Row(name, n, n, None, points, {}) for name, n in (("teacher", 100), ("oss", 5))]
    assert samples_figure(rows[1:], rows[0]) == density_png(
        {"teacher (100 NFE)": points, "oss": points}, "5 NFE, the same noise"
    )


def test_loss_curves() -> None:
    history = [{"step": s, "train/loss": 1 / s} for s in range(100, 1000, 100)]
    history += [{"step": 469, "val/loss": 0.01, "val/accuracy": 0.9}, {"step": 900, "val/loss": math.nan}]
    image = _pixels(loss_curve_png(history))
    assert _has(image, COLOURS[0])
    assert _has(image, COLOURS[1])
    assert not _has(_pixels(loss_curve_png(history[:3])), COLOURS[0])
    averages = [{"step": s, "val/loss/0.9": 1 / s, "val/loss/0.99": 2 / s} for s in (1, 2)]
    assert all(_has(_pixels(loss_curve_png(averages)), COLOURS[i]) for i in (0, 2))
    _pixels(loss_curve_png([]))
