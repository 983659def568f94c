"""Learn which optimiser setting runs each TPC-H query faster, on live DuckDB.

Every round runs all queries once. Before a query runs, DuckDB's own plan (EXPLAIN, nothing executed) goes to the engine, which
picks a setting of the optimiser; the measured time (of the processor: other programs disturb it less) goes back. A run that
takes too long is interrupted and the default runs instead, so trying things out stays within a budget of 5 %.

Needs ``pip install "duckdb==1.4.4" duckdb-ext-tpch`` (the extension brings the TPC-H generator as a file).
"""

from __future__ import annotations

import importlib.metadata
import json
import statistics
import sys
import threading
import time
from typing import Any

from sona.dag import DagEngine, OperatorType, QueryDag

SCALE = 0.05
ROUNDS = 10
BUDGET = 0.05
SETTINGS = {
    "default": "",
    "no_join_order": "join_order",
    "no_filter_pushdown": "filter_pushdown",
    "no_compression": "compressed_materialization",
    "no_join_filters": "join_filter_pushdown",
}
KINDS = {
    "SCAN": OperatorType.SCAN,
    "FILTER": OperatorType.FILTER,
    "JOIN": OperatorType.JOIN,
    "PRODUCT": OperatorType.JOIN,
    "GROUP_BY": OperatorType.AGGREGATE,
    "AGGREGATE": OperatorType.AGGREGATE,
    "ORDER_BY": OperatorType.SORT,
    "TOP_N": OperatorType.SORT,
    "LIMIT": OperatorType.LIMIT,
}


def connect() -> Any:
    """A database with TPC-H in it, or None with the reason printed."""
    try:
        import duckdb
    except ImportError as error:
        print(f"SKIPPED: duckdb is not installed ({error})", file=sys.stderr)
        return None
    try:
        files = importlib.metadata.files("duckdb-ext-tpch") or []
    except importlib.metadata.PackageNotFoundError:
        print("SKIPPED: no TPC-H generator; pip install duckdb-ext-tpch", file=sys.stderr)
        return None
    extension = next(str(f.locate()) for f in files if f.name.endswith(".duckdb_extension"))
    db = duckdb.connect(config={"allow_unsigned_extensions": "true", "threads": 1})
    try:
        db.execute(f"LOAD '{extension}'")
    except duckdb.Error as error:
        print(f"SKIPPED: the TPC-H extension does not load into duckdb {duckdb.__version__} ({error})", file=sys.stderr)
        return None
    db.execute(f"CALL dbgen(sf={SCALE})")
    return db


def plan_of(db: Any, sql: str) -> QueryDag:
    """The optimiser's plan as a graph of operators; an edge leads from each operator to those that feed it."""
    ((_, text),) = db.execute(f"EXPLAIN (FORMAT json) {sql}").fetchall()
    plan = QueryDag()

    def add(node: dict[str, Any]) -> int:
        name = node["name"].strip().upper()
        kind = next((k for part, k in KINDS.items() if part in name), OperatorType.OTHER)
        rows = float(str(node.get("extra_info", {}).get("Estimated Cardinality", 0)).split()[0] or 0)
        at = plan.add_node(kind, rows=rows, cost=rows)
        for child in node.get("children", []):
            plan.add_edge(at, add(child))
        return at

    for root in json.loads(text):
        add(root)
    return plan


def run(db: Any, sql: str, setting: str, limit_ms: float | None) -> tuple[float, bool]:
    """Milliseconds of processor time that a query took under a setting, and whether it was interrupted at the limit."""
    import duckdb

    db.execute(f"SET disabled_optimizers = '{SETTINGS[setting]}'")
    timer = threading.Timer((limit_ms or 1e9) / 1000, db.interrupt)
    timer.daemon = True
    start = time.process_time()
    try:
        if limit_ms is not None:
            timer.start()
        db.execute(sql).fetchall()
        return 1000 * (time.process_time() - start), False
    except duckdb.InterruptException:
        return 1000 * (time.process_time() - start), True
    finally:
        timer.cancel()
        db.execute("SET disabled_optimizers = ''")


def main() -> None:
    """Ten rounds over the 22 queries."""
    db = connect()
    if db is None:
        return
    queries = dict(db.execute("SELECT query_nr, query FROM tpch_queries()").fetchall())
    engine = DagEngine(128, regret_budget=BUDGET)
    usual: dict[int, list[float]] = {nr: [] for nr in queries}
    picked: dict[str, int] = dict.fromkeys(SETTINGS, 0)
    taken, reference = [], []
    for round_ in range(ROUNDS):
        spent = 0.0
        for nr, sql in queries.items():
            plan = plan_of(db, sql)
            # Only to compare: the default, which the engine does not see; before or after, so that a warm cache is fair.
            before = round_ % 2 == 0
            if before:
                usual[nr].append(run(db, sql, "default", None)[0])
            choice = engine.choose(plan, list(SETTINGS))
            picked[choice.setting] += 1
            ms, stopped = run(db, sql, choice.setting, choice.timeout_ms)
            engine.post_query(plan, ms, setting=choice.setting, stopped=stopped)
            if stopped:
                ms += run(db, sql, "default", None)[0]
            spent += ms
            if not before:
                usual[nr].append(run(db, sql, "default", None)[0])
        taken.append(spent)
        reference.append(sum(times[-1] for times in usual.values()))
        if round_ % 3 == 2:
            engine.background_learn()
    print(f"{len(queries)} TPC-H queries at scale {SCALE}, {ROUNDS} rounds; runs by setting: {picked}")
    print(f"all rounds:  {sum(taken):7.0f} ms, always the default {sum(reference):7.0f} ms")
    half = ROUNDS // 2
    print(f"second half: {sum(taken[half:]):7.0f} ms, always the default {sum(reference[half:]):7.0f} ms")
    share = engine.metrics()["lost_share"]
    print(f"leaving the default cost {100 * share:+.1f} % of its time by the engine's account (budget {100 * BUDGET:.0f} %)")
    sql = queries[5]
    plan = plan_of(db, sql)
    for name, p in zip(SETTINGS, engine.predict(plan, list(SETTINGS)), strict=True):
        print(f"query 5, {name:18} expected {p.median_ms:6.1f} ms ({p.lower_ms:.1f} to {p.upper_ms:.1f})")
    print(f"query 5, measured default {statistics.median(usual[5]):.1f} ms")


if __name__ == "__main__":
    main()
