import json

import pytest
from helpers import EPOCH, make_config, make_manifest

from pipeline.measured import NOTHING, Measured, choose_decode, measured_before

GB = 10**9


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


@pytest.mark.parametrize("wanted", ["stage", "in_actor"])
def test_what_is_configured_is_taken(wanted):
    config = make_config(run__decode=wanted)
    for rate in (None, 1.0, 10.0**12):
        assert choose_decode(config, Measured(rate), GB) == wanted


def test_frames_of_ten_seconds_have_to_fit_into_half_of_the_object_store():
    config = make_config()
    assert config.run.decode == "auto"
    assert choose_decode(config, NOTHING, GB) == "stage"
    assert choose_decode(config, Measured(0.049 * GB), GB) == "stage"
    assert choose_decode(config, Measured(0.051 * GB), GB) == "in_actor"
    assert choose_decode(config, Measured(0.051 * GB), 8 * GB) == "stage"
