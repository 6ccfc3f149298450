"""Train the frozen ViT that rltr ships, on cluttered, translated Fashion-MNIST.

    python scripts/train_embedded_vit.py --fashion-mnist FOLDER --out FOLDER [--minutes 75]

FOLDER holds the four idx.gz files (Debian: package ``dataset-fashion-mnist``, /usr/share/datasets/fashion-mnist).
A small convolutional teacher is trained first; the ViT then learns from labels and teacher (Touvron et al. 2021,
section 4: soft distillation), on fresh canvases in every epoch. The first part of its time it sees only the 8x8
patches around the garment, at their true positions, then those and 40 random others, then everything: fewer tokens,
so more images in the same time (after PatchDropout, Liu et al. 2022).
The last 12,000 training garments are never shown: the policy's training and validation sets are made of them.
"""

import argparse
import gzip
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from rltr.embedded.canvas import MEAN, STD, draw_canvases, pixels

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
HELD_OUT = 12_000
"""Training garments kept from the ViT, for the policy."""
WINDOW = 8
"""Side, in patches, of the window seen in the first phase: a 28-pixel garment touches at most 8 patches of 4."""


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx.gz file of unsigned bytes, of any number of dimensions."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def teacher() -> nn.Sequential:
    def block(inside: int, outside: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

    shape = [(1, 24, 2), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 192, 2), (192, 192, 1)]
    layers = [layer for inside, outside, stride in shape for layer in block(inside, outside, stride)]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(192, len(NAMES)))


def student() -> ViTForImageClassification:
    names = dict(enumerate(NAMES))
    config = ViTConfig(
        hidden_size=96,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=384,
        image_size=56,
        patch_size=4,
        num_channels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    return ViTForImageClassification(config)


def partial_logits(vit: ViTForImageClassification, images: Tensor, corner: Tensor, others: int) -> Tensor:
    """Logits from CLS, the window of patches around each garment and ``others`` random patches, at their true positions."""
    embedded = vit.vit.embeddings(images)
    first = (corner // 4).clamp(max=14 - WINDOW)
    offset = torch.arange(14) - first[..., None]
    inside = (offset >= 0) & (offset < WINDOW)
    window = (inside[:, 0, :, None] & inside[:, 1, None, :]).flatten(1)
    patches = (torch.rand(window.shape) + window.float()).topk(WINDOW**2 + others, sorted=False).indices
    index = torch.cat([torch.zeros(len(patches), 1, dtype=torch.long), patches + 1], 1)
    hidden = embedded.gather(1, index[..., None].expand(-1, -1, embedded.shape[-1]))
    for layer in vit.vit.layers:
        hidden = layer(hidden)
    return vit.classifier(vit.vit.layernorm(hidden[:, 0]))


@torch.inference_mode()
def accuracy(logits_of: nn.Module, images: Tensor, labels: Tensor) -> float:
    logits_of.eval()
    right = 0
    for x, y in zip(images.split(500), labels.split(500), strict=True):
        out = logits_of(x)
        right += int(((out if isinstance(out, Tensor) else out.logits).argmax(-1) == y).sum())
    return right / len(labels)


def epochs(garments: NDArray[np.uint8], labels: NDArray[np.uint8], batch: int, seed: int):
    """Endless batches of images, labels and corners; every epoch has new canvases, half of the garments mirrored."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(garments))
        chosen = garments[order]
        mirrored = generator.random(len(order)) < 0.5
        chosen[mirrored] = chosen[mirrored, :, ::-1]
        canvases, corner = draw_canvases(chosen, int(generator.integers(2**31)))
        for start in range(0, len(order) - batch + 1, batch):
            part = slice(start, start + batch)
            y = torch.from_numpy(labels[order[part]].astype(np.int64))
            yield pixels(canvases[part]), y, torch.from_numpy(corner[part])


def train_teacher(garments: NDArray[np.uint8], labels: NDArray[np.uint8], seconds: float, seed: int) -> nn.Sequential:
    model = teacher()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.02)
    began, rate = time.monotonic(), 0.0
    for x, y, _ in epochs(garments, labels, 128, seed):
        rate = (time.monotonic() - began) / seconds
        if rate >= 1:
            return model.eval().requires_grad_(False)
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, rate / 0.05) * 0.5 * (1 + math.cos(math.pi * rate))
        loss = F.cross_entropy(model.train()(x), y, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError("epochs() never ends")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--teacher-minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--phases", type=float, nargs=2, default=(0.35, 0.6), help="ends of the first two phases, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    garments = read_idx(args.fashion_mnist / "train-images-idx3-ubyte.gz")
    labels = read_idx(args.fashion_mnist / "train-labels-idx1-ubyte.gz")
    valid_x = pixels(draw_canvases(garments[-HELD_OUT:][:2000], 1)[0])
    valid_y = torch.from_numpy(labels[-HELD_OUT:][:2000].astype(np.int64))
    garments, labels = garments[:-HELD_OUT], labels[:-HELD_OUT]

    expert = train_teacher(garments, labels, args.teacher_minutes * 60, args.seed)
    print(f"teacher: {accuracy(expert, valid_x, valid_y):.4f} on validation", flush=True)

    vit = student()
    decayed = [p for p in vit.parameters() if p.ndim > 1]
    plain = [p for p in vit.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, args.lr, betas=(0.9, 0.98))
    began, seconds, seen, reported = time.monotonic(), args.minutes * 60, 0, 0.0
    for x, y, corner in epochs(garments, labels, args.batch, args.seed + 1):
        done = (time.monotonic() - began) / seconds
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, done / 0.02) * (0.5 * (1 + math.cos(math.pi * done)) * 0.99 + 0.01)
        vit.train()
        if done < args.phases[1]:
            out = partial_logits(vit, x, corner, others=0 if done < args.phases[0] else 40)
        else:
            out = vit(x).logits
        with torch.inference_mode():
            target = expert(x).softmax(-1)
        target = target.clone()
        loss = 0.5 * F.cross_entropy(out, y) + 0.5 * F.cross_entropy(out, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vit.parameters(), 1.0)
        optimizer.step()
        seen += len(y)
        if done - reported > 0.04:
            reported = done
            whole = accuracy(vit, valid_x[:1000], valid_y[:1000])
            print(f"{done:4.0%} {seen} images, loss {loss.item():.3f}, validation {whole:.4f}", flush=True)
            vit.save_pretrained(args.out)

    test_x = pixels(draw_canvases(read_idx(args.fashion_mnist / "t10k-images-idx3-ubyte.gz"), 2)[0])
    test_y = torch.from_numpy(read_idx(args.fashion_mnist / "t10k-labels-idx1-ubyte.gz").astype(np.int64))
    print(f"validation {accuracy(vit, valid_x, valid_y):.4f}, test {accuracy(vit, test_x, test_y):.4f}, {seen} images")
    vit.save_pretrained(args.out)
    ViTImageProcessorPil(
        size={"height": 56, "width": 56}, image_mean=[MEAN], image_std=[STD], do_convert_rgb=False
    ).save_pretrained(args.out)


if __name__ == "__main__":
    main()
