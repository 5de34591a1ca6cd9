// What kernels of attention share: rows of a sequence in shared memory, and sixteen queries of a warp on their way through
// scores, softmax and values.
#pragma once
#include "prelude.cuh"

struct AttentionArgs {
  const void* q;  // [queries, heads, HEAD_DIM], rows `q_stride` elements apart; each starts on 16 bytes
  const void* k;  // [keys, kv_heads, HEAD_DIM], likewise
  const void* v;
  void* out;                     // [queries, heads, HEAD_DIM], likewise
  const uint32_t* cu_seqlens_q;  // [sequences + 1]
  const uint32_t* cu_seqlens_k;
  const float* bias;  // ALiBi: slopes [heads]; relative: [heads, 2 * bias_reach + 1], from -bias_reach on; else null
  uint32_t q_stride, k_stride, v_stride, out_stride;
  uint32_t sequences, heads, kv_heads, bias_reach;
  int32_t window_left, window_right;
  float scale;
  uint32_t reserved;
};

/// None; ALiBi (Press et al. 2021; for encoders by the distance's size, as Jina BERT has it); a table by distance, beyond
/// whose reach the outermost entry holds (the buckets of T5 and MPNet, written out).
enum class Bias { None, Alibi, Relative };

constexpr int QUERIES = 64, ROWS = 16;
constexpr unsigned ATTENTION_THREADS = 128;

/// Elements from one row of a tile in shared memory to the next: one 16-byte column more than the row, so that the eight
/// rows of an ldmatrix lie in different banks for every multiple of 16.
template <int HEAD_DIM>
constexpr int TILE_STRIDE = HEAD_DIM + 8;
template <int HEAD_DIM>
constexpr int TILE_KEYS = HEAD_DIM > 128 ? 32 : 64;

/// One sequence and head: where its rows are.
template <class T>
struct Span {
  const T *q, *k, *v;
  T* out;
  int queries, keys;
  unsigned head;
};

template <class T, int HEAD_DIM>
__device__ __forceinline__ Span<T> span_of(const AttentionArgs& args, unsigned sequence, unsigned head) {
  const uint32_t q = args.cu_seqlens_q[sequence], k = args.cu_seqlens_k[sequence];
  const unsigned column = head * HEAD_DIM, kv_column = head / (args.heads / args.kv_heads) * HEAD_DIM;
  return {static_cast<const T*>(args.q) + size_t(q) * args.q_stride + column,
          static_cast<const T*>(args.k) + size_t(k) * args.k_stride + kv_column,
          static_cast<const T*>(args.v) + size_t(k) * args.v_stride + kv_column,
          static_cast<T*>(args.out) + size_t(q) * args.out_stride + column,
          int(args.cu_seqlens_q[sequence + 1] - q),
          int(args.cu_seqlens_k[sequence + 1] - k),
          head};
}

/// Asks for `COUNT` rows from `first` on, `THREADS` threads together; rows past `length` become zeros.
template <class T, int HEAD_DIM, int COUNT, int THREADS>
__device__ __forceinline__ void ask_for_rows(T* tile, const T* rows, unsigned stride, int first, int length,
                                             unsigned thread) {
  constexpr int CHUNKS = HEAD_DIM / 8;
#pragma unroll
  for (int index = thread; index < COUNT * CHUNKS; index += THREADS) {
    const int row = index / CHUNKS, column = index % CHUNKS * 8;
    const bool is_there = first + row < length;
    const T* from = rows + size_t(is_there ? first + row : 0) * stride + column;
    copy_async_16(tile + row * TILE_STRIDE<HEAD_DIM> + column, from, is_there);
  }
}

/// Sixteen queries of a warp against tiles of KEYS keys. Lane 4 g + t holds rows g and g + 8, in columns 2t and 2t + 1 of
/// every eight.
template <class T, int HEAD_DIM, Bias BIAS, int KEYS>
struct Queries16 {
  static constexpr int LD = TILE_STRIDE<HEAD_DIM>, STEPS = HEAD_DIM / 16;
  static constexpr bool KEEPS_Q = HEAD_DIM <= 128;  // beyond, the registers are needed for the sums

  float sums[HEAD_DIM / 8][4];
  float maximum[2], total[2];
  float scores[KEYS / 8][4];
  uint32_t q[KEEPS_Q ? STEPS : 1][4];
  const T* q_rows;

  __device__ __forceinline__ void start(const T* rows) {
    q_rows = rows;
#pragma unroll
    for (auto& column : sums) column[0] = column[1] = column[2] = column[3] = 0;
    maximum[0] = maximum[1] = -INFINITY;
    total[0] = total[1] = 0;
    if constexpr (KEEPS_Q) {
#pragma unroll
      for (int step = 0; step < STEPS; step++) load_q(q[step], step);
    }
  }

  __device__ __forceinline__ void load_q(uint32_t (&to)[4], int step) const {
    const unsigned lane = threadIdx.x % WARP_THREADS;
    ldmatrix_x4(to, q_rows + lane % 16 * LD + step * 16 + lane / 16 * 8);
  }

