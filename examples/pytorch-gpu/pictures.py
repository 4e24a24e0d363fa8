"""Read the pictures, and decide in which order and how shifted they are shown. Nothing here needs PyTorch."""

import csv
import gzip
import math
import random
from pathlib import Path

SIDE = 8
CLASSES = 10


def read(path: Path) -> tuple[list[list[float]], list[int]]:
    """Return the pictures, each 64 numbers from 0 to 1 row by row, and their classes."""
    with gzip.open(path, "rt", encoding="ascii", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        cells = [[int(cell) for cell in row] for row in rows]
    return [[cell / 16 for cell in row[: SIDE * SIDE]] for row in cells], [row[-1] for row in cells]


def batches(count: int, size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the order of an epoch, in batches: the same for the same seed and epoch, whatever happened before."""
    order = list(range(count))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return [order[start : start + size] for start in range(0, count, size)]


def shifts(count: int, *, seed: int, epoch: int, batch: int) -> list[tuple[int, int]]:
    """Return by how much each picture of a batch is moved down and to the right: by -1, 0 or 1."""
    chance = random.Random(f"shift {seed} {epoch} {batch}")
    return [(chance.randint(-1, 1), chance.randint(-1, 1)) for _ in range(count)]


def learning_rate(step: int, steps: int, *, peak: float, warmup: int) -> float:
    """Return the rate of a step: up in a line, then down in half a cosine."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def confusion(targets: list[int], predictions: list[int]) -> list[list[int]]:
    """Return how often each class (row) was taken for each (column)."""
    table = [[0] * CLASSES for _ in range(CLASSES)]
    for target, prediction in zip(targets, predictions, strict=True):
        table[target][prediction] += 1
    return table
