"""One training: resumed where it was interrupted, with its EMA weights and a model card at the end."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from optsteps.models.checkpoint import load_network, save_network
from optsteps.models.training import ImageData, LossHistory, best_decay
from optsteps.reporting.model_card import loss_curve_png, model_card
from optsteps.storage.files import file_name, write_atomically

# settings of where and how a training runs: they change nothing of what it learns, so two starts may differ in them
_SURROUNDINGS = re.compile(
    r"(paths|logger)(\.|$)|dataset\.folder$|compile$|weights_precision$|"
    r"trainer\.(accelerator|devices|num_nodes|strategy|max_time|log_every_n_steps|enable_\w+)$"
)


def train(config: DictConfig, folder: Path) -> None:
    """Train the network that `config` describes, and leave its weights, its history and its card in `folder`."""
    L.seed_everything(config.seed)
    if config.trainer.precision == "auto":
        config.trainer.precision = "bf16-mixed" if torch.cuda.is_available() else "32-true"
    last = folder / "checkpoints" / "last.ckpt"
    _record_settings(config, folder / "settings.json", begun=last.exists())
    train, test = (instantiate(config.dataset, train=part) for part in (True, False))
    decays = config.training.ema_decays
    task = instantiate(config.training.task, ema_decays=decays, seed=config.seed)
    if config.weights is not None:
        _start_from(config.weights, task.network)
    if config.compile:
        task.network.compile()
    history = LossHistory(every=100)
    trainer = instantiate(
        config.trainer,
        logger=instantiate(config.logger),
        # one checkpoint, written after every validation
        callbacks=[ModelCheckpoint(last.parent, filename=last.stem, enable_version_counter=False), history],
        default_root_dir=str(folder),
    )
    checkpoint = torch.load(last, map_location="cpu", weights_only=True) if last.exists() else None
    if checkpoint is None or checkpoint["global_step"] < config.training.max_steps:
        data = ImageData(train, test, config.training.batch_size, config.seed, task.conditions)
        # the batches go on where the checkpoint was written, which Lightning cannot know
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        trainer.fit(task, datamodule=data, ckpt_path=None if checkpoint is None else last, weights_only=True)
        trainer.save_checkpoint(last)
        steps = trainer.global_step
    else:
        task.load_state_dict(checkpoint["state_dict"])
        history.load_state_dict(next(s for key, s in checkpoint["callbacks"].items() if key.startswith("LossHistory")))
        steps = checkpoint["global_step"]
    if trainer.is_global_zero:
        name = config.training.name
        network = task.averages.by_decay()[best_decay(history.rows, decays)]
        facts = {
            "name": name,
            "data": f"{train.name}, {len(train):,} training samples",
            "network": f"{type(network).__name__}, {sum(p.numel() for p in network.parameters()):,} parameters",
            "steps": f"{steps:,} of batch size {config.training.batch_size}",
            "EMA decay": f"{best_decay(history.rows, decays):g}"
            + (f", of {', '.join(f'{decay:g}' for decay in decays)} by validation loss" if len(decays) > 1 else ""),
            "precision": config.trainer.precision,
            "seed": str(config.seed),
            "started from": config.weights or "random weights",
            "command": " ".join(["optsteps-train", *sys.argv[1:]]),
            "versions": f"torch {torch.__version__}, lightning {L.__version__}",
        }
        stem = file_name(name)
        save_network(network, folder / f"{stem}.safetensors", task.notes(), getattr(torch, config.weights_precision))
        write_atomically(folder / f"{stem}_history.json", json.dumps(history.rows, indent=1).encode())
        write_atomically(folder / f"{stem}_loss.png", loss_curve_png(history.rows))
        write_atomically(folder / f"{stem}.md", model_card(facts, history.rows, f"{stem}_loss.png").encode())


def _record_settings(config: DictConfig, record: Path, begun: bool) -> None:
    """Record the settings that a training's result depends on beside its checkpoint, or hold a second start to them.

    Raises:
        ValueError: the training in this folder has begun with other settings; the message names the first of them.
    """
    settings = {
        key: value for key, value in _flat(OmegaConf.to_container(config, resolve=True)) if not _SURROUNDINGS.match(key)
    }
    settings = json.loads(json.dumps(settings))
    if not begun:
        write_atomically(record, json.dumps(settings, indent=1).encode())
        return
    earlier = json.loads(record.read_text()) if record.exists() else {}
    for key in sorted(settings.keys() | earlier.keys()):
        if settings.get(key) != earlier.get(key):
            raise ValueError(
                f"{record.parent} holds a training begun with {key} = {earlier.get(key)}, which cannot go on with "
                f"{key} = {settings.get(key)}; give the other training a folder of its own, hydra.run.dir=FOLDER"
            )


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested dicts by their dotted keys."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _start_from(weights: str, network: torch.nn.Module) -> None:
    """Load weights into the network; ValueError where they are of another one."""
    loaded, _ = load_network(weights, type(network))
    if loaded.config != network.config:
        raise ValueError(f"weights={weights} are of another network: {loaded.config}, not {network.config}")
    network.load_state_dict(loaded.state_dict())
