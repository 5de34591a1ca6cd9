// Small layers after the encoder, in f32: sentence-transformers' Dense modules, poolers, and the heads that classify
// sequences or tokens. Any number of results, unlike the tensor cores' product.
#include "activation.cuh"

struct DenseArgs {
  const void* x;        // [rows, inner], rows `x_stride` elements apart; each starts on 16 bytes
  const float* weight;  // [columns, inner]
  const float* bias;    // [columns]; null: nothing is added
  float* out;           // [rows, columns], rows `out_stride` apart
  uint32_t rows, columns, inner;  // inner: a multiple of 8
  uint32_t x_stride, out_stride;
  uint32_t activation;
};

constexpr int DENSE_WARPS = 4, DENSE_ROWS = 8;
constexpr unsigned DENSE_THREADS = DENSE_WARPS * WARP_THREADS;

/// Block x: eight rows, block y: four columns, one a warp.
template <class T>
__device__ __forceinline__ void dense(const DenseArgs& args) {
  const unsigned lane = threadIdx.x % WARP_THREADS, column = blockIdx.y * DENSE_WARPS + threadIdx.x / WARP_THREADS;
  const size_t first_row = size_t(blockIdx.x) * DENSE_ROWS;
  if (column >= args.columns) return;
  float sums[DENSE_ROWS] = {};
  for (unsigned k = lane * 8; k < args.inner; k += WARP_THREADS * 8) {
    float weight[8];
    load_8(args.weight + size_t(column) * args.inner + k, weight);
#pragma unroll
    for (int row = 0; row < DENSE_ROWS; row++) {
      if (first_row + row < args.rows) {
        float x[8];
        load_8(static_cast<const T*>(args.x) + (first_row + row) * args.x_stride + k, x);
#pragma unroll
        for (int index = 0; index < 8; index++) sums[row] += weight[index] * x[index];
      }
    }
  }
#pragma unroll
  for (float& sum : sums) sum = warp_sum(sum);
  if (lane != 0) return;
  const float bias = args.bias != nullptr ? args.bias[column] : 0.0f;
#pragma unroll
  for (float& sum : sums) sum += bias;
  activate_8(args.activation, sums);
#pragma unroll
  for (int row = 0; row < DENSE_ROWS; row++) {
    if (first_row + row < args.rows) args.out[(first_row + row) * args.out_stride + column] = sums[row];
  }
}

SHOAL_KERNEL(dense_f32, DenseArgs, DENSE_THREADS, 4, dense<float>)
SHOAL_KERNEL(dense_bf16, DenseArgs, DENSE_THREADS, 4, dense<bf16>)
#if !defined(SHOAL_EMU_PLANT)
SHOAL_KERNEL(dense_f16, DenseArgs, DENSE_THREADS, 4, dense<f16>)
#endif
