"""Train a small convolutional network on handwritten digits, on a GPU if there is one.

Writes out/curves.csv (one line per epoch), out/metrics.json, out/predictions.csv, out/confusion.json and out/model.pt.
Keeps a checkpoint every few steps, and when it is asked to end: started again with the same arguments it goes on where
it was, and ends with the same numbers to the last bit.
"""

import argparse
import csv
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from pictures import CLASSES, SIDE, batches, confusion, learning_rate, read, shifts
from torch import nn
from torch.nn import functional


def main() -> int:
    args = arguments()
    # Before the first use of the GPU: without it cuBLAS sums in an order of its own.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    device, precision = hardware(args.precision)
    print(f"on {device}, {precision}", flush=True)
    # A notice that a spot machine will be taken away, or a cancellation.
    asked_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.set())

    train, evaluation = tensors(args.train, device), tensors(args.eval, device)
    run = Run(args, device)
    steps_per_epoch = len(batches(len(train[1]), args.batch, seed=args.seed, epoch=0))
    while run.epoch < args.epochs:
        for number, rows in enumerate(batches(len(train[1]), args.batch, seed=args.seed, epoch=run.epoch)):
            if number < run.batch:
                continue
            step = run.epoch * steps_per_epoch + number
            rate = learning_rate(step, args.epochs * steps_per_epoch, peak=args.lr, warmup=args.warmup)
            moved = shifted(train[0][rows], shifts(len(rows), seed=args.seed, epoch=run.epoch, batch=number))
            run.loss_sum += learn(run, moved, train[1][rows], rate=rate, precision=precision) * len(rows)
            run.batch = number + 1
            if asked_to_end.is_set() or step % args.checkpoint_every == 0:
                run.save()
            if asked_to_end.is_set():
                print(
                    f"asked to end in epoch {run.epoch + 1}, step {number + 1}: the checkpoint is written", flush=True
                )
                return 128 + signal.SIGTERM
        loss, accuracy, _ = score(run.model, *evaluation)
        run.curve.append([run.epoch + 1, run.loss_sum / len(train[1]), loss, accuracy, rate])
        run.epoch, run.batch, run.loss_sum = run.epoch + 1, 0, 0.0
        run.save()
        print(f"epoch {run.epoch}/{args.epochs}: loss {loss:.4f}, accuracy {accuracy:.4f}", flush=True)
    write_results(run, evaluation)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="gzipped CSV of 64 pixels and a class")
    parser.add_argument("--eval", type=Path, required=True, help="the same, never trained on")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder that outlives this process")
    parser.add_argument("--checkpoint-every", type=int, default=50, help="steps between two checkpoints")
    parser.add_argument("--channels", type=int, required=True, help="of the first layer; the second has twice as many")
    parser.add_argument("--dropout", type=float, required=True)
    parser.add_argument("--lr", type=float, required=True, help="highest learning rate")
    parser.add_argument("--warmup", type=int, required=True, help="steps until it is reached")
    parser.add_argument("--batch", type=int, required=True, help="pictures per step")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--precision", choices=("auto", "float32"), default="auto", help="auto: bf16 where the GPU can")
    return parser.parse_args()


def hardware(precision: str) -> tuple[torch.device, torch.dtype]:
    """Return where to train and in which precision: bf16 where the GPU has it (from A10G and L4 on, not T4)."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    major, _ = torch.cuda.get_device_capability()
    return torch.device("cuda"), torch.bfloat16 if precision == "auto" and major >= 8 else torch.float32


def tensors(path: Path, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures, shape (n, 1, 8, 8), and classes, shape (n,)."""
    pictures, classes = read(path)
    return torch.tensor(pictures, device=device).view(-1, 1, SIDE, SIDE), torch.tensor(classes, device=device)


def network(channels: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.BatchNorm2d(2 * channels), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(dropout),
        nn.Linear(2 * channels * (SIDE // 2) ** 2, CLASSES),
    )  # fmt: skip


def shifted(pictures: torch.Tensor, moves: list[tuple[int, int]]) -> torch.Tensor:
    """Return each picture moved, with nothing where nothing was."""
    padded = functional.pad(pictures, (1, 1, 1, 1))
    return torch.stack([one[:, 1 - y : 1 - y + SIDE, 1 - x : 1 - x + SIDE] for one, (y, x) in zip(padded, moves)])


def learn(run: "Run", pictures: torch.Tensor, classes: torch.Tensor, *, rate: float, precision: torch.dtype) -> float:
    """Make one step and return its mean loss."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.model.train()
    run.optimizer.zero_grad()
    with torch.autocast(pictures.device.type, dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
        loss = functional.cross_entropy(run.model(pictures), classes)
    loss.backward()
    run.optimizer.step()
    return loss.item()


@torch.no_grad()
def score(model: nn.Module, pictures: torch.Tensor, classes: torch.Tensor) -> tuple[float, float, list[int]]:
    """Return the mean loss, the share of right answers, and the answers; always in float32."""
    model.eval()
    logits = model(pictures)
    answers = logits.argmax(dim=1)
    right = (answers == classes).double().mean().item()
    return functional.cross_entropy(logits, classes).item(), right, answers.tolist()


class Run:
    """All that one moment of the training consists of."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(args.seed)
        self.model = network(args.channels, args.dropout).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=args.lr)
        self.epoch = 0
        """How many are finished."""
        self.batch = 0
        """How many of the next epoch's batches are."""
        self.loss_sum = 0.0
        """Over the pictures of those."""
        self.curve: list[list[float]] = []
        self._device = device
        self._file: Path = args.checkpoints / "run.pt"
        if self._file.exists():
            self._load()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "curve": self.curve,
            "chance": torch.get_rng_state(),
            "chance_gpu": torch.cuda.get_rng_state_all() if self._device.type == "cuda" else [],
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._file)

    def _load(self) -> None:
        state = torch.load(self._file, map_location=self._device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.batch, self.loss_sum = state["epoch"], state["batch"], state["loss_sum"]
        self.curve = state["curve"]
        torch.set_rng_state(state["chance"].cpu())
        if state["chance_gpu"]:
            torch.cuda.set_rng_state_all([one.cpu() for one in state["chance_gpu"]])
        print(f"goes on in epoch {self.epoch + 1}, step {self.batch + 1}", flush=True)


def write_results(run: Run, evaluation: tuple[torch.Tensor, torch.Tensor]) -> None:
    out = Path("out")
    out.mkdir(exist_ok=True)
    with (out / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["epoch", "train_loss", "loss", "accuracy", "lr"])
        table.writerows([epoch, *map(repr, values)] for epoch, *values in run.curve)
    parameters = sum(weight.numel() for weight in run.model.parameters())
    (out / "metrics.json").write_text(json.dumps({"parameters": parameters}) + "\n", encoding="utf-8")
    _, _, answers = score(run.model, *evaluation)
    classes = evaluation[1].tolist()
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "target", "prediction"])
        table.writerows([number, *pair] for number, pair in enumerate(zip(classes, answers)))
    labels = [str(one) for one in range(CLASSES)]
    matrix = {"labels": labels, "matrix": confusion(classes, answers)}
    (out / "confusion.json").write_text(json.dumps(matrix) + "\n", encoding="utf-8")
    torch.save(run.model.state_dict(), out / "model.pt")


if __name__ == "__main__":
    sys.exit(main())
