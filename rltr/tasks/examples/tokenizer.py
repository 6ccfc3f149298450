"""A model's tokenizer: loading it, the length limit of texts, and the facts for a fingerprint."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rltr.errors import RltrError
from rltr.tasks.examples.files import CURE
from rltr.tasks.read.processors import load_part

log = logging.getLogger(__name__)
_said: WeakSet[PreTrainedTokenizerBase] = WeakSet()
"""Tokenizers for which the warning about truncated texts was logged."""


def load_tokenizer(model: PreTrainedModel, source: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, and check that it fits the model.

    Raises:
        RltrError: if it is missing, its vocabulary is empty or larger than the model's, or it has no padding token.
    """
    files = "a tokenizer.json and a tokenizer_config.json"
    tokenizer: PreTrainedTokenizerBase = load_part(AutoTokenizer, source, "tokenizer", files)
    # If the files are missing, transformers creates a tokenizer without vocabulary for some model families.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - {"▁"}:
        raise RltrError(f"the tokenizer of {source!r} knows no words; likely cause: its files ({files}) are missing")
    table = model.get_input_embeddings()
    if isinstance(table, nn.Embedding) and len(tokenizer) > table.num_embeddings:
        raise RltrError(
            f"the tokenizer of {source!r} has {len(tokenizer)} tokens but the model only {table.num_embeddings}; "
            "use the tokenizer that the model was trained with, or resize_token_embeddings() and fine-tune"
        )
    pad = getattr(model.config, "pad_token_id", None)
    if tokenizer.pad_token is not None and pad is not None and pad != tokenizer.pad_token_id:
        raise RltrError(
            f"the tokenizer of {source!r} pads with token {tokenizer.pad_token_id} but the model with {pad}; likely "
            "cause: it belongs to another model. Use the tokenizer that the model was trained with, or set "
            "model.config.pad_token_id"
        )
    if tokenizer.pad_token is None:
        raise RltrError(
            f"the tokenizer of {source!r} has no padding token, so texts of different lengths cannot share a batch; "
            "set tokenizer.pad_token and model.config.pad_token_id, and save both to a folder"
        )
    return tokenizer


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any], places: Sequence[str], **options: Any) -> Any:
    """Tokenize a batch of texts.

    Args:
        tokenizer: the model's own.
        texts: each a string, or a list of words.
        places: how messages refer to each of them.
        options: arguments of the tokenizer.

    Raises:
        RltrError: naming the first text that cannot be tokenized.
    """
    try:
        return tokenizer(list(texts), **options)
    except Exception as error:  # tokenizers raise many types of errors, and do not name the text
        plain = {name: value for name, value in options.items() if name not in ("padding", "return_tensors")}
        for i, fault in tokenize_all(tokenizer, texts, **plain)[1].items():
            raise RltrError(f"{places[i]} {fault}; {CURE}") from error
        raise


def tokenize_all(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any], **options: Any
) -> tuple[list[list[int]], dict[int, str]]:
    """Tokenize texts one by one if necessary, and collect errors.

    Returns:
        The token ids of each text (empty if it cannot be tokenized), and the reason of each failure by index.
    """
    try:
        tokens = tokenizer(list(texts), **options)["input_ids"]
    except Exception as error:
        if len(texts) == 1:
            known = all(map(encodable, [texts[0]] if isinstance(texts[0], str) else texts[0]))
            reason = " ".join(str(error).split())[:200].rstrip(".")
            return [[]], {0: f"cannot be tokenized ({reason if known else 'a lone surrogate, half of a character'})"}
        alone = [tokenize_all(tokenizer, [text], **options) for text in texts]
        return [own[0] for own, _ in alone], {i: faults[0] for i, (_, faults) in enumerate(alone) if faults}
    return tokens, {i: "has no token" for i, own in enumerate(tokens) if not own}


def encodable(text: str) -> bool:
    """Whether a text is valid Unicode: JSON can contain lone surrogates, and Python accepts them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase, longest: int | None) -> list[str]:
    """Everything that tokens depend on apart from the text, for a fingerprint; ``longest`` is the limit in tokens."""
    rules: Mapping[str, Any] = tokenizer.get_vocab()
    if tokenizer.is_fast:
        # The serialised tokenizer includes padding and truncation of its last call, which do not affect the next.
        rules = {**json.loads(tokenizer.backend_tokenizer.to_str()), "padding": None, "truncation": None}
    settings = [type(tokenizer).__name__, tokenizer.padding_side, tokenizer.truncation_side, longest]
    return [json.dumps(rules), repr(settings)]


def longest_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None = None
) -> int | None:
    """The smallest of ``max_tokens`` and the limits of model and tokenizer, in tokens; None if there is no limit."""
    # A tokenizer without a limit has model_max_length 1e30.
    limits = [position_limit(model), tokenizer.model_max_length, max_tokens]
    return min((int(limit) for limit in limits if limit is not None and 0 < limit < 2**31), default=None)


def position_limit(model: PreTrainedModel) -> int | None:
    """Number of tokens that a model has positions for; None if it has no limit."""
    limits = [getattr(model.config, "max_position_embeddings", None)]
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding) and table.padding_idx is not None:
            # Models like RoBERTa number positions from padding_idx + 1: a table of 514 rows is enough for 512 tokens.
            limits.append(table.num_embeddings - table.padding_idx - 1)
    return min((int(limit) for limit in limits if limit is not None and limit > 0), default=None)


def warn_if_cut(tokenizer: PreTrainedTokenizerBase, longest: int | None, texts: list[Any], **options: Any) -> None:
    """Warn once per tokenizer if one of these texts is truncated.

    Args:
        tokenizer: the model's own.
        longest: the limit in tokens; None for no limit.
        texts: the texts that reach the limit, and may be longer.
        options: arguments of the tokenizer.
    """
    if longest is None or not texts or tokenizer in _said:
        return
    whole = tokenizer(texts, truncation=False, verbose=False, **options)["input_ids"]
    if (most := max(map(len, whole))) > longest:
        _said.add(tokenizer)
        # The message has the length, but not the text, which may be confidential.
        log.warning("texts are cut to %d tokens; one has %d", longest, most)
