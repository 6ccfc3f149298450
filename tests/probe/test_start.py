"""Starts of a training, and the alternatives that a probe tries."""

import json

import pytest

from rltr.probe.start import (
    Start,
    other_removal,
    other_schedules,
    other_strengths,
    schedules,
    single_features,
)

START = Start((1, 3), "merge", redundancy=4.0, attention=8.0)


@pytest.mark.parametrize("depth", range(1, 40))
def test_schedules_are_possible_and_different(depth: int) -> None:
    found = schedules(depth)
    assert found and len(set(found)) == len(found)
    for layers in found:
        assert list(layers) == sorted(set(layers)) and layers[0] >= 0 and layers[-1] < max(depth - 1, 1)


def test_features_are_tried_alone_and_in_both_directions() -> None:
    found = list(single_features(START))
    assert all((start.layers, start.removal) == (START.layers, "merge") for start in found)
    signs = {tuple((value > 0) - (value < 0) for value in start.priors.values()) for start in found}
    assert signs == {(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (1, 1, 0)}


def test_every_alternative_changes_one_thing() -> None:
    assert all(start.priors == START.priors and start.removal == "merge" for start in other_schedules(START, 12))
    assert START.layers not in [start.layers for start in other_schedules(START, 12)]
    assert {start.removal for start in other_removal(START)} == {"drop"}
    for start in other_strengths(START):
        changed = [name for name, weight in start.priors.items() if weight != START.priors[name]]
        assert len(changed) == 1 and (start.layers, start.removal) == (START.layers, START.removal)


def test_the_other_removal_is_tried_once_if_attention_is_the_only_feature() -> None:
    assert len(list(other_removal(Start((1,), "merge", attention=8.0)))) == 1


def test_a_start_is_json_and_one_line() -> None:
    assert json.loads(json.dumps(START.to_dict())) == {
        "layers": [1, 3], "removal": "merge", "redundancy": 4.0, "attention": 8.0, "spread": 0.0,
    }  # fmt: skip
    assert str(START) == "layers 1 3; merge; redundancy 4, attention 8"
    assert str(Start((0,), "drop")) == "layers 0; drop; no prior"
