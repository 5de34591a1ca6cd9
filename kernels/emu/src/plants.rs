//! Bugs that the kernels' tests must notice: a mutation test of the suite. Each is one change of one text that stands in
//! its file once. `build.rs` compiles them beside the kernels as they are.

/// The variant without a bug.
pub const INTACT: &str = "intact";

/// One planted bug.
#[derive(Clone, Copy, Debug)]
pub struct Plant {
    /// The variant under which its kernels are launched.
    pub name: &'static str,
    /// The file in `kernels/cuda/`.
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
const NORM: &str = "norm.cu";

/// Every planted bug.
pub const PLANTS: [Plant; 18] = [
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
        "variance over n - 1",
        NORM,
        "slots + ROW_WARPS) / args.dims",
        "slots + ROW_WARPS) / (args.dims - 1)",
    ),
    plant("no barrier in a row's sum", NORM, "    __syncthreads();\n    value = 0;", "    value = 0;"),
    plant(
        "one slot for both sums",
        NORM,
        "row_sum<ROW_WARPS>(squares, slots + ROW_WARPS)",
        "row_sum<ROW_WARPS>(squares, slots)",
    ),
];
