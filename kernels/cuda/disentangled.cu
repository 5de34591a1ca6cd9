// Disentangled attention (He et al. 2021; DeBERTa-v2 and -v3): before it is scaled, the score of the query at i and the key
// at j has beside q_i k_j also q_i K[b] and k_j Q[b], where b is the bucket of their distance and K and Q are tables of the
// head, which do not depend on the text. Everybody sees the whole sequence; one block computes 64 queries of one head of one
// sequence over tiles of 64 keys, as `attention` does.
//
// Both terms are products of tokens with the rows of a table between two distances. Sixteen tokens and 64 others lie at 79
// distances, and buckets rise by at most one from distance to distance: 80 rows of the table. A warp multiplies its sixteen
// with those on tensor cores, into shared memory, from where each score takes the one of its distance.
#include "attention.cuh"

struct DisentangledArgs {
  AttentionArgs attention;      // without a bias or a window; as many heads of keys as of queries
  const void* keys;             // K: [heads, rows, HEAD_DIM] in the order of `key_rows`, or null: no such term
  const void* queries;          // Q: likewise
  const uint32_t* key_rows;     // [2 * reach + 1], rising: the row of K for key minus query from -reach on
  const uint32_t* query_rows;   // likewise that of Q for query minus key
  uint32_t rows, reach;
};

constexpr int TABLE_KEYS = 64;
/// Distances of a tile of queries and a tile of keys, one more than there are.
constexpr int DISTANCES = QUERIES + TABLE_KEYS;
/// Rows of a table that sixteen tokens meet, and elements from one of their products to the next: lanes that read a tile's
/// transpose hit different banks.
constexpr int BAND = ROWS + TABLE_KEYS, BAND_STRIDE = BAND + 5;

/// Row r and column c of a tile are DISTANCES / 2 - 1 + c - r distances from the least of all.
__device__ __forceinline__ int distance_of(int row, int column) { return DISTANCES / 2 - 1 + column - row; }

/// The table's row for each distance of a tile, less that for the least, which is returned.
__device__ __forceinline__ int write_rows(int* to, const uint32_t* rows, int reach, int least) {
  const auto row = [&](int distance) { return int(rows[max(-reach, min(distance, reach)) + reach]); };
  const int first = row(least);
  to[threadIdx.x] = row(least + int(threadIdx.x)) - first;
  return first;
}

/// products [16, BAND] = tokens [16, HEAD_DIM] table [BAND, HEAD_DIM]^T, of one warp.
template <class T, int HEAD_DIM>
__device__ __forceinline__ void multiply(float* products, const T* tokens, const T* table) {
  constexpr int LD = TILE_STRIDE<HEAD_DIM>, STEPS = HEAD_DIM / 16;
  const unsigned lane = threadIdx.x % WARP_THREADS;
  uint32_t a[STEPS][4];
#pragma unroll
  for (int step = 0; step < STEPS; step++) ldmatrix_x4(a[step], tokens + lane % 16 * LD + step * 16 + lane / 16 * 8);
  const T* from = table + (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8;
  float* to = products + lane / 4 * BAND_STRIDE + lane % 4 * 2;
#pragma unroll
  for (int column = 0; column < BAND; column += 16) {
    float sums[2][4] = {};
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      uint32_t b[4];
      ldmatrix_x4(b, from + column * LD + step * 16);
      mma_m16n8k16<T>(sums[0], a[step], b[0], b[1]);
      mma_m16n8k16<T>(sums[1], a[step], b[2], b[3]);
    }
#pragma unroll
    for (int index = 0; index < 8; index++) {
      to[index / 2 % 2 * 8 * BAND_STRIDE + column + index / 4 * 8 + index % 2] = sums[index / 4][index % 4];
    }
  }
}

