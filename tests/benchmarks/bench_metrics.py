"""Seconds for every metric on arrays of COCO's size, beside scikit-learn's for the same figures.

python -m tests.benchmarks.bench_metrics [--rows 118287] [--tiny]
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from sklearn import metrics as sk

from emocap.metrics import compute_metrics, compute_with_prior, prior_probabilities, resampled_metrics

COCO_ROWS, NUM_LABELS = 118_287, 29


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=COCO_ROWS)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    compare(200 if arguments.tiny else arguments.rows)


def compare(rows: int) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((rows, NUM_LABELS), dtype=np.float32) < 0.14).astype(np.float32)
    probabilities = (0.2 * labels + 0.8 * rng.random((rows, NUM_LABELS), dtype=np.float32)).astype(np.float32)
    votes = rng.multinomial(6, np.full(NUM_LABELS, 1 / NUM_LABELS), size=rows).astype(np.int32)
    prior, true = prior_probabilities(labels), labels >= 0.5

    def scikit_learn() -> None:
        sk.average_precision_score(true, probabilities, average="macro")
        sk.average_precision_score(true, probabilities, average="micro")
        sk.label_ranking_average_precision_score(true, probabilities)

    ours = seconds(lambda: compute_metrics(probabilities, labels, votes))
    theirs = seconds(scikit_learn)
    print(f"({rows:,}, {NUM_LABELS}): all keys {ours:.2f} s, all keys and prior", end=" ")
    print(f"{seconds(lambda: compute_with_prior(probabilities, labels, prior, votes)):.2f} s")
    print(f"scikit-learn, map_macro, map_micro and lrap alone: {theirs:.2f} s, {theirs / ours:.1f} times all of ours")
    few = min(rows, 2000)
    part = probabilities[:few], labels[:few], votes[:few]
    print(f"1,000 resamples of {few:,} rows, all keys: {seconds(lambda: resampled_metrics(*part)):.2f} s", end="; ")
    once = seconds(lambda: compute_metrics(*part))
    print(f"measured one by one they would take {1000 * once:.1f} s")


if __name__ == "__main__":
    main()
