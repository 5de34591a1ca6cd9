// Attention over packed sequences of any lengths, with an online softmax (FlashAttention-2, Dao 2023): one block of four
// warps computes 64 queries of one head of one sequence, 16 rows a warp, over tiles of keys. No padding, no atomics: a
// sequence's bits do not depend on the batch around it.
//
// Query i of a sequence stands at key position i + keys - queries, so that the last query meets the last key. It sees the
// keys from `window_left` before its position to `window_right` after it; a negative window has no end. Bidirectional is
// (-1, -1), causal (-1, 0), a sliding window (w, w) or (w, 0). kv head h serves heads / kv_heads neighbouring query heads
// (Ainslie et al. 2023).
//
// Scores live in powers of two: `scale` holds log2(e) / sqrt(head_dim), and biases are given times log2(e).
#include "attention.cuh"

/// The keys that queries `first` to `last` see: from, to (exclusive).
template <class T>
__device__ __forceinline__ void keys_seen(const AttentionArgs& args, const Span<T>& span, int first, int last, int& from,
                                          int& to) {
  const int shift = span.keys - span.queries;
  from = args.window_left < 0 ? 0 : max(0, first + shift - args.window_left);
  to = args.window_right < 0 ? span.keys : min(span.keys, last + shift + args.window_right + 1);
}

/// Block x: sequence and head, block y: 64 queries. Shared memory: a tile of queries, of keys and of values.
///
/// Values are on their way while keys are multiplied, and the next keys while values are: two barriers a tile.
template <class T, int HEAD_DIM, Bias BIAS>
__device__ __forceinline__ void attention(const AttentionArgs& args) {
  constexpr int KEYS = TILE_KEYS<HEAD_DIM>, LD = TILE_STRIDE<HEAD_DIM>;
  const Span<T> span = span_of<T, HEAD_DIM>(args, blockIdx.x / args.heads, blockIdx.x % args.heads);
  const int first = blockIdx.y * QUERIES, last = min(first + QUERIES, span.queries) - 1;
  if (first >= span.queries) return;
  int from, to;
  keys_seen(args, span, first, last, from, to);
  from = from / KEYS * KEYS;

  SHOAL_DYNAMIC_SHARED(shared);
  T* q_tile = reinterpret_cast<T*>(shared);
  T* k_tile = q_tile + QUERIES * LD;
  T* v_tile = k_tile + KEYS * LD;
  const unsigned thread = threadIdx.x, warp = thread / WARP_THREADS;
  const auto ask = [&](T* tile, const T* rows, unsigned stride, int key) {
    ask_for_rows<T, HEAD_DIM, KEYS, ATTENTION_THREADS>(tile, rows, stride, key, span.keys, thread);
    copy_async_commit();
  };
  ask_for_rows<T, HEAD_DIM, QUERIES, ATTENTION_THREADS>(q_tile, span.q, args.q_stride, first, span.queries, thread);
  ask(k_tile, span.k, args.k_stride, from);

  Queries16<T, HEAD_DIM, BIAS, KEYS> queries;
  T* own_rows = q_tile + warp * ROWS * LD;
  const int shift = span.keys - span.queries;
  for (int key = from; key < to; key += KEYS) {
    copy_async_wait<0>();
    __syncthreads();  // the keys (and queries) of every thread are here, and nobody reads the values before any more
    if (key == from) queries.start(own_rows);
    ask(v_tile, span.v, args.v_stride, key);
    queries.score(k_tile);
    copy_async_wait<0>();
    __syncthreads();  // the values are here, and nobody reads these keys any more
    if (key + KEYS < to) ask(k_tile, span.k, args.k_stride, key + KEYS);
    const bool is_edge = key + KEYS > span.keys || (args.window_left >= 0 && key < last + shift - args.window_left) ||
                         (args.window_right >= 0 && key + KEYS - 1 > first + shift + args.window_right);
    queries.look(args, span, first + int(warp) * ROWS + shift, key, is_edge);
    queries.weigh();
    queries.add(v_tile);
  }
  if (from >= to) {  // nobody sees anything
    copy_async_wait<0>();
    __syncthreads();
    queries.start(own_rows);
  }
  queries.finish(args, span, first + int(warp) * ROWS, own_rows);
}

