"""Benchmark of evaluation."""

from __future__ import annotations

from tests.benchmarks.evaluation import measure_evaluation


def test_an_evaluation_is_measured_end_to_end(tiny_shards, tiny_run):
    untrained = measure_evaluation(tiny_shards, limit=6)
    assert (untrained["images"], untrained["network"]) == (6, "demo.yaml, untrained")
    trained = measure_evaluation(tiny_shards, tiny_run)
    assert trained["images"] > 6
    assert trained["network"] == str(tiny_run)
    for measured in (untrained, trained):
        assert measured["canvases"] >= 1
        assert measured["compile_s"] > 0
        seconds = measured["find_s"] + measured["score_s"]
        assert abs(measured["images"] / measured["images_per_s"] - seconds) < 0.05
