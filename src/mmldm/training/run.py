"""From a folder of clips to a model folder: a run's jobs as a table, and the model they end in.

clips -> manifest -> vae -> image latents cache -> autoencoder -> latents cache -> generator -> model/,
to which the vocoder is added where the recipe has one. Every step is skipped when its result is there
and current, so the same command resumes wherever it stopped.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from mmldm.config import RunConfig
from mmldm.data.cache_writer import json_of
from mmldm.data.latents import Splits
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.files import whole_folder, write_json
from mmldm.models.autoencoder import MultiModalAutoencoder, load_autoencoder
from mmldm.models.image_vae import ImageVAE, load_image_vae
from mmldm.models.pretrained import initialise_decoder, require_unet
from mmldm.models.pretrained_vocoder import load_vocoder
from mmldm.sections import TrainConfig
from mmldm.training import JOBS
from mmldm.training.assembly import assemble, schedulers
from mmldm.training.budget import Budget
from mmldm.training.calibration import calibration
from mmldm.training.checkpoint import ChangedError, CheckpointFolder
from mmldm.training.distributed import Process
from mmldm.training.frozen import kept_of
from mmldm.training.going_on import set_aside
from mmldm.training.job_caches import NETWORKS, JobCaches, Reader, unread
from mmldm.training.jobs.autoencoder import AutoencoderStage
from mmldm.training.jobs.generator import GeneratorStage, build_generator
from mmldm.training.jobs.vae import VaeStage, build_vae
from mmldm.training.jobs.vocoder import VocoderStage, build_vocoder
from mmldm.training.live import doing, say
from mmldm.training.loop import TrainResult, train
from mmldm.training.report_page import refresh
from mmldm.training.rounds import budget_of
from mmldm.training.run_folder import RunFolder
from mmldm.training.stage import Stage
from mmldm.training.starting import Start
from mmldm.types import Progress


@dataclass
class Run:
    """Does the jobs of a run.

    Args:
        config: The recipe.
        folder: The run folder.
        manifest: The scanned clips.
        process: Device and rank; rank 0 writes.
        console: For progress.
        progress: For the encoding of caches.
        anew: Jobs that begin anew where the networks that they learn from have changed.

    Attributes:
        notes: Sentences for the head of the next job's log, such as which files its caches lack.
        start: The finished model that the jobs start from, if any; set when a job begins.
    """

    config: RunConfig
    folder: RunFolder
    manifest: Manifest
    process: Process
    console: Console
    progress: Progress
    anew: Sequence[str] = ()
    notes: list[str] = field(default_factory=list, init=False)
    start: Start | None = field(default=None, init=False)

    def run(self, name: str) -> TrainResult | None:
        """Does one job to its end and exports its model; None if it needs no training.

        Raises:
            UserError: A job before it is not finished, or as `train`.
        """
        job, train_config, began = TABLE[name], self.config.training_of(name), time.monotonic()
        self._open_start()
        if name == "vae" and (unet := self.decoder_init()) is not None:
            # The next job starts from it, hours later: that it is missing is said now.
            require_unet(unet)

        # Train it, or take it as the recipe has it.
        result = None
        if train_config is None:
            self.process.on_main(lambda: self._take_as_it_is(name, job))
        else:
            stage = self._stage(name)
            budget = budget_of(self.config, self.folder.root, name, began)
            result = self.train(stage, train_config, budget)
        # A job that a signal has stopped has exported nothing new.
        if job.in_model and not (result is not None and result.interrupted):
            self.process.on_main(lambda: self._publish(name))
        # Networks and optimisers hang in reference cycles, and the next job needs the memory.
        gc.collect()
        return result

    def _stage(self, name: str) -> Stage:
        """What a job trains; it begins anew where that is wanted and what it learns from has changed."""
        try:
            return TABLE[name].stage(self)
        except UserError as error:
            networks = isinstance(error, ChangedError) and error.keys <= NETWORKS
            if name not in self.anew or not self.process.from_main(networks):
                raise
        root = self.folder.root
        aside = self.process.on_main(lambda: set_aside(root, name))
        self.notes.append(f"begins anew on what the jobs before it have made; before: {aside}")
        return TABLE[name].stage(self)

    def train(
        self, stage: Stage, train_config: TrainConfig, budget: Budget | None = None
    ) -> TrainResult:
        """Trains one job in its folder."""
        # The notes are this job's alone.
        notes, self.notes = self.notes, []
        # The page stands from the first step on, and shows the last one however the job ends.
        page = partial(refresh, self.folder.root, self._say)
        self.process.on_main(page)
        try:
            return train(
                stage,
                train_config,
                self.folder.job(stage.name),
                seed=self.config.seed,
                process=self.process,
                console=self.console,
                notes=notes,
                budget=budget,
                page=page,
            )
        finally:
            if self.process.is_main:
                page()

    def decoder_init(self) -> str | None:
        """Where the signal decoder starts from; None once the job has a checkpoint of its own."""
        return None if self._begun("autoencoder") else self.config.autoencoder.decoder_init

    def _begun(self, name: str) -> bool:
        """Whether a job has a checkpoint, which takes the place of whatever it starts from."""
        path = self.folder.job(name) / "checkpoints"
        return bool(CheckpointFolder(path, keep=1, note=self.console.print).steps())

    def _open_start(self) -> None:
        """Finds the model that the jobs start from, and keeps in the run folder what they need of it."""
        # What is taken as it is has an export and no checkpoint.
        exports = [job for job in JOBS if self.folder.export(job).is_dir()]
        begun, classes = self.folder.begun() or exports, self.manifest.classes
        self.start = Start.open(self.config.start, self.folder.root, begun, classes, self.process)

    def started(self, name: str, network: nn.Module) -> None:
        """Gives a job's network the weights it starts from, unless a checkpoint will take their place."""
        if self.start is not None and not self._begun(name):
            self.notes += self.start.give(name, network, self.folder.root, self.process)

    def statistics(self, name: str) -> dict[str, Any] | None:
        """Statistics of latents that a job has to keep to; None: those of its cache."""
        return None if self.start is None else self.start.statistics(name)

    def vae(self) -> ImageVAE:
        """The image VAE that the later jobs work with."""
        return load_image_vae(self.config.autoencoder.image_vae or self._finished("vae"))

    def autoencoder(self) -> MultiModalAutoencoder:
        """The autoencoder whose latents the generator learns."""
        return load_autoencoder(self.config.generator.autoencoder or self._finished("autoencoder"))

    def passage(self) -> tuple[ImageVAE | None, MultiModalAutoencoder | None]:
        """What the vocoder's `loss.decoded` rows pass through: an image VAE, and an autoencoder if any."""
        job = self.config.vocoder
        if job is None or not job.loss.decoded:
            return None, None
        vae = load_image_vae(job.image_vae) if job.image_vae else self.vae()
        own = self.folder.export("autoencoder")
        source = job.autoencoder or (own if own.is_dir() and not job.image_vae else None)
        return vae, None if source is None else load_autoencoder(source)

    def image_latents(self, job: str = "", train_config: TrainConfig | None = None) -> Splits:
        """Image latents of every window, cached; for a job, or only to have them. See `JobCaches`."""
        reader = self._reader(job, train_config)
        caches = self._caches().image_latents(self.vae(), reader)
        self.notes += unread(caches, "image latents")
        return caches

    def latents(self, job: str = "", train_config: TrainConfig | None = None) -> Splits:
        """Latents of every window, cached, likewise."""
        autoencoder, reader = self.autoencoder(), self._reader(job, train_config)
        caches = self._caches().latents(self.vae(), autoencoder, reader)
        self.notes += unread(caches, "latents")
        return caches

    def _caches(self) -> JobCaches:
        folder = self.folder.root / "caches"
        return JobCaches(self.config, self.manifest, folder, self.process, self.progress, self._say)

    def _reader(self, job: str, train_config: TrainConfig | None) -> Reader | None:
        return None if train_config is None else Reader(job, self.folder.job(job), train_config)

    def _finished(self, job: str) -> Path:
        export = self.folder.export(job)
        if not export.is_dir():
            raise UserError(f"{export} is missing: run the {job} job first (mmldm train {job}).")
        return export

    def _take_as_it_is(self, name: str, job: Job) -> None:
        """The export of a job that trains nothing."""
        start = self.start
        if start is not None and name in start.section.freeze:
            # Once: a run that has begun does not need the model it started from.
            if not self.folder.export(name).is_dir():
                self._freeze(name, start)
            return
        assert job.as_it_is is not None, "the recipe requires a train section"
        model = job.as_it_is(self.config)
        with whole_folder(self.folder.export(name)) as unfinished:
            model.save_pretrained(unfinished)

    def _freeze(self, name: str, start: Start) -> None:
        """Exports a finished model's network, after a look at how well it keeps these clips."""
        network = start.as_it_is(name, self.config.seed)
        if name != "vocoder":
            vae, autoencoder = (network, None) if name == "vae" else (self.vae(), network)
            scheduler, device = schedulers(self.config)[1], self.process.device
            clips = self.manifest.complete
            found = kept_of(clips, self.config, vae, autoencoder, scheduler, device)
            self._say(found.sentence(name, start.section.model))
            start.write(self.folder.root, name, asdict(found))
        with whole_folder(self.folder.export(name)) as unfinished:
            network.to("cpu").save_pretrained(unfinished)

    def _publish(self, name: str) -> None:
        """Writes model/: the generator job's export, and the vocoder where both are finished.

        Args:
            name: Of the job that has ended.
        """
        generator, vocoder = self.folder.export("generator"), self.folder.export("vocoder")
        if not generator.is_dir():
            return
        together = doing(self.console, "putting the model together")
        with together, whole_folder(self.folder.model) as unfinished:
            shutil.copytree(generator, unfinished, dirs_exist_ok=True)
            known = json_of(self.folder.model / "model_index.json").get("outliers")
            scheduler, device = schedulers(self.config)[1], self.process.device
            facts = calibration(
                unfinished, self.config, scheduler, self.manifest, device, self._say, known,
                measure=name == "generator",
            )  # fmt: skip
            path = unfinished / "model_index.json"
            write_json(path, json_of(path) | facts, indent=2)
            if self.config.vocoder is None or not vocoder.is_dir():
                return
            # A component of a pipeline is a folder, and a line of the index that names its class.
            shutil.copytree(vocoder, unfinished / "vocoder")
            kind = type(load_vocoder(vocoder, self.config.clip))
            index = json_of(path)
            index["vocoder"] = [kind.__module__, kind.__name__]
            write_json(path, index, indent=2)

    def _say(self, sentence: str) -> None:
        say(self.console, sentence)


