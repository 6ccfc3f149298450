"""The card of a policy folder: what it is, what it was measured to do, how to use it."""

from collections.abc import Mapping
from typing import Any


def card(config: Mapping[str, Any]) -> str:
    """The text of a policy folder's README.md.

    Args:
        config: what ``config.json`` holds.
    """
    backbone, recipe, facts = config["backbone"], config["recipe"], config["facts"]
    lines = [
        "---",
        "library_name: rltr",
        f"base_model: {backbone['name']}",
        "tags: [token-selection, token-merging, reinforcement-learning]",
        "---",
        "",
        f"# Token selection for {backbone['name']}",
        "",
        f"A policy that decides which tokens the frozen {backbone['model_type']} model can do without. It works with "
        f"the weights it was trained for and no others (fingerprint `{backbone['fingerprint'][:16]}`).",
        "",
        "```python",
        "import rltr",
        "",
        'rltr.attach(model, "this folder", budget=0.6)  # about 60 % of the cost; rltr.detach(model) undoes it',
        "```",
        "",
        f"Decision layers {', '.join(map(str, config['layers']))}; dropped tokens: {config['dropped']}; cost model: "
        f"{config['cost']['name']}; trained with rltr {config['rltr']}"
        + (
            f", {recipe['learner']['rollouts']} rollouts, seed {recipe['learner']['seed']}."
            if "learner" in recipe
            else "."
        ),
        "",
        "## Calibration, on the validation split",
        "",
        f"| cost weight | cost | {config['quality_name']} | dense {config['quality_name']} | lost at most |",
        "|---:|---:|---:|---:|---:|",
    ]
    row = "| {cost_weight:.3g} | {cost:.3f} | {quality:.2%} | {dense_quality:.2%} | "
    lines += [row.format(**point) + f"{lost_at_most(point)} |" for point in config["calibration"]]
    if facts.get("table"):
        columns = list(facts["table"][0])
        lines += ["", "## Measured, on the test split", "", f"{facts.get('environment', '')}", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + "---:|" * len(columns)]
        lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in facts["table"]]
    lines += ["", "Costs are shares of the dense layers' cost by the cost model, the policy's own included.", ""]
    return "\n".join(lines)


def lost_at_most(point: Mapping[str, Any]) -> str:
    """The bound of what a calibrated weight loses, and how sure it is: ``0.45%, 90% sure``; a dash if there is none.

    Args:
        point: the fields of an :class:`rltr.export.Operating`.
    """
    bound, confidence = point.get("drop_bound"), point.get("confidence")
    return "–" if bound is None or confidence is None else f"{bound:.2%}, {confidence:.0%} sure"
