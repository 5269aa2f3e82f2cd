"""`optsteps-train`: train a network, resume it if it was interrupted, leave its EMA weights and a model card."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from omegaconf import DictConfig

from optsteps.cli.common import CONFIG_DIR, readable_errors
from optsteps.cli.schema import Train, checked
from optsteps.files import write_atomically
from optsteps.models.checkpoint import load_network, save_network
from optsteps.reporting.card import model_card
from optsteps.reporting.figures import loss_curve_png
from optsteps.training import ImageData, LossHistory


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def job(config: DictConfig) -> None:
    """Compose, train, write."""
    config = checked(config, Train)
    L.seed_everything(config.seed)
    folder = Path(HydraConfig.get().runtime.output_dir)
    train, test = (instantiate(config.dataset, train=part) for part in (True, False))
    task = instantiate(config.training.task)
    if config.weights is not None:
        _start_from(config.weights, task.network)
    data = ImageData(train, test, config.training.batch_size, config.workers, task.told)
    history = LossHistory(every=100)
    checkpoints = ModelCheckpoint(
        folder / "checkpoints",
        filename="step",
        every_n_train_steps=config.checkpoint_every,
        save_last=True,
        save_top_k=1,
    )
    precision = config.trainer.precision
    if precision == "auto":
        precision = "bf16-mixed" if torch.cuda.is_available() else "32-true"
    trainer = instantiate(
        config.trainer,
        precision=precision,
        logger=instantiate(config.logger),
        callbacks=[checkpoints, history, EMAWeightAveraging(decay=config.training.ema_decay)],
        default_root_dir=str(folder),
    )
    last = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, map_location="cpu", weights_only=True) if last.exists() else None
    if checkpoint is None or checkpoint["global_step"] < config.training.max_steps:
        # Lightning puts the averaged weights into the module at the end of the fit
        trainer.fit(task, datamodule=data, ckpt_path=None if checkpoint is None else last, weights_only=True)
        steps = trainer.global_step
    else:
        # a finished training: its checkpoint holds the averaged weights, which a fit of no steps would not restore
        task.load_state_dict(checkpoint["state_dict"])
        history.load_state_dict(next(s for key, s in checkpoint["callbacks"].items() if key.startswith("LossHistory")))
        steps = checkpoint["global_step"]
    if trainer.is_global_zero:
        name = config.training.name
        parameters = sum(p.numel() for p in task.network.parameters())
        facts = {
            "name": name,
            "data": f"{train.name}, {len(train):,} training samples",
            "network": f"{type(task.network).__name__}, {parameters:,} parameters",
            "steps": f"{steps:,} of batch size {config.training.batch_size}",
            "EMA decay": str(config.training.ema_decay),
            "precision": precision,
            "seed": str(config.seed),
            "started from": config.weights or "random weights",
            "command": " ".join(["optsteps-train", *sys.argv[1:]]),
            "versions": f"torch {torch.__version__}, lightning {L.__version__}",
        }
        save_network(task.network, folder / f"{name}.safetensors", task.notes())
        write_atomically(folder / f"{name}_history.json", json.dumps(history.rows, indent=1).encode())
        write_atomically(folder / f"{name}_loss.png", loss_curve_png(history.rows))
        write_atomically(folder / f"{name}.md", model_card(facts, history.rows, f"{name}_loss.png").encode())


def _start_from(weights: str, network: torch.nn.Module) -> None:
    given, _ = load_network(weights, type(network))
    if given.config != network.config:
        raise ValueError(f"weights={weights} are of another network: {given.config}, not {network.config}")
    network.load_state_dict(given.state_dict())


@readable_errors
def main() -> None:
    """Entry point."""
    job()


if __name__ == "__main__":
    main()
