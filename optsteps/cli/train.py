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
from optsteps.files import write_atomically
from optsteps.models.checkpoint import save_network
from optsteps.training import ImageData, LossHistory


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def job(config: DictConfig) -> None:
    """Compose, train, write."""
    L.seed_everything(config.seed)
    folder = Path(HydraConfig.get().runtime.output_dir)
    train, test = (instantiate(config.dataset, train=part) for part in (True, False))
    data = ImageData(train, test, config.training.batch_size, config.workers)
    task = instantiate(config.training.task)
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
    trainer.fit(task, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    # Lightning has put the averaged weights into the module at the end of the fit
    if trainer.is_global_zero:
        save_network(task.network, folder / f"{config.training.name}.safetensors", task.notes())
        card = {
            "name": config.training.name,
            "data": train.name,
            "training_samples": len(train),
            "parameters": sum(p.numel() for p in task.network.parameters()),
            "steps": trainer.global_step,
            "batch_size": config.training.batch_size,
            "ema_decay": config.training.ema_decay,
            "precision": precision,
            "command": " ".join(["optsteps-train", *sys.argv[1:]]),
            "versions": {"torch": torch.__version__, "lightning": L.__version__},
            "history": history.rows,
        }
        write_atomically(folder / f"{config.training.name}.json", json.dumps(card, indent=1).encode())


@readable_errors
def main() -> None:
    """Entry point."""
    job()


if __name__ == "__main__":
    main()
