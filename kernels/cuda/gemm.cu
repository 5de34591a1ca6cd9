// y = act(x W^T + bias) + residual: the project's own matrix product, where no library is at hand and wherever a text's bits
// may not depend on its batch.
#include "activation.cuh"
#include "gemm.cuh"

struct GemmArgs {
  const void* x;         // [rows, inner], rows `x_stride` elements apart; each starts on 16 bytes
  const void* weight;    // [columns, inner]
  const float* bias;     // [columns]; null: nothing is added
  const void* residual;  // [rows, outputs], rows `residual_stride` apart; null: nothing is added; may be `out`
  void* out;             // [rows, outputs], rows `out_stride` apart
  uint32_t rows, columns, inner;  // inner, outputs: multiples of 8
  uint32_t x_stride, residual_stride, out_stride;
  uint32_t activation;
  uint32_t is_gated;  // 1: columns 2j and 2j + 1 are gate and up of output j, act(gate) * up; outputs = columns / 2
};

/// Eight results a thread, until the tile is written.
template <class T, class TILE, bool IS_GATED>
__device__ __forceinline__ void write(const GemmArgs& args, const float* sums, unsigned first_row, unsigned first_column) {
  constexpr int PER_OUTPUT = IS_GATED ? 2 : 1, VECTORS = TILE::COLUMNS / PER_OUTPUT / 8;
  const unsigned outputs = args.columns / PER_OUTPUT;
#pragma unroll 1
  for (int index = threadIdx.x; index < TILE::ROWS * VECTORS; index += TILE::THREADS) {
    const unsigned tile_row = index / VECTORS, column = index % VECTORS * 8;
    const unsigned row = first_row + tile_row, output = first_column / PER_OUTPUT + column;
    if (row >= args.rows || output >= outputs) continue;
    const auto load = [&](unsigned column, float(&values)[8]) {
      load_8(sums + tile_row * TILE::SUMS_STRIDE + column, values);
      if (args.bias != nullptr) add_8(args.bias + first_column + column, values);
    };
    float values[8];
    if constexpr (IS_GATED) {
      float low[8], high[8];
      load(2 * column, low);
      load(2 * column + 8, high);
      gate_8(args.activation, low, high, values);
    } else {
      load(column, values);
      activate_8(args.activation, values);
    }
    if (args.residual != nullptr) {
      add_8(static_cast<const T*>(args.residual) + size_t(row) * args.residual_stride + output, values);
    }
    store_8(static_cast<T*>(args.out) + size_t(row) * args.out_stride + output, values);
  }
}

/// Block x: columns, block y: rows, so that blocks at work together share rows of x and all of the weights.
template <class T, class TILE>
__device__ __forceinline__ void gemm(const GemmArgs& args) {
  SHOAL_DYNAMIC_SHARED(shared);
  const Operands operands = {args.x, args.weight, args.rows, args.columns, args.inner, args.x_stride};
  const unsigned row = blockIdx.y * TILE::ROWS, column = blockIdx.x * TILE::COLUMNS;
  const float* sums = product<T, TILE>(operands, row, column, shared);
  if (args.is_gated != 0) {
    write<T, TILE, true>(args, sums, row, column);
  } else {
    write<T, TILE, false>(args, sums, row, column);
  }
}

#define GEMM(tile, blocks, dtype) \
  SHOAL_KERNEL(gemm_t##tile##_##dtype, GemmArgs, Tile##tile::THREADS, blocks, gemm<dtype, Tile##tile>)
#define GEMMS(dtype)       \
  GEMM(16x32, 8, dtype)    \
  GEMM(64x64, 4, dtype)    \
  GEMM(128x128, 2, dtype)

#if defined(SHOAL_EMU_PLANT)
GEMM(64x64, 4, bf16)
#else
GEMMS(f16)
GEMMS(bf16)
#endif
