"""A real Prometheus, with the shipped configuration, watches a real run on a cluster."""

import contextlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
import yaml

from infra.grafana.alerts import ALERTS
from infra.grafana.dashboard import INTERVAL, ROWS
from tests.e2e.support import ROOT, config_tree, environment, write_config, write_list

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RUN = """
import sys
from pipeline.config import load_config
from pipeline.job import JobOptions, run_job
from pipeline.simulated import MakeSimulated

sys.exit(run_job(load_config(sys.argv[1]), JobOptions(command="refresh_cache"), MakeSimulated(1.0)))
"""

QUERIES = {
    f"{panel.title}: {query.legend}": query.expr.replace(INTERVAL, "1m")
    for _, row in ROWS
    for panel in row
    for query in panel.queries
}
SERIES = {
    f"{alert.name}: {selector}": selector
    for alert in ALERTS
    for selector in re.findall(r"ray_\w+(?:{[^}]*})?", alert.expr)
}


@pytest.fixture
def cluster(ray_folder):
    """A cluster with a dashboard, whose head lists what there is to scrape."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    context = ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=True,
        dashboard_port=_free_port(),
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
        _temp_dir=ray_folder,
        _metrics_export_port=_free_port(),
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


class Prometheus:
    def __init__(self, port):
        self.port = port

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]

    def has(self, expr):
        """Whether a query has an answer that is a number."""
        values = [float(row["value"][1]) for row in self.get("query", query=expr)["result"]]
        return any(not math.isnan(value) for value in values)


@pytest.fixture
def prometheus(cluster, ray_folder, tmp_path):
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs Prometheus: apt-get install prometheus")
    shipped = ROOT / "infra" / "grafana"
    config = yaml.safe_load((shipped / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(shipped / "alerts.yml")]
    [files] = [found for job in config["scrape_configs"] for found in job["file_sd_configs"]]
    files["files"] = [path.replace("/tmp/ray/", f"{ray_folder}/") for path in files["files"]]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = _free_port()
    process = subprocess.Popen(
        [
            program,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
    )
    found = Prometheus(port)
    try:
        _wait(lambda: found.get("query", query="up")["result"], "Prometheus scrapes no node")
        yield found
    finally:
        process.terminate()
        process.wait(20)


def _wait(condition, otherwise, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):  # it does not answer yet
            if condition():
                return
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.5)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_every_query_has_data_while_a_run_works(tmp_path, clip, cluster, prometheus):
    names = ["bikes", "carphone", "vfr", "text"]
    rows = [{"video": str(clip(name)), "id": name} for name in names]
    tree = config_tree(
        write_list(tmp_path / "clips.jsonl", rows),
        tmp_path / "cache",
        run__runner="ray",
        run__decode="stage",
        run__encoders=2,
        windows__fps="24",  # without, a video is one task, whose packs come back together
        run__task_windows=3,
        output__shard_bytes=500,  # commits from the start to the end
    )
    config = write_config(tmp_path / "config.yaml", tree)
    job = subprocess.Popen(
        [sys.executable, "-c", RUN, str(config)],
        cwd=ROOT,
        env=environment(RAY_ADDRESS=cluster),
        stdout=subprocess.PIPE,
        text=True,
    )
    missing = {**QUERIES, **SERIES}
    deadline = time.monotonic() + 120
    ended = None
    # A run's last values stay for some seconds after it.
    while missing and time.monotonic() < deadline and (ended is None or time.monotonic() < ended):
        missing = {name: expr for name, expr in missing.items() if not prometheus.has(expr)}
        if ended is None and job.poll() is not None:
            ended = time.monotonic() + 10
        time.sleep(0.5)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 0
    assert missing == {}

    report = json.loads(output.splitlines()[-1])
    wanted = {
        'ray_t2v_windows_total{status="encoded"}': report["windows"],
        "ray_t2v_bytes_written_total": report["bytes"],
        'ray_t2v_run_sources{status="ok"}': 3,
        'ray_t2v_run_sources{status="failed"}': 1,
    }
    told = {}
    deadline = time.monotonic() + 60
    while told != wanted and time.monotonic() < deadline:
        told = {selector: _last_sum(prometheus, selector) for selector in wanted}
        time.sleep(0.5)
    assert told == wanted
    age = time.time() - _last_sum(prometheus, "ray_t2v_run_ended_timestamp_seconds_total")
    assert abs(age) < 180

    loaded = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in loaded} == {a.name: "ok" for a in ALERTS}


def _last_sum(prometheus, selector):
    """Sum of what series said last: a late scrape hides them, and gauges end with their run."""
    rows = prometheus.get("query", query=f"sum(last_over_time({selector}[5m]))")["result"]
    return sum(float(row["value"][1]) for row in rows)
