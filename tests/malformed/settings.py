"""What commands are given: configs, label spaces, weak labels, shards, model folders, exports."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.data_contracts import SAMPLE, Manifest, load_label_space, read_shard, write_shard
from maskmill.pipelines.core.settings import load_settings, parse_pairs
from maskmill.pipelines.export.push import push_export
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.stages.build import BuildConfig
from maskmill.pipelines.stages.label import LabelConfig
from maskmill.pipelines.stages.train import TrainConfig
from maskmill.pipelines.weak.boxes import read_boxes
from maskmill.pipelines.weak.scribble_xml import parse_scribble_xml
from maskmill.pipelines.weak.scribbles import ScribbleConfig
from maskmill.pipelines.weak.tags import read_tags
from maskmill.vision.model_folders import check_model_folder
from tests.malformed.annotations import BOMB, DEEP, ENTITIES
from tests.malformed.cases import Case, of_command, text

RUN = "name: x\nrun_dir: r\nsource: {kind: folder, root: .}\n"
MODELS: dict[str, Any] = {"train": TrainConfig, "label": LabelConfig, "build": BuildConfig, "scribbles": ScribbleConfig}


def config(name: str, content: "str | bytes", expected: str) -> Case:
    """A run config."""
    return of_command(
        "run config", name, lambda: {"c.yaml": content}, lambda at: load_run_config(str(at / "c.yaml")), expected
    )


def more(name: str, lines: str, expected: str) -> Case:
    """A sound run config with further lines."""
    return config(name, RUN + lines, expected)


def other(kind: str, name: str, content: str, expected: str) -> Case:
    """A config of another kind."""

    def call(at: Path) -> object:
        return load_settings(str(at / "c.yaml"), MODELS[kind])

    return of_command(f"{kind} config", name, lambda: {"c.yaml": content}, call, expected)


def space(name: str, content: "str | bytes", expected: str) -> Case:
    """A label space."""
    return of_command(
        "label space", name, lambda: {"s.yaml": content}, lambda at: load_label_space(str(at / "s.yaml")), expected
    )


def classes(name: str, expected: str, *entries: str, rest: str = "") -> Case:
    """A label space of these classes."""
    return space(name, f"name: z\n{rest}classes: [{', '.join(entries)}]\n", expected)


def boxes(name: str, file: str, content: "str | bytes", expected: str) -> Case:
    """A file of boxes."""
    return of_command("boxes", name, lambda: {file: content}, lambda at: read_boxes(str(at / file)), expected)


def tags(name: str, file: str, content: "str | bytes", expected: str) -> Case:
    """A file of tags."""
    return of_command("tags", name, lambda: {file: content}, lambda at: read_tags(str(at / file)), expected)


def scribble(name: str, content: "str | bytes", expected: str) -> Case:
    """A ScribbleSup file."""

    def call(at: Path) -> object:
        return parse_scribble_xml((at / "a.xml").read_bytes(), load_label_space("voc"), str(at / "a.xml"))

    return of_command("scribbles", name, lambda: {"a.xml": content}, call, expected)


def shard(name: str, make: Callable[[], bytes], expected: str) -> Case:
    """A file where a shard should be."""
    return of_command(
        "shard", name, lambda: {"a.parquet": make()}, lambda at: read_shard(str(at / "a.parquet"), SAMPLE), expected
    )


def model(name: str, file: str, content: "str | bytes", expected: str) -> Case:
    """A model folder with one more file."""
    return of_command("model", name, lambda: {f"m/{file}": content}, lambda at: check_model_folder(at / "m"), expected)


def parquet(metadata: "dict[bytes, bytes] | None" = None) -> bytes:
    """A table of others."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


