//! The entries that come with the binary, so that it works alone, and golden answers of some.

macro_rules! entry {
    ($name:literal) => {
        (
            concat!("configs/models/", $name, ".toml"),
            include_str!(concat!("../../../../configs/models/", $name, ".toml")),
        )
    };
}

/// File and content, in order of name.
pub(super) const EMBEDDED: [(&str, &str); 66] = [
    entry!("all-minilm-l12-v2"),
    entry!("all-minilm-l6-v2"),
    entry!("all-mpnet-base-v2"),
    entry!("answerai-colbert-small-v1"),
    entry!("bge-base-en-v1.5"),
    entry!("bge-large-en-v1.5"),
    entry!("bge-m3"),
    entry!("bge-reranker-v2-m3"),
    entry!("bge-small-en-v1.5"),
    entry!("bge-small-zh-v1.5"),
    entry!("colbertv2.0"),
    entry!("deberta-v3-base-mnli-fever-anli"),
    entry!("e5-base-v2"),
    entry!("e5-large-v2"),
    entry!("e5-mistral-7b-instruct"),
    entry!("e5-small-v2"),
    entry!("embeddinggemma-300m"),
    entry!("ettin-reranker-32m-v1"),
    entry!("gist-embedding-v0"),
    entry!("gist-small-embedding-v0"),
    entry!("granite-embedding-30m-english"),
    entry!("granite-embedding-english-r2"),
    entry!("granite-embedding-small-english-r2"),
    entry!("gte-base"),
    entry!("gte-base-en-v1.5"),
    entry!("gte-large"),
    entry!("gte-modernbert-base"),
    entry!("gte-moderncolbert-v1"),
    entry!("gte-multilingual-base"),
    entry!("gte-multilingual-reranker-base"),
    entry!("gte-qwen2-1.5b-instruct"),
    entry!("gte-reranker-modernbert-base"),
    entry!("gte-small"),
    entry!("jina-colbert-v2"),
    entry!("jina-embeddings-v2-base-en"),
    entry!("jina-embeddings-v2-small-en"),
    entry!("jina-reranker-v1-tiny-en"),
    entry!("jina-reranker-v1-turbo-en"),
    entry!("jina-reranker-v2-base-multilingual"),
    entry!("mdeberta-v3-base-mnli-xnli"),
    entry!("modernbert-embed-base"),
    entry!("ms-marco-minilm-l6-v2"),
    entry!("multi-qa-minilm-l6-cos-v1"),
    entry!("multilingual-e5-base"),
    entry!("multilingual-e5-large"),
    entry!("multilingual-e5-large-instruct"),
    entry!("multilingual-e5-small"),
    entry!("mxbai-embed-large-v1"),
    entry!("mxbai-rerank-base-v1"),
    entry!("mxbai-rerank-large-v1"),
    entry!("mxbai-rerank-xsmall-v1"),
    entry!("nli-deberta-v3-base"),
    entry!("nomic-embed-text-v1"),
    entry!("nomic-embed-text-v1.5"),
    entry!("paraphrase-multilingual-minilm-l12-v2"),
    entry!("paraphrase-multilingual-mpnet-base-v2"),
    entry!("qwen3-embedding-0.6b"),
    entry!("qwen3-reranker-0.6b"),
    entry!("snowflake-arctic-embed-l-v2.0"),
    entry!("snowflake-arctic-embed-m"),
    entry!("snowflake-arctic-embed-m-v1.5"),
    entry!("snowflake-arctic-embed-s"),
    entry!("snowflake-arctic-embed-xs"),
    entry!("splade-v3"),
    entry!("stella_en_400m_v5"),
    entry!("uae-large-v1"),
];

/// Canonical name, and answers of another implementation in the form that `shoal verify` reads.
pub(super) const GOLDEN: [(&str, &str); 1] =
    [("all-minilm-l6-v2", include_str!("../../../../configs/models/golden/all-minilm-l6-v2.json"))];
