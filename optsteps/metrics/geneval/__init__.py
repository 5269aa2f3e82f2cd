"""GenEval (Ghosh et al., arXiv:2310.11513): do images show the objects that their prompts ask for?

`judge_image` holds the objects detected in one image against its prompt, `score_images` judges many, and `GenEvalJudge`
does so within a comparison. The detectors that need transformers are in `detectors`, which is imported by name.
"""

from optsteps.deprecation import old_names
from optsteps.metrics.geneval.detections import Detection, Detector, LimitedDetector
from optsteps.metrics.geneval.judge import GenEvalJudge
from optsteps.metrics.geneval.rules import PUBLISHED, Judgement, Rules, check_detections, judge_image
from optsteps.metrics.geneval.score import GenEvalScore, score_images

__all__ = [
    "PUBLISHED",
    "Detection",
    "Detector",
    "GenEvalJudge",
    "GenEvalScore",
    "Judgement",
    "LimitedDetector",
    "Rules",
    "check_detections",
    "judge_image",
    "score_images",
]

# of the module of rules, which had this name
__getattr__ = old_names(__name__, **{name: f"{__name__}.rules.{name}" for name in ("counted", "overlap", "relations")})