  /// scores = Q K^T.
  __device__ __forceinline__ void score(const T* k_tile) {
    const unsigned lane = threadIdx.x % WARP_THREADS;
    const T* rows = k_tile + (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8;
#pragma unroll
    for (auto& column : scores) column[0] = column[1] = column[2] = column[3] = 0;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      uint32_t a[4];
      if constexpr (KEEPS_Q) {
#pragma unroll
        for (int part = 0; part < 4; part++) a[part] = q[step][part];
      } else {
        load_q(a, step);
      }
#pragma unroll
      for (int column = 0; column < KEYS / 16; column++) {
        uint32_t b[4];
        ldmatrix_x4(b, rows + column * 16 * LD + step * 16);
        mma_m16n8k16<T>(scores[2 * column], a, b[0], b[1]);
        mma_m16n8k16<T>(scores[2 * column + 1], a, b[2], b[3]);
      }
    }
  }

  /// Scales, biases and masks the scores; `position` is the first row's, `is_edge` whether any key may be out of sight.
  __device__ __forceinline__ void look(const AttentionArgs& args, const Span<T>& span, int position, int first_key,
                                       bool is_edge) {
    const unsigned lane = threadIdx.x % WARP_THREADS;
    const float slope = BIAS == Bias::Alibi ? args.bias[span.head] : 0.0f;
    const int reach = int(args.bias_reach);
    const float* table = BIAS == Bias::Relative ? args.bias + size_t(span.head) * (2 * reach + 1) + reach : nullptr;
#pragma unroll
    for (int column = 0; column < KEYS / 8; column++) {
#pragma unroll
      for (int index = 0; index < 4; index++) {
        const int key = first_key + column * 8 + lane % 4 * 2 + index % 2;
        const int distance = key - (position + int(lane / 4) + index / 2 * 8);
        float score = scores[column][index] * args.scale;
        if constexpr (BIAS == Bias::Alibi) score -= slope * fabsf(float(distance));
        if constexpr (BIAS == Bias::Relative) score += table[max(-reach, min(distance, reach))];
        if (is_edge) {
          const bool is_seen = key < span.keys && (args.window_left < 0 || distance >= -args.window_left) &&
                               (args.window_right < 0 || distance <= args.window_right);
          if (!is_seen) score = -INFINITY;
        }
        scores[column][index] = score;
      }
    }
  }

  /// Scores become weights relative to the largest so far; what was summed is brought to it.
  __device__ __forceinline__ void weigh() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float largest = maximum[half];
#pragma unroll
      for (auto& column : scores) largest = fmaxf(largest, fmaxf(column[2 * half], column[2 * half + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
      // A row that saw nothing yet has no largest: anything finite keeps its weights at zero.
      const float base = largest == -INFINITY ? 0.0f : largest;
      const float fade = exp2_approximate(maximum[half] - base);
      maximum[half] = largest;
      total[half] *= fade;
#pragma unroll
      for (auto& column : sums) {
        column[2 * half] *= fade;
        column[2 * half + 1] *= fade;
      }
#pragma unroll
      for (auto& column : scores) {
#pragma unroll
        for (int index = 2 * half; index < 2 * half + 2; index++) {
          column[index] = exp2_approximate(column[index] - base);
          total[half] += column[index];
        }
      }
    }
  }

  /// sums += weights V.
  __device__ __forceinline__ void add(const T* v_tile) {
    const unsigned lane = threadIdx.x % WARP_THREADS;
    const T* rows = v_tile + lane % 16 * LD + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
      const float(&low)[4] = scores[2 * step];
      const float(&high)[4] = scores[2 * step + 1];
      const uint32_t a[4] = {pack<T>(low[0], low[1]), pack<T>(low[2], low[3]), pack<T>(high[0], high[1]),
                             pack<T>(high[2], high[3])};
#pragma unroll
      for (int column = 0; column < HEAD_DIM / 16; column++) {
        uint32_t b[4];
        ldmatrix_x4_transposed(b, rows + step * 16 * LD + column * 16);
        mma_m16n8k16<T>(sums[2 * column], a, b[0], b[1]);
        mma_m16n8k16<T>(sums[2 * column + 1], a, b[2], b[3]);
      }
    }
  }

  /// Divides by the weights' total and writes the rows of the sequence, through `staging`: the warp's own 16 rows of shared
  /// memory, which nobody else reads.
  __device__ __forceinline__ void finish(const AttentionArgs& args, const Span<T>& span, int first_row, T* staging) {
    const unsigned lane = threadIdx.x % WARP_THREADS;
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float all = total[half];
      all += __shfl_xor_sync(ALL_LANES, all, 1);
      all += __shfl_xor_sync(ALL_LANES, all, 2);
      const float share = all > 0 ? 1.0f / all : 0.0f;
      T* row = staging + (lane / 4 + half * 8) * LD + lane % 4 * 2;
#pragma unroll
      for (int column = 0; column < HEAD_DIM / 8; column++) {
        const float(&sum)[4] = sums[column];
        *reinterpret_cast<uint32_t*>(row + column * 8) = pack<T>(sum[2 * half] * share, sum[2 * half + 1] * share);
      }
    }
    __syncwarp();
    constexpr int CHUNKS = HEAD_DIM / 8;
#pragma unroll
    for (int index = lane; index < ROWS * CHUNKS; index += WARP_THREADS) {
      const int row = index / CHUNKS, column = index % CHUNKS * 8;
      if (first_row + row < span.queries) {
        T* to = span.out + size_t(first_row + row) * args.out_stride + column;
        store_16_bytes(to, load_16_bytes(staging + row * LD + column));
      }
    }
  }
};
