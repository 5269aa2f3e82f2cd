"""Training of the shipped networks, and of a user's own, with Lightning's Trainer."""

from optsteps.models.training.denoising import (
    Averages,
    Batch,
    ClassifierTraining,
    DenoiserTraining,
    FlowTraining,
    ImageData,
    LossHistory,
    TrainingBatches,
    ValidationBatches,
    best_decay,
    stratified,
)

__all__ = [
    "Averages",
    "Batch",
    "ClassifierTraining",
    "DenoiserTraining",
    "FlowTraining",
    "ImageData",
    "LossHistory",
    "TrainingBatches",
    "ValidationBatches",
    "best_decay",
    "stratified",
]
