// Residual and normalisation in one pass: out = norm(x + residual) * (weight + weight_plus) + shift, row by row.
//
// LayerNorm: Ba et al. 2016 (variance over n, not n - 1). RMSNorm: Zhang and Sennrich 2019; Gemma's weights are stored less
// one, hence `weight_plus`. A row stays in registers between its passes; statistics are f32, the deviations' squares are
// summed after the mean is known, and every sum has one order whatever the batch.
#include "prelude.cuh"

struct AddNormArgs {
  const void* x;         // [rows, dims]
  const void* residual;  // [rows, dims]; null: nothing is added
  const float* weight;   // [dims]
  const float* shift;    // [dims]; null: nothing is added
  void* sum;             // [rows, dims]: x + residual, for blocks that normalise before they mix; null: not wanted
  void* out;             // [rows, dims]
  uint32_t rows, dims;   // dims: a multiple of 8, at most ROW_WARPS * 32 * 8 * STEPS
  float eps, weight_plus;
};

enum class Norm { Layer, Rms };

constexpr unsigned NORM_THREADS = 128;

/// The sum over the threads of a row, in each of them. `slots`: f32 of shared memory, one per warp, used once a barrier.
template <int ROW_WARPS>
__device__ __forceinline__ float row_sum(float value, float* slots) {
  value = warp_sum(value);
  if constexpr (ROW_WARPS > 1) {
    if (threadIdx.x % WARP_THREADS == 0) slots[threadIdx.x / WARP_THREADS] = value;
    __syncthreads();
    value = 0;
    for (int warp = 0; warp < ROW_WARPS; warp++) value += slots[warp];
  }
  return value;
}

/// Eight elements of the row: x, plus the residual where there is one. The sum is kept for who asked for it.
template <class T>
__device__ __forceinline__ void load_sum(const AddNormArgs& args, size_t at, float (&row)[8]) {
  const Packed8 x = load_16_bytes(static_cast<const T*>(args.x) + at);
  for (int pair = 0; pair < 4; pair++) {
    const Pair value = unpack<T>(x.pair[pair]);
    row[2 * pair] = value.low;
    row[2 * pair + 1] = value.high;
  }
  if (args.residual != nullptr) {
    const Packed8 residual = load_16_bytes(static_cast<const T*>(args.residual) + at);
    for (int pair = 0; pair < 4; pair++) {
      const Pair value = unpack<T>(residual.pair[pair]);
      row[2 * pair] += value.low;
      row[2 * pair + 1] += value.high;
    }
  }
  if (args.sum != nullptr) {
    Packed8 sum;
    for (int pair = 0; pair < 4; pair++) sum.pair[pair] = pack<T>(row[2 * pair], row[2 * pair + 1]);
    store_16_bytes(static_cast<T*>(args.sum) + at, sum);
  }
}

/// ROW_WARPS warps hold a row, eight elements a thread in each of STEPS steps.
template <class T, Norm NORM, int ROW_WARPS, int STEPS>
__device__ __forceinline__ void add_norm(const AddNormArgs& args) {
  constexpr unsigned ROW_THREADS = ROW_WARPS * WARP_THREADS;
  SHOAL_DYNAMIC_SHARED(shared);
  float* slots = reinterpret_cast<float*>(shared);
  const unsigned row = blockIdx.x * (NORM_THREADS / ROW_THREADS) + threadIdx.x / ROW_THREADS;
  if (row >= args.rows) return;
  const unsigned first = threadIdx.x % ROW_THREADS * 8;
  const size_t start = size_t(row) * args.dims;

  float values[STEPS][8];
  float total = 0;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const unsigned dim = first + step * ROW_THREADS * 8;
    if (dim < args.dims) {
      load_sum<T>(args, start + dim, values[step]);
      for (int index = 0; index < 8; index++) total += values[step][index];
    }
  }
  const float mean = NORM == Norm::Layer ? row_sum<ROW_WARPS>(total, slots) / args.dims : 0.0f;

  float squares = 0;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const unsigned dim = first + step * ROW_THREADS * 8;
    if (dim < args.dims) {
      for (int index = 0; index < 8; index++) {
        values[step][index] -= mean;
        squares += values[step][index] * values[step][index];
      }
    }
  }
  const float variance = row_sum<ROW_WARPS>(squares, slots + ROW_WARPS) / args.dims;
  const float scale = rsqrt_approximate(variance + args.eps);

#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const unsigned dim = first + step * ROW_THREADS * 8;
    if (dim < args.dims) {
      Packed8 out;
      for (int pair = 0; pair < 4; pair++) {
        float ends[2];
        for (int half = 0; half < 2; half++) {
          const int index = 2 * pair + half;
          const float shift = args.shift != nullptr ? args.shift[dim + index] : 0.0f;
          ends[half] = values[step][index] * scale * (args.weight[dim + index] + args.weight_plus) + shift;
        }
        out.pair[pair] = pack<T>(ends[0], ends[1]);
      }
      store_16_bytes(static_cast<T*>(args.out) + start + dim, out);
    }
  }
}

// w: warps a row; s: steps. Rows of up to 512, 1024, 2048, 4096 and 8192 elements.
#define ADD_NORM(name, NORM, dtype)                                                                        \
  SHOAL_KERNEL(add_norm_##name##_w1s2_##dtype, AddNormArgs, NORM_THREADS, add_norm<dtype, NORM, 1, 2>)     \
  SHOAL_KERNEL(add_norm_##name##_w1s4_##dtype, AddNormArgs, NORM_THREADS, add_norm<dtype, NORM, 1, 4>)     \
  SHOAL_KERNEL(add_norm_##name##_w4s2_##dtype, AddNormArgs, NORM_THREADS, add_norm<dtype, NORM, 4, 2>)     \
  SHOAL_KERNEL(add_norm_##name##_w4s4_##dtype, AddNormArgs, NORM_THREADS, add_norm<dtype, NORM, 4, 4>)     \
  SHOAL_KERNEL(add_norm_##name##_w4s8_##dtype, AddNormArgs, NORM_THREADS, add_norm<dtype, NORM, 4, 8>)

ADD_NORM(layer, Norm::Layer, bf16)
#if !defined(SHOAL_EMU_PLANT)
ADD_NORM(layer, Norm::Layer, f16)
ADD_NORM(rms, Norm::Rms, f16)
ADD_NORM(rms, Norm::Rms, bf16)
#endif
