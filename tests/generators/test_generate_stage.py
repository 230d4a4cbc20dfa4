"""The generate stage: contracts, rejects, resume, independence of shards, and drawing a stored sample again."""

import json

import pytest
import torch
from small_pipelines import save_pipeline

from maskmill.data_contracts import DECISION, SAMPLE, check_row, load_label_space, read_shard
from maskmill.generators.config import MaskConfig
from maskmill.generators.loading import model_fingerprint
from maskmill.generators.prompts import PromptConfig, prompt_row, prompts_from_classes
from maskmill.generators.records import regenerate
from maskmill.generators.text_to_image import GeneratorConfig
from maskmill.pipelines.core.stage import map_units, why_run
from maskmill.pipelines.stages.generate import generate_stage, generate_units, write_prompts

VOC = load_label_space("voc")
CLASSES = ("dog", "bus", "pottedplant")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.set_num_threads(1)
    folder = save_pipeline(tmp_path_factory.mktemp("model"))
    # a low threshold: random weights draw nothing, and every map still has to give some foreground
    return GeneratorConfig(model=str(folder), steps=2, batch_size=2, device="cpu", mask=MaskConfig(uncertain=0.4))


@pytest.fixture(scope="module")
def prompts():
    return prompts_from_classes(VOC, PromptConfig(classes=CLASSES, classes_per_prompt=(1, 2)), per_class=2, seed=0)


@pytest.fixture(scope="module")
def run(config, prompts, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("run"))
    write_prompts(f"{folder}/prompts", prompts, per_shard=3)
    reports = map_units(generate_stage(config, VOC, seed=7), generate_units(folder))
    assert [r.status for r in reports] == ["written", "written"]
    return folder


def rows_of(run, name="samples", contract=SAMPLE):
    return [
        row for unit in generate_units(run) for row in read_shard(unit.outputs[name == "rejects"], contract).to_pylist()
    ]


def test_every_prompt_is_a_sample_or_a_reject(run, prompts):
    samples, rejects = rows_of(run), rows_of(run, "rejects", DECISION)
    drawn = {json.loads(row["provenance"]["extra"])["prompt_id"] for row in samples}
    assert drawn | {row["sample_id"] for row in rejects} == {row["sample_id"] for row in prompts}
    assert len(samples) + len(rejects) == len(prompts)
    assert samples


def test_rows_obey_the_contract_and_say_how_they_were_made(run, config):
    for row in rows_of(run):
        assert check_row(row, VOC) is None
        made, extra = row["provenance"], json.loads(row["provenance"]["extra"])
        assert made["source"] == "diffusion"
        assert made["model_revision"] == model_fingerprint(config.model)
        assert made["prompt"].endswith(made["class_prompt"])
        assert (made["steps"], made["guidance"], made["scheduler"]) == (2, 3.0, "DDIMScheduler")
        assert sorted(extra["classes_drawn"] + extra["classes_lost"]) == sorted(extra["classes_prompted"])
        assert extra["classes_drawn"] == row["class_ids"]
        assert set(extra["peaks"]) == {str(c) for c in extra["classes_prompted"]}
        assert row["prompt_class_ids"] == sorted(extra["classes_prompted"])


def test_a_finished_run_is_skipped_and_a_new_seed_is_not(run, config):
    stage = generate_stage(config, VOC, seed=7)
    assert {r.status for r in map_units(stage, generate_units(run))} == {"skipped"}
    assert why_run(generate_stage(config, VOC, seed=8), generate_units(run)[0]) == "its config or model changed"


def test_samples_do_not_depend_on_their_shard(run, config, prompts, tmp_path):
    write_prompts(f"{tmp_path}/prompts", prompts[::-1], per_shard=100)
    map_units(generate_stage(config, VOC, seed=7), generate_units(str(tmp_path)))
    first = {row["sample_id"]: row for row in rows_of(run)}
    second = {row["sample_id"]: row for row in rows_of(str(tmp_path))}
    assert first == second


def test_any_sample_is_drawn_again_to_the_byte(run):
    for row in rows_of(run)[:3]:
        again = regenerate(row, VOC)
        assert again.same, again.differences
        assert again.image == row["image"]["bytes"]


def test_what_changed_is_named_when_a_sample_comes_out_otherwise(run):
    row = rows_of(run)[0]
    extra = json.loads(row["provenance"]["extra"])
    extra["versions"]["torch"] = "0.0.1"
    changed = row | {"provenance": row["provenance"] | {"seed": row["provenance"]["seed"] ^ 1, "model_revision": "old"}}
    changed["provenance"]["extra"] = json.dumps(extra)
    again = regenerate(changed, VOC)
    assert not again.same
    text = "; ".join(again.differences)
    assert "weights were old, now" in text
    assert "torch: was 0.0.1, now" in text
    assert "pixels differ" in text


def test_only_drawn_samples_can_be_drawn_again(run):
    row = rows_of(run)[0]
    with pytest.raises(ValueError, match="only samples drawn by a model"):
        regenerate(row | {"provenance": row["provenance"] | {"source": "voc"}}, VOC)


def test_prompts_that_cannot_be_drawn_become_rejects_with_a_reason(config, tmp_path):
    words = {12: "dog", 8: "cat"}
    good = prompt_row("a dog", [12], words, seed=1)
    too_long = prompt_row("a dog", [12], {12: "dog " * 40}, seed=2)
    unknown = prompt_row("a thing", [12, 8], {12: "big brown", 8: "striped thing"}, seed=3)
    write_prompts(f"{tmp_path}/prompts", [good, too_long, unknown], per_shard=10)
    (report,) = map_units(generate_stage(config, VOC, seed=0), generate_units(str(tmp_path)))
    rejects = rows_of(str(tmp_path), "rejects", DECISION)
    assert {row["sample_id"]: row["reason"] for row in rejects if row["reason"] == "bad_prompt"} == {
        too_long["sample_id"]: "bad_prompt",
        unknown["sample_id"]: "bad_prompt",
    }
    assert report.counts["bad_prompt"] == 2
    assert sum(report.counts.values()) == 3
