"""Makes tasks/judge/, a tiny language model that judges texts by the logits of two words, and what transformers answers.

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_reranker.py

The layout is that of sentence-transformers 6 (`LogitScore`), the template that of the model card of Qwen3-Reranker; prefix,
content and suffix are tokenized apart, and the content is cut at its end, as there. Weights are random (seeded), and every
f32 inside of the reference is made f64. The format is described in README.md beside this file.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from exact import in_f64
from make_heads import random_weights
from safetensors.numpy import save_file
from tiny import write_json

ROOT = Path(__file__).parent
DIRECTORY = ROOT / "tasks/judge"
POSITIONS, TRUE, FALSE = 256, 100, 200
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QUERY = "where does the river meet the sea?"
DOCUMENTS = ["the river", "", "The RIVER meets the sea.", "naïve café 🙂 x", "one two three " * 40, "the river"]
OWN = "Find a text about boats"
ST6 = "sentence_transformers."


def write() -> None:
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(parents=True)
    tokenizer = json.loads((ROOT / "tokenizers/bpe-qwen.tokenizer.json").read_text())
    words = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    (DIRECTORY / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")
    write_json(DIRECTORY / "config.json", {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": words, "hidden_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48,
        "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "hidden_act": "silu", "attention_bias": False, "torch_dtype": "float16", "transformers_version": "4.51.0",
    })
    empty = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(DIRECTORY))
    weights = {name: value for name, value in random_weights(91, empty).items() if name != "lm_head.weight"}
    save_file(weights, DIRECTORY / "model.safetensors", metadata={"format": "pt"})
    (DIRECTORY / "model.safetensors").chmod(0o644)
    write_json(DIRECTORY / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": POSITIONS})
    write_json(DIRECTORY / "config_sentence_transformers.json", {"model_type": "CrossEncoder", "prompts": {}})
    write_json(DIRECTORY / "sentence_bert_config.json", {
        "transformer_task": "text-generation", "module_output_name": "causal_logits",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}})
    write_json(DIRECTORY / "modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": ST6 + "base.modules.transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_LogitScore", "type": ST6 + "cross_encoder.modules.logit_score.LogitScore"}])
    (DIRECTORY / "1_LogitScore").mkdir()
    write_json(DIRECTORY / "1_LogitScore/config.json", {
        "true_token_id": TRUE, "false_token_id": FALSE, "module_input_name": "causal_logits"})
    (DIRECTORY / "chat_template.jinja").write_text(PREFIX + "{{ messages }}" + SUFFIX + "\n")


def cases(instruction: str) -> list[dict]:
    reader = transformers.PreTrainedTokenizerFast(tokenizer_file=str(DIRECTORY / "tokenizer.json"))
    with in_f64():
        load = transformers.AutoModelForCausalLM.from_pretrained
        model = load(DIRECTORY, dtype=torch.float64, attn_implementation="eager").to(torch.float64).eval()
    read = lambda text: reader.encode(text, add_special_tokens=False)
    prefix, suffix = read(PREFIX), read(SUFFIX)
    out = []
    for document in DOCUMENTS:
        content = read(f"<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {document}")
        room = POSITIONS - len(prefix) - len(suffix)
        ids = prefix + content[:room] + suffix
        with torch.no_grad(), in_f64():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        logit = (logits[TRUE] - logits[FALSE]).item()
        out.append({"text": document, "tokens": len(ids), "truncated": len(content) > room, "logit": digits(logit),
                    "score": digits(torch.softmax(logits[[FALSE, TRUE]], 0)[1].item())})
    return out


def digits(value: float) -> float:
    return float(f"{value:.12g}")


def main() -> None:
    torch.set_num_threads(1)
    write()
    document = {"query": QUERY, "cases": cases(INSTRUCTION), "instruction": OWN, "instructed": cases(OWN)}
    write_json(ROOT / "tasks/judge.json", document)
    print([(c["tokens"], c["truncated"], round(c["logit"], 3)) for c in document["cases"]])


if __name__ == "__main__":
    main()
