"""Make the starter CLIP. See the package's docstring for the command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from maskmill.starter.clip_training.adapt import OTHER_WORDS, Adaptation, AdaptSchedule, Lessons, word_targets
from maskmill.starter.clip_training.drawings import (
    DrawnAdaptation,
    DrawnSchedule,
    drawn_lessons,
    stored_tokens,
    text_rows,
)
from maskmill.starter.clip_training.photos import PhotoSet, Spoilt, cached_maps, find_photos
from maskmill.starter.clip_training.regions import REGION_SETS, REGIONS, in_training_part, patch_labels, prototypes
from maskmill.starter.clip_training.space import Space, learn_space, mean_photo, pooled_features
from maskmill.starter.clip_training.teacher import class_ids, load_teacher
from maskmill.starter.clip_training.text import TextSchedule, train_text
from maskmill.starter.clip_training.tower import first_tokens, middle_axes, start_as_teacher
from maskmill.starter.clip_training.upper import MANNERS, UpperAdaptation, UpperSchedule, stored_middle, upper_lessons
from maskmill.starter.clip_training.vocabulary import Vocabulary, build_vocabulary, nouns_to_place, place
from maskmill.starter.clip_training.wordnet import read_wordnet

SIDE = 224
SPOILT: tuple[Spoilt, ...] = ("scramble", "noise", "blur")
EMBEDDING = 161
PRINTED_EVERY = 50  # steps of the last lesson
WORDS = list(dict.fromkeys([*OTHER_WORDS, *(word for right in REGIONS.values() for word in right)]))


@dataclass(frozen=True)
class Paths:
    """What the command line names. `data` holds the labelled sets of regions.py as sub-folders."""

    photos: tuple[Path, ...]
    data: Path
    wordnet: Path
    work: Path
    out: Path
    scenes: Path
    only: Literal["drawings", "last-stages"] | None


def main() -> None:
    paths = _parse()
    paths.work.mkdir(parents=True, exist_ok=True)
    if paths.only is None:
        make(paths)
    else:
        go_on(paths)


def go_on(paths: Paths) -> None:
    """The named step alone, on the model in `out`."""
    import open_clip

    import maskmill.vision.clip.towers  # noqa: F401  (registers the tower)

    clip = open_clip.create_model(f"local-dir:{paths.out}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{paths.out}")
    if paths.only == "last-stages":
        losses = learn_upper(clip, tokenizer, paths)
    else:
        trunk = clip.visual.trunk.patch_embed.backbone.net
        photos = {
            folder.name: cached_maps(trunk, find_photos(folder), SIDE, paths.work, folder.name)
            for folder in paths.photos
        }
        losses = learn_drawings(clip, tokenizer, _lessons(clip, trunk, photos, _labelled(trunk, paths), paths), paths)
    print(f"losses {losses}; {export(clip, paths.out) / 1e6:.1f} MB in {paths.out}")


def learn_drawings(clip: Any, tokenizer: Any, lessons: Lessons, paths: Paths) -> dict[str, float]:
    """The adaptation to drawn scenes. Words are where the finished text tower puts them."""
    rows, words = _finished_texts(clip, tokenizer)
    drawn = drawn_lessons(clip, tokenizer, paths.scenes, stored_tokens(clip, paths.work))
    scale = float(clip.logit_scale.detach().exp())
    return DrawnAdaptation(clip, rows, words, lessons, drawn, scale=scale, seed=0).run(DrawnSchedule())


def learn_upper(clip: Any, tokenizer: Any, paths: Paths) -> dict[str, float]:
    """The trunk's last stages and the blocks, on drawn scenes and photos."""
    rows, words = _finished_texts(clip, tokenizer)
    keep = stored_middle(clip, paths.work)
    lessons = upper_lessons(keep, paths.photos, paths.data)
    drawn = drawn_lessons(clip, tokenizer, paths.scenes, keep, MANNERS)
    scale = float(clip.logit_scale.detach().exp())
    adaptation = UpperAdaptation(clip, rows, words, lessons, drawn, scale=scale, seed=0)
    adaptation.watch = _print_losses
    return adaptation.run(UpperSchedule())


def _print_losses(step: int, losses: Mapping[str, float]) -> None:
    if step % PRINTED_EVERY == 0:
        print(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in losses.items()), flush=True)


