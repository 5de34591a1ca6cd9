"""Embedders made from language models, in the forms in which they are published."""

from families_encoder import SIZES, TRANSFORMERS_4, TRANSFORMERS_5
from tiny import Variant

# Four query heads share two pairs of key and value.
GROUPED = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192,
                   "hidden_act": "silu", "rms_norm_eps": 1e-6, "attention_dropout": 0.0, "use_cache": True}

QWEN2 = TRANSFORMERS_4 | GROUPED | {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_theta": 1000000.0, "sliding_window": 4096,
    "use_sliding_window": False, "max_window_layers": 28, "tie_word_embeddings": True,
}
# gte-Qwen2: the same weights, seen from both sides.
QWEN2_BIDIRECTIONAL = QWEN2 | {
    "auto_map": {"AutoModel": "modeling_qwen.Qwen2Model", "AutoModelForCausalLM": "modeling_qwen.Qwen2ForCausalLM"},
    "is_causal": False, "tie_word_embeddings": False, "num_hidden_layers": 1,
}
# Heads wider than their share of the residual stream, as in Qwen3-0.6B.
QWEN3 = TRANSFORMERS_4 | GROUPED | {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16, "attention_bias": False,
    "rope_theta": 1000000, "rope_scaling": None, "sliding_window": None, "use_sliding_window": False,
    "max_window_layers": 28, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}
MISTRAL = TRANSFORMERS_4 | GROUPED | {
    "architectures": ["MistralModel"], "model_type": "mistral", "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
    "sliding_window": 40, "tie_word_embeddings": False,
}
LLAMA = TRANSFORMERS_5 | GROUPED | {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5, "head_dim": 16,
    "num_attention_heads": 2, "num_key_value_heads": 1, "attention_bias": False, "mlp_bias": False,
    "rope_parameters": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                        "original_max_position_embeddings": 1024, "rope_theta": 500000.0, "rope_type": "llama3"},
}
# What a query is divided by is not its width's root, and the window is as wide as told, not to each side.
GEMMA3 = TRANSFORMERS_4 | SIZES | {
    "architectures": ["Gemma3TextModel"], "model_type": "gemma3_text", "num_hidden_layers": 3,
    "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 32, "max_position_embeddings": 2048,
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "attention_bias": False,
    "query_pre_attn_scalar": 24, "sliding_window": 16, "use_bidirectional_attention": True,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": None,
    "attn_logit_softcapping": None, "final_logit_softcapping": None,
}
EUROBERT = TRANSFORMERS_5 | GROUPED | {
    "architectures": ["EuroBertModel"], "model_type": "eurobert", "num_hidden_layers": 1, "head_dim": 8,
    "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False, "pad_token_id": 2, "bos_token_id": 1,
    "eos_token_id": 2, "mask_token_id": 3, "rope_parameters": {"rope_theta": 250000.0, "rope_type": "default"},
}

CAUSAL = [
    Variant("qwen2", 41, QWEN2, prefix="model.", pooling="lasttoken"),
    Variant("qwen2-bidirectional", 42, QWEN2_BIDIRECTIONAL, pooling="lasttoken"),
    Variant("qwen3", 43, QWEN3, format="BF16", pooling="lasttoken"),
    Variant("mistral", 44, MISTRAL, files=2, pooling="lasttoken"),
    Variant("llama", 45, LLAMA, prefix="model.", decoys=("lm_head.weight",), pooling="lasttoken"),
    Variant("gemma3", 46, GEMMA3, limit=2048, norm_mean=0.0, pooling="mean", dense=(48, 32)),
    Variant("eurobert", 47, EUROBERT, pooling="mean"),
]
