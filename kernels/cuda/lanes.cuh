// What kernels do on top of the machine: eight elements at a time, and sums over lanes and warps.
#pragma once

#include "prelude.cuh"

/// Eight neighbouring elements that start on 16 bytes, as f32.
template <class T>
__device__ __forceinline__ void load_8(const T* from, float (&to)[8]) {
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Packed8 words = load_16_bytes(from + 4 * half);
#pragma unroll
      for (int word = 0; word < 4; word++) to[4 * half + word] = float_of_bits(words.pair[word]);
    }
  } else {
    const Packed8 packed = load_16_bytes(from);
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
      const Pair value = unpack<T>(packed.pair[pair]);
      to[2 * pair] = value.low;
      to[2 * pair + 1] = value.high;
    }
  }
}

/// Rounds eight values to neighbouring elements that start on 16 bytes.
template <class T>
__device__ __forceinline__ void store_8(T* to, const float (&values)[8]) {
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      Packed8 words;
#pragma unroll
      for (int word = 0; word < 4; word++) words.pair[word] = bits_of_float(values[4 * half + word]);
      store_16_bytes(to + 4 * half, words);
    }
  } else {
    Packed8 packed;
#pragma unroll
    for (int pair = 0; pair < 4; pair++) packed.pair[pair] = pack<T>(values[2 * pair], values[2 * pair + 1]);
    store_16_bytes(to, packed);
  }
}

/// Adds the eight elements at `from` to the values.
template <class T>
__device__ __forceinline__ void add_8(const T* from, float (&values)[8]) {
  float more[8];
  load_8(from, more);
#pragma unroll
  for (int index = 0; index < 8; index++) values[index] += more[index];
}

/// The sum over `LANES` neighbouring lanes, a power of two, in each of them; always in the same order.
template <unsigned LANES = WARP_THREADS, class V>
__device__ __forceinline__ V warp_sum(V value) {
#pragma unroll
  for (unsigned lanes = LANES / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(ALL_LANES, value, lanes);
  return value;
}

/// The sum over `WARPS` neighbouring warps, in each of their threads. `slots`: one value a warp of the block, in shared
/// memory that nobody else uses until the next barrier.
template <int WARPS, class V>
__device__ __forceinline__ V warps_sum(V value, V* slots) {
  value = warp_sum(value);
  if constexpr (WARPS > 1) {
    const unsigned warp = threadIdx.x / WARP_THREADS, first = warp / WARPS * WARPS;
    if (threadIdx.x % WARP_THREADS == 0) slots[warp] = value;
    __syncthreads();
    value = 0;
    for (unsigned index = first; index < first + WARPS; index++) value += slots[index];
  }
  return value;
}
