"""Downloads of the examples: where they are found, and what is refused."""

import hashlib
from pathlib import Path

import pytest

from rltr.errors import RltrError
from tests.examples.conftest import example


@pytest.mark.parametrize("name", ["MINILM", "SPAM_ASSASSIN", "VADER"])
def test_what_is_missing_is_said_with_the_command_that_gets_it(nowhere: Path, name: str) -> None:
    assets = example("assets")
    asset = getattr(assets, name)
    with pytest.raises(RltrError, match="not found; get it with") as error:
        assets.find(asset, nowhere)
    assert asset.fetch.format(folder=nowhere) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_another_one_is_refused(nowhere: Path) -> None:
    assets = example("assets")
    (nowhere / assets.VADER.path).write_bytes(b"something else")
    with pytest.raises(RltrError, match=hashlib.sha256(b"something else").hexdigest()):
        assets.find(assets.VADER, nowhere)


def test_the_folder_that_is_given_comes_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = example("assets")
    asset = assets.Asset("it", "it.tgz", ".", hashlib.sha256(b"it").hexdigest(), "get it")
    for folder in ("given", "named", "runs/assets"):
        (nowhere / folder).mkdir(parents=True)
        (nowhere / folder / "it.tgz").write_bytes(b"it")
    monkeypatch.setenv("RLTR_ASSETS", str(nowhere / "named"))
    assert assets.find(asset, nowhere / "given") == nowhere / "given" / "it.tgz"
    assert assets.find(asset) == nowhere / "named" / "it.tgz"
    monkeypatch.delenv("RLTR_ASSETS")
    assert assets.find(asset) == Path("runs/assets/it.tgz")


def test_a_package_is_found_without_being_run(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = example("assets")
    package = nowhere / "site" / "weights_in_a_package"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('this package was run')\n")
    (package / "model" / "weights").write_bytes(b"it")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(nowhere / "site"))
    digest = hashlib.sha256(b"it").hexdigest()
    asset = assets.Asset("it", "weights_in_a_package/model", "weights", digest, "get it")
    assert assets.find(asset) == package / "model"
