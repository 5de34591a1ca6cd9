"""The peers behind one face: `embed(texts, batch)` and `embed_one(text)`, text in, vectors out, tokenizing included."""

from pathlib import Path

import numpy as np

import graphs


class Graph:
    """What the graph runtimes share: tokenize all, sort by length, pad each batch to its longest text."""

    def __init__(self, model: Path):
        self.tokenizer = graphs.tokenizer(model)
        self.dims = graphs.dims(model)

    def embed(self, texts: list[str], batch: int) -> tuple[np.ndarray, int]:
        """Vectors `[texts, dims]` in input order, and the number of tokens."""
        encodings = self.tokenizer.encode_batch_fast(texts)
        lengths = np.array([len(e) for e in encodings])
        order = np.argsort(-lengths, kind="stable")
        parts = [order[start : start + batch] for start in range(0, len(order), batch)]
        jobs = [(part, *graphs.padded([encodings[i] for i in part])) for part in parts]
        out = np.empty((len(texts), self.dims), np.float32)
        self.run_all(jobs, out)
        return out, int(lengths.sum())

    def run_all(self, jobs: list, out: np.ndarray) -> None:
        for rows, ids, mask in jobs:
            out[rows] = self.run(ids, mask)

    def embed_one(self, text: str) -> np.ndarray:
        return self.run(*graphs.padded([self.tokenizer.encode(text)]))[0]


class OnnxRuntime(Graph):
    def __init__(self, model: Path, threads: int, graph: str):
        super().__init__(model)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        path = str(graphs.graph(model, graph))
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.executes = "onnxruntime " + graph

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


class OpenVino(Graph):
    def __init__(self, model: Path, threads: int, graph: str, precision: str, streams: int):
        super().__init__(model)
        import openvino

        core = openvino.Core()
        self.compiled = core.compile_model(core.read_model(graphs.graph(model, graph)), "CPU", {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
        })
        self.request = self.compiled.create_infer_request()
        self.queue = openvino.AsyncInferQueue(self.compiled, streams) if streams > 1 else None
        self.executes = self.primitives(core, model, graph, precision)

    def primitives(self, core, model: Path, graph: str, precision: str) -> str:
        """What the matrix products really run as: the kernels' names by their share of the profiled time."""
        profiled = core.compile_model(core.read_model(graphs.graph(model, graph)), "CPU", {
            "INFERENCE_PRECISION_HINT": precision, "PERF_COUNT": True, "INFERENCE_NUM_THREADS": 1,
        })
        request = profiled.create_infer_request()
        encodings = self.tokenizer.encode_batch(["one more ordinary sentence to look at"] * 8)
        for _ in range(2):
            request.infer(list(graphs.padded(encodings)))
        shares = {}
        for entry in request.profiling_info:
            shares[entry.exec_type] = shares.get(entry.exec_type, 0.0) + entry.real_time.total_seconds()
        total = sum(shares.values()) or 1.0
        top = sorted(shares.items(), key=lambda item: -item[1])[:3]
        return ", ".join(f"{name} {100 * seconds / total:.0f}%" for name, seconds in top)

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self.request.infer([ids, mask], share_inputs=True)[0]

    def run_all(self, jobs: list, out: np.ndarray) -> None:
        if self.queue is None:
            super().run_all(jobs, out)
            return

        def done(request, rows):
            out[rows] = request.get_output_tensor(0).data

        self.queue.set_callback(done)
        for rows, ids, mask in jobs:
            self.queue.start_async([ids, mask], rows)
        self.queue.wait_all()


class SentenceTransformers:
    def __init__(self, model: Path, threads: int, dtype: str):
        graphs.quiet()
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        kwargs = {"dtype": getattr(torch, dtype)}
        self.model = SentenceTransformer(str(model), device="cpu", model_kwargs=kwargs)
        self.model.max_seq_length = graphs.TOKENS_MAX
        self.tokenizer = graphs.tokenizer(model)
        self.executes = f"torch {torch.__version__} {dtype}"

    def embed(self, texts: list[str], batch: int) -> tuple[np.ndarray, int | None]:
        vectors = self.model.encode(texts, batch_size=batch, show_progress_bar=False, convert_to_numpy=True)
        return vectors.astype(np.float32), None

    def embed_one(self, text: str) -> np.ndarray:
        return self.model.encode([text], show_progress_bar=False)[0]


# name: (class, arguments, the precision whose peak it is held against)
ENGINES = {
    "torch-f32": (SentenceTransformers, {"dtype": "float32"}, "f32"),
    "torch-bf16": (SentenceTransformers, {"dtype": "bfloat16"}, "bf16"),
    "ort-f32": (OnnxRuntime, {"graph": "f32.onnx"}, "f32"),
    "ort-fused-f32": (OnnxRuntime, {"graph": "fused.onnx"}, "f32"),
    "ort-fused-int8": (OnnxRuntime, {"graph": "int8.onnx"}, "int8"),
    "ov-f32-latency": (OpenVino, {"graph": "f32.xml", "precision": "f32", "streams": 1}, "f32"),
    "ov-f32-throughput": (OpenVino, {"graph": "f32.xml", "precision": "f32", "streams": 2}, "f32"),
    "ov-bf16-latency": (OpenVino, {"graph": "f32.xml", "precision": "bf16", "streams": 1}, "bf16"),
    "ov-bf16-throughput": (OpenVino, {"graph": "f32.xml", "precision": "bf16", "streams": 2}, "bf16"),
    "ov-f16-latency": (OpenVino, {"graph": "f32.xml", "precision": "f16", "streams": 1}, "f16"),
    "ov-f16-throughput": (OpenVino, {"graph": "f32.xml", "precision": "f16", "streams": 2}, "f16"),
    "ov-int8-latency": (OpenVino, {"graph": "int8.xml", "precision": "f32", "streams": 1}, "int8"),
    "ov-int8-throughput": (OpenVino, {"graph": "int8.xml", "precision": "f32", "streams": 2}, "int8"),
}


def create(name: str, model: Path, threads: int):
    kind, arguments, _ = ENGINES[name]
    return kind(model, threads, **arguments)
