"""What may pass between rooms: Arrow schemas, label spaces, shards and manifests. Knows no other room."""

from maskmill.data_contracts.errors import (
    ContractError,
    DamagedError,
    Problem,
    Reason,
    is_transient,
    raise_transient,
)
from maskmill.data_contracts.ids import config_hash, content_id, pair_id, sample_seed, storable
from maskmill.data_contracts.images import IGNORE, Uint8Array, decode_image, encode_image, encode_mask
from maskmill.data_contracts.instances import Instance, check_instances, read_instances
from maskmill.data_contracts.label_files import decode_mask
from maskmill.data_contracts.labels import LabelClass, LabelSpace, load_label_space
from maskmill.data_contracts.manifest import Manifest, ShardEntry
from maskmill.data_contracts.presets import WithPresets, merge
from maskmill.data_contracts.schemas import (
    CONTRACTS,
    DECISION,
    NEIGHBOUR,
    PROMPT,
    PSEUDO_LABEL,
    SAMPLE,
    SCORE,
    WEAK_LABEL,
    Contract,
)
from maskmill.data_contracts.seal import bytes_hash, file_hash
from maskmill.data_contracts.shards import (
    Footer,
    fingerprint,
    footer_fault,
    is_sealed,
    iter_rows,
    list_shards,
    read_footer,
    read_shard,
    shard_fault,
    shard_name,
    write_shard,
)
from maskmill.data_contracts.storage import (
    TEMPORARY,
    read_bytes,
    sweep_temporaries,
    sweep_tree,
    where_writable,
    write_bytes,
    write_if_changed,
)
from maskmill.data_contracts.validate import check_mask, check_pair, check_row, foreground_ids
from maskmill.data_contracts.versions import changes, package_versions

__all__ = [
    "CONTRACTS",
    "DECISION",
    "IGNORE",
    "NEIGHBOUR",
    "PROMPT",
    "PSEUDO_LABEL",
    "SAMPLE",
    "SCORE",
    "TEMPORARY",
    "WEAK_LABEL",
    "Contract",
    "ContractError",
    "DamagedError",
    "Footer",
    "Instance",
    "LabelClass",
    "LabelSpace",
    "Manifest",
    "Problem",
    "Reason",
    "ShardEntry",
    "Uint8Array",
    "WithPresets",
    "bytes_hash",
    "changes",
    "check_instances",
    "check_mask",
    "check_pair",
    "check_row",
    "config_hash",
    "content_id",
    "decode_image",
    "decode_mask",
    "encode_image",
    "encode_mask",
    "file_hash",
    "fingerprint",
    "footer_fault",
    "foreground_ids",
    "is_sealed",
    "is_transient",
    "iter_rows",
    "list_shards",
    "load_label_space",
    "merge",
    "package_versions",
    "pair_id",
    "raise_transient",
    "read_bytes",
    "read_footer",
    "read_instances",
    "read_shard",
    "sample_seed",
    "shard_fault",
    "shard_name",
    "storable",
    "sweep_temporaries",
    "sweep_tree",
    "where_writable",
    "write_bytes",
    "write_if_changed",
    "write_shard",
]
