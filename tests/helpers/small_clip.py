"""Train a small CLIP for experiments: `python tests/helpers/small_clip.py`.

The model has an architecture of open_clip (a vision transformer, a text transformer, CLIP's
tokenizer). It is trained for about a minute on the training images of Fashion-MNIST, rotated by up
to 60 degrees, with class names as captions, so that text and image features align. It is saved in
the format of open_clip, a folder with `open_clip_config.json` and the weights, for
`open_clip:FOLDER`.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from cosup.data.images import ArrayImages
from cosup.data.sources.idx import Idx
from cosup.files import save_tensors, write_json
from cosup.seeds import torch_generator

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat")
CLASSES += ("sandal", "shirt", "sneaker", "bag", "ankle boot")
CAPTIONS = ("a photo of a {}.", "{}", "a black and white photo of a {}.", "a picture of the {}")
MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 28,
        "patch_size": 7,
        "width": 64,
        "head_width": 32,
        "layers": 3,
    },
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
}
TURN = 60
"""Maximum rotation of training images in degrees; larger angles are new to the model."""
MEAN, STD = 0.286, 0.353
"""Of Fashion-MNIST's pixels, in 0 .. 1."""


def train(
    images: Tensor, labels: Tensor, steps: int, batch_size: int = 128, seed: int = 0
) -> open_clip.CLIP:
    """Return a CLIP trained on uint8 images [N, 1, 28, 28] and captions that name their classes.

    Each step uses one caption template for all images: a batch has each class's text once, and
    other captions of an image are never negatives.
    """
    torch.manual_seed(seed)
    model = open_clip.CLIP(**MODEL).train()
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])
    tokens = torch.stack([tokenizer([c.format(name) for name in CLASSES]) for c in CAPTIONS])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    generator = torch_generator(seed, "captions")
    for _ in range(steps):
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        caption = torch.randint(len(CAPTIONS), (), generator=generator)
        image = model.encode_image(pixels(images[rows]), normalize=True)
        text = model.encode_text(tokens[caption], normalize=True)
        loss = cross_entropy(model.logit_scale.exp() * image @ text.T, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
    return model.eval()


def fashion_mnist(part: str, root: str = FASHION_MNIST) -> tuple[Tensor, Tensor]:
    """Return uint8 images [N, 1, 28, 28] and labels [N] of the part `train` or `test`."""
    found = Idx(root, part=part).load()  # type: ignore[arg-type]
    assert isinstance(found.images, ArrayImages)
    labels = found.table["label"].to_numpy()
    return torch.from_numpy(found.images.pixels.copy())[:, None], torch.from_numpy(labels.copy())


def rotated(images: Tensor, seed: int = 0) -> Tensor:
    """Return the images, each rotated by at most `TURN` degrees."""
    angles = torch.empty(len(images)).uniform_(-TURN, TURN, generator=torch_generator(seed, "turn"))
    found = images.clone()
    for image, angle in zip(found, angles.tolist(), strict=True):
        whole = Image.fromarray(image[0].numpy()).rotate(angle, Image.Resampling.BICUBIC)
        image[0] = torch.from_numpy(np.array(whole))
    return found


def pixels(images: Tensor) -> Tensor:
    """Return the input of the encoder, [B, 3, 28, 28] float32."""
    return ((images / 255 - MEAN) / STD).expand(-1, 3, -1, -1)


def save(model: open_clip.CLIP, folder: Path) -> Path:
    """Write the folder in the format of open_clip."""
    preprocess = {"mean": [MEAN] * 3, "std": [STD] * 3}
    save_tensors(folder / "open_clip_model.safetensors", model.state_dict())
    write_json(folder / "open_clip_config.json", {"model_cfg": MODEL, "preprocess_cfg": preprocess})
    return folder


def main() -> None:
    """Train a model and write it."""
    parser = argparse.ArgumentParser(description="Train a small CLIP on Fashion-MNIST.")
    parser.add_argument("folder", nargs="?", default="outputs/small_clip", type=Path)
    parser.add_argument("--steps", default=600, type=int)
    parser.add_argument("--root", default=FASHION_MNIST, help="the folder of the idx files")
    chosen = parser.parse_args()
    print("training a small CLIP: a minute or two", flush=True)
    images, labels = fashion_mnist("train", chosen.root)
    folder = save(train(rotated(images), labels, chosen.steps), chosen.folder)
    print(f"open_clip:{folder}")


if __name__ == "__main__":
    main()
