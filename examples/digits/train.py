"""Train a small network on handwritten digits: one hidden layer, plain numpy, a second or two per run.

Writes out/curves.csv (one line per epoch) and out/metrics.json (the final values).
"""

import argparse
import csv
import gzip
import json
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="gzipped CSV of 64 pixels and a class")
    parser.add_argument("--eval", type=Path, required=True, help="the same, never trained on")
    parser.add_argument("--hidden", type=int, required=True, help="units in the hidden layer")
    parser.add_argument("--lr", type=float, required=True, help="learning rate")
    parser.add_argument("--momentum", type=float, required=True)
    parser.add_argument("--batch", type=int, required=True, help="pictures per step")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()

    random = np.random.default_rng(args.seed)
    train, evaluation = load(args.train), load(args.eval)
    weights = [
        random.normal(0, (2 / 64) ** 0.5, (64, args.hidden)),
        np.zeros(args.hidden),
        random.normal(0, (2 / args.hidden) ** 0.5, (args.hidden, 10)),
        np.zeros(10),
    ]
    velocity = [np.zeros_like(weight) for weight in weights]

    out = Path("out")
    out.mkdir(exist_ok=True)
    with (out / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["epoch", "train_loss", "loss", "accuracy"])
        for epoch in range(1, args.epochs + 1):
            order = random.permutation(len(train[1]))
            for start in range(0, len(order), args.batch):
                rows = order[start : start + args.batch]
                for weight, speed, slope in zip(weights, velocity, gradient(weights, train[0][rows], train[1][rows])):
                    speed *= args.momentum
                    speed -= args.lr * slope
                    weight += speed
            train_loss, _ = score(weights, *train)
            loss, accuracy = score(weights, *evaluation)
            table.writerow([epoch, f"{train_loss:.6g}", f"{loss:.6g}", f"{accuracy:.6g}"])
            print(f"epoch {epoch}/{args.epochs}: loss {loss:.4f}, accuracy {accuracy:.4f}", flush=True)

    final = {"parameters": sum(weight.size for weight in weights)}
    (out / "metrics.json").write_text(json.dumps(final, indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures, shape (n, 64), scaled to 0..1, and their classes, shape (n,)."""
    with gzip.open(path, "rt", encoding="ascii") as file:
        rows = np.loadtxt(file, delimiter=",", skiprows=1)
    return rows[:, :64] / 16, rows[:, 64].astype(int)


def log_probabilities(weights: list[np.ndarray], pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hidden layer's output and the logarithm of each class's probability."""
    hidden = np.maximum(pictures @ weights[0] + weights[1], 0)
    logits = hidden @ weights[2] + weights[3]
    logits -= logits.max(axis=1, keepdims=True)
    return hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def gradient(weights: list[np.ndarray], pictures: np.ndarray, classes: np.ndarray) -> list[np.ndarray]:
    """Return the slope of the mean cross-entropy, one array per weight."""
    hidden, log_p = log_probabilities(weights, pictures)
    delta = np.exp(log_p)
    delta[np.arange(len(classes)), classes] -= 1
    delta /= len(classes)
    back = (delta @ weights[2].T) * (hidden > 0)
    return [pictures.T @ back, back.sum(axis=0), hidden.T @ delta, delta.sum(axis=0)]


def score(weights: list[np.ndarray], pictures: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """Return the mean cross-entropy and the share of right answers."""
    _, log_p = log_probabilities(weights, pictures)
    loss = -log_p[np.arange(len(classes)), classes].mean()
    return float(loss), float((log_p.argmax(axis=1) == classes).mean())


if __name__ == "__main__":
    main()
