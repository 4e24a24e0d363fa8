"""Make the two data files from scikit-learn's copy of the UCI optical digits: python data/make.py digits.csv.gz

Kept so that anybody can see, and repeat, where the files come from; the experiment does not run it. The source has its
rows in the order of the 13 writers, so a cut in the middle, rather than a shuffle, leaves writers in the evaluation
part whom the training has never seen: harder, and closer to use.
"""

import gzip
import sys
from pathlib import Path

TRAIN_ROWS = 1198
"""Two thirds of the 1,797 rows."""

here = Path(__file__).parent
rows = gzip.decompress(Path(sys.argv[1]).read_bytes()).decode("ascii").splitlines()

header = ",".join([*(f"pixel{index}" for index in range(64)), "digit"])
for name, part in {"train": rows[:TRAIN_ROWS], "eval": rows[TRAIN_ROWS:]}.items():
    text = "\n".join([header, *part]) + "\n"
    # No time in the file: equal content gives equal bytes.
    (here / f"digits-{name}.csv.gz").write_bytes(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0))
