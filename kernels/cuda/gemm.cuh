// The product x W^T of a block: tensor cores with f32 sums, operands through a ring of stages in shared memory.
//
// A sum over K has one order, sixteen after sixteen from the first on, in every tile and for any number of rows: a row's bits
// depend on neither, and nothing is split over blocks.
#pragma once

#include "prelude.cuh"

/// What is multiplied: `x [rows, inner]`, rows `x_stride` elements apart, with `weight [columns, inner]`. Rows start on 16
/// bytes; `inner` is a multiple of 8.
struct Operands {
  const void* x;
  const void* weight;
  uint32_t rows, columns, inner, x_stride;
};

constexpr int STEP = 32;  // of K, a stage: 64 bytes a row

/// ROWS by COLUMNS results a block, shared out evenly among WARPS_DOWN by WARPS_ACROSS warps.
template <int ROWS_, int COLUMNS_, int WARPS_DOWN_, int WARPS_ACROSS_, int STAGES_>
struct Tile {
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STAGES = STAGES_;
  static constexpr int WARPS_DOWN = WARPS_DOWN_, WARPS_ACROSS = WARPS_ACROSS_;
  static constexpr int THREADS = WARPS_DOWN * WARPS_ACROSS * int(WARP_THREADS);
  static constexpr int WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLUMNS = COLUMNS / WARPS_ACROSS;
  static constexpr int STAGE = (ROWS + COLUMNS) * STEP;
  /// Elements from a row of sums to the next: eight more than needed, so that half a warp's stores lie in different banks.
  static constexpr int SUMS_STRIDE = COLUMNS + 8;
};

using Tile128x128 = Tile<128, 128, 2, 4, 4>;
using Tile64x64 = Tile<64, 64, 2, 2, 4>;
using Tile16x32 = Tile<16, 32, 1, 2, 8>;

/// Where 8 elements of a row of a stage are. Two rows share a line of all banks; within it the chunks are permuted, so that
/// the eight rows of an ldmatrix lie in different banks.
__device__ __forceinline__ int place(int row, int chunk) { return row * STEP + (chunk ^ row / 2 % 4) * 8; }

/// The chunks of one operand that a thread brings, the same rows in each stage.
template <class T, class TILE, int COUNT>
struct Feed {
  static constexpr int CHUNKS = COUNT * (STEP / 8) / TILE::THREADS;
  static_assert(COUNT * (STEP / 8) % TILE::THREADS == 0, "every thread brings as much");

  const T* rows;
  const T* from[CHUNKS];  // null: past the last row
  unsigned inner;

  __device__ __forceinline__ void start(const void* operand, unsigned first, unsigned count, unsigned stride,
                                        unsigned inner_) {
    rows = static_cast<const T*>(operand);
    inner = inner_;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
      const unsigned index = threadIdx.x + chunk * TILE::THREADS, row = first + index / 4;
      from[chunk] = row < count ? rows + size_t(row) * stride + index % 4 * 8 : nullptr;
    }
  }

  /// Asks for the columns from `k` on; what is not there becomes zeros.
  __device__ __forceinline__ void ask(T* stage, unsigned k) const {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
      const unsigned index = threadIdx.x + chunk * TILE::THREADS;
      const bool is_there = from[chunk] != nullptr && k + index % 4 * 8 < inner;
      copy_async_16(stage + place(index / 4, index % 4), is_there ? from[chunk] + k : rows, is_there);
    }
  }
};

/// A warp's results. Lane 4 g + t holds rows g and g + 8 of every sixteen, in columns 2t and 2t + 1 of every eight.
template <class T, class TILE>
struct Sums {
  static constexpr int DOWN = TILE::WARP_ROWS / 16, ACROSS = TILE::WARP_COLUMNS / 16;

  float sums[DOWN][2 * ACROSS][4] = {};
  int first_row, first_column;

