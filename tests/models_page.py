"""Write docs/models.md: the supported and refused families, from the same tables that the tests run through."""

from pathlib import Path

from rltr.runtime.families import FAMILIES, REFUSED, last_text_token
from tests.zoo import ZOO, Entry

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
KINDS = {
    "images": "images", "masked images": "images", "patches": "images", "patch images": "images", "videos": "videos",
    "spectrograms": "sound", "waves": "sound", "long waves": "sound", "codec waves": "sound", "frames": "sound",
    "mel": "sound", "texts": "text", "captions": "text", "pairs": "text",
}  # fmt: skip


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# Models",
        "",
        "Written by `python -m tests.models_page` from the tables that `tests/families` runs through; a test "
        "fails if it is out of date.",
        "",
        f"**{len(FAMILIES)} families** of transformers are tested one by one with tiny models: everything kept equals "
        "the native forward in float32 and bfloat16; with dropped and merged tokens, the output of the model's own "
        "head equals a reference in which all tokens stay and those that left are masked, also if the head reads every "
        "token; a row does not depend on the other rows of its batch; causal masks and sliding windows count original "
        "positions; an attached model gives the outputs that evaluation measured, whether it is called with "
        "positional or keyword arguments or by another module, with and without padding; detaching restores the model "
        "bit for bit.",
        "",
        "| model type | takes | attention | always stay | padding |",
        "|---|---|---|---|---|",
    ]
    lines += sorted({_row(entry) for entry in ZOO.values()})
    lines += [
        "",
        "*Causal* models score whole sequences: they fill no KV cache, so `generate()` is refused, and removed tokens "
        "are merged only into later ones. In models without special tokens the first one stays, so that no row is "
        "empty. If padding is *none*, a mask that hides tokens is refused. One submodule of larger models is reduced: "
        'the encoder of a Whisper, or the one you name with `rltr.Backbone(model, tower="vision_model")`.',
        "",
        "## Refused, with the reason",
        "",
        "| why | model types |",
        "|---|---|",
        *(f"| {reason} | {_named(reason)} |" for reason in dict.fromkeys(REFUSED.values())),
        "",
        "## Any other",
        "",
        "A model type that is in neither table is refused as well. If its layers are declared to transformers "
        "(`_can_record_outputs`) and its attention goes through transformers' attention interface, it may still work. "
        "[Add a family](extend/family.md) says how to describe it, and how to test it on your own model.",
        "",
        "`rltr check MODEL` runs the same test on a known family and prints the result and the speed.",
        "",
    ]
    return "\n".join(lines)


def _named(reason: str) -> str:
    return ", ".join(f"`{name}`" for name in sorted(REFUSED) if REFUSED[name] == reason)


def _row(entry: Entry) -> str:
    config, family = entry.config(), entry.family
    leading = family.leading_tokens(config)
    stay = f"first {leading}" if leading > 1 else "the first"
    if family.trailing:
        stay += ", the last"
    if family.also_protected is not None:
        stay += ", the last but padding" if family.also_protected is last_text_token else ", end of text"
    padding = " or ".join(side for side in entry.paddings if side != "none") or "none"
    attention = "causal" if family.causal else "bidirectional"
    part = f" ({family.tower})" if family.tower else ""
    return f"| `{config.model_type}`{part} | {KINDS[entry.inputs]} | {attention} | {stay} | {padding} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
