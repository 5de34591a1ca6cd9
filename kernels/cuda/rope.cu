// Rotary positions (Su et al. 2021) on the heads of a projection, in place; before them, where the model has it, the
// normalisation of each query and key head (RMSNorm: Qwen3, Gemma3).
//
// Angles come from a table, so that every scaling of them (linear, NTK, YaRN, Llama 3's) is the host's, in f64.
#include "lanes.cuh"

struct RopeArgs {
  void* x;                    // [rows, heads + kv_heads, head_dim], rows `stride` elements apart; each starts on 16 bytes
  const float* angles;        // [positions, rope_dims / 2, 2]: cosine and sine; null: nothing is rotated
  const uint32_t* positions;  // [rows]
  const float* q_weight;      // [head_dim]: of the first `heads` heads' norm; null: there is none
  const float* k_weight;      // [head_dim]: of the other `kv_heads`
  uint32_t rows, stride, heads, kv_heads;
  uint32_t head_dim;   // a multiple of 16
  uint32_t rope_dims;  // a multiple of 16: the first of a head, which are rotated
  float eps, weight_plus;
};

/// Which elements are rotated together: i and i + rope_dims / 2 (GPT-NeoX, Llama in Hugging Face's layout), or neighbours
/// (the paper, GPT-J).
enum class Pairs { Halves, Neighbours };

constexpr unsigned ROPE_THREADS = 128;

/// LANES threads a head, a power of two; each has eight pairs, or sixteen elements that stay as they are. Threads past the
/// head's end only help to add up.
template <class T, Pairs PAIRS, unsigned LANES>
__device__ __forceinline__ void rope(const RopeArgs& args) {
  const size_t item = (size_t(blockIdx.x) * ROPE_THREADS + threadIdx.x) / LANES;
  const unsigned lane = threadIdx.x % LANES, all_heads = args.heads + args.kv_heads;
  const size_t row = item / all_heads;
  const unsigned head = unsigned(item % all_heads);
  const bool is_there = row < args.rows && lane * 16 < args.head_dim;
  const bool is_rotated = args.angles != nullptr && lane * 16 < args.rope_dims;
  const bool is_apart = PAIRS == Pairs::Halves && is_rotated;
  const unsigned low_at = is_apart ? lane * 8 : lane * 16;
  const unsigned high_at = is_apart ? low_at + args.rope_dims / 2 : low_at + 8;
  T* from = static_cast<T*>(args.x) + row * args.stride + head * args.head_dim;

  float low[8] = {}, high[8] = {};
  if (is_there) {
    load_8(from + low_at, low);
    load_8(from + high_at, high);
  }
  const float* weight = head < args.heads ? args.q_weight : args.k_weight;
  if (args.q_weight != nullptr || args.k_weight != nullptr) {
    float squares = 0;
#pragma unroll
    for (int index = 0; index < 8; index++) squares += low[index] * low[index] + high[index] * high[index];
    const float scale = rsqrt_approximate(warp_sum<LANES>(squares) / args.head_dim + args.eps);
    if (is_there && weight != nullptr) {
#pragma unroll
      for (int index = 0; index < 8; index++) {
        low[index] *= scale * (weight[low_at + index] + args.weight_plus);
        high[index] *= scale * (weight[high_at + index] + args.weight_plus);
      }
    }
  }
  if (!is_there) return;
  if (is_rotated) {
    const float* angles = args.angles + size_t(args.positions[row]) * args.rope_dims + lane * 16;
#pragma unroll
    for (int pair = 0; pair < 8; pair++) {
      const float cosine = angles[2 * pair], sine = angles[2 * pair + 1];
      float* neighbours = pair < 4 ? low + 2 * pair : high + 2 * (pair - 4);
      float& x = PAIRS == Pairs::Halves ? low[pair] : neighbours[0];
      float& y = PAIRS == Pairs::Halves ? high[pair] : neighbours[1];
      const float turned = x * cosine - y * sine;
      y = y * cosine + x * sine;
      x = turned;
    }
  }
  store_8(from + low_at, low);
  store_8(from + high_at, high);
}

// l: threads a head. Heads of up to 32, 64, 128 and 256 elements.
#define ROPE(name, PAIRS, dtype)                                                         \
  SHOAL_KERNEL(rope_##name##_l2_##dtype, RopeArgs, ROPE_THREADS, 4, rope<dtype, PAIRS, 2>) \
  SHOAL_KERNEL(rope_##name##_l4_##dtype, RopeArgs, ROPE_THREADS, 4, rope<dtype, PAIRS, 4>) \
  SHOAL_KERNEL(rope_##name##_l8_##dtype, RopeArgs, ROPE_THREADS, 4, rope<dtype, PAIRS, 8>) \
  SHOAL_KERNEL(rope_##name##_l16_##dtype, RopeArgs, ROPE_THREADS, 4, rope<dtype, PAIRS, 16>)

ROPE(halves, Pairs::Halves, bf16)
#if !defined(SHOAL_EMU_PLANT)
ROPE(halves, Pairs::Halves, f16)
ROPE(neighbours, Pairs::Neighbours, f16)
ROPE(neighbours, Pairs::Neighbours, bf16)
#endif
