"""Vocoders trained elsewhere: HiFi-GAN of transformers and BigVGAN of diffusers, behind one interface.

log-mel magnitudes in dB (B,M,L) -> waveform (B, L * hop_length). Kong et al. 2020 ("HiFi-GAN"), Lee et al.
2023 ("BigVGAN"). Their files say how many bands they read and how many samples they write for a column, but
not how the bands are made: that is `spectrogram`, and a wrong one sounds wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mmldm.errors import UserError
from mmldm.models.component import (
    check_settings,
    component_folder,
    find_config,
    load_component,
    on_meta,
    settings_of,
)
from mmldm.models.vocoder import FourierVocoder
from mmldm.models.weights import KINDS, check_tensors, load_exactly, read_header, read_tensors
from mmldm.strict import did_you_mean, read_json
from mmldm.types import ClipSpec, SpectrogramSpec

NEPERS_PER_DECIBEL = math.log(10) / 20


class PretrainedVocoder(ModelMixin, ConfigMixin):
    """A HiFi-GAN or BigVGAN generator that reads natural logarithms of mel magnitudes.

    Args:
        architecture: "SpeechT5HifiGan" (transformers) or "MMAudioVocoder" (diffusers).
        network_config: Of that class.
        spectrogram: The `SpectrogramSpec` it was trained on, as JSON; its `db_min` is the floor of
            the logarithm (-100 dB for the usual 1e-5).
        sample_rate: Of that spectrogram, in Hz.
    """

    @register_to_config
    def __init__(
        self,
        architecture: str,
        network_config: dict[str, Any],
        spectrogram: dict[str, Any],
        sample_rate: int,
    ) -> None:
        super().__init__()
        self.spectrogram = SpectrogramSpec.model_validate(dict(spectrogram))
        self.sample_rate = sample_rate
        self.network = _build(architecture, network_config)
        read = bands_and_hop(self.network)
        described = self.spectrogram.num_mels, self.spectrogram.hop_length
        if read != described:
            raise UserError(
                f"the vocoder reads {read[0]} mel bands every {read[1]} samples, not {described[0]} "
                f"every {described[1]}: describe what it was trained on in vocoder.spectrogram"
            )

    def forward(self, decibels: Tensor) -> Tensor:
        """Log-mel magnitudes in dB (B,M,L) -> waveform (B, L * hop_length) in [-1,1]."""
        length = decibels.shape[2] * self.spectrogram.hop_length
        # Both read natural logarithms of magnitudes: 20 dB are ln 10.
        nepers = decibels * NEPERS_PER_DECIBEL
        if self.config.architecture == HIFIGAN:
            waveform = self.network(nepers.mT)
        else:
            waveform = self.network(nepers).sample[:, 0]
        # Transposed convolutions whose kernel and stride differ by an odd number add some samples.
        return F.pad(waveform, (0, max(0, length - waveform.shape[1])))[:, :length]


Vocoder: TypeAlias = FourierVocoder | PretrainedVocoder
VOCODERS = {cls.__name__: cls for cls in (FourierVocoder, PretrainedVocoder)}
"""Classes of vocoders by the names that model folders state."""

HIFIGAN = "SpeechT5HifiGan"
NEEDED = {
    HIFIGAN: "the package transformers: pip install 'mmldm[vocoder]'",
    "MMAudioVocoder": "diffusers 0.42 or newer",
}


def bands_and_hop(network: nn.Module) -> tuple[int, int]:
    """Mel bands that a HiFi-GAN or BigVGAN reads, and samples that it writes for each column."""
    config: Any = network.config
    bands = config.num_mels if "num_mels" in config else config.model_in_dim
    return int(bands), math.prod(config.upsample_rates)


def load_vocoder(
    name_or_path: str | Path, clip: ClipSpec, spectrogram: SpectrogramSpec | None = None
) -> Vocoder:
    """Loads a vocoder, in eval mode, float32; weights from safetensors only.

    Args:
        name_or_path: A folder or a name on the Hugging Face hub, of HiFi-GAN (transformers),
            BigVGAN (diffusers) or one of this project's vocoders, itself or in the sub-folder
            `vocoder`.
        clip: What is to sound. A BigVGAN's files do not tell its sample rate: it is taken to be
            that of these clips.
        spectrogram: What a HiFi-GAN or BigVGAN was trained on; None: the clips' spectrograms. This
            project's own vocoders say it themselves.

    Raises:
        UserError: Nothing usable is there, or it does not read such spectrograms.
    """
    name = str(name_or_path)
    # transformers names a class in "architectures", diffusers in "_class_name".
    config, _ = find_config(name, "vocoder", "vocoder")
    listed = config.get("architectures")
    first = listed[0] if isinstance(listed, list) and listed else listed
    stated = config.get("_class_name") or first
    architecture = stated if isinstance(stated, str) else repr(stated)
    if architecture in VOCODERS:
        own: Vocoder = load_component(name, VOCODERS, "vocoder", "vocoder")
        return own

    # A network of others, with the settings of its own class.
    network_class = _network_class(architecture)
    if architecture == HIFIGAN:
        network = _load_hifigan(name)
        network_config = network.config.to_diff_dict()
        sample_rate = network.config.sampling_rate
    else:
        network = load_component(name, {architecture: network_class}, "vocoder", "vocoder")
        sample_rate = clip.filterbank_rate
        network_config = {k: v for k, v in network.config.items() if not k.startswith("_")}

    # Into the wrapper, whose config says also what spectrogram it reads.
    described = (spectrogram or clip.spectrogram).model_dump(mode="json")
    vocoder = PretrainedVocoder(architecture, network_config, described, sample_rate)
    vocoder.network.load_state_dict(network.state_dict())
    return vocoder.eval()


def _load_hifigan(name: str) -> Any:
    """From the files of transformers, without its loader, which knows adapters and quantised weights."""
    _, subfolder = find_config(name, "vocoder", "vocoder")
    folder = component_folder(name, subfolder)
    config = read_json(folder / "config.json", "no vocoder")
    settings = check_settings(config, _hifigan_settings(), folder / "config.json", frozenset())
    file = folder / "model.safetensors"
    if not file.is_file():
        raise UserError(f"{folder}: the vocoder's weights are missing (no {file.name})")
    stored = read_header(file)
    build = partial(_build, HIFIGAN, settings)
    check_tensors(on_meta(build, folder / "config.json", len(stored)), stored, folder)
    # transformers writes the kind of number into the config, and would convert the weights to it.
    stated = settings.get("dtype", settings.get("torch_dtype"))
    kinds = {str(KINDS[x.kind]).removeprefix("torch.") for x in stored.values()}
    if stated is not None and kinds != {stated}:
        raise UserError(
            f"{folder}: config.json states {stated!r:.40}, and the weights are {' and '.join(sorted(kinds))}"
            ": they were converted, or belong to another config.json; take the original ones"
        )
    network = build()
    load_exactly(network, read_tensors(file), str(folder))
    return network


def _build(architecture: str, settings: Mapping[str, Any]) -> nn.Module:
    """The network of others that settings describe; an unknown one is a UserError."""
    network_class = _network_class(architecture)
    hifigan = architecture == HIFIGAN
    known = _hifigan_settings() if hifigan else settings_of(network_class)
    for name in settings:
        if name not in known:
            raise UserError(
                f"the vocoder {architecture} has no setting {name!r:.80}{did_you_mean(name, sorted(known))}"
            )
    network: nn.Module
    if hifigan:
        network = network_class(network_class.config_class.from_dict(dict(settings)))
    else:
        network = network_class.from_config(dict(settings))
    return network


def _hifigan_settings() -> frozenset[str]:
    """Those of its configuration, and what transformers writes beside them."""
    written = {"architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path"}
    return frozenset(written | set(_network_class(HIFIGAN).config_class().to_dict()))


def _network_class(architecture: str) -> Any:
    """The class of that name, imported only here: both packages may be absent or too old."""
    if architecture not in NEEDED:
        raise UserError(
            f"{architecture} is no vocoder that is known here ({', '.join(NEEDED)}, FourierVocoder)"
        )
    try:
        if architecture == HIFIGAN:
            from transformers.models.speecht5.modeling_speecht5 import SpeechT5HifiGan

            return SpeechT5HifiGan
        from diffusers.models.autoencoders.mmaudio_vocoder import MMAudioVocoder

        return MMAudioVocoder
    except ImportError as error:
        raise UserError(
            f"the vocoder {architecture} needs {NEEDED[architecture]} ({error})"
        ) from error
