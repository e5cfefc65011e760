"""What the numbers of a decoded picture mean as colours, and the way from there to BT.709 in 8 bits.

The clips' colours are R'G'B' with BT.709 primaries, white at 255. Wide gamuts are converted, and HDR is
tone-mapped besides, in light: RGB (H,W,3) u16 -> u8. ITU-R BT.709, BT.2020 (primaries), BT.1886 (gamma 2.4),
BT.2100 (PQ, HLG), BT.2390 (tone curve), BT.2408 (reference white). docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

# Pictures at least this wide or high are BT.709 where the file does not say, smaller ones BT.601.
HD_WIDTH, HD_HEIGHT = 1280, 720
GAMMA = 2.4
# cd/m2: SDR white in HDR pictures, and where the tone curve ends.
REFERENCE_WHITE, PEAK = 203.0, 1000.0
HLG_GAMMA = 1.2

# Numbers of ITU-T H.273, as files have them.
BT709, UNSPECIFIED = 1, 2
_MATRICES = {
    1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M, 9: Colorspace.BT2020,
}  # fmt: skip
_PRIMARIES = {9: "BT.2020", 11: "P3", 12: "P3"}
_TRANSFERS = {16: "PQ", 18: "HLG"}
_OTHER_TRANSFERS = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE 428"}

# x, y of red, green, blue, white.
_D65 = (0.3127, 0.3290)
_CHROMATICITIES = {
    "BT.709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    "BT.2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    "P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}


@dataclass(frozen=True)
class Colour:
    """The colours of a picture.

    Attributes:
        matrix: From Y'CbCr to R'G'B'.
        full_range: Whether black and white are the ends of the numbers, and not 16 and 235 of 255.
        primaries: `BT.709`, `BT.2020` or `P3`.
        transfer: `SDR`, `PQ` or `HLG`.
        limited_grey: Whether it has luma alone, from 16 to 235: swscale takes all grey for full range.
        unknown: What the file says and nobody here understands; it is read as if it said nothing.
    """

    matrix: Colorspace
    full_range: bool
    primaries: str
    transfer: str
    limited_grey: bool = False
    unknown: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether R'G'B' is what clips hold."""
        return self.transfer == "SDR" and self.primaries == "BT.709" and not self.limited_grey

    def notes(self) -> Iterator[str]:
        """What is worth saying to the person who owns the file."""
        if self.transfer != "SDR":
            yield (
                f"HDR ({self.transfer}, {self.primaries}); tone-mapped to BT.709"
                f" (BT.2390 from {PEAK:g} to {REFERENCE_WHITE:g} cd/m2)"
            )
        elif self.primaries != "BT.709":
            yield f"wide gamut ({self.primaries}); converted to BT.709"
        for what in self.unknown:
            yield f"{what} is not known here; its colours may be off"

    def converted(self, rgb: np.ndarray) -> np.ndarray:
        """R'G'B' (H,W,3) uint16 of this kind -> R'G'B' (H,W,3) uint8 as clips hold it."""
        if self.limited_grey:  # Of n bits, moved up by swscale: 235 is 235 * 256.
            rgb = np.rint((rgb / 256 - 16) * (65535 / 219)).clip(0, 65535).astype(np.uint16)
        if self.transfer == "SDR" and self.primaries == "BT.709":
            return np.rint(rgb / 257).astype(np.uint8)

        # To light; HLG's is that of the scene, and becomes that of a display by BT.2100's OOTF.
        light = _light_of_signal(self.transfer)[rgb]
        if self.transfer == "HLG":
            luminance = light @ _luminance_weights(self.primaries)
            light = light * (PEAK / REFERENCE_WHITE) * luminance[..., None] ** (HLG_GAMMA - 1)

        # HDR: the brightest of R, G, B through BT.2390's curve, the other two in proportion.
        if self.transfer != "SDR":
            brightest, gain = _tone_curve()
            light = light * np.interp(light.max(axis=-1, keepdims=True), brightest, gain)

        # To BT.709 primaries, and back to a signal.
        light = (light @ _to_bt709(self.primaries).T).clip(0, 1)
        return np.rint(255 * light ** (1 / GAMMA)).astype(np.uint8)


def usual_matrix(width: int, height: int) -> Colorspace:
    """The matrix of pictures of this size where nothing else is said, by the convention of players."""
    is_hd = width >= HD_WIDTH or height >= HD_HEIGHT
    return Colorspace.ITU709 if is_hd else Colorspace.ITU601


