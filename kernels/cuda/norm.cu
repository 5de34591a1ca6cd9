// Residual and normalisation in one pass: out = norm(x + residual) * (weight + weight_plus) + shift, row by row.
#include "row_norm.cuh"

struct AddNormArgs {
  const void* x;         // [rows, dims]
  const void* residual;  // [rows, dims]; null: nothing is added
  const float* weight;   // [dims]
  const float* shift;    // [dims]; null: nothing is added
  void* sum;             // [rows, dims]: x + residual, for blocks that normalise before they mix; null: not wanted
  void* out;             // [rows, dims]
  uint32_t rows, dims;
  float eps, weight_plus;
};

template <class T, Norm NORM, int ROW_WARPS, int STEPS>
__device__ __forceinline__ void add_norm(const AddNormArgs& args) {
  const RowNorm norm = {args.weight, args.shift, args.out, args.rows, args.dims, args.eps, args.weight_plus};
  norm_rows<T, NORM, ROW_WARPS, STEPS>(norm, [&](unsigned row, unsigned dim, float(&values)[8]) {
    const size_t at = size_t(row) * args.dims + dim;
    load_8(static_cast<const T*>(args.x) + at, values);
    if (args.residual != nullptr) add_8(static_cast<const T*>(args.residual) + at, values);
    if (args.sum != nullptr) store_8(static_cast<T*>(args.sum) + at, values);
  });
}

// w: warps a row; s: steps; f32 for vectors after pooling. Rows of up to 512, 1024, 2048, 4096 and 8192 elements.
#define ADD_NORM(name, NORM, dtype)                                                                        \
  SHOAL_KERNEL(add_norm_##name##_w1s2_##dtype, AddNormArgs, NORM_THREADS, 8, add_norm<dtype, NORM, 1, 2>)  \
  SHOAL_KERNEL(add_norm_##name##_w1s4_##dtype, AddNormArgs, NORM_THREADS, 6, add_norm<dtype, NORM, 1, 4>)  \
  SHOAL_KERNEL(add_norm_##name##_w4s2_##dtype, AddNormArgs, NORM_THREADS, 8, add_norm<dtype, NORM, 4, 2>)  \
  SHOAL_KERNEL(add_norm_##name##_w4s4_##dtype, AddNormArgs, NORM_THREADS, 6, add_norm<dtype, NORM, 4, 4>)  \
  SHOAL_KERNEL(add_norm_##name##_w4s8_##dtype, AddNormArgs, NORM_THREADS, 4, add_norm<dtype, NORM, 4, 8>)

ADD_NORM(layer, Norm::Layer, bf16)
#if !defined(SHOAL_EMU_PLANT)
ADD_NORM(layer, Norm::Layer, f16)
ADD_NORM(layer, Norm::Layer, f32)
ADD_NORM(rms, Norm::Rms, f16)
ADD_NORM(rms, Norm::Rms, bf16)
#endif
