"""From a folder of clips to a model folder: the jobs, caches between them, one run folder.

clips -> manifest -> vae -> image latents cache -> autoencoder -> latents cache -> generator -> model/,
to which the vocoder is added where the recipe has one. Every step is skipped when its result is there
and current, so the same command resumes wherever it stopped.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mmldm.config import RunConfig, TrainConfig, parse
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
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.checkpoint import CheckpointFolder
from mmldm.training.distributed import Process
from mmldm.training.job_caches import Job, JobCaches, unread
from mmldm.training.jobs.autoencoder import AutoencoderStage
from mmldm.training.jobs.generator import GeneratorStage, build_generator
from mmldm.training.jobs.vae import VaeStage, build_vae
from mmldm.training.jobs.vocoder import VocoderStage, build_vocoder
from mmldm.training.loop import TrainResult, train
from mmldm.training.run_folder import RunFolder
from mmldm.training.stage import Stage
from mmldm.types import ClipSpec, Progress

JOBS = ("vae", "autoencoder", "generator", "vocoder")


def jobs(config: RunConfig) -> tuple[str, ...]:
    """The jobs that a recipe has a section for, in order."""
    return tuple(job for job in JOBS if getattr(config, job) is not None)


@dataclass
class Journey:
    """Runs jobs in order.

    Args:
        config: The recipe.
        folder: The run folder.
        manifest: The scanned clips.
        process: Device and rank; rank 0 writes.
        console: For progress.
        progress: Called as progress(what, done, total) while caching.
    """

    config: RunConfig
    folder: RunFolder
    manifest: Manifest
    process: Process
    console: Console
    progress: Progress
    missing: list[str] = field(default_factory=list, init=False)

    def run(self, job: str) -> TrainResult | None:
        """Runs one job to its end and exports its model; None if it needed no training."""
        result = {
            "vae": self._vae,
            "autoencoder": self._autoencoder,
            "generator": self._generator,
            "vocoder": self._vocoder,
        }[job]()
        gc.collect()
        return result

    def _vae(self) -> TrainResult | None:
        job = self.config.vae
        if self._decoder_init is not None:
            require_unet(self._decoder_init)
        if job.train is None:
            self.process.on_main(lambda: self._take("vae", build_vae(self.config)))
            return None
        stage = VaeStage(self.config, self.manifest, self.process.device)
        return self.train(stage, job.train)

    def _autoencoder(self) -> TrainResult:
        vae = self._load_vae()
        caches = self.image_latents("autoencoder", self.config.autoencoder.train)
        stage = AutoencoderStage(self.config, vae, caches, self.process.device)
        notes = []
        if self._decoder_init is not None:
            notes.append(str(initialise_decoder(stage.autoencoder, self._decoder_init)))
        return self.train(stage, self.config.autoencoder.train, notes)

    @property
    def _decoder_init(self) -> str | None:
        """Where the signal decoder starts from; None once the job has a checkpoint of its own."""
        path = self.folder.job("autoencoder") / "checkpoints"
        begun = CheckpointFolder(path, keep=1, note=self.console.print).steps()
        return None if begun else self.config.autoencoder.decoder_init

    def _generator(self) -> TrainResult:
        autoencoder = self._load_autoencoder()
        vae = self._load_vae()
        caches = self.latents("generator", self.config.generator.train)
        generator = build_generator(self.config, caches.train, len(self.manifest.classes))
        pipeline = assemble(self.config, vae, autoencoder, generator, self.manifest.classes)
        stage = GeneratorStage(self.config, pipeline, caches, self.process.device)
        result = self.train(stage, self.config.generator.train)
        if result.export is not None:
            self._publish()
        return result

    def _vocoder(self) -> TrainResult | None:
        job, clip = self.config.vocoder, self.config.clip
        assert job is not None, "the caller asks for jobs of the recipe only"
        if job.train is None:

            def take() -> None:
                self._take("vocoder", build_vocoder(job, clip, self.config.seed))
                self._publish()

            self.process.on_main(take)
            return None
        stage = VocoderStage(self.config, self.manifest, self.process.device)
        result = self.train(stage, job.train)
        if result.export is not None:
            self._publish()
        return result

    def _take(self, job: str, model: Any) -> None:
        """The export of a job that trains nothing."""
        with whole_folder(self.folder.export(job)) as unfinished:
            model.save_pretrained(unfinished)

    def _publish(self) -> None:
        """Writes model/: the generator job's export, and the vocoder where both are finished. Rank 0 only."""
        generator, vocoder = self.folder.export("generator"), self.folder.export("vocoder")
        if generator.is_dir():
            with whole_folder(self.folder.model) as unfinished:
                shutil.copytree(generator, unfinished, dirs_exist_ok=True)
                if self.config.vocoder is not None and vocoder.is_dir():
                    add_vocoder(vocoder, unfinished, self.config.clip)

    def train(
        self, stage: Stage, train_config: TrainConfig, notes: Sequence[str] = ()
    ) -> TrainResult:
        """Trains one job in its folder."""
        missing, self.missing = self.missing, []
        return train(
            stage,
            train_config,
            self.folder.job(stage.name),
            seed=self.config.seed,
            process=self.process,
            console=self.console,
            notes=[*missing, *notes],
        )

    def _load_vae(self) -> ImageVAE:
        return load_image_vae(self.config.autoencoder.image_vae or self._finished("vae"))

    def _load_autoencoder(self) -> MultiModalAutoencoder:
        source = self.config.generator.autoencoder or self._finished("autoencoder")
        return load_autoencoder(source)

    def _finished(self, job: str) -> Path:
        export = self.folder.export(job)
        if not export.is_dir():
            raise UserError(f"{export} is missing: run the {job} job first (mmldm train {job}).")
        return export

    def image_latents(self, job: str = "", train_config: TrainConfig | None = None) -> Splits:
        """Image latents of every window, cached; for a job, or only to have them. See `JobCaches`."""
        caches = self._caches.image_latents(self._load_vae(), self._reader(job, train_config))
        return self._noted(caches, "image latents")

    def latents(self, job: str = "", train_config: TrainConfig | None = None) -> Splits:
        """Latents of every window, cached, likewise."""
        autoencoder, reader = self._load_autoencoder(), self._reader(job, train_config)
        return self._noted(self._caches.latents(self._load_vae(), autoencoder, reader), "latents")

    @property
    def _caches(self) -> JobCaches:
        def say(sentence: str) -> None:
            self.console.print(Text(sentence), soft_wrap=True)

        folder = self.folder.root / "caches"
        return JobCaches(self.config, self.manifest, folder, self.process, self.progress, say)

    def _reader(self, job: str, train_config: TrainConfig | None) -> Job | None:
        return Job(job, self.folder.job(job), train_config) if train_config is not None else None

    def _noted(self, caches: Splits, what: str) -> Splits:
        """What is missing in them stands at the head of the job's log."""
        self.missing = unread(caches, what)
        return caches