def sound(change: Callable[[bytearray], object]) -> bytes:
    """A sound shard, changed."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_shard(f"{folder}/a.parquet", SAMPLE.table([]), SAMPLE, stage="ingest", fingerprint="x")
        data = bytearray(Path(folder, "a.parquet").read_bytes())
    change(data)
    return bytes(data)


def _flip(data: bytearray) -> None:
    data[len(data) // 3] ^= 0xFF


def _cut(data: bytearray) -> None:
    del data[-40:]


def document(name: str, file: str, content: "str | bytes", call: Callable[[Path], object], expected: str) -> Case:
    """A file that an earlier run should have written."""
    return of_command("run folder", name, lambda: {file: content}, call, expected)


CONFIGS = [
    config("a tab", "name:\tx\n\t- y\n", r"line 1.*not YAML"),
    config("a bracket that stays open", "name: [x\n", "not YAML"),
    config("a list", "- x\n", "mapping"),
    config("a word", "hello", "mapping"),
    config("nothing", "", "mapping"),
    config("bytes that are no text", b"\xff\xfe\x00\x01", "c.yaml"),
    config("control characters", "name: \x01\n", "not YAML"),
    config("nested 100,000 deep", DEEP, "deep"),
    config("nested 300 deep", "a: " + "[" * 300 + "]" * 300, "deep"),
    config("aliases of aliases", BOMB, "aliases"),
    config("aliases merged into one another", "a: &a {b: 1}\nc: &c {<<: *a, d: *c}\n", "alias"),
    config("an anchor in itself", "a: &a [*a]\n", "alias"),
    config("an alias of nothing", "a: *b\n", "undefined alias"),
    config("a Python object", "a: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
    config("a number of 5,000 digits", "seed: " + "9" * 5000, "100 digits"),
    config("a key that is a list", "? [a, b]\n: c\n", "not YAML|unhashable"),
    config("a date that is none", "name: 2024-13-45\n", "not YAML"),
    config("five million characters", "# " + "x" * 5_000_000, "characters"),
    config("it extends itself", "extends: c.yaml\n", "extends"),
    config("it extends nothing", "extends: none.yaml\n", "no such config"),
    config("another kind", "trainer: weclip\n", "maskmill train"),
    more("a key that no config has", "selekt: {}\n", "did you mean select"),
    more("a seed of words", "seed: many\n", "seed"),
    more("a seed of 99 digits", f"seed: {'9' * 99}\n", "seed"),
    more("a shard size of 0", "shard_size: 0\n", "shard_size"),
    more("a shard size of NaN", "shard_size: .nan\n", "shard_size"),
    more("a million workers", "workers: 1000000\n", "workers"),
    more("a share of infinity", "limits: {rejected: .inf}\n", "limits.rejected"),
    more("stages as a list", "stages: [a]\n", "stages"),
    more("a format that nobody writes", "export: [{format: tiff}]\n", "export"),
    more("an export that is a number", "export: [7]\n", "export"),
    config("no folder", "name: x\nrun_dir: ''\nsource: {kind: folder, root: .}\n", "run_dir.*a folder of its own"),
    config(
        "the root of the disk", "name: x\nrun_dir: /\nsource: {kind: folder, root: .}\n", "run_dir.*a folder of its own"
    ),
    config(
        "blanks as folder", "name: x\nrun_dir: '  '\nsource: {kind: folder, root: .}\n", "run_dir.*a folder of its own"
    ),
    config("a folder that is a list", "name: x\nrun_dir: [a]\nsource: {kind: folder, root: .}\n", "run_dir"),
    config(
        "a source in the run's folder", "name: x\nrun_dir: r\nsource: {kind: folder, root: r/in}\n", "lies in run_dir"
    ),
    config("a source of no kind", "name: x\nrun_dir: r\nsource: {kind: floppy, root: .}\n", "source"),
    config("a source that is a list", "name: x\nrun_dir: r\nsource: [1]\n", "source"),
    config("a root that is a number", "name: x\nrun_dir: r\nsource: {kind: folder, root: 7}\n", "root"),
    config("a root with NUL", 'name: x\nrun_dir: r\nsource: {kind: folder, root: "a\\0b"}\n', "root"),
    config("a folder with NUL", 'name: x\nrun_dir: "a\\0b"\nsource: {kind: folder, root: .}\n', "run_dir"),
    config(
        "a password in a URL",
        "name: x\nrun_dir: r\nsource: {kind: folder, root: 'https://a:b@c/d'}\n",
        "without user, password",
    ),
    config("a pattern that is none", "name: x\nrun_dir: r\nsource: {kind: folder, root: ., pattern: '('}\n", "pattern"),
    config(
        "a colour of 999", "name: x\nrun_dir: r\nsource: {kind: folder, root: ., colours: {'999,0,0': 1}}\n", "colours"
    ),
    config(
        "as many pixels as there are",
        "name: x\nrun_dir: r\nsource: {kind: folder, root: ., max_pixels: 99999999999}\n",
        "max_pixels",
    ),
    *(other(kind, "a list", "- x\n", "mapping") for kind in MODELS),
    *(other(kind, "aliases of aliases", BOMB, "aliases") for kind in MODELS),
    *(other(kind, "nested 100,000 deep", DEEP, "deep") for kind in MODELS),
    *(other(kind, "a key that no config has", "zzz: 1\n", "zzz") for kind in MODELS),
    of_command("--set", "no mark", dict, lambda at: parse_pairs(["seed"]), "--set seed.*KEY=VALUE"),
    of_command("--set", "no key", dict, lambda at: parse_pairs(["=1"]), "KEY=VALUE"),
    of_command("--set", "no YAML", dict, lambda at: parse_pairs(["a=["]), "--set a.*not YAML"),
    of_command("--set", "nested deep", dict, lambda at: parse_pairs([f"a={DEEP}"]), "--set a.*deep"),
    of_command(
        "--set", "below a number", dict, lambda at: load_run_config("demo", {"seed.x": 1}), "--set seed.x.*no key 'x'"
    ),
]

A = "{id: 1, name: a}"
SPACES = [
    space("a tab", "name:\tz\n\t- b", "s.yaml.*not YAML"),
    space("a list of numbers", "- 7\n", "s.yaml"),
    space("nothing", "", "s.yaml"),
    space("bytes that are no text", b"\xff\xfe\xfd", "s.yaml"),
    space("aliases of aliases", BOMB, "aliases"),
    space("nested 100,000 deep", DEEP, "deep"),
    classes("no classes", "at least one class"),
    classes("an empty name", "name", "{id: 1, name: ''}"),
    classes("one name twice", "unique", A, "{id: 2, name: a}"),
    classes("names that fold to one", "names that differ", "{id: 1, name: a b}", "{id: 2, name: A_B}"),
    classes("an id of 300", "id", "{id: 300, name: a}"),
    classes("an id of 99 digits", "id", f"{{id: {'9' * 99}, name: a}}"),
    classes("background 300", "background_id", A, rest="background_id: 300\n"),
    classes("background that is a class", "background", A, rest="background_id: 1\n"),
    classes("ignore 999", "ignore_ids", A, rest="ignore_ids: [999]\n"),
    classes("ignore below 0", "ignore_ids", A, rest="ignore_ids: [-5]\n"),
    classes("a colour of 999", "colour", "{id: 1, name: a, colour: [999, 0, 0]}"),
    classes("a colour of two", "colour", "{id: 1, name: a, colour: [9, 0]}"),
    classes("a threshold of NaN", "cam_box_threshold", A, rest="cam_box_threshold: .nan\n"),
    classes("a source_id twice", "source_id", "{id: 1, name: a, source_id: 5}", "{id: 2, name: b, source_id: 5}"),
    classes("a key that nobody knows", "colr", "{id: 1, name: a, colr: 3}"),
    of_command("label space", "none there", dict, lambda at: load_label_space(str(at / "none.yaml")), "no such file"),
]

LIST = '[{"file": "a.jpg", "name": "dog", "box": %s}]'
WEAK = [
    boxes("no JSON", "b.json", "hello", r"b\.json.*not JSON"),
    boxes("nested 100,000 deep", "b.json", DEEP, "deep"),
    boxes("a number", "b.json", "7", "COCO file"),
    boxes("entries of numbers", "b.json", "[7]", "box 0"),
    boxes("three corners", "b.json", LIST % "[1, 2, 3]", "box 0.*box"),
    boxes("a corner of NaN", "b.json", LIST % "[NaN, 1, 2, 3]", "box 0"),
    boxes("a corner of 400 digits", "b.json", LIST % f"[1{'0' * 399}, 1, 2, 3]", "box 0"),
    boxes("corners that are swapped", "b.json", LIST % "[9, 9, 1, 1]", "x0 < x1"),
    boxes("a COCO file without images", "b.json", text({"annotations": []}), "COCO file"),
    boxes(
        "a COCO box of words",
        "b.json",
        text(
            {
                "images": [{"id": 1, "file_name": "a"}],
                "categories": [{"id": 1, "name": "x"}],
                "annotations": [{"image_id": 1, "category_id": 1, "bbox": ["a"] * 4}],
            }
        ),
        "bbox",
    ),
    boxes("no columns", "b.csv", "a,b\n1,2\n", "columns"),
    boxes("a CSV cell of a million letters", "b.csv", f"file,class,x0,y0,x1,y1\n{'x' * 1_000_000},a,1,2,3,4\n", "CSV"),
    boxes("a CSV of words", "b.csv", "file,class,x0,y0,x1,y1\na.jpg,dog,a,b,c,d\n", "line 2"),
    boxes("XML with entities", "b.xml", ENTITIES, "entities"),
    boxes("XML without a box", "b.xml", "<annotation><object><name>dog</name></object></annotation>", "object 1"),
    tags("no JSON", "t.json", "hello", r"t\.json.*not JSON"),
    tags("a list", "t.json", "[]", "names by photo"),
    tags("nested 100,000 deep", "t.json", DEEP, "deep"),
    tags("tags of numbers", "t.json", '{"a.jpg": [7]}', "names by photo"),
    tags("a photo without a name", "t.json", '{"": ["dog"]}', "file name of a photo"),
    tags("no tag", "t.json", "{}", "at least one tag"),
    tags("no columns", "t.csv", "a,b\n", "columns file, classes"),
    tags("a CSV cell of a million letters", "t.csv", f"file,classes\n{'x' * 1_000_000},a\n", "CSV"),
    tags("a CSV row without a photo", "t.csv", "file,classes\n,dog\n", "line 2.*file name"),
    scribble("no XML", "hello", "XML"),
    scribble("entities", ENTITIES, "entities"),
    scribble("no size", "<annotation/>", "whole numbers"),
    scribble(
        "a size of infinity",
        "<annotation><size><height>inf</height><width>9</width></size></annotation>",
        "whole numbers",
    ),
    scribble(
        "a stroke without points",
        "<a><size><height>9</height><width>9</width></size><polygon><tag>dog</tag></polygon></a>",
        "a stroke with points",
    ),
    scribble(
        "a tag of nobody",
        "<a><size><height>9</height><width>9</width></size><polygon><tag>zz</tag><point><X>1</X><Y>1</Y></point></polygon></a>",
        "unknown_class_name",
    ),
]

SHARDS = [
    shard("no Parquet", lambda: b"hello", "a.parquet.*no Parquet footer"),
    shard("empty", lambda: b"", "a.parquet.*no Parquet footer"),
    shard("of others", parquet, "no footer"),
    shard(
        "a footer of another contract",
        lambda: parquet({b"maskmill": b'{"contract": "score", "version": 1}'}),
        "score version 1",
    ),
    shard("a footer that is no JSON", lambda: parquet({b"maskmill": b"hello"}), "a.parquet"),
    shard("a footer that is a list", lambda: parquet({b"maskmill": b"[]"}), "a.parquet"),
    shard("a footer nested 100,000 deep", lambda: parquet({b"maskmill": b"[" * 100_000}), "a.parquet"),
    shard("cut off", lambda: sound(_cut), "damaged|a.parquet"),
    shard("a flipped byte", lambda: sound(_flip), "damaged|a.parquet"),
    document(
        "a config that is none",
        "config.json",
        "hello",
        lambda at: load_run_config(str(at / "config.json")),
        "config.json",
    ),
    document(
        "a config nested deep",
        "config.json",
        DEEP,
        lambda at: load_run_config(str(at / "config.json")),
        "config.json.*deep",
    ),
    document(
        "a manifest that is none",
        "manifest.json",
        "hello",
        lambda at: Manifest.read(str(at / "manifest.json")),
        "manifest.json",
    ),
    document(
        "a manifest nested deep",
        "manifest.json",
        DEEP,
        lambda at: Manifest.read(str(at / "manifest.json")),
        "manifest.json",
    ),
    document(
        "no export to push", "x/.hidden", "", lambda at: push_export(str(at / "x"), str(at / "y")), "expected an export"
    ),
    document("a record of pushes that is none", "y/.maskmill-push.json", "[[", lambda at: _push(at), "kept"),
    document(
        "a record of pushes that lists other files",
        "y/.maskmill-push.json",
        '{"../x/b.txt": "1"}',
        lambda at: _push(at),
        "kept",
    ),
]


def _push(at: Path) -> object:
    (at / "x").mkdir()
    (at / "x/a.txt").write_text("a")
    pushed = push_export(str(at / "x"), str(at / "y"))
    assert (pushed.written, pushed.removed) == (1, 0)
    return pushed


MODELS_OF_OTHERS = [
    model("Python", "modeling.py", "raise SystemExit", "modeling.py.*code"),
    model("Python below", "unet/pipeline.py", "raise SystemExit", "pipeline.py.*code"),
    model("compiled code", "lib.so", b"\x7fELF", "lib.so.*code"),
    *(
        model(f"a pickle, {s}", f"w{s}", b"\x80\x04.", "a pickle")
        for s in (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".PKL", ".npy", ".npz", ".joblib")
    ),
    model("auto_map", "config.json", text({"auto_map": {"AutoModel": "x.Y"}}), "auto_map"),
    model("auto_map below", "unet/config.json", text({"a": [{"auto_map": {"AutoModel": "x.Y"}}]}), "auto_map"),
    model("trust_remote_code", "tokenizer_config.json", text({"trust_remote_code": True}), "trust_remote_code"),
    model("a config nested deep", "config.json", DEEP, "config.json"),
    model("a config that is no JSON", "config.json", "hello", "config.json"),
]
CASES = [*CONFIGS, *SPACES, *WEAK, *SHARDS, *MODELS_OF_OTHERS]
