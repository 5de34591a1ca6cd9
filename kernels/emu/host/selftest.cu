// Kernels that do what no kernel may, and a few that do it right: the emulation's own tests.
#include "prelude.cuh"

struct SelftestArgs {
  uint32_t* out;
  const uint32_t* in;
  uint32_t choice, count;
};

/// Each thread of the grid counts once.
inline void count_threads(const SelftestArgs& args) { ::emu::atomic_add(args.out, 1); }

/// Reversed through shared memory, block by block.
inline void reverse(const SelftestArgs& args) {
  SHOAL_DYNAMIC_SHARED(shared);
  uint32_t* words = reinterpret_cast<uint32_t*>(shared);
  const unsigned first = blockIdx.x * blockDim.x;
  words[threadIdx.x] = args.in[first + threadIdx.x];
  if (args.choice == 0) __syncthreads();
  args.out[first + threadIdx.x] = words[blockDim.x - 1 - threadIdx.x];
}

/// Half of the threads wait where the others do not.
inline void divergent_barrier(const SelftestArgs&) {
  if (threadIdx.x < WARP_THREADS) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

/// One lane does not take part.
inline void divergent_warp(const SelftestArgs& args) {
  if (threadIdx.x % WARP_THREADS != args.choice) args.out[threadIdx.x] = __shfl_xor_sync(ALL_LANES, threadIdx.x, 1);
}

/// A copy to where `choice` says, waited for or not.
inline void copy(const SelftestArgs& args) {
  SHOAL_DYNAMIC_SHARED(shared);
  copy_async_16(shared + args.choice, args.in, true);
  copy_async_commit();
  if (args.count != 0) copy_async_wait<0>();
  args.out[threadIdx.x] = *reinterpret_cast<uint32_t*>(shared);
}

/// Sixteen bytes from where `choice` says.
inline void load(const SelftestArgs& args) {
  args.out[threadIdx.x] = load_16_bytes(args.in + args.choice).pair[0];
}

/// The lanes whose word is odd, by their bits; and the largest of all words.
inline void vote(const SelftestArgs& args) {
  const uint32_t word = args.in[threadIdx.x];
  args.out[threadIdx.x] = __popc(__ballot_sync(ALL_LANES, word % 2 == 1));
  __syncthreads();
  atomic_max(args.out, word);
}

/// Who comes first writes last.
inline void order(const SelftestArgs& args) { args.out[0] = threadIdx.x; }

SHOAL_KERNEL(selftest_count, SelftestArgs, 1024, 1, count_threads)
SHOAL_KERNEL(selftest_reverse, SelftestArgs, 256, 1, reverse)
SHOAL_KERNEL(selftest_divergent_barrier, SelftestArgs, 64, 1, divergent_barrier)
SHOAL_KERNEL(selftest_divergent_warp, SelftestArgs, 64, 1, divergent_warp)
SHOAL_KERNEL(selftest_copy, SelftestArgs, 32, 1, copy)
SHOAL_KERNEL(selftest_order, SelftestArgs, 256, 1, order)
SHOAL_KERNEL(selftest_load, SelftestArgs, 32, 1, load)
SHOAL_KERNEL(selftest_vote, SelftestArgs, 64, 1, vote)
