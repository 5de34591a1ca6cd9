// Everything that the kernels need of the machine: every line of PTX of the project stands here, with its twin for the
// host emulation (../emu), so that each kernel runs on machines without a GPU.
//
// Written for sm_80 and newer: cp.async, ldmatrix, mma.m16n8k16 (PTX ISA 7.0).
#pragma once

#if defined(SHOAL_EMU_VARIANT)

#include "../emu/host/device.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define SHOAL_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

// `blocks`: how many of these blocks a multiprocessor shall hold, which bounds the registers; left to guess, ptxas spills.
#define SHOAL_KERNEL(name, Args, threads, blocks, ...)                                                    \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args args) { \
    __VA_ARGS__(args);                                                                                    \
  }

using f16 = __half;
using bf16 = __nv_bfloat16;

#endif

using f32 = float;

constexpr unsigned WARP_THREADS = 32;
constexpr unsigned ALL_LANES = 0xffffffff;

/// 16 bytes: what one load, one store or one asynchronous copy moves. Eight 16-bit elements.
struct alignas(16) Packed8 {
  uint32_t pair[4];
};

/// Two neighbouring elements of a 16-bit type, as f32.
struct Pair {
  float low, high;
};

#if defined(SHOAL_EMU_VARIANT)

template <class T>
inline Pair unpack(uint32_t pair) {
  return {::emu::widen_half<T>(pair, 0), ::emu::widen_half<T>(pair, 1)};
}

template <class T>
inline uint32_t pack(float low, float high) {
  T pair[2];
  ::emu::narrow(low, pair[0]);
  ::emu::narrow(high, pair[1]);
  return pair[0].bits | uint32_t(pair[1].bits) << 16;
}

inline Packed8 load_16_bytes(const void* from) {
  ::emu::check_boundary(from);
  Packed8 value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

inline void store_16_bytes(void* to, const Packed8& value) {
  ::emu::check_boundary(to);
  __builtin_memcpy(to, &value, sizeof value);
}

inline float exp2_approximate(float x) { return exp2f(x); }
inline float rsqrt_approximate(float x) { return 1.0f / sqrtf(x); }
inline float reciprocal_approximate(float x) { return 1.0f / x; }

inline float float_of_bits(uint32_t bits) { return ::emu::half::float_of(bits); }
inline uint32_t bits_of_float(float value) { return ::emu::half::bits_of(value); }

inline void atomic_max(uint32_t* at, uint32_t value) { ::emu::atomic_max(at, value); }

inline void copy_async_16(void* shared, const void* global, bool is_there) {
  ::emu::copy_async_16(shared, global, is_there);
}
inline void copy_async_commit() { ::emu::copy_async_commit(); }
template <int LEFT>
inline void copy_async_wait() {
  ::emu::copy_async_wait(LEFT);
}

inline void ldmatrix_x4(uint32_t (&to)[4], const void* row) { ::emu::ldmatrix_x4(to, row, false); }
inline void ldmatrix_x4_transposed(uint32_t (&to)[4], const void* row) { ::emu::ldmatrix_x4(to, row, true); }

template <class T>
inline void mma_m16n8k16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  ::emu::mma_m16n8k16<T>(sums, a, b0, b1);
}

#else

template <class T>
__device__ __forceinline__ Pair unpack(uint32_t pair);
template <>
__device__ __forceinline__ Pair unpack<f16>(uint32_t pair) {
  const float2 wide = __half22float2(*reinterpret_cast<const __half2*>(&pair));
  return {wide.x, wide.y};
}
template <>
__device__ __forceinline__ Pair unpack<bf16>(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
}

template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack<f16>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ __forceinline__ uint32_t pack<bf16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ Packed8 load_16_bytes(const void* from) {
  const uint4 value = *static_cast<const uint4*>(from);
  return {{value.x, value.y, value.z, value.w}};
}

__device__ __forceinline__ void store_16_bytes(void* to, const Packed8& value) {
  *static_cast<uint4*>(to) = make_uint4(value.pair[0], value.pair[1], value.pair[2], value.pair[3]);
}

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float rsqrt_approximate(float x) { return rsqrtf(x); }

__device__ __forceinline__ float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t bits_of_float(float value) { return __float_as_uint(value); }

/// The order in which several threads come makes no difference to a maximum.
__device__ __forceinline__ void atomic_max(uint32_t* at, uint32_t value) { atomicMax(at, value); }

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Sixteen bytes from global to shared memory, past L1; zeros where the source is not there.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool is_there) {
  const int bytes = is_there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `LEFT` of this thread's groups are under way. Other threads' bytes need a barrier, too.
template <int LEFT>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

/// `sums [16, 8] += a [16, 16] b [16, 8]` for a warp, with f32 sums (PTX ISA, mma.m16n8k16).
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma_m16n8k16<f16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma_m16n8k16<bf16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