/// Block x: sequence and head, block y: 64 queries. Shared memory: a tile of queries, of keys and of values, the rows of one
/// table after the other, what tokens have with them, and which row is whose.
template <class T, int HEAD_DIM>
__device__ __forceinline__ void disentangled(const DisentangledArgs& all) {
  constexpr int KEYS = TABLE_KEYS, LD = TILE_STRIDE<HEAD_DIM>;
  const AttentionArgs& args = all.attention;
  const Span<T> span = span_of<T, HEAD_DIM>(args, blockIdx.x / args.heads, blockIdx.x % args.heads);
  const int first = blockIdx.y * QUERIES;
  if (first >= span.queries) return;

  SHOAL_DYNAMIC_SHARED(shared);
  T* q_tile = reinterpret_cast<T*>(shared);
  T* k_tile = q_tile + QUERIES * LD;
  T* v_tile = k_tile + KEYS * LD;
  T* table = v_tile + KEYS * LD;
  float* products = reinterpret_cast<float*>(table + DISTANCES * LD);
  int* key_rows = reinterpret_cast<int*>(products + QUERIES * BAND_STRIDE);
  int* query_rows = key_rows + DISTANCES;
  const unsigned thread = threadIdx.x, warp = thread / WARP_THREADS, lane = thread % WARP_THREADS;
  const int own = int(warp) * ROWS, reach = int(all.reach);
  const auto ask = [&](T* tile, const T* rows, unsigned stride, int key) {
    ask_for_rows<T, HEAD_DIM, KEYS, ATTENTION_THREADS>(tile, rows, stride, key, span.keys, thread);
  };
  const auto ask_for_table = [&](const void* tables, int row) {
    const T* head = static_cast<const T*>(tables) + size_t(span.head) * all.rows * HEAD_DIM;
    ask_for_rows<T, HEAD_DIM, DISTANCES, ATTENTION_THREADS>(table, head, HEAD_DIM, row, int(all.rows), thread);
  };

  ask_for_rows<T, HEAD_DIM, QUERIES, ATTENTION_THREADS>(q_tile, span.q, args.q_stride, first, span.queries, thread);
  ask(k_tile, span.k, args.k_stride, 0);
  Queries16<T, HEAD_DIM, Bias::None, KEYS> queries;
  T* own_queries = q_tile + own * LD;
  for (int key = 0; key < span.keys; key += KEYS) {
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();  // the keys (and queries) of every thread are here, and nobody reads what was before any more
    if (key == 0) queries.start(own_queries);
    const int key_row = write_rows(key_rows, all.key_rows, reach, key - (first + QUERIES - 1));
    const int query_row = write_rows(query_rows, all.query_rows, reach, first - (key + KEYS - 1));
    ask(v_tile, span.v, args.v_stride, key);
    if (all.keys) ask_for_table(all.keys, key_row);
    copy_async_commit();
    queries.score(k_tile);
    copy_async_wait<0>();
    __syncthreads();  // the values, the first table and whose its rows are: all here
    if (all.keys) {
      const int start = key_rows[distance_of(own + ROWS - 1, 0)];
      multiply<T, HEAD_DIM>(products + own * BAND_STRIDE, own_queries, table + start * LD);
      __syncwarp();
#pragma unroll
      for (int index = 0; index < KEYS / 2; index++) {
        const int column = index / 4 * 8 + lane % 4 * 2 + index % 2, row = own + lane / 4 + index / 2 % 2 * 8;
        const int at = key_rows[distance_of(row, column)] - start;
        queries.scores[index / 4][index % 4] += products[row * BAND_STRIDE + at];
      }
    }
    if (all.queries) {
      __syncthreads();  // nobody reads the first table any more
      ask_for_table(all.queries, query_row);
      copy_async_commit();
      copy_async_wait<0>();
      __syncthreads();  // the second table is here
      const int start = query_rows[distance_of(own + ROWS - 1, 0)];
      multiply<T, HEAD_DIM>(products + own * BAND_STRIDE, k_tile + own * LD, table + start * LD);
    }
    __syncthreads();  // the products of all keys are here, and nobody reads these keys any more
    if (key + KEYS < span.keys) ask(k_tile, span.k, args.k_stride, key + KEYS);
    if (all.queries) {
#pragma unroll
      for (int index = 0; index < KEYS / 2; index++) {
        const int row = index / 4 * 8 + lane % 4 * 2 + index % 2, column = own + lane / 4 + index / 2 % 2 * 8;
        const int start = query_rows[distance_of(row / ROWS * ROWS + ROWS - 1, 0)];
        const int at = query_rows[distance_of(row, column)] - start;
        queries.scores[index / 4][index % 4] += products[row * BAND_STRIDE + at];
      }
    }
    queries.look(args, span, first + own, key, key + KEYS > span.keys);
    queries.weigh();
    queries.add(v_tile);
  }
  queries.finish(args, span, first + own, own_queries);
}

// The head sizes of the published models, and a smaller one.
#define DISENTANGLED(dim, dtype)                                                               \
  SHOAL_KERNEL(attention_disentangled_d##dim##_##dtype, DisentangledArgs, ATTENTION_THREADS, 2, \
               disentangled<dtype, dim>)

#if defined(SHOAL_EMU_PLANT)  // with a bug in it: enough to notice it
DISENTANGLED(64, bf16)
#else
DISENTANGLED(32, f16)
DISENTANGLED(64, f16)
DISENTANGLED(32, bf16)
DISENTANGLED(64, bf16)
#endif
