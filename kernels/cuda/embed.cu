// The first hidden states: rows of the tables of words, positions and types, added up, scaled and normalised in one pass.
// Ids are the host's promise: it refuses a batch whose ids lie outside of the tables.
#include "row_norm.cuh"

struct EmbedArgs {
  const void* words;             // [vocabulary, dims]
  const void* positions;         // [positions, dims]; null: positions are not learned
  const void* types;             // [types, dims]; null: there are none
  const uint32_t* word_ids;      // [rows]
  const uint32_t* position_ids;  // [rows]: from 0 in each sequence
  const uint8_t* type_ids;       // [rows]; null: all are of type 0
  const float* weight;           // [dims]; null without a norm
  const float* shift;            // [dims]; null: nothing is added
  void* out;                     // [rows, dims]
  uint32_t rows, dims;
  uint32_t position_first;  // the row of position 0: RoBERTa's tables begin with rows that no token has
  float scale;              // of the words' rows: Gemma's is sqrt(dims)
  float eps, weight_plus;
};

template <class T, Norm NORM, int ROW_WARPS, int STEPS>
__device__ __forceinline__ void embed(const EmbedArgs& args) {
  const RowNorm norm = {args.weight, args.shift, args.out, args.rows, args.dims, args.eps, args.weight_plus};
  const auto entry = [&](const void* table, size_t id, unsigned dim) {
    return static_cast<const T*>(table) + id * args.dims + dim;
  };
  norm_rows<T, NORM, ROW_WARPS, STEPS>(norm, [&](unsigned row, unsigned dim, float(&values)[8]) {
    load_8(entry(args.words, args.word_ids[row], dim), values);
#pragma unroll
    for (int index = 0; index < 8; index++) values[index] *= args.scale;
    if (args.positions != nullptr) {
      add_8(entry(args.positions, size_t(args.position_ids[row]) + args.position_first, dim), values);
    }
    if (args.types != nullptr) {
      const unsigned type = args.type_ids != nullptr ? args.type_ids[row] : 0;
      add_8(entry(args.types, type, dim), values);
    }
  });
}

// w: warps a row; s: steps. Rows of up to 512, 1024, 2048, 4096 and 8192 elements.
#define EMBED(name, NORM, dtype)                                                                  \
  SHOAL_KERNEL(embed_##name##_w1s2_##dtype, EmbedArgs, NORM_THREADS, 8, embed<dtype, NORM, 1, 2>) \
  SHOAL_KERNEL(embed_##name##_w1s4_##dtype, EmbedArgs, NORM_THREADS, 6, embed<dtype, NORM, 1, 4>) \
  SHOAL_KERNEL(embed_##name##_w4s2_##dtype, EmbedArgs, NORM_THREADS, 8, embed<dtype, NORM, 4, 2>) \
  SHOAL_KERNEL(embed_##name##_w4s4_##dtype, EmbedArgs, NORM_THREADS, 6, embed<dtype, NORM, 4, 4>) \
  SHOAL_KERNEL(embed_##name##_w4s8_##dtype, EmbedArgs, NORM_THREADS, 4, embed<dtype, NORM, 4, 8>)

EMBED(layer, Norm::Layer, bf16)
#if !defined(SHOAL_EMU_PLANT)
EMBED(layer, Norm::Layer, f16)
EMBED(plain, Norm::None, f16)
EMBED(plain, Norm::None, bf16)
#endif
