"""Judges: what is measured on the samples of a row, each under the names that tables show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from optsteps.conditions import Cond
from optsteps.deprecation import old_names
from optsteps.metrics.accuracy import class_correct
from optsteps.metrics.extractors import build_extractor, extract_features, register_extractor, to_uint8
from optsteps.metrics.features import (
    HIGHER_IS_BETTER,
    FidelitySettings,
    fidelity_per_set,
    fidelity_values,
    size_of_sets,
)
from optsteps.metrics.statistics import Interval, bootstrap, paired_difference, spread
from optsteps.metrics.teacher import mse, psnr
from optsteps.metrics.toy import Distribution, negative_log_likelihood, sliced_wasserstein
from optsteps.models.checkpoint import load_network, resolve_weights
from optsteps.models.classifier import Classifier
from optsteps.storage.unpickling import tensors_alone


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Attributes:
        interval: value with its 95 % interval.
        higher_is_better: direction; None where neither is.
        values: one number per sample [B] where there is one.
        sets: where there is none, the figure of disjoint sets of samples [S], split alike in every row.
    """

    interval: Interval
    higher_is_better: bool | None
    values: Tensor | None = None
    sets: Tensor | None = None

    def difference(self, rival: Measurement) -> Interval | None:
        """This figure minus a rival's of the same noise, with the 95 % interval that their pairing gives; None where
        one of them is a single number."""
        if self.values is not None and rival.values is not None:
            return paired_difference(self.values, rival.values)
        if self.sets is not None and rival.sets is not None:
            return spread(self.sets - rival.sets, center=self.interval.value - rival.interval.value)
        return None


def sample_wise(values: Tensor, higher_is_better: bool | None) -> Measurement:
    """The mean of per-sample values [B] with its bootstrap interval."""
    return Measurement(bootstrap(values), higher_is_better, values.cpu())


def set_wise(value: float, sets: Tensor, higher_is_better: bool | None) -> Measurement:
    """A figure of all samples with the interval that those of disjoint sets [S] give."""
    return Measurement(spread(sets, center=value), higher_is_better, sets=sets)


class Judge(ABC):
    """Measures final samples.

    Attributes:
        needs_many: says something only of a distribution, so that a handful of samples is not shown to it.
    """

    needs_many: bool = False

    @property
    def figures(self) -> dict[str, bool | None] | None:
        """The figures that it may give, by name, and whether higher is better (None: neither is), for those who ask
        before anything is sampled; None where only `judge` tells."""
        return None

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        """Refuse, before anything is sampled, what `judge` would refuse for its number or shape.

        Args:
            samples: how many will be judged together.
            shape: of one of them; None where it is not known yet, as that of decoded images.

        Raises:
            ValueError: too few or too many samples, or of a shape that cannot be judged.
        """
        if samples < 2:
            raise ValueError(f"an interval needs at least 2 samples, and there are to be {samples}")

    @abstractmethod
    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        """Figures by name, for samples x [B, ...], the teacher's samples from the same noise, and their condition."""


class TeacherJudge(Judge):
    """PSNR (dB) and MSE to the teacher's samples from the same noise.

    Args:
        data_range: largest minus smallest possible value of the data, e.g. 2 for images in [-1, 1]. None leaves PSNR
            out, for data without a range.
    """

    def __init__(self, data_range: float | None) -> None:
        self.data_range = data_range

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"mse": False} if self.data_range is None else {"mse": False, "psnr": True}

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        errors = mse(x, teacher)
        figures = {"mse": sample_wise(errors, False)}
        # PSNR is infinite where the two agree exactly, and has no mean then
        if self.data_range is not None and bool((errors > 0).all()):
            figures["psnr"] = sample_wise(psnr(x, teacher, self.data_range), True)
        return figures


class PerceptualJudge(Judge):
    """LPIPS (Zhang et al., arXiv:1801.03924) to the teacher's images from the same noise.

    Args:
        network: whose features are compared, "alex", "vgg" or "squeeze"; torchvision downloads its weights at first
            use.
        max_batch: images compared at once.

    Raises:
        ValueError: in `judge`, samples that are no images of 1 or 3 channels.
    """

    def __init__(self, network: Literal["alex", "vgg", "squeeze"] = "alex", max_batch: int = 32) -> None:
        with tensors_alone():
            self.network = LearnedPerceptualImagePatchSimilarity(network).net.eval()
        self.max_batch = max_batch

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"lpips": False}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        if shape is not None:
            _check_image(shape)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        pairs = zip(_coloured(x).split(self.max_batch), _coloured(teacher).split(self.max_batch), strict=True)
        with torch.no_grad():
            distances = torch.cat([self.network(ours, theirs).flatten() for ours, theirs in pairs])
        return {"lpips": sample_wise(distances.double(), False)}


