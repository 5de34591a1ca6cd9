//! Bugs that the kernels' tests must notice: a mutation test of the suite. Each is one change of one text that stands in
//! its file once. `build.rs` compiles them beside the kernels as they are.

/// The variant without a bug.
pub const INTACT: &str = "intact";

/// One planted bug.
#[derive(Clone, Copy, Debug)]
pub struct Plant {
    /// The variant under which its kernels are launched.
    pub name: &'static str,
    /// The file in `kernels/cuda/`; the bug is in it, or in a header of it.
    pub file: &'static str,
    /// What stands there.
    pub intact: &'static str,
    /// What stands there with the bug.
    pub broken: &'static str,
}

const fn plant(name: &'static str, file: &'static str, intact: &'static str, broken: &'static str) -> Plant {
    Plant { name, file, intact, broken }
}

const ATTENTION: &str = "attention.cu";
const DENSE: &str = "dense.cu";
const DISENTANGLED: &str = "disentangled.cu";
const EMBED: &str = "embed.cu";
const GEMM: &str = "gemm.cu";
const NORM: &str = "norm.cu";
const POOL: &str = "pool.cu";
const ROPE: &str = "rope.cu";
const SPLADE: &str = "splade.cu";
const VECTORS: &str = "vectors.cu";

/// Every planted bug.
pub const PLANTS: [Plant; 44] = [
    plant(
        "no barrier before the keys are read",
        ATTENTION,
        "__syncthreads();  // the keys (and queries)",
        ";  // the keys (and queries)",
    ),
    plant(
        "no barrier before the values are read",
        ATTENTION,
        "__syncthreads();  // the values are here",
        ";  // the values are here",
    ),
    plant(
        "no wait for the keys",
        ATTENTION,
        "copy_async_wait<0>();\n    __syncthreads();  // the keys",
        "copy_async_wait<1>();\n    __syncthreads();  // the keys",
    ),
    plant(
        "no wait for the values",
        ATTENTION,
        "copy_async_wait<0>();\n    __syncthreads();  // the values",
        "__syncthreads();  // the values",
    ),
    plant(
        "no wait in the short variant",
        ATTENTION,
        "copy_async_wait<0>();\n  __syncwarp();",
        "__syncwarp();",
    ),
    plant(
        "no meeting before a row is written",
        ATTENTION,
        "    __syncwarp();\n    constexpr int CHUNKS",
        "    constexpr int CHUNKS",
    ),
    plant(
        "fragments of the keys in the wrong order",
        ATTENTION,
        "mma_m16n8k16<T>(scores[2 * column], a, b[0], b[1]);",
        "mma_m16n8k16<T>(scores[2 * column], a, b[1], b[0]);",
    ),
    plant(
        "values not transposed",
        ATTENTION,
        "ldmatrix_x4_transposed(b, rows + step",
        "ldmatrix_x4(b, rows + step",
    ),
    plant("one key too many", ATTENTION, "key < span.keys &&", "key <= span.keys &&"),
    plant("causal off by one", ATTENTION, "distance <= args.window_right", "distance < args.window_right"),
    plant("window off by one", ATTENTION, "distance >= -args.window_left", "distance > -args.window_left"),
    plant(
        "a tile of the window forgotten",
        ATTENTION,
        "key < last + shift - args.window_left",
        "key < first + shift - args.window_left",
    ),
    plant("sums not brought to the new maximum", ATTENTION, "column[2 * half + 1] *= fade;", ""),
    plant(
        "the largest of half the lanes",
        ATTENTION,
        "largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));",
        "",
    ),
    plant(
        "kv heads dealt out instead of shared",
        ATTENTION,
        "head / (args.heads / args.kv_heads) * HEAD_DIM",
        "head % args.kv_heads * HEAD_DIM",
    ),
    plant(
        "no barrier before the first table is read",
        DISENTANGLED,
        "__syncthreads();  // the values, the first table",
        ";  // the values, the first table",
    ),
    plant(
        "no meeting before a query's products are read",
        DISENTANGLED,
        "      __syncwarp();\n#pragma unroll",
        "#pragma unroll",
    ),
    plant(
        "no barrier before the second table takes the first's place",
        DISENTANGLED,
        "__syncthreads();  // nobody reads the first table",
        ";  // nobody reads the first table",
    ),
    plant(
        "no wait for the second table",
        DISENTANGLED,
        "copy_async_wait<0>();\n      __syncthreads();  // the second",
        "__syncthreads();  // the second",
    ),
    plant(
        "no barrier before the products of keys are read",
        DISENTANGLED,
        "__syncthreads();  // the products of all keys",
        ";  // the products of all keys",
    ),
    plant(
        "distances the wrong way round",
        DISENTANGLED,
        "DISTANCES / 2 - 1 + column - row",
        "DISTANCES / 2 - 1 + row - column",
    ),
    plant(
        "rows from the next distance on",
        DISENTANGLED,
        "first - (key + KEYS - 1));",
        "first - (key + KEYS));",
    ),
    plant(
        "variance over n - 1",
        NORM,
        "slots + ROW_WARPS) / norm.dims",
        "slots + ROW_WARPS) / (norm.dims - 1)",
    ),
    plant("no barrier in a row's sum", NORM, "    __syncthreads();\n    value = 0;", "    value = 0;"),
    plant(
        "one slot for both sums",
        NORM,
        "warps_sum<ROW_WARPS>(squares, slots + ROW_WARPS)",
        "warps_sum<ROW_WARPS>(squares, slots)",
    ),
    plant("positions from the table's first row", EMBED, " + args.position_first", ""),
    plant(
        "no wait for a stage",
        GEMM,
        "copy_async_wait<TILE::STAGES - 2>();",
        "copy_async_wait<TILE::STAGES - 1>();",
    ),
    plant(
        "no barrier before a stage is read",
        GEMM,
        "__syncthreads();  // everybody's part",
        ";  // everybody's part",
    ),
    plant(
        "no barrier before the sums take the ring's place",
        GEMM,
        "__syncthreads();  // nobody reads the ring",
        ";  // nobody reads the ring",
    ),
    plant(
        "no barrier before the sums are read",
        GEMM,
        "__syncthreads();  // the sums are here",
        ";  // the sums are here",
    ),
    plant(
        "a step without a group",
        GEMM,
        "    }\n    copy_async_commit();\n  };",
        "    copy_async_commit();\n    }\n  };",
    ),
    plant(
        "fragments of the weights in the wrong order",
        GEMM,
        "mma_m16n8k16<T>(sums[down][2 * across], a[down], b[across][0], b[across][1]);",
        "mma_m16n8k16<T>(sums[down][2 * across], a[down], b[across][1], b[across][0]);",
    ),
    plant("the next row behind the last of K", GEMM, "k + index % 4 * 8 < inner", "k < inner"),
    plant("the first tile's bias", GEMM, "args.bias + first_column + column", "args.bias + column"),
    plant("gate and up exchanged", GEMM, "values[pair] *= up[pair]", "values[pair] = up[pair] * up[pair]"),
    plant("a maximum over two sequences", SPLADE, "|| args.sequence_of[token + 1] != sequence", ""),
    plant(
        "the last maximum instead of the largest",
        SPLADE,
        "atomic_max(args.maxima + size_t(sequence) * args.columns + first_column + column, bits_of_float(largest));",
        "args.maxima[size_t(sequence) * args.columns + first_column + column] = bits_of_float(largest);",
    ),
    plant(
        "no barrier before entries are placed",
        SPLADE,
        "    __syncthreads();\n    uint32_t entry",
        "    uint32_t entry",
    ),
    plant(
        "counts that do not take turns",
        SPLADE,
        "turn = turn == slots ? slots + SPARSE_WARPS : slots;",
        "",
    ),
    plant(
        "a head's squares of half its lanes",
        ROPE,
        "warp_sum<LANES>(squares)",
        "warp_sum<LANES / 2>(squares)",
    ),
    plant(
        "halves of the head instead of the rotated",
        ROPE,
        "low_at + args.rope_dims / 2",
        "low_at + args.head_dim / 2",
    ),
    plant(
        "no barrier before parts of a vector meet",
        POOL,
        "__syncthreads();  // every part",
        ";  // every part",
    ),
    plant("the length of one lane's part", VECTORS, "sqrtf(warp_sum(squares))", "sqrtf(squares)"),
    plant("what one lane added up", DENSE, "sum = warp_sum(sum);", "sum = sum + 0.0f;"),
];