def _finished_texts(clip: Any, tokenizer: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Unit rows (1000, 160) of ImageNet's classes and those of single words, by the text tower."""
    by_id = dict(line.split("\t") for line in _lemmas().read_text().splitlines())
    rows = text_rows(clip, tokenizer, [by_id[wnid].strip() for wnid in class_ids()])
    return rows, dict(zip(WORDS, text_rows(clip, tokenizer, WORDS), strict=True))


def _lemmas() -> Path:
    return Path(timm.__file__).parent / "data" / "_info" / "imagenet_synset_to_lemma.txt"


def make(paths: Paths) -> None:
    """All steps."""
    teacher = load_teacher()
    photos = {
        folder.name: cached_maps(teacher, find_photos(folder), SIDE, paths.work, folder.name) for folder in paths.photos
    }
    space = _space(teacher, photos, paths.work / "space.pt")
    labelled = _labelled(teacher, paths)
    vocabulary = _vocabulary(teacher, space, labelled, paths)
    clip, tokenizer = _new_clip(paths.out)
    start_as_teacher(clip, teacher, space, *middle_axes([*photos.values(), *(p for p, _ in labelled.values())]))
    cosine = train_text(clip, tokenizer, vocabulary, space.rows, TextSchedule())
    lessons = _lessons(clip, teacher, photos, labelled, paths)
    targets = word_targets(vocabulary, WORDS)
    losses = Adaptation(clip, space.rows, targets, lessons, space.scale, seed=0).run(AdaptSchedule())
    losses |= learn_drawings(clip, tokenizer, lessons, paths)
    losses |= learn_upper(clip, tokenizer, paths)
    size = export(clip, paths.out)
    print(f"text cosine {cosine:.3f}; losses {losses}; {size / 1e6:.1f} MB in {paths.out}")


def _parse() -> Paths:
    parser = argparse.ArgumentParser(prog="python -m maskmill.starter.clip_training", description=__doc__)
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="folders of photos; nothing but pixels is read"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets named in regions.py")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder of data.noun")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is computed once")
    parser.add_argument("--out", type=Path, required=True, help="model folder that holds open_clip_config.json")
    parser.add_argument(
        "--scenes", type=Path, required=True, help="folder that python -m maskmill.starter.drawn.store wrote"
    )
    parser.add_argument(
        "--only",
        choices=("drawings", "last-stages"),
        help="teach the finished model in --out the drawn scenes and nothing else: its blocks, or the last stages, too",
    )
    given = parser.parse_args()
    places = (tuple(given.photos), given.data, given.wordnet, given.work, given.out)
    return Paths(*places, given.scenes, given.only)


def _space(teacher: nn.Module, photos: Mapping[str, PhotoSet], file: Path) -> Space:
    if not file.is_file():
        whole = [pooled_features(teacher, p, parts=0, seed=0) for p in photos.values()]
        parts = [pooled_features(teacher, p, parts=4, seed=1) for p in photos.values()]
        learn_space(teacher, torch.cat(parts), mean_photo(whole)).save(file)
    return Space.load(file)


def _labelled(teacher: nn.Module, paths: Paths) -> dict[str, tuple[PhotoSet, Tensor]]:
    found = {}
    for regions in REGION_SETS:
        every = find_photos(paths.data / regions.folder / "images")
        chosen = [path for path in every if in_training_part(path.stem)]
        photos = cached_maps(teacher, chosen, regions.side, paths.work, f"{regions.folder}.{regions.side}")
        found[regions.folder] = (photos, patch_labels(regions, paths.data, chosen))
    return found


def _vocabulary(
    teacher: nn.Module, space: Space, labelled: Mapping[str, tuple[PhotoSet, Tensor]], paths: Paths
) -> Vocabulary:
    file = paths.work / "vocabulary.pt"
    if not file.is_file():
        wordnet = read_wordnet(paths.wordnet)
        larger = [line.split("\t")[0] for line in _lemmas().read_text().splitlines()]
        ids = nouns_to_place(wordnet, class_ids(), larger)
        looks = prototypes(teacher, space, list(labelled.values()))
        torch.save(build_vocabulary(place(wordnet, class_ids(), space.rows, ids), looks), file)
    vocabulary: Vocabulary = torch.load(file, weights_only=True)
    return vocabulary


def _lessons(
    clip: Any,
    teacher: nn.Module,
    photos: Mapping[str, PhotoSet],
    labelled: Mapping[str, tuple[PhotoSet, Tensor]],
    paths: Paths,
) -> Lessons:
    def tokens(source: PhotoSet, side: int, name: str, how: Spoilt) -> Tensor:
        return first_tokens(clip, teacher, cached_maps(teacher, source.paths, side, paths.work, f"{name}.{how}", how))

    return Lessons(
        clean={name: first_tokens(clip, teacher, p) for name, p in photos.items()},
        spoilt={f"{name}.{how}": tokens(p, SIDE, name, how) for name, p in photos.items() for how in SPOILT},
        labelled={name: (first_tokens(clip, teacher, p), labels) for name, (p, labels) in labelled.items()},
        labelled_spoilt={
            f"{r.folder}.scramble": tokens(labelled[r.folder][0], r.side, f"{r.folder}.{r.side}", "scramble")
            for r in REGION_SETS
        },
    )


def _new_clip(folder: Path) -> tuple[Any, Any]:
    import open_clip

    import maskmill.vision.clip.towers  # noqa: F401  (registers the tower)

    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    if config["embed_dim"] != EMBEDDING:
        raise ValueError(f"{folder}/open_clip_config.json: expected embed_dim {EMBEDDING}, found {config['embed_dim']}")
    torch.manual_seed(0)
    clip = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    return clip, open_clip.get_tokenizer(f"local-dir:{folder}")


def export(clip: Any, folder: Path) -> int:
    """Write `open_clip_model.safetensors`: float16 but for the running statistics, whose range float16 lacks.

    Returns its size in bytes.
    """
    from safetensors.torch import save_file

    def shrink(name: str, tensor: Tensor) -> Tensor:
        keep = not tensor.is_floating_point() or "running_" in name or name == "logit_scale"
        return (tensor if keep else tensor.half()).detach().clone().contiguous()

    file = folder / "open_clip_model.safetensors"
    scratch = folder / ".open_clip_model.tmp"
    save_file({n: shrink(n, t) for n, t in clip.state_dict().items()}, scratch, metadata={"format": "pt"})
    scratch.chmod(0o644)
    scratch.replace(file)
    return file.stat().st_size


if __name__ == "__main__":
    main()
