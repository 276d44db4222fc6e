#!/usr/bin/env python3
"""A trainer for driftd that needs nothing but psycopg: replace train() and start it beside your model.

    pip install "psycopg[binary]"
    python trainer.py postgres://a_trainer@localhost/driftd [--model MODEL] [--once]

All of the contract is SQL functions, which the role driftd_trainer may call. A job is ours as long as
(job_id, attempt, lease_token) are its current ones: a call with others fails with SQLSTATE RD001, and
then another trainer has the job.
"""

import argparse
import hashlib
import socket
import threading
import time

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

LEASE_S = 30
STALE, BAD_ARGUMENT = "RD001", "RD004"


class GivenUp(Exception):
    """The job was cancelled, its lease is lost, or a trial is pruned: stop, and say no more."""


class Pruned(Exception):
    """Other trials are better: this one ends early."""


class Job:
    """A claimed job. `document` is by docs/schemas/job.v1.json."""

    def __init__(self, url, row):
        self.document = row["document"]
        self.lease = (row["job_id"], row["attempt"], row["lease_token"])
        self.lost = threading.Event()
        self.done = threading.Event()
        # One connection for two threads: psycopg lets one statement through at a time.
        self.connection = psycopg.connect(url, autocommit=True)
        self.heart = threading.Thread(target=self.beat, daemon=True)
        self.heart.start()

    def call(self, function, *arguments):
        """Calls a function of the contract for this job."""
        holes = ", ".join(["%s"] * (3 + len(arguments)))
        query = f"select driftd.{function}({holes})"
        try:
            answer = self.connection.execute(query, (*self.lease, *arguments)).fetchone()[0]
        except psycopg.Error as error:
            if error.sqlstate == STALE:
                self.lost.set()
                raise GivenUp("another trainer has the job") from error
            raise
        if answer == "cancelled":
            self.lost.set()
            raise GivenUp("it was cancelled")
        return answer

    def beat(self):
        """Extends the lease until the end. A Postgres that is away is asked again."""
        while not self.done.wait(LEASE_S / 3):
            try:
                self.call("heartbeat_job")
            except GivenUp:
                return
            except psycopg.OperationalError as error:
                print("a heartbeat failed:", error)

    def check(self):
        """Call it often: it raises once the job is not ours any more."""
        if self.lost.is_set():
            raise GivenUp("the heartbeat found it gone")

    def log(self, *lines):
        self.call("log_job", list(lines))

    def progress(self, **progress):
        self.call("progress_job", Jsonb(progress))

    def report(self, step, value):
        """For trials of a search: what the objective is worth at a step."""
        if self.document["trial"] and self.call("report_trial", step, float(value)) == "prune":
            raise Pruned

    def baseline(self, version, source=None):
        """Has driftd make the version's baseline, by default of the data that the job suggests."""
        build = self.call("request_baseline", version, Jsonb(source or {}))
        while True:
            self.check()
            state = self.call("baseline_build", build)
            if state["state"] == "failed":
                raise RuntimeError(state["error"])
            if state["state"] == "ready":
                return state
            time.sleep(1)

    def end(self):
        self.done.set()
        self.heart.join()
        self.connection.close()


def is_baseline(split, topic, partition, offset):
    """Whether a message of the suggested data is the new version's baseline: leave it out of the training."""
    text = f"{split['key']}:{topic}:{partition}:{offset}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) < split["baseline_share"] * 2**32


def train(job):
    """Yours: trains on what `job.document` says, and answers by docs/schemas/result.v1.json."""
    parameters = job.document["parameters"]
    loss = 1.0
    for epoch in range(int(parameters.get("epochs", 3))):
        job.check()
        time.sleep(float(parameters.get("seconds_per_epoch", 0)))
        loss /= 2
        job.log(f"epoch {epoch}: loss {loss}")
        job.progress(epoch=epoch, loss=loss)
        job.report(epoch, loss)
    if job.document["trial"]:
        return {"objective": loss}
    version = f"{job.document['model']}-job{job.document['job_id']}"
    result = {"version": version, "artifact_uri": f"file:///models/{version}", "metrics": {"loss": loss}}
    if parameters.get("baseline"):
        built = job.baseline(version, parameters["baseline"])
        result["baseline_id"] = built["baseline_id"]
        if "baseline_share" not in built:  # else it was held out of what was trained on
            result["training_data"] = {"sha256": built["sha256"], "rows": built["rows"]}
    return result


def work(job):
    """One attempt, from its claim to its end."""
    try:
        try:
            job.call("complete_job", Jsonb(train(job)))
        except Pruned:
            job.call("complete_job", Jsonb({"pruned": True}))
        except GivenUp:
            raise
        except Exception as error:  # whatever train() raises; a refused result stays refused
            retry = getattr(error, "sqlstate", None) != BAD_ARGUMENT
            job.call("fail_job", f"{type(error).__name__}: {error}", retry)
    except GivenUp as why:
        print(f"gave job {job.lease[0]} up: {why}")
    finally:
        job.end()


def claim(connection, url, model):
    row = connection.execute(
        "select job_id, attempt, lease_token, driftd.job_document(j) as document"
        " from driftd.claim_job(%s, %s, make_interval(secs => %s)) j",
        (socket.gethostname(), model, LEASE_S),
    ).fetchone()
    return Job(url, row) if row else None


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("url")
    arguments.add_argument("--model", help="jobs of this model only")
    arguments.add_argument("--once", action="store_true", help="end when nothing is to be done")
    arguments = arguments.parse_args()
    while True:
        try:
            with psycopg.connect(arguments.url, autocommit=True, row_factory=dict_row) as connection:
                connection.execute("listen driftd_jobs")  # before the first look: nothing is missed
                while True:
                    if job := claim(connection, arguments.url, arguments.model):
                        work(job)
                    elif arguments.once:
                        return
                    else:  # woken by a notice; and now and then, since a backoff ends unheard
                        list(connection.notifies(timeout=10, stop_after=1))
        except psycopg.OperationalError as error:
            print("Postgres is away:", error)
            time.sleep(2)


if __name__ == "__main__":
    main()
