"""Detector for scenes: exact where shapes are drawn well, and with low scores where they are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from optsteps.datasets.geneval_prompts import Metadata
from optsteps.datasets.scene_prompts import COLORS
from optsteps.datasets.scenes import PIXELS, RGB, TONE_RGB
from optsteps.datasets.shapes import SHAPES
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.shape_fit import WINDOW, fit_shapes

_BATCH = 128
_SMALLEST = 6  # pixels; what is smaller is grain or the rim of something
# weight of pixels that may belong to another object, lie under it, or lie outside the picture: of two outlines that
# agree with all that is visible, the smaller wins
_UNKNOWN = 0.12
_COLORS = torch.tensor([RGB[color] for color in COLORS]).float()
_TONES = torch.tensor(list(TONE_RGB.values())).float()


class SceneDetector:
    """Finds coloured shapes in pictures of 32x32.

    Each pixel has the colour that is nearest to its own, and pixels of one colour that hang together are a blob. The
    shape of a blob is the one that fits it best, where pixels under other objects count as unknown.

    The score says how clearly an object is drawn: how alike it is to its shape and how much less to any other shape,
    how near its colour is to the colour that it is taken for, and how much of it is visible.
    """

    def __call__(self, images: Tensor, metadata: Sequence[Metadata]) -> list[list[Detection]]:
        """All objects in the images, whether a prompt asks for them or not, with colours and masks of visible pixels.

        Boxes include hidden parts.

        Args:
            images: [B, 3, 32, 32] in [-1, 1].
            metadata: what the prompt of each image asks for [B].

        Raises:
            ValueError: the images have another shape or are not finite, or the prompts are not as many as the images or
                ask for a shape or a colour that the detector does not know.
        """
        _check(images, metadata)
        pictures = images.detach().float().cpu().clamp(-1, 1) * 127.5 + 127.5
        return [objects for part in pictures.split(_BATCH) if len(part) for objects in _detect(part)]


def _detect(pictures: Tensor) -> list[list[Detection]]:
    """The objects in each of the pictures [B, 3, 32, 32], 0 to 255."""
    objects: list[list[Detection]] = [[] for _ in pictures]
    label = _nearest(pictures)
    owner, color, masks = _blobs(label)
    if len(owner) == 0:
        return objects
    ground = _background(pictures, label)[owner]
    alpha, paint = _alpha(pictures[owner], ground, masks)
    other = _grown((label[owner] >= 0) & ~masks)
    weight = torch.where(other, _UNKNOWN, 1.0)
    alpha = torch.where(other & ~masks, 0.0, alpha)
    middle = _middles(masks)
    fits = fit_shapes(_window(alpha, middle, 0.0), _window(weight, middle, _UNKNOWN))
    best = fits.likeness.topk(2)
    (likeness, rival), shape = best.values.unbind(1), best.indices[:, 0]
    rows = torch.arange(len(owner))
    seen = masks.flatten(1).sum(1) / fits.area[rows, shape]
    distance = (paint - _COLORS[color]).norm(dim=1)
    clear = _ramp(likeness, 0.70, 0.88) * _ramp(likeness - rival, 0.0, 0.03)
    score = clear * _ramp(seen, 0.35, 0.55) * (1 - _ramp(distance, 50, 100))
    boxes = (fits.box[rows, shape] + middle.repeat(1, 2)).clamp(0, PIXELS)
    for k, image in enumerate(owner.tolist()):
        left, top, right, bottom = boxes[k].tolist()
        name, tint = SHAPES[int(shape[k])], COLORS[int(color[k])]
        objects[image].append(Detection(name, float(score[k]), (left, top, right, bottom), tint, masks[k]))
    return objects


def _nearest(pictures: Tensor) -> Tensor:
    """The number of the nearest colour of each pixel, -1 where a tone of the background is nearer, [B, 32, 32]."""
    pixels = pictures.permute(0, 2, 3, 1)
    to_colors = torch.cdist(pixels.flatten(0, 2), _COLORS)
    nearest = to_colors.min(1)
    # backgrounds grow lighter and darker along their tone
    shade = (pixels.flatten(0, 2) @ _TONES.T / _TONES.square().sum(1)).clamp(0.8, 1.2)
    to_tones = (pixels.flatten(0, 2)[:, None] - shade[..., None] * _TONES).norm(dim=2).min(1).values
    return torch.where(nearest.values < to_tones, nearest.indices, -1).view(pixels.shape[:3])


def _blobs(label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of one colour that hang together: the picture [M], the number of the colour [M] and the mask
    [M, 32, 32] of each."""
    layers = (label[:, None] == torch.arange(len(COLORS))[:, None, None]).flatten(0, 1).numpy()
    together = np.zeros((3, 3, 3), int)
    together[1] = 1  # within a layer, corners too
    numbers, count = ndimage.label(layers, together)
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    kept = np.flatnonzero(areas[1:] >= _SMALLEST) + 1
    places = ndimage.find_objects(numbers)
    layer = np.array([places[number - 1][0].start for number in kept], int)
    masks = torch.from_numpy(numbers[layer] == kept[:, None, None])
    return torch.from_numpy(layer // len(COLORS)), torch.from_numpy(layer % len(COLORS)), masks


def _background(pictures: Tensor, label: Tensor) -> Tensor:
    """The background behind everything, [B, 3, 32, 32]: a plane through the pixels away from objects."""
    ramp = (torch.arange(PIXELS) + 0.5) / PIXELS - 0.5
    design = torch.stack((torch.ones(PIXELS, PIXELS), ramp.expand(PIXELS, -1), ramp[:, None].expand(-1, PIXELS)), -1)
    design = design.flatten(0, 1)
    free = (~_grown(label >= 0)).flatten(1).float()
    moments = torch.einsum("bp,pi,pj->bij", free, design, design) + 1e-2 * torch.eye(3)
    values = torch.einsum("bp,pi,bcp->bic", free, design, pictures.flatten(2))
    return torch.einsum("pi,bic->bcp", design, torch.linalg.solve(moments, values)).view_as(pictures)


def _alpha(pictures: Tensor, ground: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The part of each pixel that is a blob's paint, the rest being background [M, 32, 32], and that paint [M, 3]."""
    core = ~_grown(~masks)
    core = torch.where(core.flatten(1).any(1)[:, None, None], core, masks).float()
    paint = torch.einsum("mhw,mchw->mc", core, pictures) / core.flatten(1).sum(1, keepdim=True)
    way = paint[:, :, None, None] - ground
    alpha = ((pictures - ground) * way).sum(1) / way.square().sum(1).clamp(min=40.0**2)
    return alpha.clamp(0, 1), paint


def _middles(masks: Tensor) -> Tensor:
    """The pixel corners nearest the middles of the blobs' boxes, (x, y) [M, 2]."""
    ends = []
    for axis in (1, 2):  # over y, then over x
        line = masks.any(axis).int()
        first, last = line.argmax(1), PIXELS - line.flip(1).argmax(1)
        ends.append(torch.div(first + last, 2, rounding_mode="floor"))
    return torch.stack(ends, 1)


def _window(maps: Tensor, middle: Tensor, outside: float) -> Tensor:
    """The windows of maps [M, 32, 32] around the middles, [M, WINDOW, WINDOW]."""
    half = WINDOW // 2
    padded = F.pad(maps, (half,) * 4, value=outside)
    steps = torch.arange(WINDOW)
    rows, x, y = torch.arange(len(maps))[:, None, None], middle[:, 0, None, None], middle[:, 1, None, None]
    return padded[rows, y + steps[:, None], x + steps]


def _grown(masks: Tensor) -> Tensor:
    """Masks [M, 32, 32] with the neighbours of their pixels."""
    return F.max_pool2d(masks.float(), 3, stride=1, padding=1) > 0


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    return ((values - low) / (high - low)).clamp(0, 1)


def _check(images: Tensor, metadata: Sequence[Metadata]) -> None:
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, PIXELS, PIXELS):
        raise ValueError(f"images of scenes are [B, 3, {PIXELS}, {PIXELS}], not {list(images.shape)}")
    if len(metadata) != len(images):
        raise ValueError(f"{len(images)} images came with {len(metadata)} prompts; give one for each")
    bad = (~images.flatten(1).isfinite().all(1)).nonzero()
    if len(bad):
        raise ValueError(f"image {int(bad[0])} is not finite; look at the sampler that made it")
    for prompt in set(metadata):
        for entry in (*prompt.include, *prompt.exclude):
            if entry.name not in SHAPES:
                raise ValueError(f"{prompt.prompt!r} asks for a {entry.name!r}; known: {', '.join(SHAPES)}")
            if entry.color is not None and entry.color not in COLORS:
                raise ValueError(f"{prompt.prompt!r} asks for the colour {entry.color!r}; known: {', '.join(COLORS)}")
