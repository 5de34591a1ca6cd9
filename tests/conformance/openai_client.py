#!/usr/bin/env python3
"""Holds a running node's HTTP edge against the clients that people have: the `openai` package, `huggingface_hub`, and
the raw bodies that LangChain, LlamaIndex, Chroma and Haystack send.

    python3 -m venv .venv && .venv/bin/pip install -r tests/conformance/requirements.txt
    .venv/bin/python tests/conformance/openai_client.py --shoal target/release/shoal --model DIR

starts `shoal serve` on a free port with a key, checks, and stops it with SIGTERM. `--url URL --key KEY` checks a node
that runs already. DIR must be all-MiniLM-L6-v2: vectors are held against tests/golden/minilm. Prints one line a check;
exit 1 if one failed.
"""

import argparse
import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request

import numpy as np
import openai
from huggingface_hub import InferenceClient

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "minilm"
KEY = "conformance-key-0123456789"
DIMS, LIMIT = 384, 256
COSINE_MIN = 0.9995  # bf16; f32 reaches 0.99999


def golden(count):
    """The first texts that fit the model, with their vectors and token counts."""
    vectors = np.fromfile(GOLDEN / "vectors.f32", dtype="<f4").reshape(-1, DIMS)
    lines = [json.loads(line) for line in (GOLDEN / "texts.jsonl").read_text().splitlines()]
    fitting = [index for index, line in enumerate(lines) if not line["truncated"]][:count]
    return [lines[index] for index in fitting], vectors[fitting]


def check_vectors(found, expected):
    found = np.asarray(found, dtype=np.float64)
    assert found.shape == expected.shape, f"{found.shape} instead of {expected.shape}"
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    worst = ((found * expected).sum(axis=1) / lengths).min()
    assert worst >= COSINE_MIN, f"cosine {worst}"


def expect(error, function, *words):
    """Calls `function`, which must raise `error` with these words in its message."""
    try:
        function()
    except error as raised:
        for word in words:
            assert word in str(raised), f"{word!r} is not in {raised}"
        return raised
    raise AssertionError(f"no {error.__name__}")


