"""Models: exact distributions and trained networks."""

from optsteps.models.analytic import Gaussian, GaussianMixture
from optsteps.models.base import Model, grid_mixture, mixture, pretrained
from optsteps.models.checkpoint import load_network, save_network
from optsteps.models.classifier import Classifier, FeatureClassifier
from optsteps.models.residual_classifier import ResidualClassifier
from optsteps.models.text_to_image import text_to_image
from optsteps.models.text_unet import TextUNet
from optsteps.models.unet import UNet

__all__ = [
    "Classifier",
    "FeatureClassifier",
    "Gaussian",
    "GaussianMixture",
    "Model",
    "ResidualClassifier",
    "TextUNet",
    "UNet",
    "grid_mixture",
    "load_network",
    "mixture",
    "pretrained",
    "save_network",
    "text_to_image",
]
