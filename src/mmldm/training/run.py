"""From a folder of clips to a model folder: a run's folder, its jobs as a table, and the model they end in.

clips -> manifest -> vae -> image latents cache -> autoencoder -> latents cache -> generator -> model/,
to which the vocoder is added where the recipe has one. Every step is skipped when its result is there
and current, so the same command resumes wherever it stopped.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mmldm.config import RunConfig, parse
from mmldm.data.cache_writer import json_of
from mmldm.data.latents import Splits
from mmldm.data.manifest import Manifest
from mmldm.diffusion.schedules import ScheduleConfig, make_scheduler
from mmldm.errors import UserError
from mmldm.files import whole_folder, write_json
from mmldm.models.autoencoder import MultiModalAutoencoder, load_autoencoder
from mmldm.models.generator import JointGenerator
from mmldm.models.image_vae import ImageVAE, load_image_vae
from mmldm.models.pretrained import initialise_decoder, require_unet
from mmldm.models.pretrained_vocoder import load_vocoder
from mmldm.pipelines.decoding import ClipCoder
from mmldm.pipelines.outliers import OutlierDetector
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.sections import TrainConfig
from mmldm.training import JOBS
from mmldm.training.calibration import calibrated
from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.distributed import Process
from mmldm.training.job_caches import JobCaches, Reader, unread
from mmldm.training.jobs.autoencoder import AutoencoderStage
from mmldm.training.jobs.generator import GeneratorStage, build_generator
from mmldm.training.jobs.vae import VaeStage, build_vae
from mmldm.training.jobs.vocoder import VocoderStage, build_vocoder
from mmldm.training.loop import TrainResult, train
from mmldm.training.stage import Stage
from mmldm.types import Progress


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of one run lie.

    Attributes:
        root: config.yaml, manifest.jsonl, a folder per job, caches/, and in the end model/.
    """

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.jsonl"

    @property
    def unfinished_scan(self) -> Path:
        """What an interrupted scan has found."""
        return self.root / "manifest.jsonl.unfinished"

    @property
    def model(self) -> Path:
        """The finished pipeline: what `mmldm generate --model` loads."""
        return self.root / "model"

    @property
    def distilled(self) -> Path:
        """The same with the students of `mmldm distill`: the generator's added, the decoder's in place."""
        return self.root / "distilled"

    def job(self, name: str) -> Path:
        """Checkpoints, metrics, log and previews of a job."""
        return self.root / name

    def export(self, name: str) -> Path:
        """A finished job's model."""
        return self.root / name / "export"

    def cache(self, name: str) -> Path:
        return self.root / "caches" / name

    def begun(self) -> list[str]:
        """Names of the jobs that have a checkpoint."""
        checkpoints = self.root.glob("*/checkpoints/step_*")
        return sorted({path.parent.parent.name for path in checkpoints})


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

    Attributes:
        notes: Sentences for the head of the next job's log, such as which files its caches lack.
    """

    config: RunConfig
    folder: RunFolder
    manifest: Manifest
    process: Process
    console: Console
    progress: Progress
    notes: list[str] = field(default_factory=list, init=False)

    def run(self, name: str) -> TrainResult | None:
        """Does one job to its end and exports its model; None if it needs no training.

        Raises:
            UserError: A job before it is not finished, or as `train`.
        """
        job, train_config = TABLE[name], getattr(self.config, name).train
        if name == "vae" and (unet := self.decoder_init()) is not None:
            # The next job starts from it, hours later: that it is missing is said now.
            require_unet(unet)

        # Train it, or take it as the recipe has it.
        result = None
        if train_config is None:
            self.process.on_main(lambda: self._take_as_it_is(name, job))
        else:
            result = self.train(job.stage(self), train_config)
        # A job that a signal has stopped has exported nothing new.
        if job.in_model and not (result is not None and result.interrupted):
            self.process.on_main(lambda: self._publish(name))
        # Networks and optimisers hang in reference cycles, and the next job needs the memory.
        gc.collect()
        return result

    def train(self, stage: Stage, train_config: TrainConfig) -> TrainResult:
        """Trains one job in its folder."""
        # The notes are this job's alone.
        notes, self.notes = self.notes, []
        return train(
            stage,
            train_config,
            self.folder.job(stage.name),
            seed=self.config.seed,
            process=self.process,
            console=self.console,
            notes=notes,
        )

    def decoder_init(self) -> str | None:
        """Where the signal decoder starts from; None once the job has a checkpoint of its own."""
        path = self.folder.job("autoencoder") / "checkpoints"
        begun = CheckpointFolder(path, keep=1, note=self.console.print).steps()
        return None if begun else self.config.autoencoder.decoder_init

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
        assert job.as_it_is is not None, "the recipe requires a train section"
        model = job.as_it_is(self.config)
        with whole_folder(self.folder.export(name)) as unfinished:
            model.save_pretrained(unfinished)

    def _publish(self, name: str) -> None:
        """Writes model/: the generator job's export, and the vocoder where both are finished.

        Args:
            name: Of the job that has ended.
        """
        generator, vocoder = self.folder.export("generator"), self.folder.export("vocoder")
        if not generator.is_dir():
            return
        with whole_folder(self.folder.model) as unfinished:
            shutil.copytree(generator, unfinished, dirs_exist_ok=True)
            self._calibrate(unfinished, measure=name == "generator")
            if self.config.vocoder is None or not vocoder.is_dir():
                return
            # A component of a pipeline is a folder, and a line of the index that names its class.
            shutil.copytree(vocoder, unfinished / "vocoder")
            kind = type(load_vocoder(vocoder, self.config.clip))
            path = unfinished / "model_index.json"
            index = json_of(path)
            index["vocoder"] = [kind.__module__, kind.__name__]
            write_json(path, index, indent=2)

    def _calibrate(self, model: Path, measure: bool) -> None:
        """Writes into a model's index how clips of its world measure, and how many are of each class.

        Args:
            measure: False: the first as far as model/ says it already.
        """
        path = model / "model_index.json"
        index = json_of(path)
        outliers = json_of(self.folder.model / "model_index.json").get("outliers")
        if measure:
            device = self.process.device
            vae = load_image_vae(model / "vae").to(device)
            autoencoder = load_autoencoder(model / "autoencoder").to(device)
            scheduler, spec = schedulers(self.config)[1], self.config.clip
            coder = ClipCoder(vae, autoencoder, scheduler, None, spec, device)
            detector = OutlierDetector(coder, self.config.sample.decoder_steps)
            outliers = calibrated(detector, self.manifest, self.config.seed, self._say, outliers)
        facts: dict[str, Any] = {"outliers": outliers}
        if index["class_names"]:
            names = [entry.class_name for entry in self.manifest.split("train")]
            counts = [max(names.count(name), 1) for name in index["class_names"]]
            facts["class_shares"] = [float(count) for count in counts]
        write_json(path, index | facts, indent=2)

    def _say(self, sentence: str) -> None:
        self.console.print(Text(sentence), soft_wrap=True)


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
    return VaeStage(run.config, run.manifest, run.process.device)


def _autoencoder(run: Run) -> Stage:
    vae = run.vae()
    caches = run.image_latents("autoencoder", run.config.autoencoder.train)
    stage = AutoencoderStage(run.config, vae, caches, run.process.device)
    # Not where a checkpoint will take its place at once.
    if (unet := run.decoder_init()) is not None:
        run.notes.append(str(initialise_decoder(stage.autoencoder, unet)))
    return stage


def _generator(run: Run) -> Stage:
    classes = run.manifest.classes
    autoencoder, vae = run.autoencoder(), run.vae()
    # Shapes and statistics of the latents are the cache's to tell.
    caches = run.latents("generator", run.config.generator.train)
    generator = build_generator(run.config, caches.train, len(classes))
    pipeline = assemble(run.config, vae, autoencoder, generator, classes)
    return GeneratorStage(run.config, pipeline, caches, run.process.device)


def _vocoder(run: Run) -> Stage:
    return VocoderStage(run.config, run.manifest, run.process.device, *run.passage())


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


def assemble(
    config: RunConfig,
    vae: ImageVAE,
    autoencoder: MultiModalAutoencoder,
    generator: JointGenerator,
    classes: Sequence[str],
) -> SoundingVideoPipeline:
    """The pipeline of a recipe's networks, without a vocoder."""
    sample = config.sample
    scheduler, decoder_scheduler = schedulers(config)
    return SoundingVideoPipeline(
        vae=vae,
        autoencoder=autoencoder,
        generator=generator,
        scheduler=scheduler,
        decoder_scheduler=decoder_scheduler,
        clip_spec=config.clip.model_dump(mode="json"),
        class_names=list(classes) if generator.null_class else [],
        num_inference_steps=sample.num_inference_steps,
        decoder_steps=sample.decoder_steps,
        guidance_scale=sample.guidance_scale,
        default_quality=sample.quality,
        known_slots=config.generator.known_slots is not None,
    )


def schedulers(config: RunConfig) -> tuple[Any, Any]:
    """How the generator and the signal decoder of a recipe sample.

    Raises:
        UserError: A `schedule` section is wrong, or does not suit the scheduler.
    """
    generator, autoencoder = (
        parse(ScheduleConfig, section.schedule, f"{job}.schedule")
        for job, section in (("generator", config.generator), ("autoencoder", config.autoencoder))
    )
    return make_scheduler(generator, config.sample.scheduler), make_scheduler(autoencoder, "ddim")
