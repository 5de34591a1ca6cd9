// Sparse vectors over the vocabulary (SPLADE, Formal et al. 2021): the largest of each sequence's logits over its tokens,
// which never lie in memory themselves, then log(1 + relu(x)) of it and only what is positive.
#include "gemm.cuh"
#include "lanes.cuh"

struct MaxLogitsArgs {
  const void* x;                // [tokens, inner], rows `x_stride` elements apart; each starts on 16 bytes
  const void* weight;           // [columns, inner]
  const float* bias;            // [columns]; null: nothing is added
  const uint32_t* sequence_of;  // [tokens]: ascending
  uint32_t* maxima;             // [sequences, columns]: f32 by its bits; zeros before the launch
  uint32_t tokens, columns, inner, x_stride;
};

/// Block x: columns, block y: tokens. A thread takes a column of half of the tile's tokens; what it found is brought together
/// with what others found by the bits, which for values from 0 on have the order of the values.
template <class T, class TILE>
__device__ __forceinline__ void max_logits(const MaxLogitsArgs& args) {
  constexpr int PARTS = TILE::THREADS / TILE::COLUMNS, PART_ROWS = TILE::ROWS / PARTS;
  SHOAL_DYNAMIC_SHARED(shared);
  const Operands operands = {args.x, args.weight, args.tokens, args.columns, args.inner, args.x_stride};
  const unsigned first_row = blockIdx.y * TILE::ROWS, first_column = blockIdx.x * TILE::COLUMNS;
  const float* sums = product<T, TILE>(operands, first_row, first_column, shared);

  const unsigned column = threadIdx.x % TILE::COLUMNS, first = threadIdx.x / TILE::COLUMNS * PART_ROWS;
  if (first_column + column >= args.columns) return;
  const float bias = args.bias != nullptr ? args.bias[first_column + column] : 0.0f;
  float largest = 0;
  for (unsigned row = first; row < first + PART_ROWS && first_row + row < args.tokens; row++) {
    largest = fmaxf(largest, sums[row * TILE::SUMS_STRIDE + column] + bias);
    const unsigned token = first_row + row, sequence = args.sequence_of[token];
    const bool is_last = row + 1 == first + PART_ROWS || token + 1 == args.tokens;
    if (is_last || args.sequence_of[token + 1] != sequence) {
      if (largest > 0) {
        atomic_max(args.maxima + size_t(sequence) * args.columns + first_column + column, bits_of_float(largest));
      }
      largest = 0;
    }
  }
}

struct SparseArgs {
  const uint32_t* maxima;  // [sequences, columns]: f32 by its bits
  uint32_t* counts;        // [sequences]: entries of each; the first kernel writes them
  uint32_t* indptr;        // [sequences + 1]: the second kernel writes this and the rest
  uint32_t* indices;       // [entries_max]: columns, ascending in each sequence
  float* values;           // [entries_max]
  uint32_t sequences, columns;
  uint32_t entries_max;  // entries past it are not written; `indptr` counts all
  uint32_t logs;         // how often log(1 + x) is taken: SPLADE 1, some later models 2
};

constexpr int SPARSE_WARPS = 8;
constexpr unsigned SPARSE_THREADS = SPARSE_WARPS * WARP_THREADS;

/// Block x: a sequence.
__device__ __forceinline__ void count_entries(const SparseArgs& args) {
  SHOAL_DYNAMIC_SHARED(shared);
  const uint32_t* row = args.maxima + size_t(blockIdx.x) * args.columns;
  uint32_t count = 0;
  for (unsigned column = threadIdx.x; column < args.columns; column += SPARSE_THREADS) count += row[column] != 0;
  count = warps_sum<SPARSE_WARPS>(count, reinterpret_cast<uint32_t*>(shared));
  if (threadIdx.x == 0) args.counts[blockIdx.x] = count;
}

/// Block x: a sequence, whose entries come behind those of the sequences before it.
__device__ __forceinline__ void write_entries(const SparseArgs& args) {
  SHOAL_DYNAMIC_SHARED(shared);
  uint32_t* slots = reinterpret_cast<uint32_t*>(shared);  // [3][SPARSE_WARPS]: two take turns, so that one barrier does
  const unsigned sequence = blockIdx.x, warp = threadIdx.x / WARP_THREADS, lane = threadIdx.x % WARP_THREADS;
  uint32_t before = 0;
  for (unsigned other = threadIdx.x; other < sequence; other += SPARSE_THREADS) before += args.counts[other];
  uint32_t next = warps_sum<SPARSE_WARPS>(before, slots + 2 * SPARSE_WARPS);
  if (threadIdx.x == 0) {
    if (sequence == 0) args.indptr[0] = 0;
    args.indptr[sequence + 1] = next + args.counts[sequence];
  }
  const uint32_t* row = args.maxima + size_t(sequence) * args.columns;
  uint32_t* turn = slots;
  for (unsigned first = 0; first < args.columns; first += SPARSE_THREADS) {
    const unsigned column = first + threadIdx.x;
    const uint32_t bits = column < args.columns ? row[column] : 0;
    const uint32_t found = __ballot_sync(ALL_LANES, bits != 0);
    if (lane == 0) turn[warp] = __popc(found);
    __syncthreads();
    uint32_t entry = next + __popc(found & ((1u << lane) - 1));
    for (unsigned other = 0; other < SPARSE_WARPS; other++) {
      if (other < warp) entry += turn[other];
      next += turn[other];
    }
    if (bits != 0 && entry < args.entries_max) {
      float value = float_of_bits(bits);
      for (unsigned log = 0; log < args.logs; log++) value = log1pf(value);
      args.indices[entry] = column;
      args.values[entry] = value;
    }
    turn = turn == slots ? slots + SPARSE_WARPS : slots;
  }
}

#define MAX_LOGITS(dtype) \
  SHOAL_KERNEL(max_logits_##dtype, MaxLogitsArgs, Tile128x128::THREADS, 2, max_logits<dtype, Tile128x128>)

MAX_LOGITS(bf16)
#if !defined(SHOAL_EMU_PLANT)
MAX_LOGITS(f16)
#endif
SHOAL_KERNEL(sparse_count, SparseArgs, SPARSE_THREADS, 4, count_entries)
SHOAL_KERNEL(sparse_write, SparseArgs, SPARSE_THREADS, 4, write_entries)
