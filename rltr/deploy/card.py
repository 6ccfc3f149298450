"""The model card of a policy folder: what the policy is for, how to use it, and its measured trade-off."""

from collections.abc import Mapping
from typing import Any

import yaml


def card(config: Mapping[str, Any]) -> str:
    """Render the model card, README.md of a policy folder, as Markdown.

    Args:
        config: content of ``config.json``.
    """
    backbone, recipe, facts = config["backbone"], config["recipe"], config["facts"]
    learner = recipe.get("learner", {})
    trained = (
        [f"{learner['rollouts']} rollouts", f"seed {learner['seed']}"] if {"rollouts", "seed"} <= learner.keys() else []
    )
    quality = in_one_line(config["quality_name"])
    share = "native time" if any(point.get("time") is not None for point in config["calibration"]) else "cost"
    lines = [
        "---",
        "library_name: rltr",
        yaml.safe_dump({"base_model": backbone["name"]}, allow_unicode=True, width=10**9).strip(),
        "tags: [token-selection, token-merging, reinforcement-learning]",
        "---",
        "",
        f"# Token selection for {in_one_line(backbone['name'])}",
        "",
        f"A policy that decides which tokens the frozen {backbone['model_type']} model can do without. It works only "
        f"with the weights it was trained for (fingerprint `{backbone['fingerprint'][:16]}`).",
        "",
        "```python",
        "import rltr",
        "",
        f'rltr.attach(model, "this folder", budget=0.6)  # about 60 % of the {share}; rltr.detach(model) undoes it',
        "```",
        "",
        f"Decision layers {', '.join(map(str, config['layers']))}; dropped tokens: {config['removal']}; cost model: "
        f"{config['cost']['name']}; trained with rltr {config['rltr']}"
        + "".join(f", {in_one_line(words)}" for words in trained)
        + ".",
        "",
        "## Calibration, on the validation split",
        "",
        f"| cost weight | cost | {quality} | dense {quality} | lost at most | time |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    row = "| {cost_weight:.3g} | {cost:.3f} | {quality:.2%} | {dense_quality:.2%} | "
    lines += [row.format(**point) + f"{lost_at_most(point)} | {_time(point)} |" for point in config["calibration"]]
    if facts.get("table"):
        columns = list(facts["table"][0])
        lines += ["", "## Measured, on the test split", "", in_one_line(facts.get("environment", "")), ""]
        lines += ["| " + " | ".join(map(in_one_line, columns)) + " |", "|" + "---:|" * len(columns)]
        lines += ["| " + " | ".join(in_one_line(row[column]) for column in columns) + " |" for row in facts["table"]]
    lines += [
        "",
        "Times are measured, relative to the native model for the same batches, padding, embedding and head included; "
        "budgets refer to them. A dash means that no times were measured. Costs are relative to the dense layers' cost "
        "for the same padded batches, by the cost model. Both include the cost of the policy.",
        "",
    ]
    return "\n".join(lines)


def lost_at_most(point: Mapping[str, Any]) -> str:
    """The bound of the loss of a calibration point and its confidence, as ``0.45%, 90% sure``, or a dash.

    Args:
        point: the fields of an :class:`rltr.deploy.CalibrationPoint`.
    """
    bound, confidence = point.get("drop_bound"), point.get("confidence")
    return "–" if bound is None or confidence is None else f"{bound:.2%}, {confidence:.0%} sure"


def _time(point: Mapping[str, Any]) -> str:
    time = point.get("time")
    return "–" if time is None else f"{time:.3f}"


def in_one_line(value: object) -> str:
    """Format text or a number for a Markdown heading or table cell, without line breaks and unescaped bars."""
    return " ".join(str(value).split()).replace("|", "\\|")