class Checks:
    def __init__(self, url, key, model):
        self.url, self.key, self.model = url, key, model
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def post(self, path, body, **headers):
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"} | headers
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply), reply.headers

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return reply.read().decode()

    def create(self, **arguments):
        return self.openai.embeddings.create(**({"model": self.model, "input": "x"} | arguments))

    # The openai package.

    def openai_one_text(self):
        lines, vectors = golden(1)
        reply = self.create(input=lines[0]["text"])
        check_vectors([reply.data[0].embedding], vectors)
        assert reply.usage.prompt_tokens == reply.usage.total_tokens == lines[0]["tokens"]
        assert reply.object == "list" and reply.data[0].object == "embedding" and reply.model == self.model

    def openai_many_texts_base64_by_default_and_float(self):
        lines, vectors = golden(150)
        texts = [line["text"] for line in lines]
        by_default, asked = self.create(input=texts), self.create(input=texts, encoding_format="float")
        assert [entry.index for entry in by_default.data] == list(range(len(texts)))
        check_vectors([entry.embedding for entry in by_default.data], vectors)
        same = np.float32([entry.embedding for entry in by_default.data])
        assert (same == np.float32([entry.embedding for entry in asked.data])).all(), "other bits as float"
        assert by_default.usage.prompt_tokens == sum(line["tokens"] for line in lines)

    def openai_raw_base64_is_little_endian_f32(self):
        reply = self.create(encoding_format="base64")
        value = reply.data[0].embedding
        raw = base64.b64decode(value) if isinstance(value, str) else np.float32(value).tobytes()
        assert len(raw) == 4 * DIMS

    def openai_empty_text(self):
        assert self.create(input="").usage.prompt_tokens == 2

    def openai_2048_texts(self):
        assert len(self.create(input=["a"] * 2048).data) == 2048
        expect(openai.BadRequestError, lambda: self.create(input=["a"] * 2049), "2048")

    def openai_dimensions(self):
        assert len(self.create(dimensions=DIMS).data[0].embedding) == DIMS
        raised = expect(openai.BadRequestError, lambda: self.create(dimensions=128), "cannot be cut")
        assert raised.param == "dimensions"

    def openai_token_arrays(self):
        words = "check_embedding_ctx_length=False"
        raised = expect(openai.BadRequestError, lambda: self.create(input=[[9906, 1917]]), words)
        assert raised.param == "input"
        expect(openai.BadRequestError, lambda: self.create(input=[1, 2, 3]), words)

    def openai_errors(self):
        raised = expect(openai.NotFoundError, lambda: self.create(model="gone"), "served here", self.model)
        assert raised.code == "model_not_found" and raised.param == "model" and raised.request_id
        raised = expect(openai.BadRequestError, lambda: self.create(input=["a", "word " * 300]), "input[1]", "302")
        assert raised.code == "context_length_exceeded"
        expect(openai.BadRequestError, lambda: self.create(input=[]), "empty")
        stranger = openai.OpenAI(base_url=f"{self.url}/v1", api_key="wrong", max_retries=0)
        create = stranger.embeddings.create
        raised = expect(openai.AuthenticationError, lambda: create(model=self.model, input="x"))
        assert raised.code == "invalid_api_key"

    def openai_300001_tokens(self):
        text = "word " * 250  # 252 tokens: 1200 of them are over 300,000
        expect(openai.BadRequestError, lambda: self.create(input=[text] * 1200), "300000 tokens")

    def openai_models(self):
        models = self.openai.models.list().data
        found = next(model for model in models if model.id == self.model)
        assert found.object == "model" and found.created > 0
        assert found.status == "ready" and found.dims == DIMS and found.tokens_max == LIMIT
        assert self.openai.models.retrieve(self.model).id == self.model
        expect(openai.NotFoundError, lambda: self.openai.models.retrieve("gone"))

    def openai_headers(self):
        reply = self.openai.embeddings.with_raw_response.create(model=self.model, input="x")
        for name in ["x-request-id", "server-timing", "x-shoal-node", "x-shoal-device"]:
            assert reply.headers.get(name), name

    def openai_32_threads(self):
        lines, vectors = golden(64)
        failures = []

        def run(offset):
            try:
                for index in range(offset, 64, 32):
                    check_vectors([self.create(input=lines[index]["text"]).data[0].embedding], vectors[index : index + 1])
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(offset,)) for offset in range(32)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not failures, failures[0]

    # What LangChain's OpenAIEmbeddings posts with check_embedding_ctx_length=False, and without.

    def langchain_bodies(self):
        body = {"input": ["a", "b"], "model": self.model, "encoding_format": "base64"}
        reply, _ = self.post("/v1/embeddings", body)
        assert len(reply["data"]) == 2 and isinstance(reply["data"][0]["embedding"], str)
        arrays = {"input": [[15496, 995]], "model": self.model, "encoding_format": "base64"}
        raised = expect(urllib.error.HTTPError, lambda: self.post("/v1/embeddings", arrays))
        assert raised.code == 400 and "check_embedding_ctx_length" in raised.read().decode()

    # Clients of text-embeddings-inference.

    def huggingface_hub_feature_extraction(self):
        client = InferenceClient(base_url=self.url, token=self.key)
        lines, vectors = golden(1)
        check_vectors(client.feature_extraction(lines[0]["text"]), vectors)
        client = InferenceClient(base_url=self.url, token=self.key)
        long = client.feature_extraction("word " * 300, normalize=True, truncate=True, truncation_direction="left")
        assert long.shape == (1, DIMS)

    def llamaindex_and_chroma_bodies(self):
        lines, vectors = golden(8)
        texts = [line["text"] for line in lines]
        body = {"inputs": texts, "truncate": True}
        reply, headers = self.post("/embed", body, authorization=self.key)
        check_vectors(reply, vectors)
        for name in ["x-compute-time", "x-total-time", "x-queue-time", "x-inference-time", "x-tokenization-time"]:
            assert headers[name].isdigit(), name
        assert int(headers["x-compute-tokens"]) == sum(line["tokens"] for line in lines)
        check_vectors(self.post("/", {"inputs": texts})[0], vectors)
        check_vectors(self.post(f"/m/{self.model}/embed", {"inputs": texts})[0], vectors)

    def tei_errors(self):
        for body, status, kind in [
            ({"inputs": []}, 400, "Empty"),
            ({"inputs": ["word " * 300], "truncate": False}, 422, "Validation"),
            ({"inputs": "x", "truncation_direction": "up"}, 422, "Validation"),
        ]:
            raised = expect(urllib.error.HTTPError, lambda: self.post("/embed", body))
            assert raised.code == status and json.load(raised)["error_type"] == kind, body

    def tei_info(self):
        request = urllib.request.Request(self.url + "/info", headers={"authorization": f"Bearer {self.key}"})
        info = json.load(urllib.request.urlopen(request, timeout=60))
        assert info["model_id"] == self.model and info["max_input_length"] == LIMIT, info

    def probes_and_metrics_need_no_key(self):
        assert self.get("/healthz") == "ok\n"
        assert json.loads(self.get("/readyz"))["ready"] is True
        assert f'shoal_model_ready{{model="{self.model}"}} 1' in self.get("/metrics")


def serve(shoal, model, directory):
    """Starts a node; its process and its address."""
    keys = pathlib.Path(directory) / "keys"
    keys.write_text(KEY + "\n")
    keys.chmod(0o600)
    command = [shoal, "serve", "--http", "127.0.0.1:0", "--quic", "off", "--data", directory]
    command += ["--preload", model, "--api-key-file", str(keys)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ready = json.loads(process.stdout.readline())
    return process, f"http://{ready['http']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shoal", default="target/release/shoal")
    parser.add_argument("--model", required=True, help="the model's directory; with --url its name")
    parser.add_argument("--url")
    parser.add_argument("--key", default=KEY)
    arguments = parser.parse_args()
    process = None
    with tempfile.TemporaryDirectory() as directory:
        if arguments.url:
            url, name = arguments.url.rstrip("/"), arguments.model
        else:
            process, url = serve(arguments.shoal, arguments.model, directory)
            name = pathlib.Path(os.path.realpath(arguments.model)).name
        try:
            checks = Checks(url, arguments.key, name)
            failures = 0
            for check in [each for each in vars(Checks) if "_" in each and not each.startswith("_")]:
                try:
                    getattr(checks, check)()
                    print(f"ok    {check}")
                except Exception as error:
                    failures += 1
                    print(f"FAIL  {check}: {type(error).__name__}: {error}")
        finally:
            if process:
                process.send_signal(signal.SIGTERM)
                code = process.wait(timeout=60)
                print(f"{'ok   ' if code == 0 else 'FAIL '} the node stopped with exit code {code}")
                failures += code != 0
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
