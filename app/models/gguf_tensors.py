"""The tensors of a GGUF file on their way to the model's own: read when asked for, or given out in their blocks.

What is done to a matrix on its way (llama's heads are permuted, experts are stacked) is observed, not known: rows are
sent the same way as their own numbers, and where whole rows come out, the rows of blocks are taken in that order.
Imports torch when it is used, in a child process only.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.models.gguf_header import GgufHeader
from app.models.gguf_rope import FACTORS
from worker_agent.wire.messages import BLOCK_FORMATS


@functools.cache
def formats_by_number() -> dict[int, str]:
    """The formats of blocks that agents compute with, by their numbers in GGUF files."""
    from gguf.constants import GGMLQuantizationType

    known = GGMLQuantizationType.__members__
    return {int(known[name]): name for name in BLOCK_FORMATS if name in known}


class GgufState:
    """The tensors of a GGUF file, read when asked for."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        """Tensors that were given out in their blocks."""

    def read(self, names: tuple[str, ...]) -> dict[str, Any]:
        raise NotImplementedError

    def in_blocks(self, names: tuple[str, ...], model: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Those of the tensors that stay in their blocks, by their names in the model, and their formats."""
        return {}, {}

    def lost(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the tensors, which were read, that have no place in the model and mean something."""
        return ()

    def unfolded(self) -> dict[str, str]:
        """Matrices in blocks that were given out as floats, and their formats."""
        raise NotImplementedError


class Packed(GgufState):
    """Architectures that transformers reads through its newer path: lazy tensors, converted while loading."""

    def __init__(self, quantizer: Any, header: GgufHeader) -> None:
        import numpy as np
        from transformers.integrations.gguf.reader import load_gguf_state_dict

        super().__init__()
        self._quantizer = quantizer
        self._tensors = load_gguf_state_dict(quantizer.header)
        contents = {tensor.file: np.memmap(tensor.file, mode="r", dtype=np.uint8) for tensor in header.tensors}
        for tensor in header.tensors:  # in the files themselves: the header may be that of an outline
            self._tensors[tensor.name].data = contents[tensor.file][tensor.start : tensor.start + tensor.nbytes]

    def read(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: self._tensors[name] for name in names if name not in FACTORS}

    def unfolded(self) -> dict[str, str]:
        from transformers.integrations.gguf.dequant import GGML_NAME

        packed = self._quantizer.packed_modules
        return {
            name: GGML_NAME.get(kind, str(kind))
            for name, kind in self._quantizer.quantized.items()
            if name not in packed
        }


class Legacy(GgufState):
    """The other architectures: transformers' `load_gguf_checkpoint`, its loop over tensors taken apart."""

    def __init__(self, path: Path, header: GgufHeader, model: Any, dtype: Any, keep: bool) -> None:
        from gguf import GGUFReader
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
            load_gguf_checkpoint,
            read_field,
        )

        super().__init__()
        self._keep = keep
        reader: Any = GGUFReader(path)
        architecture = read_field(reader, "general.architecture")[0]
        config = load_gguf_checkpoint(path)["config"]
        # Without it heads would not be put back into transformers' order; files with as many for keys need not say it.
        config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
        files: list[Any] = [GGUFReader(file) for file in dict.fromkeys(tensor.file for tensor in header.tensors)]
        self._tensors = {tensor.name: tensor for file in files for tensor in file.tensors}
        self._dtype = dtype
        processors: Any = TENSOR_PROCESSORS
        self._processor = processors.get(architecture, TensorProcessor)(config=config)
        self._names = get_gguf_hf_weights_map(model, self._processor)
        self._lost: set[str] = set()

    def read(self, names: tuple[str, ...]) -> dict[str, Any]:
        import numpy as np
        import torch
        from gguf import dequantize

        made: dict[str, Any] = {"tensors": {}}
        for name in names:
            tensor = self._tensors[name]
            result = self._processor.process(
                weights=dequantize(tensor.data, tensor.tensor_type),
                name=name,
                tensor_key_mapping=self._names,
                parsed_parameters=made,
            )
            if result.name in self._names:
                made["tensors"][self._names[result.name]] = torch.from_numpy(np.copy(result.weights)).to(self._dtype)
            elif result.name is not None and name not in FACTORS:  # without a name it was dealt with
                self._lost.add(name)
        tensors: dict[str, Any] = made["tensors"]
        return tensors

    def lost(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self._lost)

    def in_blocks(self, names: tuple[str, ...], model: Any) -> tuple[dict[str, Any], dict[str, str]]:
        import numpy as np
        import torch
        from transformers.core_model_loading import revert_weight_conversion

        found: dict[str, Any] = {}
        formats: dict[str, str] = {}
        for name in names if self._keep else ():
            tensor, target = self._tensors[name], self._names.get(name)
            format_ = formats_by_number().get(int(tensor.tensor_type))
            if target is None or format_ is None or tensor.data.ndim != 2 or not target.endswith(".weight"):
                continue
            module = model.get_submodule(target.removesuffix(".weight"))
            columns = tensor.data.shape[1] // BLOCK_FORMATS[format_][1] * BLOCK_FORMATS[format_][0]
            shape = (tensor.data.shape[0], columns)
            if type(module) not in (torch.nn.Linear, torch.nn.Embedding) or tuple(module.weight.shape) != shape:
                continue
            if list(revert_weight_conversion(model, {target: torch.empty(shape, device="meta")})) != [target]:
                continue
            order = self._rows(name, shape)
            if order is None:
                continue
            rows = tensor.data if order is ... else tensor.data[order]
            found[target], formats[target] = torch.from_numpy(np.array(rows)), format_
            self.done.add(name)
        experts = [name for name in names if self._keep and self._tensors[name].data.ndim == 3]
        for target, rows in self._expert_rows(experts, model).items():
            first = self._tensors[rows[0][0]]
            shape = (*rows[0][1].shape, first.data.shape[-1])
            data = np.zeros(shape, dtype=np.uint8)
            for source, numbers in rows:
                stacked = self._tensors[source].data.reshape(-1, shape[-1])
                data[numbers >= 0] = stacked[numbers[numbers >= 0]]
                self.done.add(source)
            found[target], formats[target] = torch.from_numpy(data), formats_by_number()[int(first.tensor_type)]
        return found, formats

    def _expert_rows(self, names: Sequence[str], model: Any) -> dict[str, list[tuple[str, Any]]]:
        """Of what rows of a layer's stacked tensors each tensor is made that would be saved of them.

        Each row is sent on its way as its own number, twice, once negative: so it shows what is made of whole rows.
        Empty where anything is not, or of rows of unlike formats: all of the layer's experts become floats then.

        Returns:
            for each tensor that would be saved the stacked tensors that it has rows of, and for each of its rows
            which one it is, all experts' numbered through; -1 where it is a row of another one.
        """
        import numpy as np
        import torch
        from transformers.core_model_loading import revert_weight_conversion

        if not names or any(int(self._tensors[name].tensor_type) not in formats_by_number() for name in names):
            return {}
        made: dict[str, Any] = {"tensors": {}}
        starts = [1]
        for name in names:
            shape = self._tensors[name].data.shape[:2]
            numbers = np.arange(starts[-1], starts[-1] + shape[0] * shape[1], dtype=np.float64).reshape(shape)
            starts.append(starts[-1] + numbers.size)
            sent = np.stack([numbers, -numbers], axis=-1)
            result = self._processor.process(
                weights=sent, name=name, tensor_key_mapping=self._names, parsed_parameters=made
            )
            if result.name in self._names:
                made["tensors"][self._names[result.name]] = torch.from_numpy(result.weights)
        if not all(self._fits(model, target, numbers) for target, numbers in made["tensors"].items()):
            return {}
        found: dict[str, list[tuple[str, Any]]] = {}
        for target, pairs in revert_weight_conversion(model, made["tensors"]).items():
            rows = pairs[..., 0].long().numpy()
            if pairs.shape[-1] != 2 or (rows < 1).any() or (pairs[..., 1].numpy() != -rows).any():
                return {}
            sources = np.searchsorted(starts, rows, side="right") - 1
            found[target] = [
                (names[source], np.where(sources == source, rows - starts[source], -1)) for source in np.unique(sources)
            ]
            if len({(t.tensor_type, t.data.shape[-1]) for t in (self._tensors[name] for name, _ in found[target])}) > 1:
                return {}
        return found

    @staticmethod
    def _fits(model: Any, target: str, numbers: Any) -> bool:
        """Whether a tensor of row numbers is as long as the model's own, but for the columns."""
        return tuple(model.get_parameter(target).shape[:-1]) == tuple(numbers.shape[:-1])

    def unfolded(self) -> dict[str, str]:
        plain = {"F32", "F16", "BF16", "F64"}
        return {
            name: tensor.tensor_type.name
            for name, tensor in self._tensors.items()
            if name not in self.done
            and tensor.tensor_type.name not in plain
            and {name, name.removesuffix(".weight")} & self._names.keys()
        }

    def _rows(self, name: str, shape: tuple[int, int]) -> Any:
        """In which order a matrix's rows stand in the model: numbers of rows, or ... for as they are.

        None where what comes out are not whole rows. Sent through transformers' own processing are a matrix whose
        numbers are those of their rows, and one whose numbers are those of their columns.
        """
        import numpy as np

        rows, columns = shape
        seen = []
        for numbers in (np.arange(rows, dtype=np.float32)[:, None], np.arange(columns, dtype=np.float32)[None]):
            sent = np.broadcast_to(numbers, shape)
            result = self._processor.process(
                weights=sent, name=name, tensor_key_mapping=self._names, parsed_parameters={"tensors": {}}
            )
            if result.name != name or result.weights is None or result.weights.shape != shape:
                return None
            seen.append((sent, result.weights))
        if all(sent is came for sent, came in seen):
            return ...
        order = seen[0][1][:, 0].astype(np.int64)
        for start in range(0, rows, 256):
            part = slice(start, start + 256)
            if (seen[0][1][part] != order[part, None]).any() or (seen[1][1][part] != seen[1][0][0]).any():
                return None
        return order
