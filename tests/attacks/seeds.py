"""One small valid file for every reader and everything that may lie in what it reads. What attacks begin with.

``SEEDS`` maps a reader's name to its seeds, and each seed's name to what writes it to a path: a file, or a folder.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import scipy.sparse
import torch
import torch01
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from torch import nn
from torch.nn.utils import prune

from sift_cli.checkpoint import artifact, mask_file
from sift_cli.core.masks import Mask

Write = Callable[[Path], None]

W = np.float32([[1, 0, -2, 0], [0, 3, 0, 0]])
KEPT = np.array([[1, 0, 1, 0], [0, 1, 0, 1]], np.bool_)
BIAS = np.float32([5, 6])
#: Two sparse weights as compressed-tensors 0.13 laid them out.
COMPRESSED = {
    "a.shape": np.array([2, 4]),
    "a.compressed": np.float32([1, -2, 3]),
    "a.bitmask": np.array([[5], [2]], np.uint8),
    "a.row_offsets": np.array([0, 2]),
    "b.shape": np.array([[1], [8]]),
    "b.compressed": np.float32([[1, -2, 3, 4]]),
    "b.bitmask": np.array([[105]], np.uint8),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


# safetensors


def dense(path: Path) -> None:
    save_file(
        {"w": W, "b": BIAS, "empty": np.empty((0, 3), np.int8), "scalar": np.array(2, np.float16)},
        path,
        {"format": "pt"},
    )


def every_dtype(path: Path) -> None:
    kinds = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.bfloat16, np.float64, np.bool_, np.uint16)
    artifact.write(path, {f"w{i}": np.ones(2, kind) for i, kind in enumerate(kinds)}, {}, {})


def sparse(form: str, dtype: Any = np.float32) -> Write:
    def write(path: Path) -> None:
        mask = Mask.from_bool(KEPT, rule="random", seed=7)
        documents = {"sift.plan": '{"kind": "sparse"}', "sift.model": "{}"}
        artifact.write(path, {"w": W.astype(dtype), "b": BIAS}, {"w": mask}, documents, sparse_format=form)

    return write


def arrays(**named: np.ndarray) -> Write:
    return lambda path: save_file({name.replace("__", "."): array for name, array in named.items()}, path)


# folders


def sharded(path: Path) -> None:
    path.mkdir()
    homes = {"w": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, shard in homes.items():
        save_file({name: {"w": W, "b": BIAS}[name]}, path / shard)
    index = {"metadata": {"total_size": 40}, "weight_map": homes}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def masked_folder(path: Path) -> None:
    path.mkdir()
    save_file({"w": W, "b": BIAS}, path / "model.safetensors")
    mask_file.write(path / "sift.safetensors", {"w": Mask.from_bool(KEPT, seed=7)}, {"sift.plan": "{}"})


def compressed_folder(path: Path) -> None:
    path.mkdir()
    homes = {name: f"model-0000{1 + (name == 'a.row_offsets')}-of-00002.safetensors" for name in COMPRESSED}
    for shard in set(homes.values()):
        save_file({name: array for name, array in COMPRESSED.items() if homes[name] == shard}, path / shard)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))


def pickled_folder(path: Path) -> None:
    path.mkdir()
    torch.save({"w": torch.from_numpy(W)}, path / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))


# PyTorch


def views() -> dict[str, torch.Tensor]:
    storage = torch.arange(12.0)
    tied = nn.Parameter(torch.from_numpy(W.copy()))
    return {
        "all": storage, "head": storage[:3], "late": storage[5:9], "turned": storage.view(3, 4).t(),
        "expanded": storage[:1].expand(3, 2), "tied.a": tied, "tied.b": tied, "half": torch.ones(2).bfloat16(),
    }  # fmt: skip


def trained() -> dict[str, Any]:
    return {"epoch": 3, "args": {"lr": 0.1, "names": ["a", None, True]}, "state_dict": {"module.w": torch.ones(2, 2)}}


def pruned() -> dict[str, torch.Tensor]:
    net = Net()
    prune.random_unstructured(net.fc, "weight", 0.5)
    return net.state_dict()


def mask_optimizer() -> dict[str, Any]:
    state = {0: {"sparsity": 0.5, "mask": torch.from_numpy(KEPT)}}
    group = {"params": [0], "names": ["w"], "density": 0.5}
    return {"model": {"w": torch.from_numpy(W)}, "mask_optimizer": {"state": state, "param_groups": [group]}}


def mask_state() -> dict[str, Any]:
    sparsity = {"state": {"w": {"mask": torch.from_numpy(KEPT)}}, "param_groups": [{"name": "w", "sparsity": 0.5}]}
    return {"model": {"w": torch.from_numpy(W)}, "optimizer": {"state": {}, "sparsity": sparsity}}


def layout(name: str) -> Callable[[], dict[str, torch.Tensor]]:
    def make() -> dict[str, torch.Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensor = torch.from_numpy(W)
            match name:
                case "coo":
                    return {"w": tensor.to_sparse_coo()}
                case "csr" | "csc":
                    return {"w": getattr(tensor, f"to_sparse_{name}")()}
                case _:
                    return {"w": getattr(tensor, f"to_sparse_{name}")((1, 2))}

    return make


def saved(make: Callable[[], Any], *, zipped: bool) -> Write:
    return lambda path: torch.save(make(), path, _use_new_zipfile_serialization=zipped)


STATES = {
    "views": views,
    "trained": trained,
    "torch_prune": pruned,
    "mask_optimizer": mask_optimizer,
    "mask_state": mask_state,
    **{name: layout(name) for name in ("coo", "csr", "csc", "bsr", "bsc")},
}


def tar(make: Callable[[], dict[str, Any]], path: Path) -> None:
    state = make()
    path.write_bytes(torch01.save(state, [state["late"]] if "late" in state else []))


TAR_STATES = {name: STATES[name] for name in ("views", "trained", "torch_prune", "mask_optimizer")}


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Sequential(Net(), nn.Linear(2, 1))).save(str(path))


def exported(path: Path) -> None:
    with open(path, "wb") as file:
        torch.export.save(torch.export.export(Net(), (torch.ones(1, 2),)), file)


# NumPy


def npz(path: Path, *, compressed: bool) -> None:
    with open(path, "wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, w=W, b=BIAS, turned=np.asfortranarray(W))


def scipy_csr(path: Path) -> None:
    with open(path, "wb") as file:
        scipy.sparse.save_npz(file, scipy.sparse.csr_matrix(W))


# ONNX


def onnx_model(*dense: TensorProto, nodes: Any = (), sparse: Any = ()) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [], [], list(dense), sparse_initializer=list(sparse))
    model = helper.make_model(graph, producer_name="test")
    helper.set_model_props(model, {"sift.plan": "{}"})
    return model


def written(make: Callable[[], onnx.ModelProto]) -> Write:
    return lambda path: Path(path).write_bytes(make().SerializeToString()) and None


def raw() -> onnx.ModelProto:
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"x"])
    return onnx_model(*(numpy_helper.from_array(array, name) for name, array in {"w": W, "b": BIAS}.items()), text)


def typed() -> onnx.ModelProto:
    kinds = {
        "f": (TensorProto.FLOAT, [1.0, -2.0]),
        "d": (TensorProto.DOUBLE, [1.0]),
        "i": (TensorProto.INT64, [-1, 2]),
        "u": (TensorProto.UINT64, [1]),
        "h": (TensorProto.FLOAT16, [1.0]),
        "t": (TensorProto.BOOL, [True, False]),
        "c": (TensorProto.COMPLEX64, [1 + 2j]),
    }
    return onnx_model(*(helper.make_tensor(name, kind, [len(v)], v) for name, (kind, v) in kinds.items()))


def coo(indices: Any) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        parts = numpy_helper.from_array(np.float32([1, -2, 3]), "w"), numpy_helper.from_array(np.array(indices), "i")
        return onnx_model(numpy_helper.from_array(BIAS, "b"), sparse=[helper.make_sparse_tensor(*parts, [2, 4])])

    return make


def sparse_node() -> onnx.ModelProto:
    parts = {"w.bitmask": np.array([0x25], np.uint8), "w.values": W[W != 0]}
    node = helper.make_node("SparseLinear", ["x", "w.bitmask", "w.values"], ["y"], domain="sift", weight_shape=[2, 4])
    return onnx_model(*(numpy_helper.from_array(array, name) for name, array in parts.items()), nodes=[node])


def external() -> onnx.ModelProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", "offset": "0", "length": "32"}.items():
        tensor.external_data.add(key=key, value=value)
    return onnx_model(tensor, numpy_helper.from_array(BIAS, "b"))


def external_data(path: Path) -> None:
    written(external)(path)
    (path.parent / "w.bin").write_bytes(W.tobytes())


SEEDS: dict[str, dict[str, Write]] = {
    "safetensors": {
        "dense": dense,
        "every dtype": every_dtype,
        "bitmask": sparse("bitmask"),
        "delta": sparse("delta"),
        "bitmask of fp8": sparse("bitmask", ml_dtypes.float8_e4m3fn),
        "NaN": arrays(w=np.where(KEPT, W, np.float32("nan")), b=BIAS),
        "_mask": arrays(fc__weight=W, fc__weight_mask=KEPT),
        "torch_prune": arrays(fc__weight_orig=W, fc__weight_mask=KEPT.astype(np.float32)),
    },
    "compressed_tensors": {"one file": arrays(**{name.replace(".", "__"): one for name, one in COMPRESSED.items()})},
    "folder": {
        "sharded": sharded,
        "masks": masked_folder,
        "compressed_tensors": compressed_folder,
        "pickles": pickled_folder,
    },
    "torch_zip": {name: saved(make, zipped=True) for name, make in STATES.items()},
    "torch_legacy": {name: saved(make, zipped=False) for name, make in STATES.items()},
    "torch_tar": {name: partial(tar, make) for name, make in TAR_STATES.items()},
    "torchscript": {"scripted": torchscript},
    "exported_program": {"exported": exported},
    "npz": {
        "stored": partial(npz, compressed=False),
        "deflated": partial(npz, compressed=True),
        "scipy": scipy_csr,
    },
    "onnx": {
        "raw": written(raw),
        "typed": written(typed),
        "external": external_data,
        "coordinates": written(coo([[0, 0], [0, 2], [1, 1]])),
        "positions": written(coo([0, 2, 5])),
        "sparse node": written(sparse_node),
    },
}
