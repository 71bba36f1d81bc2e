"""Learning rates equal detectron2's."""

from __future__ import annotations

import pytest

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.training.loop import LearningRateSchedule


@pytest.mark.parametrize(
    ("name", "milestones", "warmup", "factor"),
    [
        ("WarmupMultiStepLR", (6, 8), 3, 0.001),
        ("WarmupMultiStepLR", (), 0, 0.001),
        ("WarmupMultiStepLR", (2, 4), 5, 0.5),
        ("WarmupCosineLR", (), 3, 0.01),
        ("WarmupCosineLR", (), 0, 0.01),
    ],
)
def test_equals_detectron2(name: str, milestones: tuple[int, ...], warmup: int, factor: float) -> None:
    import_detectron2()
    import torch
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME = name
    cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER = milestones, 10
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = warmup, factor
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    ours = LearningRateSchedule(10, milestones, 0.1, warmup, factor, cosine="Cosine" in name)
    for iteration in range(10):
        assert 2.0 * ours.factor(iteration) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), (
            iteration
        )
        optimizer.step()
        scheduler.step()


def test_warmup_longer_than_the_training() -> None:
    schedule = LearningRateSchedule(4, (), 0.1, warmup_iterations=100, warmup_factor=0.0)
    assert [schedule.factor(i) for i in range(4)] == [0.0, 0.25, 0.5, 0.75]


def test_equals_timm() -> None:
    """timm's `CosineLRScheduler` with a warm-up, rates of epochs, and a cooldown at the least rate."""
    import torch
    from timm.scheduler.cosine_lr import CosineLRScheduler

    epochs, warmup, steps, peak, first, least = 8, 3, 5, 4e-3, 1e-4, 1e-5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    timm = CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=least, warmup_t=warmup, warmup_lr_init=first, cycle_limit=1
    )
    ours = LearningRateSchedule(
        iterations=(epochs + 2) * steps,
        warmup_iterations=warmup * steps,
        warmup_factor=first / peak,
        warmup_to_peak=True,
        cosine=True,
        least=least / peak,
        cooldown_iterations=2 * steps,
        period=steps,
    )
    for iteration in range((epochs + 2) * steps):
        if iteration % steps == 0:
            timm.step(iteration // steps)
        assert peak * ours.factor(iteration) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
