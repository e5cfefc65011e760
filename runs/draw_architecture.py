"""Draws the README's picture of the architecture: what becomes of a clip, and what is trained where.

    python runs/draw_architecture.py [docs/images/architecture.svg]

The shapes are those of the bundled model; they are read from its folder, not typed here.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from mmldm.files import write_text
from mmldm.pipelines.published import BUNDLED

WIDTH, HEIGHT = 960, 430
FONT = "font-family='Helvetica, Arial, sans-serif'"
INK, FAINT = "#222222", "#6b6b6b"
SOUND, PICTURE, BOTH, FROZEN = "#f6d9b8", "#c9dff2", "#dcd3ee", "#ececec"


@dataclass(frozen=True)
class Box:
    """A rectangle with a title and smaller lines below it, all in pixels."""

    left: int
    top: int
    width: int
    height: int
    colour: str
    title: str
    lines: tuple[str, ...] = ()

    @property
    def middle(self) -> int:
        return self.top + self.height // 2

    @property
    def right(self) -> int:
        return self.left + self.width

    def svg(self) -> str:
        shape = (
            f"<rect x='{self.left}' y='{self.top}' width='{self.width}' height='{self.height}' rx='7' "
            f"fill='{self.colour}' stroke='{INK}' stroke-width='1'/>"
        )
        first = self.middle - 8 * len(self.lines) + 5
        centre = self.left + self.width // 2
        words = [text(centre, first, self.title, 14, INK, bold=True)]
        words += [
            text(centre, first + 17 * (i + 1), line, 12, FAINT) for i, line in enumerate(self.lines)
        ]
        return "\n".join([shape, *words])


def text(x: int, y: int, words: str, size: int, colour: str, bold: bool = False) -> str:
    weight = " font-weight='bold'" if bold else ""
    return (
        f"<text x='{x}' y='{y}' text-anchor='middle' font-size='{size}' fill='{colour}' {FONT}{weight}>"
        f"{escape(words)}</text>"
    )


def arrow(points: list[tuple[int, int]], dashed: bool = False) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    dashes = " stroke-dasharray='5 4'" if dashed else ""
    return (
        f"<polyline points='{path}' fill='none' stroke='{INK}' stroke-width='1.4' "
        f"marker-end='url(#tip)'{dashes}/>"
    )


def shape(sizes: list[int]) -> str:
    return " x ".join(str(size) for size in sizes)


def drawing(model: Path) -> str:
    """The whole picture as SVG."""
    index = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    autoencoder = json.loads((model / "autoencoder" / "config.json").read_text(encoding="utf-8"))
    clip = index["clip_spec"]
    side = f"{clip['height']} x {clip['width']}"
    codes = shape(autoencoder["image_latent_shape"])
    generator = json.loads((model / "generator" / "config.json").read_text(encoding="utf-8"))
    z_audio, z_video = (shape(generator[f"{name}_latent_shape"]) for name in ("audio", "video"))

    sound = Box(20, 60, 150, 70, SOUND, "sound", ("log-mel image", side))
    frames = Box(20, 200, 150, 70, PICTURE, "picture", (f"{clip['num_frames']} frames", side))
    vae = Box(
        215,
        60,
        110,
        210,
        FROZEN,
        "image VAE",
        ("trained first,", "then frozen;", codes, "a picture"),
    )
    hear = Box(370, 60, 160, 70, SOUND, "audio encoder", (f"z_a: {z_audio}",))
    see = Box(370, 200, 160, 70, PICTURE, "video encoder", (f"z_v: {z_video}",))
    decoder = Box(
        590, 60, 160, 210, BOTH, "signal decoder",
        ("one diffusion U-Net", "for both modalities,", "told by latents, class", "and shared semantics"),
    )  # fmt: skip
    back = Box(805, 60, 135, 210, FROZEN, "image VAE,", ("then vocoder", "or Griffin-Lim"))
    maker = Box(
        370, 330, 380, 76, BOTH, "generator",
        ("diffusion transformer over z_a and z_v:", "joint, audio-to-video, video-to-audio, by class"),
    )  # fmt: skip
    boxes = [sound, frames, vae, hear, see, decoder, back, maker]
    arrows = [
        arrow([(sound.right, sound.middle), (vae.left, sound.middle)]),
        arrow([(frames.right, frames.middle), (vae.left, frames.middle)]),
        arrow([(vae.right, hear.middle), (hear.left, hear.middle)]),
        arrow([(vae.right, see.middle), (see.left, see.middle)]),
        arrow([(hear.right, hear.middle), (decoder.left, hear.middle)]),
        arrow([(see.right, see.middle), (decoder.left, see.middle)]),
        arrow([(decoder.right, decoder.middle), (back.left, decoder.middle)]),
        arrow([(430, see.top + see.height), (430, maker.top)], dashed=True),
        arrow([(670, maker.top), (670, decoder.top + decoder.height)]),
    ]
    labels = [
        text(
            485,
            30,
            "1  the autoencoder learns to say a clip in few numbers, and back",
            15,
            INK,
            True,
        ),
        text(200, 362, "2  the generator learns to make", 15, INK, True),
        text(200, 383, "those numbers from noise,", 15, INK, True),
        text(200, 404, "whole or in part", 15, INK, True),
        text(482, 304, "training", 12, FAINT),
        text(722, 304, "sampling", 12, FAINT),
    ]
    tip = (
        "<defs><marker id='tip' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7' "
        f"orient='auto'><path d='M0,0 L10,5 L0,10 z' fill='{INK}'/></marker></defs>"
    )
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' "
        f"height='{HEIGHT}' role='img' aria-label='How mmldm is built'>"
    )
    paper = f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>"
    parts = [head, tip, paper, *(box.svg() for box in boxes), *arrows, *labels, "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/architecture.svg")
    write_text(target, drawing(BUNDLED))
    print(target)
