"""Command line: ``python -m tools.train_demo train|export|verify|evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo", description=__doc__)
    parser.add_argument("stage", choices=["tokenizer", "train", "export", "verify", "evaluate"])
    parser.add_argument("--work", type=Path, default=Path("build/train_demo"))
    parser.add_argument("--out", type=Path, default=Path("src/openllm/demo"))
    parser.add_argument("--minutes", type=float, default=65.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--start", type=Path, help="checkpoint to continue from")
    parser.add_argument("--rate", type=float, default=1.0, help="learning-rate factor")
    parser.add_argument("--first-shard", type=int, default=0)
    parser.add_argument("--questions", type=int, default=400, help="held-back questions")
    parser.add_argument("--report", type=Path, help="where evaluate writes its JSON")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.stage in ("tokenizer", "train"):
        _train(options)
    elif options.stage == "export":
        from tools.train_demo.export import export

        export(options.work / "final.pt", options.work / "tokenizer.json", options.out)
    elif options.stage == "verify":
        from tools.train_demo.verify import verify

        verify(options.work / "final.pt", options.work / "tokenizer.json", options.out)
    else:
        from tools.train_demo.evaluate import evaluate

        evaluate(options.out / "demo-q8_0.gguf", options.questions, options.report)


def _train(options: argparse.Namespace) -> None:
    from tools.train_demo.tokenizer import train_tokenizer

    if not (options.work / "tokenizer.json").exists():
        train_tokenizer(options.work / "tokenizer.json")
    if options.stage == "train":
        from tools.train_demo.train import Plan, train

        plan = Plan(
            options.work,
            options.minutes,
            options.processes,
            options.start,
            options.rate,
            options.first_shard,
        )
        if options.start is not None:
            plan.long_from = 0.0
        train(plan)


if __name__ == "__main__":
    main()
