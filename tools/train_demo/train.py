"""Trains the model for a given number of minutes; the learning rate follows elapsed time."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import distributed, multiprocessing, nn

from tools.train_demo.model import Llama, Shape, count_parameters
from tools.train_demo.shards import LONGEST, Packer

MUON_RATE, ADAM_RATE = 0.02, 0.003
ROW, ROWS = 256, 8
WARMUP, DECAY_FROM = 0.02, 0.35
# A step that took longer was paused from outside; the pause is not charged to the budget.
SLOWEST_STEP = 10.0


@dataclass
class Plan:
    """What one training run does: minutes of work, folders and where it starts from."""

    work: Path
    minutes: float
    processes: int = 2
    start: Path | None = None
    rate: float = 1.0
    first_shard: int = 0
    long_from: float = 0.4


def rate_at(progress: float) -> float:
    """Return the learning-rate factor at a progress of 0 to 1: warm up, hold, fall linearly."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.02)
    if progress < DECAY_FROM:
        return 1.0
    return max(1.0 - (progress - DECAY_FROM) / (1.0 - DECAY_FROM), 0.0) * 0.98 + 0.02


def make_optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the layers and AdamW for the rest."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = parameter.dim() == 2 and "embed" not in name
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE * rate, weight_decay=0.05, momentum=0.95),
        torch.optim.AdamW(others, lr=ADAM_RATE * rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def save(path: Path, model: Llama, facts: dict[str, Any]) -> None:
    """Write a checkpoint: weights, shape and run facts."""
    partial = path.with_suffix(".partial")
    torch.save({"weights": model.state_dict(), "shape": asdict(model.shape), **facts}, partial)
    partial.rename(path)


def load(path: Path) -> tuple[Llama, dict[str, Any]]:
    """Return the model and the run facts of a checkpoint."""
    data = torch.load(path, weights_only=True)
    model = Llama(Shape(**data.pop("shape")))
    model.load_state_dict(data.pop("weights"))
    return model, data


class Run:
    """One training run with its clock and counters."""

    def __init__(self, plan: Plan, rank: int = 0) -> None:
        torch.manual_seed(1)
        torch.set_num_threads(1)
        self.plan, self.rank = plan, rank
        self.earlier = {"seconds": 0.0, "tokens": 0, "steps": 0}
        if plan.start is None:
            self.model = Llama(Shape())
        else:
            self.model, found = load(plan.start)
            self.earlier = {key: found[key] for key in self.earlier}
        tokenizer = Tokenizer.from_file(str(plan.work / "tokenizer.json"))
        self.packer = Packer(plan.work, tokenizer, plan.first_shard + rank, plan.processes)
        self.optimizers = make_optimizers(self.model, plan.rate)
        self.rates = [[group["lr"] for group in opt.param_groups] for opt in self.optimizers]
        self.seconds, self.tokens, self.steps, self.smooth = 0.0, 0, 0, 0.0

    def facts(self) -> dict[str, Any]:
        """Return seconds, tokens and steps, earlier runs included."""
        return {
            "seconds": self.earlier["seconds"] + self.seconds,
            "tokens": self.earlier["tokens"] + self.tokens,
            "steps": self.earlier["steps"] + self.steps,
        }

    def step(self, progress: float) -> None:
        """Train on one batch."""
        factor = rate_at(progress)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        long = progress > self.plan.long_from and self.steps % 6 == 0
        rows, length = (max(ROWS * ROW // LONGEST, 2), LONGEST) if long else (ROWS, ROW)
        batch = self.packer.batch(rows, length)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.model.loss(
                torch.from_numpy(batch.tokens),
                torch.from_numpy(batch.weights),
                torch.from_numpy(batch.document),
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.share()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.tokens += int((batch.document >= 0).sum()) * self.plan.processes
        keep = min(1 - 1 / self.steps, 0.98)
        self.smooth = keep * self.smooth + (1 - keep) * float(loss.detach())

    def share(self) -> None:
        """Average gradients and clocks over the processes, so that they stay equal."""
        if self.plan.processes == 1:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        clock = torch.tensor([self.seconds])
        flat = torch.cat([gradient.flatten() for gradient in gradients] + [clock])
        distributed.all_reduce(flat)
        flat /= self.plan.processes
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()
        self.seconds = float(flat[-1])

    def work(self) -> None:
        """Train until the minutes are used; leave ``final.pt`` in the work folder."""
        budget, saved, shown = self.plan.minutes * 60, 0.0, 0.0
        checkpoint = self.plan.work / "checkpoint.pt"
        while self.seconds < budget:
            start, before = time.monotonic(), self.seconds
            self.step(self.seconds / budget)
            self.seconds = max(self.seconds, before)
            self.seconds += min(time.monotonic() - start, SLOWEST_STEP)
            if self.rank:
                continue
            if self.seconds - shown > 15:
                shown = self.seconds
                self.report()
            if self.seconds - saved > 240:
                saved = self.seconds
                save(checkpoint, self.model, self.facts())
        if self.rank == 0:
            self.report()
            save(self.plan.work / "final.pt", self.model, self.facts())

    def report(self) -> None:
        """Print progress."""
        print(
            f"{self.seconds:7.0f} s  step {self.steps:5d}  loss {self.smooth:.4f}  "
            f"tokens {self.tokens / 1e6:.2f} M  {self.tokens / self.seconds:.0f}/s  "
            f"shard {self.packer.next_shard}",
            flush=True,
        )


def train(plan: Plan) -> None:
    """Train with ``plan.processes`` single-threaded processes that average their gradients.

    One synchronisation a step copes better with a busy machine than threads within operators.
    """
    meeting = plan.work.resolve() / "meeting"
    meeting.unlink(missing_ok=True)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if plan.processes == 1:
        Run(plan).work()
    else:
        multiprocessing.spawn(  # type: ignore[no-untyped-call, attr-defined]
            _process, args=(plan, f"file://{meeting}"), nprocs=plan.processes
        )


def _process(rank: int, plan: Plan, meeting: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=plan.processes
    )
    run = Run(plan, rank)
    if rank == 0:
        print(f"parameters {count_parameters(run.model)}", flush=True)
    run.work()
    distributed.barrier()
    distributed.destroy_process_group()