@dataclass(frozen=True)
class Job:
    """A line of the table of jobs.

    Attributes:
        stage: What is trained. What it needs of earlier jobs, the run loads: it refuses if that is missing.
        as_it_is: The network of a recipe without a `train` section for it; None: it always has one.
        in_model: Whether it is a part of model/, which is written anew when the job ends.
    """

    stage: Callable[[Run], Stage]
    as_it_is: Callable[[RunConfig], Any] | None = None
    in_model: bool = False


def _vae(run: Run) -> Stage:
    stage = VaeStage(run.config, run.manifest, run.process.device)
    run.started("vae", stage.vae)
    return stage


def _autoencoder(run: Run) -> Stage:
    vae = run.vae()
    caches = run.image_latents("autoencoder", run.config.autoencoder.train)
    statistics = run.statistics("autoencoder")
    stage = AutoencoderStage(run.config, vae, caches, run.process.device, statistics)
    run.started("autoencoder", stage.autoencoder)
    # Not where a checkpoint will take its place at once.
    if (unet := run.decoder_init()) is not None:
        run.notes.append(str(initialise_decoder(stage.autoencoder, unet)))
    return stage


def _generator(run: Run) -> Stage:
    classes = run.manifest.classes
    autoencoder, vae = run.autoencoder(), run.vae()
    # Shapes and statistics of the latents are the cache's to tell.
    caches = run.latents("generator", run.config.generator.train)
    statistics = run.statistics("generator")
    generator = build_generator(run.config, caches.train, len(classes), statistics)
    run.started("generator", generator)
    pipeline = assemble(run.config, vae, autoencoder, generator, classes)
    return GeneratorStage(run.config, pipeline, caches, run.process.device)


def _vocoder(run: Run) -> Stage:
    stage = VocoderStage(run.config, run.manifest, run.process.device, *run.passage())
    run.started("vocoder", stage.vocoder)
    return stage


def _vocoder_as_it_is(config: RunConfig) -> Any:
    assert config.vocoder is not None, "the caller asks for jobs of the recipe only"
    return build_vocoder(config.vocoder, config.clip, config.seed)


TABLE = {
    "vae": Job(_vae, as_it_is=build_vae),
    "autoencoder": Job(_autoencoder),
    "generator": Job(_generator, in_model=True),
    "vocoder": Job(_vocoder, as_it_is=_vocoder_as_it_is, in_model=True),
}


def jobs_of(config: RunConfig) -> tuple[str, ...]:
    """The jobs that a recipe has a section for, in order."""
    return tuple(job for job in JOBS if getattr(config, job) is not None)
