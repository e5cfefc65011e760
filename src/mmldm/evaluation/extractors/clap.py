"""CLAP: 512 features of sound that lie in one space with those of text.

waveform (S,) -> windows of 10 s at 48 kHz -> features (W,512)

The network and its preparation of sound are those of transformers. Source: Wu et al., "Large-scale
contrastive language-audio pretraining", ICASSP 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from mmldm.errors import UserError
from mmldm.evaluation.extractors.extractor import Extractor
from mmldm.files import sha256_of
from mmldm.media.clip import Clip
from mmldm.media.resampling import resample

DEFAULT = "laion/clap-htsat-unfused"


class CLAP(Extractor):
    """Features of sound, one for each 10 s or part of it.

    Args:
        name_or_path: Name on the Hugging Face hub, or folder, of a model with safetensors.
        device: Where the network runs.

    Raises:
        UserError: The package transformers or the model is not there.
    """

    modality = "audio"
    licence = "see the model's card; Apache-2.0 for laion/clap-htsat-unfused"

    def __init__(
        self, name_or_path: str | Path = DEFAULT, device: str | torch.device = "cpu"
    ) -> None:
        # An extra, imported where it is used.
        try:
            from transformers.models.clap.feature_extraction_clap import ClapFeatureExtractor
            from transformers.models.clap.modeling_clap import ClapModel
            from transformers.utils.hub import cached_file
        except ImportError as error:
            raise UserError(
                f"CLAP needs the package transformers: pip install 'mmldm[vocoder]' ({error})"
            ) from error
        name = str(name_or_path)
        try:
            self.prepare = ClapFeatureExtractor.from_pretrained(name)
            self.network = ClapModel.from_pretrained(name, use_safetensors=True)
            file = Path(cached_file(name, "model.safetensors"))
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{name} is no CLAP model that can be read here: {reason}") from error
        self.sha256 = sha256_of(file)
        self.name = f"clap:{name}"
        self.dim = int(self.network.config.projection_dim)
        self.network.to(device).eval()
        self.device = device

    @torch.no_grad()
    def __call__(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Features (W,D) of each clip's sound."""
        return [self._features(clip).cpu() for clip in clips]

    def _features(self, clip: Clip) -> Tensor:
        """Features (W,D) of a clip's sound, on the network's device."""
        rate = self.prepare.sampling_rate
        sound = resample(clip.waveform, clip.sample_rate, rate)
        # The last window may be shorter: the preparation repeats it to full length.
        windows = [window.numpy() for window in sound.split(self.prepare.nb_max_samples)]
        inputs = self.prepare(windows, sampling_rate=rate, return_tensors="pt").to(self.device)
        features = self.network.get_audio_features(**inputs)
        # A tensor before transformers 5, the encoder's whole output since.
        return getattr(features, "pooler_output", features)
