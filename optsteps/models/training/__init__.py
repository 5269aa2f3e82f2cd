"""Training of the shipped networks, and of a user's own, with Lightning's Trainer."""

from optsteps.models.training.averages import Averages
from optsteps.models.training.batches import Batch, ImageData, TrainingBatches, ValidationBatches
from optsteps.models.training.classification import ClassifierTraining
from optsteps.models.training.denoising import DenoiserTraining, FlowTraining, stratified
from optsteps.models.training.history import LossHistory, best_decay
from optsteps.models.training.straightening import (
    StraighteningTraining,
    straightening_loss,
    teacher_states,
    teacher_walks,
)
from optsteps.models.training.task import Task

__all__ = [
    "Averages",
    "Batch",
    "ClassifierTraining",
    "DenoiserTraining",
    "FlowTraining",
    "ImageData",
    "LossHistory",
    "StraighteningTraining",
    "Task",
    "TrainingBatches",
    "ValidationBatches",
    "best_decay",
    "straightening_loss",
    "stratified",
    "teacher_states",
    "teacher_walks",
]
