"""The audit of a fine-tuning, as the job that it is."""

from pathlib import Path

import yaml

from pipelines.finetune_evaluation import audit_of
from pipelines.training.finetune_job import CONFIGS, load_finetune


def test_the_attacker_is_trained_on_the_speech_that_the_file_names(tmp_path: Path) -> None:
    fields = yaml.safe_load((CONFIGS / "finetune-smoke.yaml").read_text())
    for name in ("others.parquet", "measured.parquet"):
        (tmp_path / name).touch()
    fields |= {"attacker_corpus": "others.parquet", "evaluation_index": "measured.parquet"}
    (tmp_path / "calm.yaml").write_text(yaml.safe_dump(fields))
    job = load_finetune(str(tmp_path / "calm.yaml"), index="i.parquet", name="calm", model=str(tmp_path))
    audit = audit_of(job, str(job.evaluation_index), str(tmp_path), "bank.parquet")
    assert audit.attacker_corpus == str(tmp_path / "others.parquet")
    assert audit.index == str(tmp_path / "measured.parquet")
    assert audit.policy == job.policy

    plain = load_finetune("smoke", index="i.parquet", name="calm", model=str(tmp_path))
    assert audit_of(plain, "i.parquet", str(tmp_path), "bank.parquet").attacker_corpus is None
