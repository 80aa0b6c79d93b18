"""`en-bench noise audit RUN`: which labels of a run's training split are likely wrong."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule

from en_bench import outcome
from en_bench.audit import figures, gather, tables, text
from en_bench.audit.checkpoint_pass import run_pass
from en_bench.audit.findings import Findings, default_score, to_json
from en_bench.audit.labels import labels_of
from en_bench.audit.ratios import RatioReport
from en_bench.audit.record import check_same_share, read_record
from en_bench.audit.same_training import check_same_set
from en_bench.audit.scores import MEANINGS
from en_bench.audit.suspects import suspects_png
from en_bench.data.module import ShardDataModule
from en_bench.data.sheet import MOST
from en_bench.errors import InputError
from en_bench.files import write_bytes, write_json, write_text
from en_bench.noise.in_words import labels_told
from en_bench.one_process import OneProcessCLI, restored, run_verb_of_a_run
from en_bench.tasks.classification import ClassificationTask
from en_bench.trainer import EnBenchTrainer

FOLDER = "audit"
_PACKAGES = ("numpy", "scipy", "matplotlib", "pyarrow", "cleanlab")
_WRITTEN = (  # audit.json first: where it lies, all else is of the same audit
    *("audit.json", "audit.csv", "suspects.png"),
    *("ratios.csv", "ratios.png", "ratios_layers.png", "ratios_epochs.png"),
)


class AuditingTrainer(EnBenchTrainer):
    """The trainer of a run, with the verb that looks at its labels: its device, precision and options apply."""

    findings: Findings

    def audit(
        self,
        model: LightningModule,
        datamodule: ShardDataModule,
        ckpt_path: str | None = None,
        out: str | None = None,
        top: int = 100,
        score: str | None = None,
        bootstrap: int = 1000,
        weights_only: bool | None = None,
    ) -> None:
        """Ranks the samples of a run's training split by how likely their label is wrong.

        Args:
            model: the task.
            datamodule: where the images come from.
            ckpt_path: the checkpoint that passes over the split (default: checkpoints/last.ckpt of the run).
            out: folder for what is found (default: audit in the run's folder).
            top: how many of the most suspect samples the contact sheet shows.
            score: what ranks (default: aum where the run has a record of samples, else pass_margin).
            bootstrap: resamples for the intervals of the effects on ratios, 0 for none.
            weights_only: of no effect; configurations of runs hold it.
        """
        assert isinstance(model, ClassificationTask) and ckpt_path is not None
        datamodule.setup("fit")
        manifest = datamodule.train_manifest
        assert manifest is not None
        labels = labels_of(datamodule)
        run = Path(self.default_root_dir)
        trains = labels_told(datamodule.labels, None if datamodule.noise is None else datamodule.noise.describe())
        record = read_record(run, manifest, datamodule.train, labels.given, trains)
        if score is not None:
            gather.check_score(score, record)
        saved = torch.load(ckpt_path, map_location="cpu", weights_only=True)
        check_same_set(saved, manifest, datamodule)
        check_same_share(run, datamodule.held_out)
        task = restored(self, model, datamodule, saved)
        told_apart = bool(labels.wrong.any() and (labels.known & ~labels.wrong).any())
        ratios, notes = gather.recorded_ratios(record, labels, bootstrap) if told_apart else (None, [])
        try:
            passed = run_pass(self, task, datamodule, labels.given, with_ratios=told_apart and ratios is None)
        finally:
            datamodule.teardown("")
        if ratios is None:
            ratios, more = gather.ratios_of(passed, labels, bootstrap)
            notes += more
        scores, of_scores = gather.scores_of(record, passed, labels)
        ranked_by = score or default_score(scores)
        of_scores = [*gather.unranked(scores[ranked_by], record, labels), *of_scores]
        issues, of_issues = gather.issues_of(passed, labels)
        self.findings = Findings(
            name=datamodule.train,
            manifest=manifest,
            index=manifest.load_index(),
            column=datamodule.labels,
            noise=None if datamodule.noise is None else str(datamodule.noise),
            labels=labels,
            scores=scores,
            ranked_by=ranked_by,
            predicted=gather.predicted_of(record, passed, len(manifest.classes)),
            pass_predicted=passed.predicted,
            issues=issues,
            ratios=ratios,
            epochs=record.epochs if record is not None else (),
            notes=(*of_scores, *of_issues, *notes),
        )


class AuditCLI(OneProcessCLI):
    """The configuration of a run, with flags, to an audit of its labels."""

    PROG = "en-bench noise"
    TRAINER = AuditingTrainer

    trainer: AuditingTrainer

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"audit": {"model", "datamodule"}}

    def before_audit(self) -> None:
        given = self.config_init.audit
        if not 1 <= given.top <= MOST:
            raise InputError(f"--top {given.top}: a contact sheet shows 1 to {MOST:,} samples: use --top 100")
        if given.bootstrap < 0:
            raise InputError(f"--bootstrap {given.bootstrap} is too small: use 0 or more")
        if given.score is not None and given.score not in MEANINGS:
            raise InputError(f"--score: unknown score {given.score!r}: choose one of {', '.join(MEANINGS)}")
        if self._out().exists() and not self._out().is_dir():
            raise InputError(f"--out {self._out()} is a file: give a folder")
        self.datamodule.open("fit")

    def after_audit(self) -> None:
        findings, out = self.trainer.findings, self._out()
        given = self.config_init.audit
        print(text.to_text(findings), end="")
        for name in _WRITTEN:
            (out / name).unlink(missing_ok=True)
        write_text(out / "audit.csv", tables.audit_csv(findings))
        written = ["audit.csv"]
        if len(findings.ranking()):
            write_bytes(out / "suspects.png", suspects_png(findings, given.top))
            written.append("suspects.png")
        if findings.ratios is not None:
            written += _write_ratios(out, findings.ratios, findings.title)
        facts = outcome.common_facts(
            "noise audit", self._settings().seed_everything, self._plain_config(), self.trainer
        )
        packages = {package: _version(package) for package in _PACKAGES}
        facts["versions"] = {**facts["versions"], **{name: found for name, found in packages.items() if found}}
        checkpoint = Path(given.ckpt_path)
        facts |= {"checkpoint": str(checkpoint), "checkpoint_sha256": _sha256(checkpoint), "files": written}
        assert self.datamodule.training_labels is not None
        facts |= {"noise": self.datamodule.training_labels.facts(), **to_json(findings)}
        for path in (out / _WRITTEN[0], *([Path(self._settings().result)] if self._settings().result else [])):
            write_json(path, facts)  # last: where it lies, all else does
        print(f"wrote {', '.join([*written, 'audit.json'])} in {out}", flush=True)

    def _settings(self) -> Any:
        return self.config[self.subcommand]

    def _out(self) -> Path:
        return Path(self.config_init.audit.out or self._folder() / FOLDER)


def _write_ratios(out: Path, report: RatioReport, title: str) -> list[str]:
    write_text(out / "ratios.csv", tables.ratios_csv(report))
    write_bytes(out / "ratios.png", figures.effects_png(report, title))
    write_bytes(out / "ratios_layers.png", figures.layers_png(report, title))
    written = ["ratios.csv", "ratios.png", "ratios_layers.png"]
    if len({effect.epoch for effect in report.effects} - {None}) > 1:
        write_bytes(out / "ratios_epochs.png", figures.epochs_png(report, title))
        written.append("ratios_epochs.png")
    return written


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:  # PackageNotFoundError is one
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(argv: list[str]) -> None:
    """Runs `en-bench noise audit ARGV`. Raises as `run_verb_of_a_run` does."""
    run_verb_of_a_run("audit", argv, AuditCLI)
