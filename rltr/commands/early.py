"""Early checks: errors that are certain to occur later, raised before a model is loaded or anything is written."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rltr.errors import RltrError
from rltr.system.files import at_home, from_here
from rltr.system.folders import POLICY_FOLDER
from rltr.system.reading import LARGEST_CONFIG, read_regular, strict_json

if TYPE_CHECKING:
    import rltr.recipe


def policy_config(folder: Path) -> dict[str, Any]:
    """Read a policy's config.json, without validating its fields.

    Raises:
        RltrError: if the file is missing or cannot be read.
    """
    file = folder / "config.json"
    if not file.exists():
        what = "there is no such folder" if not folder.exists() else "it has no config.json"
        fix = "name one that demo, train or export wrote"
        if (folder / POLICY_FOLDER / "config.json").exists():
            fix = f"it is a run's folder; its policy is {str(folder / POLICY_FOLDER)!r}"
        raise RltrError(f"{str(folder)!r} is not a policy's folder: {what}; {fix}")
    content = read_regular(file, LARGEST_CONFIG)
    try:
        config = strict_json(content)
    except ValueError as error:
        raise RltrError(f"{str(file)!r} is damaged ({error}); export the policy again") from None
    if not isinstance(config, dict):
        raise RltrError(f"{str(file)!r} is not a policy's: it is not a JSON object; export the policy again")
    return config


def refuse_early(recipe: "rltr.recipe.Recipe") -> None:
    """Raise `RltrError` if the data or the device of a recipe does not exist."""
    from rltr.recipe import EMBEDDED, is_hub_name

    data = recipe.data.source
    if data != EMBEDDED and not is_hub_name(data) and not at_home(data).exists():
        raise RltrError(f"there is no data at {from_here(data)}; name an existing folder or file with --data")
    from rltr.system.device import pick_device

    pick_device(recipe.device)
