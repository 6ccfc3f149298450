"""Arguments of ``rltr.attach`` are checked before anything else."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from rltr.deploy.operating_point import chosen_weight, number
from rltr.errors import RltrError
from tests.deploy.conftest import TABLE


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0)],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_every_type_are_accepted(value: object) -> None:
    assert number("budget", value) == 2.0 and chosen_weight(TABLE, cost_weight=value) == 2.0


@pytest.mark.parametrize("value", ["0.6", b"1", True, [0.6], {}, 1j, object(), np.ones(2), torch.ones(1), np.bool_(1)])
@pytest.mark.parametrize("name", ["budget", "max_drop", "cost_weight"])
def test_values_that_are_not_numbers_are_refused(name: str, value: object) -> None:
    with pytest.raises(RltrError, match=f"{name}=.* must be a number, such as {name}=0.5, but is of type"):
        chosen_weight(TABLE, **{name: value})


@pytest.mark.parametrize("value", [0, -1.0, 1e-21, 1e21, 10**400, float("nan"), float("inf")])
def test_impossible_cost_weights_are_refused(value: float) -> None:
    with pytest.raises(RltrError, match="above 0 .* and finite; this policy was calibrated for 0.02 to 2"):
        chosen_weight(TABLE, cost_weight=value)


def test_exactly_one_operating_point_must_be_given() -> None:
    for options in ({}, {"budget": 0.5, "max_drop": 0.1}, {"budget": 0.5, "max_drop": 0.1, "cost_weight": 1.0}):
        with pytest.raises(RltrError, match="give exactly one"):
            chosen_weight(TABLE, **options)


WRONG = """
import rltr, torch
from rltr.tasks.models import load_model
model, refused = load_model("embedded"), 0
calls = [
    lambda: rltr.attach(model, None, budget=0.6),
    lambda: rltr.attach(model, 5, budget=0.6),
    lambda: rltr.attach(model, "nowhere", budget=0.6),
    lambda: rltr.attach(model, "a\\0b", budget=0.6),
    lambda: rltr.attach(model, "x" * 5000, budget=0.6),
    lambda: rltr.attach(None, "nowhere", budget=0.6),
    lambda: rltr.attach(torch.nn.Linear(2, 2), "nowhere", budget=0.6),
    lambda: rltr.attach("embedded", "nowhere", budget=0.6),
    lambda: rltr.load_policy(["a"]),
    lambda: rltr.load_policy(""),
]
for number, call in enumerate(calls):
    try:
        call()
    except rltr.RltrError as error:
        assert "\\n" not in str(error)
        refused += 1
    except Exception as error:
        print(number, type(error).__name__, error)
print(refused, len(calls))
"""


def test_arguments_of_the_wrong_type_are_refused() -> None:
    """In its own process, where types are not checked as in tests."""
    done = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["10", "10"], done.stdout