class ClipJudge(Judge):
    """CLIP score: 100 times the cosine between the image's and its prompt's embedding, 0 where it is negative (Hessel
    et al., arXiv:2104.08718, without the weight of 2.5).

    Args:
        prompts: of the samples, in their order.
        path: of a CLIP model, a folder or a repository of the hub.
        max_batch: images embedded at once.
    """

    def __init__(self, prompts: Sequence[str], path: str, max_batch: int = 32) -> None:
        from transformers import AutoProcessor, CLIPModel  # an extra, which other judges do without

        self.prompts, self.max_batch = list(prompts), max_batch
        with tensors_alone():
            self.model = CLIPModel.from_pretrained(path).eval()
        self.processor = AutoProcessor.from_pretrained(path)

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"clip": True}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        if samples > len(self.prompts):
            raise ValueError(f"there are {samples} samples, but prompts of {len(self.prompts)}")
        if shape is not None:
            _check_image(shape)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        images = list(to_uint8(_coloured(x)))
        cosines = []
        for k in range(0, len(images), self.max_batch):
            part = slice(k, k + self.max_batch)
            inputs = self.processor(
                text=self.prompts[: len(images)][part],
                images=images[part],
                return_tensors="pt",
                padding=True,
                truncation=True,
            )
            with torch.no_grad():
                found = self.model(**inputs)
            cosines.append(torch.cosine_similarity(found.image_embeds, found.text_embeds))
        return {"clip": sample_wise(100 * torch.cat(cosines).double().clamp(min=0), True)}


def _coloured(x: Tensor) -> Tensor:
    """Images [B, 1 or 3, H, W] in [-1, 1] with three channels, float32 on the CPU."""
    _check_image(x.shape[1:])
    return x.float().cpu().clamp(-1, 1).expand(-1, 3, -1, -1)


def _check_image(shape: Sequence[int]) -> None:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, [B, C, H, W]; these samples are {list(shape)}")


