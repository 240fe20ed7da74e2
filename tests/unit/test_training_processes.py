"""Several processes train as one would with as many images a step; when one fails, all end and it is said why."""

from __future__ import annotations

import csv
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from training_maker import make_training

from synthsr import cli, train
from synthsr.errors import ConfigurationError, DataError, ToolError
from synthsr.train.devices import Group, count_processes, run_together

CPU = torch.device("cpu")
NAMES: tuple[train.config.NetworkName, ...] = train.NETWORKS


def with_images(config: train.TrainingConfig, images_per_step: int) -> train.TrainingConfig:
    """The configuration with that many images a step, on each process."""
    for name in NAMES:
        plan = config.plan(name)
        stages = tuple(replace(stage, images_per_step=images_per_step) for stage in plan.stages)
        config = replace(config, **{name: replace(plan, stages=stages)})
    return config


def left_gradients(config: train.TrainingConfig, folder: Path, device: torch.device, group: Group) -> None:
    """Both networks' gradients at step 0, averaged over the group; exact arithmetic."""
    for name in NAMES:
        trainer = train.Trainer(config, name, device, group)
        trainer._autocast = lambda: torch.autocast("cpu", enabled=False)  # type: ignore[method-assign]
        # A head of zeros makes a constant image, of which no gradient is small.
        torch.nn.init.normal_(trainer.network.head.weight, std=0.1)
        stage = trainer.plan.stages[0]
        draw = trainer.draw(stage, trainer._generators(stage))
        trainer._loss(trainer.generate(draw), stage, draw.offset).loss.backward()
        gradients = {key: parameter.grad for key, parameter in trainer.network.named_parameters()}
        group.average_(gradients.values())
        save_file({k: v.contiguous() for k, v in gradients.items()}, folder / f"{name}-{group.rank}.safetensors")


def one_fails(device: torch.device, group: Group) -> None:
    """The second process cannot read its data while the first waits for it."""
    if group.rank == 1:
        raise DataError("maps/head.nii.gz: is no label map")
    group.average_([torch.zeros(1)])


def one_is_killed(device: torch.device, group: Group) -> None:
    """As by the system for want of memory."""
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    group.average_([torch.zeros(1)])


@pytest.fixture
def config(tmp_path: Path) -> train.TrainingConfig:
    """Four steps of two tiny networks of different size."""
    return train.read_config(make_training(tmp_path, synthsr={**make_network(), "features": 3}))


def make_network() -> dict[str, object]:
    return {
        "levels": 2,
        "stride": 2,
        "norm": "instance",
        "stages": [{"steps": 4, "field_mm": [16, 24], "translation_mm": 2, "dice_weight": 0.25}],
    }


@pytest.mark.parametrize("step", [0, 1, 5])
def test_processes_share_out_the_images_of_a_large_step(config: train.TrainingConfig, step: int) -> None:
    def images(trainer: train.Trainer) -> tuple[torch.Tensor, torch.Tensor, int]:
        trainer.step = step
        stage = trainer.plan.stages[0]
        draw = trainer.draw(stage, trainer._generators(stage))
        made = trainer.generate(draw)
        return made.image, made.channel, draw.offset

    alone = images(train.Trainer(with_images(config, 4), "segmentation", CPU))
    two = [train.Trainer(with_images(config, 2), "segmentation", CPU, Group(rank, 2)) for rank in range(2)]
    shared = [images(trainer) for trainer in two]
    assert all(torch.equal(torch.cat([s[part] for s in shared]), alone[part]) for part in (0, 1))  # type: ignore[misc]
    assert {s[2] for s in shared} == {alone[2]}
    assert len({image.numpy().tobytes() for image in alone[0]}) == 4


def test_one_image_a_step_is_drawn_as_ever(config: train.TrainingConfig) -> None:
    """Runs begun by earlier versions go on with the data that they would have seen."""
    trainer = train.Trainer(config, "segmentation", CPU)
    stage = replace(trainer.plan.stages[0], synthesiser="any")
    generators = trainer._generators(stage)
    for trainer.step in range(6):
        rng = np.random.default_rng([1, 0, trainer.step])
        generator = generators[int(rng.integers(2))]
        source = int(rng.integers(1))
        params = generator.sample(rng)
        draw = trainer.draw(stage, generators)
        assert draw.generator is generator
        assert draw.images[0][0] == source
        np.testing.assert_array_equal(draw.images[0][1].deformation.velocity_mm, params.deformation.velocity_mm)
        assert draw.offset == int(rng.integers(8))
        assert draw.through_synthesiser == (rng.random() < 0.5)


def test_averaged_gradient_is_that_of_the_large_step(config: train.TrainingConfig, tmp_path: Path) -> None:
    train.train(replace(config, synthsr=train.NetworkPlan()), device=CPU)
    # Without the checkpoint, so that gradients are those of the first step.
    fresh = replace(config, run=tmp_path / "fresh")
    fresh.run.mkdir()
    (config.run / "segmentation.safetensors").rename(fresh.run / "segmentation.safetensors")
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    left_gradients(with_images(fresh, 2), tmp_path / "alone", CPU, Group())
    run_together(partial(left_gradients, fresh, tmp_path / "together"), CPU, 2)
    for name in NAMES:
        alone = load_file(tmp_path / "alone" / f"{name}-0.safetensors")
        together = [load_file(tmp_path / "together" / f"{name}-{rank}.safetensors") for rank in range(2)]
        for key, gradient in alone.items():
            assert torch.equal(together[0][key], together[1][key])
            torch.testing.assert_close(together[0][key], gradient, rtol=1e-3, atol=1e-6)
        assert max(float(gradient.abs().max()) for gradient in alone.values()) > 1e-3


def test_two_processes_train_a_run(tmp_path: Path) -> None:
    """Losses are those of one process with two images a step, but for the order of sums."""
    losses = {}
    for folder, images_per_step, processes in (("one", 2, "1"), ("two", 1, "2")):
        path = make_training(tmp_path / folder)
        text = path.read_text().replace("steps: 4", f"images_per_step: {images_per_step}\n    steps: 4")
        path.write_text(text)
        assert cli.main(["train", str(path), "--device", "cpu", "--processes", processes]) == 0
        run = tmp_path / folder / "run"
        assert (run / "MODEL_CARD.md").is_file()
        for name in NAMES:
            assert (run / f"{name}.safetensors").is_file()
            with (run / name / "log.tsv").open() as stream:
                rows = list(csv.DictReader(stream, delimiter="\t"))
            assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
            losses[folder, name] = [float(row["loss"]) for row in rows]
    for name in NAMES:
        np.testing.assert_allclose(losses["one", name], losses["two", name], rtol=0.02)


def test_failure_of_one_process_ends_all_with_its_message() -> None:
    with pytest.raises(DataError, match=r"maps/head.nii.gz: is no label map"):
        run_together(one_fails, CPU, 2)


def test_killed_process_is_told() -> None:
    with pytest.raises(ToolError, match=r"process 2 of 2 was ended by SIGKILL"):
        run_together(one_is_killed, CPU, 2)


def test_number_of_processes() -> None:
    assert count_processes(CPU, None) == 1
    assert count_processes(CPU, 3) == 3
    assert count_processes(torch.device("cuda:1"), None) == 1
    with pytest.raises(ConfigurationError, match="--processes 0"):
        count_processes(CPU, 0)
    with pytest.raises(ConfigurationError, match="cuda:1 means 1 GPU, one process each"):
        count_processes(torch.device("cuda", 1), 2)
