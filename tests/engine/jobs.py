"""A small real job for the engine's tests."""

import dataclasses
from typing import Any

import torch
from torch import nn

from sparring import systems
from sparring.core.game import Game
from sparring.core.tools import Tools
from sparring.domains.image.data import load
from sparring.engine.job import Job
from sparring.engine.training import Training


class Net(nn.Module):
    """BatchNorm and dropout: state and randomness that a resume has to get right."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def job(seed: int = 0, system: str = "pgd-at", model: Any = Net, config: Any = None, **training: Any) -> Job:
    data, found = load("digits"), systems.find(system)
    standard = systems.find("standard")

    def baseline(model: nn.Module, tools: Tools) -> Game:
        return standard.game(standard.config(), model=model, tools=tools)

    small = {"epochs": 3, "batch_size": 64, "examples": 300, "validation_steps": 2}
    settings = {**small, "device": "cpu", "precision": "32", **training}
    return Job(
        system=found,
        config=found.config(steps=2) if config is None else config,
        training=dataclasses.replace(Training(), **settings),
        seed=seed,
        data={"name": "digits", "classes": list(data.classes), "shape": list(data.shape)},
        source=data.train,
        model={"spec": "net"},
        make_model=model,
        baseline=baseline,
    )