class DecodedJudge(Judge):
    """Another judge's figures of decoded images, named `pixel_` and its name for them.

    Args:
        decode: images of samples that are latents.
        judge: of images.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor], judge: Judge) -> None:
        self.decode, self.judge_of_images, self.needs_many = decode, judge, judge.needs_many
        self._teacher: tuple[Tensor, Tensor] | None = None

    @property
    def figures(self) -> dict[str, bool | None] | None:
        of_images = self.judge_of_images.figures
        return None if of_images is None else {f"pixel_{name}": higher for name, higher in of_images.items()}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        self.judge_of_images.check(samples, None)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        if self._teacher is None or self._teacher[0] is not teacher:  # the same for every row
            self._teacher = (teacher, self.decode(teacher).cpu())
        figures = self.judge_of_images.judge(self.decode(x).cpu(), self._teacher[1], cond)
        return {f"pixel_{name}": figure for name, figure in figures.items()}


class ClassJudge(Judge):
    """How often a classifier sees the class that was asked for.

    Args:
        weights: of a `Classifier`, a path or `shipped:NAME`.
    """

    def __init__(self, weights: str) -> None:
        self.classifier, _ = load_network(weights, Classifier)

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"accuracy": True}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        if shape is not None:
            class_correct(self.classifier.cpu(), torch.zeros(1, *shape), torch.zeros(1))

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        if cond is None:
            return {}
        return {"accuracy": sample_wise(class_correct(self.classifier.to(x.device), x, cond), True)}


class FidelityJudge(Judge):
    """FID, KID, precision and recall of features, by torch-fidelity.

    Args:
        features: safetensors file with the reference "features" [M, F], a path or `shipped:NAME`.
        figures: which of "fid", "kid", "precision", "recall" to compute.
        sets: disjoint sets of samples behind the intervals.
        classifier: weights of the `Classifier` whose features are compared; None for `extractor`.
        extractor: name of one of torch-fidelity's own extractors, e.g. "inception-v3-compat".
        extractor_weights: that extractor's weights file.
        kid_subsets: KID is the mean over this many random subsets of 1000; half a second each.
    """

    needs_many = True

    def __init__(
        self,
        features: str,
        figures: list[str],
        sets: int,
        classifier: str | None = None,
        extractor: str | None = None,
        extractor_weights: str | None = None,
        kid_subsets: int = 100,
    ) -> None:
        if (classifier is None) == (extractor is None):
            raise ValueError("FidelityJudge takes either a classifier or the name of an extractor")
        if classifier is not None:
            extractor = f"optsteps-{resolve_weights(classifier).stem}".replace("_", "-")
            register_extractor(extractor, lambda: load_network(classifier, Classifier)[0])
        assert extractor is not None
        self.extractor = build_extractor(extractor, extractor_weights)
        self.reference = load_file(resolve_weights(features))["features"]
        self.sets, self.settings = sets, FidelitySettings(kid_subsets, figures=tuple(figures))

    @property
    def figures(self) -> dict[str, bool | None]:
        return {name: HIGHER_IS_BETTER[name] for name in self.settings.figures}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        size_of_sets(samples, self.sets, self.settings)
        if shape is not None:
            _check_fidelity(shape)
            extract_features(self.extractor.cpu(), torch.zeros(1, *shape))

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        _check_fidelity(x.shape[1:])
        found = extract_features(self.extractor.to(x.device), x)
        return _fidelity(found, self.reference, self.sets, self.settings)


class CoordinateJudge(Judge):
    """FID, KID, precision and recall of low-dimensional samples of a known distribution, their coordinates standing for
    an image's features: FID is the Frechet distance of the Gaussians with the samples' and the truth's moments.

    Args:
        distribution: with `sample`.
        samples: true samples to compare with.
        figures, sets, kid_subsets: as in `FidelityJudge`.
    """

    needs_many = True

    def __init__(
        self, distribution: Distribution, samples: int, figures: Sequence[str], sets: int, kid_subsets: int = 100
    ) -> None:
        self.truth = distribution.sample(samples, torch.Generator().manual_seed(0))
        self.sets, self.settings = sets, FidelitySettings(kid_subsets, figures=tuple(figures))

    @property
    def figures(self) -> dict[str, bool | None]:
        return {name: HIGHER_IS_BETTER[name] for name in self.settings.figures}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        size_of_sets(samples, self.sets, self.settings)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        return _fidelity(x.cpu().double(), self.truth, self.sets, self.settings)


class DistributionJudge(Judge):
    """Against a known density: negative log-likelihood (nats) and sliced Wasserstein distance to true samples.

    Samples less spread than the truth score a *lower* NLL than true samples: read it beside the entropy.

    Args:
        distribution: with `sample` and `log_prob`.
        samples: true samples to compare with.
    """

    def __init__(self, distribution: Distribution, samples: int) -> None:
        self.distribution = distribution
        self.truth = distribution.sample(samples, torch.Generator().manual_seed(0))

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"nll": None, "sliced_wasserstein": False}

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        x = x.cpu().double()
        distances = torch.tensor([sliced_wasserstein(part, self.truth) for part in x.chunk(8)], dtype=torch.float64)
        return {
            "nll": sample_wise(negative_log_likelihood(x, self.distribution.log_prob), None),
            "sliced_wasserstein": set_wise(sliced_wasserstein(x, self.truth), distances, False),
        }


class MeasurementCriterion:
    """A judge's figure as what a search makes small (`AYS(criterion=...)`), negative where higher is better.

    Args:
        judge: one that needs no condition; what it compares with is its own reference, or the search's.
        figure: one of its figures.
    """

    def __init__(self, judge: Judge, figure: str) -> None:
        self.judge, self.figure = judge, figure

    def check(self, samples: int, shape: Sequence[int]) -> None:
        """Refuse what the judge refuses, and a figure that it has not, before a search begins; see `Judge.check`."""
        self.judge.check(samples, shape)
        if self.judge.figures is not None:
            self._check_figure(self.judge.figures)

    def __call__(self, samples: Tensor, reference: Tensor) -> float:
        """Raises ValueError where the judge has no such figure."""
        figures = self.judge.judge(samples, reference, None)
        self._check_figure(figures)
        found = figures[self.figure]
        return -found.interval.value if found.higher_is_better else found.interval.value

    def _check_figure(self, figures: Collection[str]) -> None:
        if self.figure not in figures:
            raise ValueError(f"{type(self.judge).__name__} has no figure {self.figure!r}; it has {', '.join(figures)}")


def _fidelity(features: Tensor, reference: Tensor, sets: int, settings: FidelitySettings) -> dict[str, Measurement]:
    """The settings' figures of features [B, F] against reference [M, F], with intervals over disjoint sets."""
    values = fidelity_values(features, reference, settings)
    per_set = fidelity_per_set(features, reference, sets, settings)
    return {name: set_wise(value, per_set[name], HIGHER_IS_BETTER[name]) for name, value in values.items()}


def _check_fidelity(shape: Sequence[int]) -> None:
    if len(shape) != 3:
        raise ValueError(f"FID and its kin compare images [B, C, H, W], not samples of shape {tuple(shape)}")


__getattr__ = old_names(__name__, Figure="Measurement", FigureCriterion="MeasurementCriterion")
