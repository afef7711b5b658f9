import json

from helpers import EPOCH, make_manifest

from pipeline.measured import NOTHING, Measured, measured_before


def run_row(hour, state="finished", **report):
    return {
        "run_id": f"r{hour}",
        "state": state,
        "at": EPOCH.replace(hour=hour),
        "report": json.dumps(report) if report else "",
    }


def test_the_newest_figures_of_finished_runs_count(tmp_path):
    manifest = make_manifest(tmp_path)
    assert measured_before(manifest) == NOTHING
    manifest.append(
        "runs",
        [
            run_row(1, frame_bytes_per_second=1.0, driver_seconds_per_pack=0.01),
            run_row(2, frame_bytes_per_second=2.0, driver_seconds_per_pack=None),
            run_row(3, state="stopped", frame_bytes_per_second=3.0),
            run_row(4, frame_bytes_per_second=None),
            run_row(5, state="started"),
        ],
    )
    assert measured_before(manifest) == Measured(2.0, 0.01)
