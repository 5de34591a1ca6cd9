// What the kernels' prelude finds on the host in place of CUDA: the same names, checked.
//
// Operations of a warp go in two steps: every lane shows its operand and waits for the warp, reads its peers, and waits
// again, so that nobody overwrites what a peer still reads.
#pragma once

#include <cmath>
#include <cstring>

#include "block.h"

#define __device__
#define __forceinline__ inline
#define __restrict__

#define threadIdx (::emu::Index3{::emu::block->thread(), 0, 0})
#define blockIdx (::emu::block->at())
#define blockDim (::emu::Index3{::emu::block->shape().threads, 1, 1})
#define gridDim (::emu::block->shape().grid)

#define __syncthreads() ::emu::block->wait(::emu::State::AtBarrier, "barrier", __LINE__)
#define __syncwarp() ::emu::meet("__syncwarp", __LINE__)
#define __shfl_xor_sync(mask, value, lanes) ::emu::shuffle_xor(mask, value, lanes, __LINE__)
#define __ballot_sync(mask, is_so) ::emu::ballot(mask, is_so, __LINE__)
#define __popc(bits) __builtin_popcount(bits)

#define SHOAL_DYNAMIC_SHARED(name) unsigned char* name = ::emu::block->shared()

// `threads` is the bound that the device's compiler gets.
#define SHOAL_KERNEL(name, Args, threads, blocks, ...)                                                   \
  static void name(const void* args) {                                                                   \
    if (blockDim.x > (threads)) ::emu::block->fail("more threads than the kernel was built for", __LINE__); \
    __VA_ARGS__(*static_cast<const Args*>(args));                                                        \
  }                                                                                                      \
  static const ::emu::Registered name##_registered({SHOAL_EMU_VARIANT, #name, sizeof(Args), &name});

struct alignas(8) float2 {
  float x, y;
};

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

using f16 = ::emu::F16;
using bf16 = ::emu::BF16;

namespace emu {

inline void meet(const char* what, int line) { block->wait(State::AtWarp, what, line); }

template <class T>
T shuffle_xor(uint32_t mask, T value, unsigned lanes, int line) {
  static_assert(sizeof(T) == 4, "one register");
  if (mask != 0xffffffff) block->fail("a shuffle that leaves lanes out", line);
  std::memcpy(&block->self().shown.word, &value, 4);
  meet("__shfl_xor_sync", line);
  T theirs;
  std::memcpy(&theirs, &block->peer(block->lane() ^ lanes).shown.word, 4);
  meet("__shfl_xor_sync", line);
  return theirs;
}

/// What a device refuses: a vector off its boundary.
inline void check_boundary(const void* at) {
  if (reinterpret_cast<uintptr_t>(at) % ROW_BYTES != 0) block->fail("16 bytes off their boundary", __LINE__);
}

/// One bit a lane.
inline uint32_t ballot(uint32_t mask, bool is_so, int line) {
  if (mask != 0xffffffff) block->fail("a ballot that leaves lanes out", line);
  block->self().shown.word = is_so;
  meet("__ballot_sync", line);
  uint32_t bits = 0;
  for (unsigned lane = 0; lane < WARP; lane++) bits |= block->peer(lane).shown.word << lane;
  meet("__ballot_sync", line);
  return bits;
}

/// `ldmatrix.x4`: lane `8 i + r` names row `r` of matrix `i`; every lane gets two neighbours of each matrix.
inline void ldmatrix_x4(uint32_t (&to)[4], const void* row, bool transposed) {
  block->check_row(row, "ldmatrix outside of shared memory or off its boundary", __LINE__);
  block->self().shown.row = static_cast<const uint16_t*>(row);
  meet("ldmatrix", __LINE__);
  const unsigned lane = block->lane();
  for (unsigned matrix = 0; matrix < 4; matrix++) {
    uint32_t pair = 0;
    for (unsigned half = 0; half < 2; half++) {
      const unsigned outer = lane / 4, inner = lane % 4 * 2 + half;
      const unsigned r = transposed ? inner : outer, column = transposed ? outer : inner;
      pair |= uint32_t(block->peer(matrix * 8 + r).shown.row[column]) << (16 * half);
    }
    to[matrix] = pair;
  }
  meet("ldmatrix", __LINE__);
}

template <class T>
float widen_half(uint32_t pair, unsigned half) {
  return widen(T{uint16_t(pair >> (16 * half))});
}

/// `mma.m16n8k16`, row by column (PTX ISA, "Matrix fragments for mma.m16n8k16"): with g = lane / 4 and t = lane % 4, a lane
/// holds of A rows g and g + 8 in columns 2t, 2t + 1 and 8 more; of B those rows in column g; of C rows g and g + 8 in
/// columns 2t and 2t + 1.
template <class T>
void mma_m16n8k16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  float* own = block->self().shown.fragment;
  const uint32_t pairs[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (unsigned pair = 0; pair < 6; pair++) {
    own[2 * pair] = widen_half<T>(pairs[pair], 0);
    own[2 * pair + 1] = widen_half<T>(pairs[pair], 1);
  }
  meet("mma", __LINE__);
  const unsigned g = block->lane() / 4, t = block->lane() % 4;
  for (unsigned index = 0; index < 4; index++) {
    const unsigned low = index / 2, column = 2 * t + index % 2;
    float sum = 0;
    for (unsigned k = 0; k < 16; k += 2) {
      const float* left = block->peer(g * 4 + k % 8 / 2).shown.fragment + 2 * (low + k / 8 * 2);
      const float* right = block->peer(column * 4 + k % 8 / 2).shown.fragment + 2 * (4 + k / 8);
      sum += left[0] * right[0] + left[1] * right[1];
    }
    sums[index] += sum;
  }
  meet("mma", __LINE__);
}

/// The bytes arrive when somebody waits for them, and not before: who does not wait reads what was there.
inline void copy_async_16(void* shared, const void* global, bool is_there) {
  block->check_row(shared, "cp.async outside of shared memory or off its boundary", __LINE__);
  check_boundary(global);
  block->self().copies.push_back({shared, is_there ? global : nullptr});
}

inline void copy_async_commit() {
  Fiber& fiber = block->self();
  fiber.groups.push_back(fiber.copies.size());
}

inline void copy_async_wait(unsigned left) {
  Fiber& fiber = block->self();
  if (fiber.groups.size() <= left) return;
  const size_t groups = fiber.groups.size() - left, end = fiber.groups[groups - 1];
  for (size_t index = 0; index < end; index++) {
    const Copy& copy = fiber.copies[index];
    if (copy.from == nullptr) {
      std::memset(copy.to, 0, ROW_BYTES);
    } else {
      std::memcpy(copy.to, copy.from, ROW_BYTES);
    }
  }
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + ptrdiff_t(end));
  fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + ptrdiff_t(groups));
  for (size_t& group : fiber.groups) group -= end;
}

/// The old value. Blocks run on several threads of the host.
inline uint32_t atomic_add(uint32_t* at, uint32_t value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }

inline void atomic_max(uint32_t* at, uint32_t value) {
  uint32_t held = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (held < value && !__atomic_compare_exchange_n(at, &held, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

}  // namespace emu
