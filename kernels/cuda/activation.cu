// Activations of their own launch, for products that a library computed: with the bias that comes before them, and gated
// (GLU, Dauphin et al. 2017; Shazeer 2020), where columns 2j and 2j + 1 of a product are gate and up of result j. The rows
// of those weights are interleaved when they are loaded, whichever way the checkpoint has them.
#include "activation.cuh"

struct ActivateArgs {
  const void* x;       // [rows, columns], rows `x_stride` elements apart
  const float* bias;   // [columns]; null: nothing is added
  void* out;           // [rows, columns], gated [rows, columns / 2], rows `out_stride` apart; may be `x` if not gated
  uint32_t rows, columns;
  uint32_t x_stride, out_stride;
  uint32_t activation;
  uint32_t reserved;
};

constexpr unsigned ACTIVATE_THREADS = 256;

/// Eight results a thread.
template <class T, bool IS_GATED>
__device__ __forceinline__ void activate(const ActivateArgs& args) {
  const unsigned vectors = args.columns / (IS_GATED ? 16 : 8);
  const size_t index = size_t(blockIdx.x) * ACTIVATE_THREADS + threadIdx.x;
  if (index >= size_t(args.rows) * vectors) return;
  const size_t row = index / vectors;
  const unsigned column = unsigned(index % vectors) * 8;
  const auto load = [&](unsigned column, float(&values)[8]) {
    load_8(static_cast<const T*>(args.x) + row * args.x_stride + column, values);
    if (args.bias != nullptr) add_8(args.bias + column, values);
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
  store_8(static_cast<T*>(args.out) + row * args.out_stride + column, values);
}

#define ACTIVATE(dtype)                                                                           \
  SHOAL_KERNEL(activate_##dtype, ActivateArgs, ACTIVATE_THREADS, 4, activate<dtype, false>)       \
  SHOAL_KERNEL(activate_gated_##dtype, ActivateArgs, ACTIVATE_THREADS, 4, activate<dtype, true>)

ACTIVATE(bf16)
#if !defined(SHOAL_EMU_PLANT)
ACTIVATE(f16)
#endif
