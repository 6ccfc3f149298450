"""Write docs/models.md: the supported and refused families, from the same tables that the tests run through."""

from pathlib import Path

from rltr.runtime.families import FAMILIES, REFUSED, last_word
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
        "the native forward in float32 and bfloat16; dropped and merged tokens equal a reference on the whole grid, in "
        "which nothing leaves and those that left are hidden, up to what the model's own head answers, also where it "
        "reads every token; a row does not depend on its batch mates; causal masks and sliding windows count original "
        "positions; `rltr.attach` serves what evaluation measures, called by name, in order or from another module, "
        "with padding masked and unmasked; the model is bit for bit what it was after detaching.",
        "",
        "| model type | takes | attention | always stay | padding |",
        "|---|---|---|---|---|",
    ]
    lines += sorted({_row(entry) for entry in ZOO.values()})
    lines += [
        "",
        "*Causal* models are scorers of whole sequences here: they keep no cache, so `generate()` is refused, and "
        "dropped tokens are merged into later ones only. Where no token is special, the first one stays, so that no "
        "row is ever empty. Where padding is *none*, a mask that hides tokens is refused. Of larger models one part is "
        'reduced: the encoder of a Whisper, or the part you name with `rltr.Backbone(model, tower="vision_model")`.',
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
        "(`_can_record_outputs`) and its attention goes through transformers' attention interface, it may work all the "
        "same. [Add a family](extend/family.md) says how to describe it, and let a proof on your own model decide.",
        "",
        "`rltr check MODEL` runs the same proof on a known family and prints what it found, with the speed.",
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
        stay += ", the last but padding" if family.also_protected is last_word else ", end of text"
    padding = " or ".join(side for side in entry.paddings if side != "none") or "none"
    attention = "causal" if family.causal else "to both sides"
    part = f" ({family.tower})" if family.tower else ""
    return f"| `{config.model_type}`{part} | {KINDS[entry.inputs]} | {attention} | {stay} | {padding} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