def assemble(
    config: RunConfig,
    vae: ImageVAE,
    autoencoder: MultiModalAutoencoder,
    generator: JointGenerator,
    classes: Sequence[str],
) -> SoundingVideoPipeline:
    """The pipeline of a recipe's networks, without a vocoder."""
    schedules = {
        job: parse(ScheduleConfig, getattr(config, job).schedule, f"{job}.schedule")
        for job in ("autoencoder", "generator")
    }
    sample = config.sample
    return SoundingVideoPipeline(
        vae=vae,
        autoencoder=autoencoder,
        generator=generator,
        scheduler=make_scheduler(schedules["generator"], sample.scheduler),
        decoder_scheduler=make_scheduler(schedules["autoencoder"], "ddim"),
        clip_spec=config.clip.model_dump(mode="json"),
        class_names=list(classes) if generator.null_class else [],
        num_inference_steps=sample.num_inference_steps,
        decoder_steps=sample.decoder_steps,
        guidance_scale=sample.guidance_scale,
        default_quality=sample.quality,
    )


def replace_folder(source: Path, target: Path) -> None:
    """Copies a folder over another one, which is whole at any time."""
    with whole_folder(target) as unfinished:
        shutil.copytree(source, unfinished, dirs_exist_ok=True)


def add_vocoder(source: Path, model: Path, clip: ClipSpec) -> None:
    """Makes a finished vocoder a component of a model folder that has none."""
    shutil.copytree(source, model / "vocoder")
    kind = type(load_vocoder(source, clip))
    path = model / "model_index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    index["vocoder"] = [kind.__module__, kind.__name__]
    write_json(path, index, indent=2)