def colour_of(frame: av.VideoFrame, stream: VideoStream) -> Colour:
    """The colours that a frame and its stream declare, and the conventions where they do not."""
    context = stream.codec_context
    tag_of_primaries, tag_of_transfer = int(context.color_primaries), int(context.color_trc)
    unknown = []

    # Light and gamut. HDR that names no primaries has those of BT.2020.
    transfer = _TRANSFERS.get(tag_of_transfer, "SDR")
    if tag_of_transfer in _OTHER_TRANSFERS:
        unknown.append(f"the {_OTHER_TRANSFERS[tag_of_transfer]} transfer curve")
    primaries = _PRIMARIES.get(tag_of_primaries, "BT.709")
    if tag_of_primaries == UNSPECIFIED and transfer != "SDR":
        primaries = "BT.2020"

    # Matrix and range, which RGB and grey do not need. swscale takes all grey for full range.
    matrix = _MATRICES.get(int(frame.colorspace))
    full_range = int(frame.color_range) == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    is_grey = frame.format.name.startswith(("gray", "ya"))
    limited_grey = is_grey and int(frame.color_range) == ColorRange.MPEG
    if frame.format.is_rgb or frame.format.has_palette or is_grey:
        matrix, full_range = Colorspace.ITU709, True
    elif matrix is None:
        if int(frame.colorspace) != UNSPECIFIED:
            unknown.append(f"colour matrix {int(frame.colorspace)}")
        matrix = usual_matrix(frame.width, frame.height)
        if primaries == "BT.2020":
            matrix = Colorspace.BT2020
    return Colour(matrix, full_range, primaries, transfer, limited_grey, tuple(unknown))


def pq_light(signal: np.ndarray) -> np.ndarray:
    """PQ signal (...) in [0, 1] -> light (...) in cd/m2 (BT.2100, table 4)."""
    m1, m2, c1, c2, c3 = _PQ
    power = signal ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def pq_signal(light: np.ndarray | float) -> np.ndarray:
    """Light (...) in cd/m2 -> PQ signal (...) in [0, 1]."""
    m1, m2, c1, c2, c3 = _PQ
    power = (np.asarray(light) / 10000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


_PQ = (2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128)
_HLG = (0.17883277, 0.28466892, 0.55991073)


@lru_cache(maxsize=3)
def _light_of_signal(transfer: str) -> np.ndarray:
    """Light (65536,) float32 of each 16-bit number: 1 is SDR white, but for HLG the scene's brightest."""
    signal = np.linspace(0, 1, 65536)
    if transfer == "PQ":
        light = pq_light(signal) / REFERENCE_WHITE
    elif transfer == "HLG":
        a, b, c = _HLG
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal**GAMMA
    return light.astype(np.float32)


@lru_cache(maxsize=1)
def _tone_curve() -> tuple[np.ndarray, np.ndarray]:
    """BT.2390's EETF, as a table of 4095 places.

    Light of a pixel's brightest channel (1 is SDR white), and what to multiply all three by.
    """
    # In PQ, relative to the peak: straight up to the knee, then a Hermite spline up to SDR white.
    white = float(pq_signal(REFERENCE_WHITE) / pq_signal(PEAK))
    knee = 1.5 * white - 0.5
    signal = np.linspace(0, 1 / float(pq_signal(PEAK)), 4096)[1:]  # up to PQ's 10,000 cd/m2
    e1 = signal.clip(max=1)
    t = (e1 - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * white
    )
    mapped = np.where(e1 < knee, e1, spline)
    before, after = pq_light(signal * pq_signal(PEAK)), pq_light(mapped * pq_signal(PEAK))
    return (before / REFERENCE_WHITE).astype(np.float32), (after / before).astype(np.float32)


@lru_cache(maxsize=3)
def _xyz(primaries: str) -> np.ndarray:
    """Matrix (3,3) from linear RGB of these primaries to XYZ, white having Y = 1."""
    *corners, white = [np.array([x / y, 1, (1 - x - y) / y]) for x, y in _CHROMATICITIES[primaries]]
    columns = np.stack(corners, axis=1)
    return columns * np.linalg.solve(columns, white)


def _to_bt709(primaries: str) -> np.ndarray:
    """Matrix (3,3) float32 from linear RGB of these primaries to that of BT.709."""
    return np.linalg.solve(_xyz("BT.709"), _xyz(primaries)).astype(np.float32)


def _luminance_weights(primaries: str) -> np.ndarray:
    """What linear R, G and B (3,) float32 add to the luminance."""
    return _xyz(primaries)[1].astype(np.float32)
