"""Runs that start from a finished model: its weights for each job, or a network of it as it is.

recipe, run folder -> `Start` -> a job's network with the model's tensors, and what its log says of that.
A job reads the weights only while it has no checkpoint. What else it needs of the model, its settings and
statistics, is kept in the run's `start/`, so that a job that has begun does not need the model any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmldm.config import StartConfig
from mmldm.data.cache_writer import json_of
from mmldm.errors import UserError
from mmldm.files import whole_folder, write_json
from mmldm.models.autoencoder import MultiModalAutoencoder, load_autoencoder
from mmldm.models.generator import JointGenerator, load_generator
from mmldm.models.image_vae import load_image_vae
from mmldm.models.pretrained_vocoder import load_vocoder
from mmldm.models.transfer import (
    ClassMatch,
    Transfer,
    transfer,
    transfer_autoencoder,
    transfer_generator,
)
from mmldm.training.distributed import Process
from mmldm.training.start_model import (
    FOLDER,
    NETWORKS,
    Described,
    describe,
    find_model,
    settings_file,
)

ENCODER_OF = {"autoencoder": "vae", "generator": "autoencoder"}
"""Whose latents a job normalises."""


@dataclass(frozen=True)
class Start:
    """The model that a run's jobs start from.

    Attributes:
        section: Of the recipe.
        described: The model.
        match: Its classes and the clips'.
    """

    section: StartConfig
    described: Described
    match: ClassMatch

    @classmethod
    def of(
        cls, section: StartConfig | None, run: Path, begun: Sequence[str], classes: Sequence[str]
    ) -> Start | None:
        """What the recipe says; None: the jobs start from nothing.

        Args:
            run: The run folder.
            begun: Jobs that have a checkpoint.
            classes: Of the clips.

        Raises:
            UserError: The jobs began from something else, or as `describe`.
        """
        recorded = json_of(run / FOLDER / "start.json")
        wanted = {} if section is None else section.model_dump(mode="json")
        if begun and recorded != wanted:
            began, now = (_told(values) for values in (recorded, wanted))
            raise UserError(
                f"{run}: the {begun[0]} job began {began}, and is now to start {now}: put the old setting "
                "back, or choose another --out"
            )
        if section is None:
            return None
        described = describe(section, run)
        here = list(classes) if len(classes) > 1 else []
        return cls(section, described, ClassMatch(described.classes, here))

    @classmethod
    def open(
        cls,
        section: StartConfig | None,
        run: Path,
        begun: Sequence[str],
        classes: Sequence[str],
        process: Process,
    ) -> Start | None:
        """The same on every process, recorded by rank 0.

        Raises:
            UserError: As `of`.
        """

        def opened() -> Start | None:
            start = cls.of(section, run, begun, classes)
            if start is not None:
                start.record(run)
            return start

        start = process.on_main(opened)
        return start if process.is_main else cls.of(section, run, [], classes)

    def give(self, job: str, network: nn.Module, run: Path, process: Process) -> list[str]:
        """Gives a job's network the model's weights.

        Returns:
            What the job's log says of it.

        Raises:
            UserError: As `load`.
        """
        report = self.load(job, network)
        if report is not None:
            facts = asdict(report)
            process.on_main(lambda: self.write(run, job, facts))
        return self.sentences(job, report)

    def record(self, run: Path) -> None:
        """Keeps in the run folder what its jobs need to know of the model."""
        folder = run / FOLDER
        facts = self.section.model_dump(mode="json")
        if json_of(folder / "start.json") == facts:
            return
        with whole_folder(folder) as unfinished:
            write_json(unfinished / "model_index.json", dict(self.described.index), indent=2)
            for part, settings in self.described.parts.items():
                (unfinished / part).mkdir()
                write_json(unfinished / part / settings_file(part), dict(settings), indent=2)
            write_json(unfinished / "start.json", facts, indent=2)

    def statistics(self, job: str) -> dict[str, Any] | None:
        """Those of the latents that a job normalises: the model's where their encoder is kept, else None."""
        kept = ENCODER_OF[job] in self.section.freeze
        own: dict[str, Any] | None = self.described.parts[job].get("latent_statistics")
        return own if kept else None

    def load(self, job: str, network: nn.Module) -> Transfer | None:
        """Gives a job's network the model's weights; None: the model has none for it.

        Raises:
            UserError: The model is not there, or does not fit.
        """
        if not self.described.own(job) or type(network) is not NETWORKS[job]:
            return None
        source, name = find_model(self.section.model), self.section.model
        if isinstance(network, MultiModalAutoencoder):
            return transfer_autoencoder(network, load_autoencoder(source), name, self.match)
        if isinstance(network, JointGenerator):
            return transfer_generator(network, load_generator(source), name, self.match)
        theirs = (
            load_image_vae(source)
            if job == "vae"
            else load_vocoder(source / "vocoder", self.described.clip)
        )
        return transfer(network, theirs, job, name)

    def as_it_is(self, job: str, seed: int) -> Any:
        """The model's network of a frozen job; an autoencoder with the clips' classes.

        Raises:
            UserError: The model is not there.
        """
        source = find_model(self.section.model)
        if job == "vae":
            return load_image_vae(source)
        if job == "vocoder":
            return load_vocoder(source / "vocoder", self.described.clip)
        theirs = load_autoencoder(source)
        # One that has no classes, or reads them off its latents because the clips have none, stays as it is.
        here, there = self.match.here, self.match.there
        if not here or not theirs.config.num_classes or list(here) == list(there):
            return theirs
        torch.manual_seed(seed)  # of what new classes add
        network = MultiModalAutoencoder.from_config(theirs.config, num_classes=len(here))
        transfer_autoencoder(network, theirs, self.section.model, self.match)
        return network.eval()

    def sentences(self, job: str, report: Transfer | None) -> list[str]:
        """What a job's log says of its start."""
        if report is None:
            return [f"{job}: {self.section.model} has no weights for it, so it starts from nothing"]
        lines = [str(report)]
        if job in ENCODER_OF:
            encoder = ENCODER_OF[job]
            lines.append(
                f"statistics of its latents: the model's own, because its {encoder} is kept"
                if encoder in self.section.freeze
                else f"statistics of its latents: these clips' own, because the {encoder} is trained on"
            )
            lines.append(str(self.match))
        return lines

    def write(self, run: Path, job: str, facts: Mapping[str, Any]) -> None:
        """Keeps what became of a job's tensors, or how well a frozen one does."""
        write_json(run / FOLDER / f"{job}.json", dict(facts), indent=2)


def _told(values: Mapping[str, Any]) -> str:
    if not values:
        return "from nothing"
    frozen = f" with {', '.join(values['freeze'])} frozen" if values["freeze"] else ""
    return f"from {values['model']}{frozen}"