  __device__ __forceinline__ Sums() {
    const int warp = threadIdx.x / WARP_THREADS;
    first_row = warp / TILE::WARPS_ACROSS * TILE::WARP_ROWS;
    first_column = warp % TILE::WARPS_ACROSS * TILE::WARP_COLUMNS;
  }

  __device__ __forceinline__ void add(const T* x_stage, const T* weight_stage) {
    const int lane = threadIdx.x % WARP_THREADS;
#pragma unroll
    for (int step = 0; step < STEP / 16; step++) {
      uint32_t a[DOWN][4], b[ACROSS][4];
#pragma unroll
      for (int down = 0; down < DOWN; down++) {
        ldmatrix_x4(a[down], x_stage + place(first_row + down * 16 + lane % 16, step * 2 + lane / 16));
      }
#pragma unroll
      for (int across = 0; across < ACROSS; across++) {
        const int row = first_column + across * 16 + lane % 8 + lane / 16 * 8;
        ldmatrix_x4(b[across], weight_stage + place(row, step * 2 + lane / 8 % 2));
      }
#pragma unroll
      for (int down = 0; down < DOWN; down++) {
#pragma unroll
        for (int across = 0; across < ACROSS; across++) {
          mma_m16n8k16<T>(sums[down][2 * across], a[down], b[across][0], b[across][1]);
          mma_m16n8k16<T>(sums[down][2 * across + 1], a[down], b[across][2], b[across][3]);
        }
      }
    }
  }

  __device__ __forceinline__ void store(float* to) const {
    const int lane = threadIdx.x % WARP_THREADS;
#pragma unroll
    for (int down = 0; down < DOWN; down++) {
#pragma unroll
      for (int across = 0; across < 2 * ACROSS; across++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int row = first_row + down * 16 + half * 8 + lane / 4;
          float* pair = to + row * TILE::SUMS_STRIDE + first_column + across * 8 + lane % 4 * 2;
          *reinterpret_cast<float2*>(pair) = {sums[down][across][2 * half], sums[down][across][2 * half + 1]};
        }
      }
    }
  }
};

/// The sums of the tile whose first result is (first_row, first_column), in shared memory, for all threads to read:
/// [ROWS][SUMS_STRIDE]. What lies past the operands' last rows is zero.
template <class T, class TILE>
__device__ __forceinline__ const float* product(const Operands& operands, unsigned first_row, unsigned first_column,
                                                unsigned char* shared) {
  T* ring = reinterpret_cast<T*>(shared);
  Feed<T, TILE, TILE::ROWS> x;
  Feed<T, TILE, TILE::COLUMNS> weight;
  x.start(operands.x, first_row, operands.rows, operands.x_stride, operands.inner);
  weight.start(operands.weight, first_column, operands.columns, operands.inner, operands.inner);
  const int steps = (operands.inner + STEP - 1) / STEP;
  // Groups are counted, so that there is one for every step, empty or not.
  const auto ask = [&](int step) {
    T* stage = ring + step % TILE::STAGES * TILE::STAGE;
    if (step < steps) {
      x.ask(stage, step * STEP);
      weight.ask(stage + TILE::ROWS * STEP, step * STEP);
    }
    copy_async_commit();
  };
#pragma unroll
  for (int step = 0; step < TILE::STAGES - 1; step++) ask(step);

  Sums<T, TILE> sums;
  for (int step = 0; step < steps; step++) {
    copy_async_wait<TILE::STAGES - 2>();
    __syncthreads();  // everybody's part of this stage is here, and nobody reads the stage before any more
    ask(step + TILE::STAGES - 1);
    const T* stage = ring + step % TILE::STAGES * TILE::STAGE;
    sums.add(stage, stage + TILE::ROWS * STEP);
  }
  __syncthreads();  // nobody reads the ring any more: the sums take its place
  float* results = reinterpret_cast<float*>(shared);
  sums.store(results);
  __syncthreads();  // the sums are here
  return results;
}
