"""Exports the model once into the graphs that the peers run: ONNX (plain, fused, int8) and OpenVINO (f32, int8).

Every graph takes token ids and the attention mask and gives normalised vectors: pooling and normalising are inside,
which is the fastest way to use each peer. Of the ways to export, each runtime gets the one that it runs fastest.
"""

import fcntl
import hashlib
import json
import logging
import warnings
from pathlib import Path

import numpy as np

CACHE = Path(__file__).parent / ".venv" / "graphs"
TOKENS_MAX = 256


def model_hash(model: Path) -> str:
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


def dims(model: Path) -> int:
    """Values of a vector."""
    config = json.loads((model / "config.json").read_text())
    return config.get("hidden_size") or config.get("dim") or config["n_embd"]


def tokenizer(model: Path):
    """The model's tokenizer with its real limit, without the Fixed padding that its file carries."""
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(str(model / "tokenizer.json"))
    tok.no_padding()
    tok.enable_truncation(TOKENS_MAX)
    return tok


def padded(encodings: list) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask `[batch, longest]` of tokenizers' encodings."""
    lengths = np.array([len(e) for e in encodings])
    ids = np.zeros((len(encodings), lengths.max()), np.int64)
    for row, encoding in zip(ids, encodings):
        row[: len(encoding)] = encoding.ids
    return ids, (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)


def graph(model: Path, name: str) -> Path:
    """The file of one graph, made at first use, once for all workers that start together. Names: the keys of MAKERS."""
    quiet()
    directory = CACHE / model_hash(model)[:16]
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return made(model, directory, name)


def made(model: Path, directory: Path, name: str) -> Path:
    """`graph` for who holds the lock."""
    path = directory / name
    if not path.exists():
        partial = directory / f"partial-{name}"
        MAKERS[name](model, partial)
        if name.endswith(".xml"):
            partial.with_suffix(".bin").replace(path.with_suffix(".bin"))
        partial.replace(path)
    return path


def quiet() -> None:
    warnings.filterwarnings("ignore")
    for name in ("nncf", "onnxruntime", "transformers", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)


def encoder(model: Path, attention: str):
    """The model with mean pooling and normalising as one module, and an example batch."""
    import torch
    from transformers import AutoModel

    pooling = json.loads((model / "1_Pooling" / "config.json").read_text())
    assert pooling.get("pooling_mode_mean_tokens") or pooling.get("pooling_mode") == "mean", "only mean pooling"

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = AutoModel.from_pretrained(model, attn_implementation=attention, dtype=torch.float32).eval()

        def forward(self, input_ids, attention_mask):
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=1)

    ids = torch.arange(1000, 1072).reshape(3, 24)
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    return Encoder(), (ids, mask)


def onnx_f32(model: Path, out: Path) -> None:
    import torch

    # Traced, with plain attention: of four exports the fastest in ONNX Runtime, and the one its optimizer recognises.
    module, example = encoder(model, "eager")
    axes = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", "attention_mask")}
    torch.onnx.export(module, example, out, input_names=list(axes), output_names=["vectors"], dynamic_axes=axes,
                      dynamo=False, opset_version=17)


def onnx_fused(model: Path, out: Path) -> None:
    from onnxruntime.transformers import optimizer

    config = json.loads((model / "config.json").read_text())
    fused = optimizer.optimize_model(str(made(model, out.parent, "f32.onnx")), model_type="bert", opt_level=0,
                                     num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"])
    attention = fused.get_fused_operator_statistics()["Attention"]
    assert attention == config["num_hidden_layers"], f"only {attention} attention layers were fused"
    fused.save_model_to_file(str(out))


def onnx_int8(model: Path, out: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The fused operators are of another domain, where shape inference knows no types: all that is unknown is f32.
    quantize_dynamic(made(model, out.parent, "fused.onnx"), out, weight_type=QuantType.QInt8, per_channel=True,
                     extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})


def openvino_f32(model: Path, out: Path) -> None:
    import openvino

    module, example = encoder(model, "sdpa")
    shape = openvino.PartialShape([-1, -1])
    converted = openvino.convert_model(module, example_input=example, input=[shape, shape])
    openvino.save_model(converted, out, compress_to_fp16=False)


def openvino_int8(model: Path, out: Path) -> None:
    """Post-training quantisation of weights and activations, calibrated on 128 texts of the mix itself."""
    import nncf
    import openvino

    lines = (Path(__file__).parent.parent / "texts" / "mix.jsonl").read_text(encoding="utf-8").splitlines()
    tok = tokenizer(model)
    batches = [padded([tok.encode(json.loads(line)["text"])]) for line in lines[:128]]
    quantized = nncf.quantize(openvino.Core().read_model(made(model, out.parent, "f32.xml")), nncf.Dataset(batches),
                              model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))
    openvino.save_model(quantized, out, compress_to_fp16=False)


MAKERS = {
    "f32.onnx": onnx_f32,
    "fused.onnx": onnx_fused,
    "int8.onnx": onnx_int8,
    "f32.xml": openvino_f32,
    "int8.xml": openvino_int8,
}
