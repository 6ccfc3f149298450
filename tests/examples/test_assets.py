"""Downloads of the examples: where they are found, and what is refused."""

import hashlib
from pathlib import Path

import pytest

from rltr.errors import RltrError
from tests.examples.conftest import example


@pytest.mark.parametrize("name", ["MINILM", "SPAM_ASSASSIN", "VADER"])
def test_a_missing_asset_is_refused_with_the_command_that_gets_it(no_assets: Path, name: str) -> None:
    assets = example("assets")
    asset = getattr(assets, name)
    with pytest.raises(RltrError, match="not found; get it with") as error:
        assets.find(asset, no_assets)
    assert asset.fetch.format(folder=no_assets) in str(error.value) and "\n" not in str(error.value)


def test_a_file_with_another_digest_is_refused(no_assets: Path) -> None:
    assets = example("assets")
    (no_assets / assets.VADER.path).write_bytes(b"something else")
    with pytest.raises(RltrError, match=hashlib.sha256(b"something else").hexdigest()):
        assets.find(assets.VADER, no_assets)


def test_a_given_folder_is_searched_first(no_assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = example("assets")
    asset = assets.Asset("it", "it.tgz", ".", hashlib.sha256(b"it").hexdigest(), "get it")
    for folder in ("given", "named", "runs/assets"):
        (no_assets / folder).mkdir(parents=True)
        (no_assets / folder / "it.tgz").write_bytes(b"it")
    monkeypatch.setenv("RLTR_ASSETS", str(no_assets / "named"))
    assert assets.find(asset, no_assets / "given") == no_assets / "given" / "it.tgz"
    assert assets.find(asset) == no_assets / "named" / "it.tgz"
    monkeypatch.delenv("RLTR_ASSETS")
    assert assets.find(asset) == Path("runs/assets/it.tgz")


def test_a_package_is_found_without_importing_it(no_assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = example("assets")
    package = no_assets / "site" / "weights_in_a_package"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('this package was run')\n")
    (package / "model" / "weights").write_bytes(b"it")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(no_assets / "site"))
    digest = hashlib.sha256(b"it").hexdigest()
    asset = assets.Asset("it", "weights_in_a_package/model", "weights", digest, "get it")
    assert assets.find(asset) == package / "model"
