"""``rltr check`` of a policy and of a model."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import T5Config, T5EncoderModel

from tests.commands.conftest import rltr


def test_a_failed_check_has_exit_code_1(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rltr.jobs.check", SimpleNamespace(run_check=lambda *_: False))
    result = rltr("check", policy)
    assert result.exit_code == 1
    assert result.stderr.startswith("rltr: check failed: ") and result.stderr.count("\n") == 1


def test_checking_a_model_prints_the_report(tmp_path: Path, tiny_bert, monkeypatch: pytest.MonkeyPatch) -> None:
    # A narrow terminal breaks the table's cells into lines.
    monkeypatch.setenv("COLUMNS", "100")
    tiny_bert.save_pretrained(tmp_path / "bert")
    done = rltr("check", tmp_path / "bert")
    assert done.exit_code == 0
    for word in ("BertLayer", "exact", "of native", "proven by rltr's own tests"):
        assert word in done.output


def test_checking_an_unsupported_model_gives_the_reason(tmp_path: Path) -> None:
    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=20)
    T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    done = rltr("check", tmp_path / "t5")
    assert done.exit_code == 2 and "bias for every pair of positions" in done.output
