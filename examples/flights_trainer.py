#!/usr/bin/env python3
"""The command of `driftd demo --train`, with scikit-learn: will a flight arrive 15 minutes late or more?

Run by `driftd worker --fetch`: the job is in DRIFTD_JOB_FILE, the suggested part of the topic in
DRIFTD_DATA_FILE, one message a line, without those of the new version's baseline; the result goes to
DRIFTD_RESULT_FILE. What it prints is kept with
the job (`driftd jobs logs`).
"""

import json
import os
import pickle
import sys

from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMBERS = ["sched_dep_min", "distance", "temp", "dewp", "humid", "wind_speed", "precip", "visib"]
LABELS = ["carrier", "origin", "dest", "dow"]


def rows(job):
    """The flights that the job means: of its time range, with a known arrival."""
    first, last = (parse(job["training_data"][key]) for key in ("from", "to"))
    with open(os.environ["DRIFTD_DATA_FILE"], encoding="utf-8") as file:
        for line in file:
            try:
                flight = json.loads(line)
            except ValueError:
                continue  # the topic holds what topics hold
            at = flight.get("event_time")
            if at is not None and first <= at < last and flight.get("arr_delay") is not None:
                yield flight


def parse(text):
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000


def main():
    with open(os.environ["DRIFTD_JOB_FILE"], encoding="utf-8") as file:
        job = json.load(file)
    flights = sorted(rows(job), key=lambda flight: flight["event_time"])
    if len(flights) < 1000:
        print(f"{len(flights)} flights are too few", file=sys.stderr)
        return 65  # trying again does not help
    inputs = [
        [number(flight, name) for name in NUMBERS] + [str(flight.get(name)) for name in LABELS]
        for flight in flights
    ]
    late = [flight["arr_delay"] >= 15 for flight in flights]
    cut = len(flights) * 4 // 5  # the last fifth, in time, is held out
    count = len(NUMBERS)
    model = make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(), StandardScaler()), list(range(count))),
            (OneHotEncoder(handle_unknown="ignore"), list(range(count, count + len(LABELS)))),
        ),
        LogisticRegression(max_iter=500, C=float(job["parameters"].get("C", 1.0))),
    )
    model.fit(inputs[:cut], late[:cut])
    scores = model.predict_proba(inputs[cut:])[:, 1]
    metrics = {"auc": float(roc_auc_score(late[cut:], scores)), "log_loss": float(log_loss(late[cut:], scores))}
    print(f"trained on {cut} flights, held out {len(flights) - cut}: auc {metrics['auc']:.3f}")
    version = str(int(job["version"] or 0) + 1)
    artifact = os.path.join(os.environ.get("ARTIFACTS", os.path.dirname(os.environ["DRIFTD_RESULT_FILE"])), f"flight-delay-{version}.pickle")
    with open(artifact, "wb") as file:
        pickle.dump(model, file)
    result = {
        "version": version,
        "artifact_uri": f"file://{artifact}",
        "metrics": metrics,
        "training_data": {key: job["training_data"].get(key) for key in ("topic", "offsets", "from", "to")},
        "code": "examples/flights_trainer.py",
        "baseline": True,  # from the suggested offset ranges
    }
    with open(os.environ["DRIFTD_RESULT_FILE"], "w", encoding="utf-8") as file:
        json.dump(result, file)
    return 0


def number(flight, name):
    value = flight.get(name)
    return float("nan") if value is None else float(value)


if __name__ == "__main__":
    sys.exit(main())
