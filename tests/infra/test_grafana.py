"""The dashboard and the alerts: what is generated, and what promtool says of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.grafana.__main__ import main, render
from infra.grafana.alerts import ALERTS
from infra.grafana.dashboard import INTERVAL, ROWS, dashboard
from pipeline.metrics import METRICS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "grafana"
CASES = Path(__file__).parent / "alerts_test.yml"
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
UNITS = {"short", "s", "percentunit", "dateTimeFromNow", "Bps", "bytes"}
"""Grafana's names of the units that are used."""

QUERIES = [query.expr for _, row in ROWS for panel in row for query in panel.queries]


@pytest.fixture(scope="module")
def promtool():
    """Runs Prometheus's own checker, which must be content."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("needs promtool: apt-get install prometheus")

    def check(*arguments):
        done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return check


def test_the_committed_files_are_what_the_code_makes(tmp_path, capsys):
    assert main(["--check"]) == 0
    assert main(["--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(render())
    (tmp_path / "alerts.yml").write_text("groups: []\n")
    capsys.readouterr()
    assert main(["--out", str(tmp_path), "--check"]) == 1
    assert "make manifests" in capsys.readouterr().out


def test_panels_fill_rows_of_24_columns_and_do_not_overlap():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_the_dashboard_has_the_fields_that_grafanas_schema_asks_for():
    """Those that are not optional in Grafana 11, and those without which a panel is empty."""
    tree = dashboard()
    assert isinstance(tree["schemaVersion"], int)
    assert tree["title"]
    assert 0 < len(tree["uid"]) <= 40
    assert tree["time"].keys() == {"from", "to"}
    [variable] = tree["templating"]["list"]
    assert (variable["name"], variable["type"]) == ("datasource", "datasource")
    for panel in tree["panels"]:
        assert panel["id"] > 0
        assert panel["title"]
        assert panel["gridPos"].keys() == {"x", "y", "w", "h"}
        if panel["type"] == "row":
            assert panel["collapsed"] is False  # its panels follow it
            assert panel["panels"] == []
            continue
        assert panel["type"] in {"timeseries", "stat"}
        assert panel["fieldConfig"].keys() == {"defaults", "overrides"}
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) > 0
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": variable["query"], "uid": "${datasource}"}
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])


def test_every_metric_is_looked_at():
    text = json.dumps(dashboard()) + "".join(alert.expr for alert in ALERTS)
    assert [metric.name for metric in METRICS if metric.exported not in text] == []


def test_prometheus_takes_the_rules_and_the_configuration(promtool):
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", FOLDER / "alerts.yml")
    promtool("check", "config", FOLDER / "prometheus.yml")


def test_prometheus_understands_every_query_of_the_dashboard(promtool, tmp_path):
    recorded = [
        {"record": f"query_{index}", "expr": expr.replace(INTERVAL, "1m")}
        for index, expr in enumerate(QUERIES)
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    assert f"{len(QUERIES)} rules found" in promtool("check", "rules", path)


def test_every_alert_fires_where_it_should_and_not_beside_that(promtool):
    promtool("test", "rules", CASES)
    cases = [
        case
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    names = {alert.name for alert in ALERTS}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_the_runbook_tells_of_every_alert(alert):
    [part] = re.findall(rf"^#### {alert.name}\n(.*?)(?=^#)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert "**Means**" in part
    assert "**Do**" in part
    assert alert.to_rule()["annotations"]["runbook"] == f"docs/operations.md#{alert.name.lower()}"


def test_the_table_of_metrics_is_in_the_documentation():
    rows = re.findall(r"^\| `(ray_t2v_\w+)` \| (\w+) \| (.*?) \|", RUNBOOK, re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert told == {m.exported: (m.kind, set(m.labels)) for m in METRICS}
