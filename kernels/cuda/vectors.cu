// Answers: rows cut to their first dimensions (Matryoshka, Kusupati et al. 2022), scaled to unit length and written as the
// caller asked: what leaves the device is no more than what is sent. ColBERT's token vectors go the same way, those that are
// kept only.
#include "lanes.cuh"

struct VectorsArgs {
  const void* x;         // [.., dims or more], rows `x_stride` elements apart; each starts on 16 bytes
  const uint32_t* kept;  // [rows]: which rows of x; null: all, in order
  void* out;             // [rows, `form`'s bytes for `dims`]
  uint32_t rows, dims, x_stride;
  uint32_t form;
  uint32_t is_unit;  // 1: scaled to unit length after the cut; zeros stay zeros
  uint32_t reserved;
};

/// As the host counts them (`kernels/src/cuda/vectors.rs`). I8: round(127 x), clamped; U8: that plus 128; Bits: one a
/// dimension, most significant first, 1 where the value is positive.
enum class Form : uint32_t { F32, F16, I8, U8, Bits };

constexpr int VECTORS_WARPS = 4;
constexpr unsigned VECTORS_THREADS = VECTORS_WARPS * WARP_THREADS;

/// Eight dimensions from `first` on, zeros past the cut.
template <class T>
__device__ __forceinline__ void load_cut(const T* row, unsigned first, unsigned dims, float (&values)[8]) {
  load_8(row + first, values);
#pragma unroll
  for (unsigned index = 0; index < 8; index++) {
    if (first + index >= dims) values[index] = 0;
  }
}

/// The value of a byte: not a number becomes 0.
__device__ __forceinline__ int quantised(float value) {
  return value == value ? int(fminf(fmaxf(roundf(127.0f * value), -128.0f), 127.0f)) : 0;
}

/// `count` of the eight values, from dimension `first` of the row that starts at `out`.
__device__ __forceinline__ void write_form(Form form, uint8_t* out, unsigned first, unsigned count,
                                           const float (&values)[8]) {
  uint32_t bits = 0;
#pragma unroll
  for (unsigned index = 0; index < 8; index++) {
    const float value = values[index];
    if (index >= count) continue;
    switch (form) {
      case Form::F32: reinterpret_cast<float*>(out)[first + index] = value; break;
      case Form::F16: reinterpret_cast<uint16_t*>(out)[first + index] = uint16_t(pack<f16>(value, 0.0f)); break;
      case Form::I8: out[first + index] = uint8_t(quantised(value)); break;
      case Form::U8: out[first + index] = uint8_t(quantised(value) + 128); break;
      case Form::Bits: bits |= uint32_t(value > 0) << (7 - index); break;
    }
  }
  if (form == Form::Bits) out[first / 8] = uint8_t(bits);
}

/// A warp a row, eight dimensions a lane in each step.
template <class T>
__device__ __forceinline__ void vectors(const VectorsArgs& args) {
  const unsigned lane = threadIdx.x % WARP_THREADS;
  const size_t row = size_t(blockIdx.x) * VECTORS_WARPS + threadIdx.x / WARP_THREADS;
  if (row >= args.rows) return;
  const T* from = static_cast<const T*>(args.x) + (args.kept != nullptr ? args.kept[row] : row) * size_t(args.x_stride);
  float scale = 1;
  if (args.is_unit != 0) {
    float squares = 0;
    for (unsigned first = lane * 8; first < args.dims; first += WARP_THREADS * 8) {
      float values[8];
      load_cut(from, first, args.dims, values);
#pragma unroll
      for (float value : values) squares += value * value;
    }
    scale = 1.0f / fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
  }
  const Form form = Form(args.form);
  const size_t row_bytes = form == Form::F32   ? args.dims * size_t(4)
                           : form == Form::F16 ? args.dims * size_t(2)
                           : form == Form::Bits ? (args.dims + 7) / 8
                                                : args.dims;
  uint8_t* out = static_cast<uint8_t*>(args.out) + row * row_bytes;
  for (unsigned first = lane * 8; first < args.dims; first += WARP_THREADS * 8) {
    float values[8];
    load_cut(from, first, args.dims, values);
#pragma unroll
    for (float& value : values) value *= scale;
    write_form(form, out, first, args.dims - first, values);
  }
}

SHOAL_KERNEL(vectors_f32, VectorsArgs, VECTORS_THREADS, 4, vectors<float>)
SHOAL_KERNEL(vectors_bf16, VectorsArgs, VECTORS_THREADS, 4, vectors<bf16>)
#if !defined(SHOAL_EMU_PLANT)
SHOAL_KERNEL(vectors_f16, VectorsArgs, VECTORS_THREADS, 4, vectors<f16>)
#endif
