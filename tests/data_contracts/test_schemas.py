"""Contracts: what a table must look like, and what is said when it does not."""

import json

import pyarrow as pa
import pytest

from maskmill.data_contracts import CONTRACTS, DECISION, LEARNT, SAMPLE, SCORE, Contract, ContractError, Reason
from maskmill.data_contracts.schemas import FILE

ROW: dict[str, object] = {
    "sample_id": "ab",
    "image": {"bytes": b"x", "path": "a.jpg"},
    "height": 2,
    "width": 3,
    "class_ids": [1, 2],
    "provenance": {"source": "folder"},
}


def test_names_and_versions_are_pinned() -> None:
    """A change of layout is a new version: whoever changes a schema changes this list and the version with it."""
    layout = {name: (c.version, ",".join(c.schema.names)) for name, c in CONTRACTS.items()}
    assert layout["sample"] == (
        1,
        "sample_id,image,mask,height,width,class_ids,prompt_class_ids,group,index,spacing,provenance,instances",
    )
    assert layout["decision"] == (
        1,
        "sample_id,stage,kept,reason,detail,score,threshold,duplicate_of,source_path,shard,relabel_from,relabel_to",
    )
    assert layout["verdict"] == (
        1,
        "sample_id,verdict,from_class_id,to_class_id,to_class,why,note,who,at,decided",
    )
    assert layout["learnt"] == (1, "part,name,shape,values")
    names = ["decision", "learnt", "neighbour", "prompt", "pseudo_label", "sample", "score", "verdict", "weak_label"]
    assert sorted(layout) == names


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda c: c.name)
def test_every_contract_makes_an_empty_table_of_its_schema(contract: Contract) -> None:
    table = contract.table([])
    assert table.schema.equals(contract.schema)
    assert contract.schema.names[0] == ("part" if contract is LEARNT else "sample_id")
    assert set(contract.required) <= set(contract.schema.names)
    features = json.loads(contract.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(contract.schema.names)
    for name in contract.files:
        assert contract.schema.field(name).type == FILE
        assert features[name] == {"_type": "Image"}


def test_rows_keep_their_values() -> None:
    (back,) = SAMPLE.table([ROW]).to_pylist()
    assert {k: back[k] for k in ROW if k != "provenance"} == {k: v for k, v in ROW.items() if k != "provenance"}
    assert back["mask"] is None
    assert back["provenance"]["source"] == "folder"


def test_unknown_columns_are_named() -> None:
    with pytest.raises(ContractError, match=r"ab: .*also \['colour'\].*data_contracts\.SAMPLE") as caught:
        SAMPLE.table([{**ROW, "colour": 1}])
    assert caught.value.where == "ab"
    assert caught.value.problem.reason is Reason.BAD_ANNOTATION


@pytest.mark.parametrize("name", SAMPLE.required)
def test_required_columns_hold_no_null(name: str) -> None:
    with pytest.raises(ContractError, match=f"{name} without nulls.*1 nulls"):
        SAMPLE.table([ROW, {**ROW, name: None}])


@pytest.mark.parametrize("change", [{"height": "tall"}, {"image": b"x"}, {"class_ids": 3}, {"provenance": "me"}])
def test_values_that_do_not_fit(change: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        SAMPLE.table([{**ROW, **change}])


def test_missing_and_retyped_columns_are_named() -> None:
    table = SAMPLE.table([ROW])
    with pytest.raises(ContractError, match=r"here: .*expected column mask"):
        SAMPLE.check(table.drop_columns(["mask"]), "here")
    retyped = table.set_column(3, "height", pa.array([2], pa.int64()))
    with pytest.raises(ContractError, match=r"height: int32.*found int64"):
        SAMPLE.check(retyped)


def test_scores_and_decisions_carry_no_pixels() -> None:
    for contract in (SCORE, DECISION):
        assert not contract.files
        assert not any(pa.types.is_binary(f.type) for f in contract.schema)


def test_columns_are_described_for_hugging_face() -> None:
    features = json.loads(SAMPLE.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["mask"] == {"_type": "Image"}
    assert features["height"] == {"dtype": "int32", "_type": "Value"}
    assert features["class_ids"] == {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
    assert features["spacing"]["feature"] == {"dtype": "float32", "_type": "Value"}
    assert features["provenance"]["seed"] == {"dtype": "int64", "_type": "Value"}
    assert features["instances"]["feature"]["crowd"] == {"dtype": "bool", "_type": "Value"}
    assert features["instances"]["feature"]["box"]["x0"] == {"dtype": "float32", "_type": "Value"}


def test_what_may_be_missing_is_pinned() -> None:
    assert SAMPLE.required == ("sample_id", "image", "height", "width", "class_ids", "provenance")
    assert (SAMPLE.files, SAMPLE.later) == (("image", "mask"), ("instances",))
    assert all(field.nullable for contract in CONTRACTS.values() for field in contract.schema)
