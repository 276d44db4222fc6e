#!/usr/bin/env python3
"""check_demo.py FILE: does the JSON of `driftd demo [--train] --exit --output json` add up?

Prints one line per check and a last line that counts them; exits 1 when one of them fails. A new
check is one more line in `checks`.
"""
import json
import sys
from datetime import date

FLIGHTS = 255_987  # departures from April to December in deploy/demo/flights.parquet
DAYS = (date(2014, 1, 1) - date(2013, 4, 1)).days
BASELINE_DAYS = (date(2013, 4, 1) - date(2013, 1, 1)).days
KEYS = {
    "rows", "rejected", "late", "windows", "drifted_windows", "episodes", "first_drift",
    "top_features", "baseline_days_alarmed", "jobs", "versions", "seconds", "rows_per_second",
}  # fmt: skip


def checks(demo):
    """(what is checked, whether it holds, what was found), in the order of the report."""
    alarmed = demo["baseline_days_alarmed"]
    jobs = demo["jobs"]
    models = {job["model"] for job in jobs}
    # Every flight is counted; what was planted beside them is rejected or late, and nothing else is.
    counted = demo["rows"] - demo["rejected"] - demo["late"]
    yield "rows in = flights + rejected + late", counted == FLIGHTS, demo["rows"]
    yield "planted messages were rejected", demo["rejected"] > 0, demo["rejected"]
    yield "planted rows were late", demo["late"] > 0, demo["late"]
    yield f"one window a day, {DAYS} days", demo["windows"] >= DAYS, demo["windows"]
    yield "some windows drift, not all", 0 < demo["drifted_windows"] < demo["windows"], demo["drifted_windows"]
    yield "at least one episode", demo["episodes"] >= 1, demo["episodes"]
    first = (demo["first_drift"] or "")[:10]
    yield "the first drift is in April or May", "2013-04-01" <= first <= "2013-05-31", first
    # The summer's routes: `distance` shows them first, `dest` a few days later.
    # Where the loop is closed the weather is not watched.
    first = "dest" if len(demo["versions"]) > 1 else "humid"
    yield f"{first} moved first", demo["top_features"][:1] == [first], demo["top_features"]
    yield "chi-square alarms on every baseline day", alarmed["chi2_bonferroni"] == BASELINE_DAYS, alarmed
    yield "so does PSI", alarmed["psi_02"] == BASELINE_DAYS, alarmed
    yield "the rule on 4 of them at most", alarmed["rule"] <= 4, alarmed
    yield "every job says why, and for what", all(j["reason"] and j["model"] and j["version"] for j in jobs), jobs
    yield "flight-delay is retrained", "flight-delay" in models, sorted(models)
    yield "so is the model with a schedule alone", len(models) >= 2, sorted(models)
    yield "the rate is that of rows and seconds", rate_fits(demo), demo["rows_per_second"]


def checks_of_training(demo):
    """The loop closed: each version was made by a job and is compared with its own baseline."""
    versions = demo["versions"]
    names = [one["version"] for one in versions]
    yield "versions 1 and 2 at least", names[:2] == ["1", "2"], names
    yield "no rows of unknown versions", "(other)" not in names, names
    stages = [one["stage"] for one in versions]
    yield "the last one is in service", stages == ["superseded"] * (len(stages) - 1) + ["promoted"], stages
    jobs = [job["state"] for job in demo["jobs"] if job["model"] == "flight-delay"]
    yield "every job of it has succeeded", set(jobs) == {"succeeded"}, jobs
    before, after = versions[0], versions[1]
    last, first = before["drifted_share_of_last_10"], after["drifted_share_of_first_10"]
    yield "drift falls with version 2, to less than half", first < last / 2, (round(last, 3), round(first, 3))


def rate_fits(demo):
    return abs(demo["rows_per_second"] * demo["seconds"] - demo["rows"]) <= 0.05 * demo["rows"]


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        demo = json.load(file)
    missing = sorted(KEYS - demo.keys())
    if missing:
        print(f"the demo's JSON lacks {', '.join(missing)}")
        print("demo: 0 passed, 1 failed")
        return 1
    results = list(checks(demo))
    if len(demo["versions"]) > 1:
        results += checks_of_training(demo)
    for what, holds, found in results:
        print(f"{'ok    ' if holds else 'FAILED'} {what}: {found}")
    failed = sum(not holds for _, holds, _ in results)
    print(f"demo: {len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
