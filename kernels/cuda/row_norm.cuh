// Normalisation of rows: out = norm(row) * (weight + weight_plus) + shift.
//
// LayerNorm: Ba et al. 2016 (variance over n, not n - 1). RMSNorm: Zhang and Sennrich 2019; Gemma's weights are stored less
// one, hence `weight_plus`. A row stays in registers between its passes; statistics are f32, the deviations' squares are
// summed after the mean is known, and every sum has one order whatever the batch.
#pragma once

#include "lanes.cuh"

enum class Norm { None, Layer, Rms };

constexpr unsigned NORM_THREADS = 128;

/// What the rows become.
struct RowNorm {
  const float* weight;  // [dims]
  const float* shift;   // [dims]; null: nothing is added
  void* out;            // [rows, dims]
  uint32_t rows, dims;  // dims: a multiple of 8, at most ROW_WARPS * 32 * 8 * STEPS
  float eps, weight_plus;
};

/// Eight elements of a row, scaled and shifted.
template <class T, Norm NORM>
__device__ __forceinline__ void store_normed(const RowNorm& norm, size_t row, unsigned dim, float scale,
                                             float (&values)[8]) {
  if constexpr (NORM != Norm::None) {
    float weight[8];
    load_8(norm.weight + dim, weight);
#pragma unroll
    for (int index = 0; index < 8; index++) values[index] *= scale * (weight[index] + norm.weight_plus);
    if (norm.shift != nullptr) add_8(norm.shift + dim, values);
  }
  store_8(static_cast<T*>(norm.out) + row * norm.dims + dim, values);
}

/// ROW_WARPS warps hold a row, eight elements a thread in each of STEPS steps. `load(row, dim, values)` gives eight of them.
template <class T, Norm NORM, int ROW_WARPS, int STEPS, class Load>
__device__ __forceinline__ void norm_rows(const RowNorm& norm, const Load& load) {
  constexpr unsigned ROW_THREADS = ROW_WARPS * WARP_THREADS, STEP = ROW_THREADS * 8;
  SHOAL_DYNAMIC_SHARED(shared);
  float* slots = reinterpret_cast<float*>(shared);
  const unsigned row = blockIdx.x * (NORM_THREADS / ROW_THREADS) + threadIdx.x / ROW_THREADS;
  if (row >= norm.rows) return;
  const unsigned first = threadIdx.x % ROW_THREADS * 8;

  float values[STEPS][8];
  float total = 0;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const unsigned dim = first + step * STEP;
    if (dim < norm.dims) {
      load(row, dim, values[step]);
#pragma unroll
      for (int index = 0; index < 8; index++) total += values[step][index];
    }
  }
  const float mean = NORM == Norm::Layer ? warps_sum<ROW_WARPS>(total, slots) / norm.dims : 0.0f;

  float squares = 0;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    if (first + step * STEP < norm.dims) {
#pragma unroll
      for (int index = 0; index < 8; index++) {
        values[step][index] -= mean;
        squares += values[step][index] * values[step][index];
      }
    }
  }
  float scale = 1;
  if constexpr (NORM != Norm::None) {
    const float variance = warps_sum<ROW_WARPS>(squares, slots + ROW_WARPS) / norm.dims;
    scale = rsqrt_approximate(variance + norm.eps);
  }
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const unsigned dim = first + step * STEP;
    if (dim < norm.dims) store_normed<T, NORM>(norm, row, dim, scale, values[step]);
  }
}
