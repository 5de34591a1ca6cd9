// From token rows to one vector per sequence, in f32. An empty sequence gives zeros.
#include "lanes.cuh"

struct PoolArgs {
  const void* x;               // [tokens, dims]
  const uint32_t* cu_seqlens;  // [sequences + 1]
  float* out;                  // [sequences, dims], rows `out_stride` elements apart
  uint32_t sequences, dims;    // dims: a multiple of 8
  uint32_t out_stride;
  uint32_t pooling;
};

/// As the host counts them (`kernels/src/cuda/pool.rs`).
enum class Pooling : uint32_t { Cls, Last, Max, Mean, MeanSqrtLen, WeightedMean };

constexpr unsigned POOL_THREADS = 128, POOL_COLUMNS = 16, POOL_PARTS = POOL_THREADS / POOL_COLUMNS;

/// Block x: a sequence, block y: 128 dimensions. Eight threads have the same eight dimensions of every eighth token each;
/// their parts come together in one order.
template <class T>
__device__ __forceinline__ void pool(const PoolArgs& args) {
  SHOAL_DYNAMIC_SHARED(shared);
  float* parts = reinterpret_cast<float*>(shared);  // [POOL_PARTS][POOL_COLUMNS * 8]
  const Pooling pooling = Pooling(args.pooling);
  const bool is_max = pooling == Pooling::Max;
  const unsigned start = args.cu_seqlens[blockIdx.x], end = args.cu_seqlens[blockIdx.x + 1], tokens = end - start;
  const unsigned from = pooling == Pooling::Last && tokens > 0 ? tokens - 1 : 0;
  const unsigned to = pooling == Pooling::Cls ? min(int(tokens), 1) : tokens;
  const unsigned part = threadIdx.x / POOL_COLUMNS, column = threadIdx.x % POOL_COLUMNS * 8;
  const unsigned dim = blockIdx.y * POOL_COLUMNS * 8 + column;

  float sums[8];
  for (float& sum : sums) sum = is_max ? -INFINITY : 0.0f;
  if (dim < args.dims) {
    for (unsigned token = from + part; token < to; token += POOL_PARTS) {
      float row[8];
      load_8(static_cast<const T*>(args.x) + size_t(start + token) * args.dims + dim, row);
      const float weight = pooling == Pooling::WeightedMean ? float(token + 1) : 1.0f;
#pragma unroll
      for (int index = 0; index < 8; index++) {
        sums[index] = is_max ? fmaxf(sums[index], row[index]) : sums[index] + weight * row[index];
      }
    }
  }
  float* own = parts + part * POOL_COLUMNS * 8 + column;
#pragma unroll
  for (int index = 0; index < 8; index++) own[index] = sums[index];
  __syncthreads();  // every part is here

  const unsigned out_dim = blockIdx.y * POOL_THREADS + threadIdx.x;
  if (out_dim >= args.dims) return;
  float whole = parts[threadIdx.x];
  for (unsigned other = 1; other < POOL_PARTS; other++) {
    const float more = parts[other * POOL_THREADS + threadIdx.x];
    whole = is_max ? fmaxf(whole, more) : whole + more;
  }
  const float count = tokens;
  float scale = 1;
  if (pooling == Pooling::Mean) scale = 1.0f / count;
  if (pooling == Pooling::MeanSqrtLen) scale = 1.0f / sqrtf(count);
  if (pooling == Pooling::WeightedMean) scale = 2.0f / (count * (count + 1.0f));
  args.out[size_t(blockIdx.x) * args.out_stride + out_dim] = tokens > 0 ? whole * scale : 0.0f;
}

SHOAL_KERNEL(pool_bf16, PoolArgs, POOL_THREADS, 8, pool<bf16>)
#if !defined(SHOAL_EMU_PLANT)
SHOAL_KERNEL(pool_f16, PoolArgs, POOL_THREADS, 8, pool<f16>)
#endif
