"""Digests of a policy folder detect mixed and edited files."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from rltr.deploy import Policy, load_policy, save_policy
from rltr.deploy.folder import CARD, CONFIG, WEIGHTS
from tests.deploy.conftest import edit, refused


def test_mixed_files_of_two_policies_are_refused(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "first")
    with torch.no_grad():
        policy.network.keep.bias.add_(1)
    save_policy(policy, tmp_path / "second")
    (tmp_path / "first" / WEIGHTS).write_bytes((tmp_path / "second" / WEIGHTS).read_bytes())
    refused(tmp_path / "first", "one is of another policy")


def test_edited_settings_are_refused_unless_they_do_not_affect_decisions(policy: Policy, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    save_policy(policy, folder)
    edit(folder, lambda config: config["recipe"].update(data={"source": "where my photos are now"}), seal=False)
    (folder / CARD).write_text("something better")
    assert load_policy(folder).recipe["data"] == {"source": "where my photos are now"}
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(dict(reversed(config.items())), indent=7))
    load_policy(folder)  # order and layout of the JSON do not matter
    edit(folder, lambda config: config.update(layers=[2]), seal=False)
    refused(folder, "was changed after it was written")


def test_digests_are_required_from_format_3_on(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(__file__).parent / "written_before" / "format_3", tmp_path / "policy"))

    def as_it_was(config: dict[str, Any]) -> None:
        config.pop("weights_sha256")
        config.pop("settings_sha256")

    edit(folder, lambda config: config.update(format=2), seal=False)
    refused(folder, "format 2 has no digests")
    edit(folder, as_it_was, seal=False)
    assert load_policy(folder).layers == (1, 2)
    edit(folder, lambda config: config.update(typical_tokens=0), seal=False)
    refused(folder, "typical_tokens")
    edit(folder, lambda config: config.update(typical_tokens=17, format=3), seal=False)
    refused(folder, "format 3 needs both digests")