/// Sequences of at most 32 queries and keys: one warp each, with tiles of its own and no barrier. Same sums in the same
/// order as `attention`, so that it makes no difference to a text which of them ran.
template <class T, int HEAD_DIM, Bias BIAS, int WARPS>
__device__ __forceinline__ void attention_short(const AttentionArgs& args) {
  constexpr int KEYS = 32, LD = TILE_STRIDE<HEAD_DIM>;
  const unsigned warp = threadIdx.x / WARP_THREADS, lane = threadIdx.x % WARP_THREADS;
  const unsigned item = blockIdx.x * WARPS + warp;
  if (item >= args.sequences * args.heads) return;
  const Span<T> span = span_of<T, HEAD_DIM>(args, item / args.heads, item % args.heads);

  SHOAL_DYNAMIC_SHARED(shared);
  T* q_tile = reinterpret_cast<T*>(shared) + warp * 3 * KEYS * LD;
  T* k_tile = q_tile + KEYS * LD;
  T* v_tile = k_tile + KEYS * LD;
  ask_for_rows<T, HEAD_DIM, KEYS, WARP_THREADS>(q_tile, span.q, args.q_stride, 0, span.queries, lane);
  ask_for_rows<T, HEAD_DIM, KEYS, WARP_THREADS>(k_tile, span.k, args.k_stride, 0, span.keys, lane);
  ask_for_rows<T, HEAD_DIM, KEYS, WARP_THREADS>(v_tile, span.v, args.v_stride, 0, span.keys, lane);
  copy_async_commit();
  copy_async_wait<0>();
  __syncwarp();

  for (int first = 0; first < span.queries; first += ROWS) {
    Queries16<T, HEAD_DIM, BIAS, KEYS> queries;
    T* own_rows = q_tile + first * LD;
    queries.start(own_rows);
    queries.score(k_tile);
    queries.look(args, span, first + span.keys - span.queries, 0, true);
    queries.weigh();
    queries.add(v_tile);
    queries.finish(args, span, first, own_rows);
  }
}

#define ATTENTION(suffix, BIAS, dim, blocks, dtype)                                      \
  SHOAL_KERNEL(attention##suffix##_d##dim##_##dtype, AttentionArgs, ATTENTION_THREADS, blocks, \
               attention<dtype, dim, BIAS>)
#define ATTENTION_SHORT(suffix, BIAS, dim, warps, blocks, dtype)                                     \
  SHOAL_KERNEL(attention_short##suffix##_d##dim##_##dtype, AttentionArgs, warps * WARP_THREADS, blocks, \
               attention_short<dtype, dim, BIAS, warps>)

// Biases by distance: the head sizes of the published models that have them.
#define ATTENTIONS(dtype)                                  \
  ATTENTION(, Bias::None, 32, 4, dtype)                    \
  ATTENTION(, Bias::None, 64, 3, dtype)                    \
  ATTENTION(, Bias::None, 96, 2, dtype)                    \
  ATTENTION(, Bias::None, 128, 2, dtype)                   \
  ATTENTION(, Bias::None, 256, 2, dtype)                   \
  ATTENTION(_alibi, Bias::Alibi, 32, 4, dtype)             \
  ATTENTION(_alibi, Bias::Alibi, 64, 3, dtype)             \
  ATTENTION(_relative, Bias::Relative, 32, 3, dtype)       \
  ATTENTION(_relative, Bias::Relative, 64, 3, dtype)       \
  ATTENTION_SHORT(, Bias::None, 32, 4, 7, dtype)           \
  ATTENTION_SHORT(, Bias::None, 64, 4, 5, dtype)           \
  ATTENTION_SHORT(, Bias::None, 96, 2, 8, dtype)           \
  ATTENTION_SHORT(, Bias::None, 128, 2, 8, dtype)          \
  ATTENTION_SHORT(_alibi, Bias::Alibi, 64, 4, 5, dtype)    \
  ATTENTION_SHORT(_relative, Bias::Relative, 64, 4, 5, dtype)

#if defined(SHOAL_EMU_PLANT)  // with a bug in it: enough to notice it
ATTENTION(, Bias::None, 64, 3, bf16)
ATTENTION_SHORT(, Bias::None, 64, 4, 5, bf16)
#else
ATTENTIONS(f16)
ATTENTIONS(bf16)
#endif
