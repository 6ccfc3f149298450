"""Train the embedded ViT of rltr on cluttered, translated Fashion-MNIST.

    python scripts/train_embedded_vit.py --fashion-mnist FOLDER --out FOLDER [--minutes 75]

FOLDER holds the four idx.gz files (Debian: package ``dataset-fashion-mnist``, /usr/share/datasets/fashion-mnist).
Every epoch has new canvases. In the first phase the ViT gets only the 8x8 patches around the garment, at their true
positions, then those and 40 random others, then all patches. Fewer tokens allow more images in the same time (as in
PatchDropout, Liu et al. 2022).
The last 12,000 training garments are held out: the policy's training and validation sets are made of them.
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
    """Logits from CLS, the patches around each garment and ``others`` random ones, at their true positions."""
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


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for the matrices of the layers (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    torch.optim.Muon does the same in bfloat16, which processors without AMX compute a hundred times slower.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.05) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # closures are not needed here
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonal(weight.grad.lerp(average, group["momentum"]))
                # 0.2 sqrt(longer side) gives the update the size of Adam's, so both share one learning rate.
                step = group["lr"] * 0.2 * math.sqrt(max(weight.shape))
                weight.mul_(1 - group["lr"] * group["decay"]).add_(direction, alpha=-step)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, roughly: five Newton-Schulz steps with Jordan's coefficients."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument(
        "--phases", type=float, nargs=2, default=(0.45, 0.65), help="ends of the first two phases, 0 to 1"
    )
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

    vit = student()
    matrices = [weight for weight in vit.vit.layers.parameters() if weight.ndim == 2]
    known = {id(weight) for weight in matrices}
    rest = [weight for weight in vit.parameters() if id(weight) not in known]
    optimizers = [Muon(matrices, args.lr), torch.optim.AdamW(rest, args.lr, betas=(0.9, 0.98), weight_decay=0.0)]
    began, seconds, seen, reported = time.monotonic(), args.minutes * 60, 0, 0.0
    for x, y, corner in epochs(garments, labels, args.batch, args.seed):
        done = (time.monotonic() - began) / seconds
        if done >= 1:
            break
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = args.lr * min(1, done / 0.02) * (1 - done)
        vit.train()
        if done < args.phases[1]:
            out = partial_logits(vit, x, corner, others=0 if done < args.phases[0] else 40)
        else:
            out = vit(x).logits
        loss = F.cross_entropy(out, y, label_smoothing=0.05)
        vit.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vit.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        seen += len(y)
        if done - reported > 0.08:
            reported = done
            whole = accuracy(vit, valid_x[:500], valid_y[:500])
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
