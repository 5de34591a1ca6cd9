// Activation functions, in f32.
#pragma once

#include "lanes.cuh"

/// As the host counts them (`kernels/src/cuda/activation.rs`).
enum class Activation : uint32_t { Identity, GeluErf, GeluTanh, Silu, Relu, Tanh };

/// 1 / (1 + exp(-x)): 0 and 1 at the ends, whatever overflows on the way.
__device__ __forceinline__ float sigmoid(float x) {
  constexpr float LOG2_E = 1.4426950408889634f;
  return reciprocal_approximate(1.0f + exp2_approximate(-LOG2_E * x));
}

/// GELU (Hendrycks and Gimpel 2016) with the exact normal distribution, as BERT has it.
__device__ __forceinline__ float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(0.7071067811865476f * x)); }

/// The same paper's approximation; 1 + tanh(y) is 2 sigmoid(2y).
__device__ __forceinline__ float gelu_tanh(float x) {
  constexpr float SQRT_2_OVER_PI = 0.7978845608028654f;
  return x * sigmoid(2.0f * SQRT_2_OVER_PI * (x + 0.044715f * x * x * x));
}

/// One function over eight values: the choice is the same for every thread.
__device__ __forceinline__ void activate_8(uint32_t activation, float (&values)[8]) {
  const auto each = [&](auto function) {
#pragma unroll
    for (float& value : values) value = function(value);
  };
  switch (Activation(activation)) {
    case Activation::Identity: break;
    case Activation::GeluErf: each([](float x) { return gelu_erf(x); }); break;
    case Activation::GeluTanh: each([](float x) { return gelu_tanh(x); }); break;
    case Activation::Silu: each([](float x) { return x * sigmoid(x); }); break;
    case Activation::Relu: each([](float x) { return fmaxf(x, 0.0f); }); break;
    case Activation::Tanh: each([](float x) { return tanhf(x); }); break;
  }
}

/// Sixteen neighbours are eight pairs (gate, up): act(gate) * up.
__device__ __forceinline__ void gate_8(uint32_t activation, const float (&low)[8], const float (&high)[8],
                                       float (&values)[8]) {
  float up[8];
#pragma unroll
  for (int pair = 0; pair < 8; pair++) {
    const float(&from)[8] = pair < 4 ? low : high;
    values[pair] = from[pair % 4 * 2];
    up[pair] = from[pair % 4 * 2 + 1];
  }
  activate_8(activation, values);
#pragma unroll
  for (int pair = 0; pair < 8; pair++) values[pair] *= up[pair];
}
