/* Subtract and divide in one pass; out of float16 or float32. */

#include <stdint.h>
#include <string.h>

static float widen(uint16_t half) {
  uint32_t bits = (uint32_t)(half & 0x7fff) << 13, tiny = 0x77800000; /* 2^112: the exponents' gap */
  float number, factor;
  memcpy(&number, &bits, 4), memcpy(&factor, &tiny, 4);
  number *= factor;
  memcpy(&bits, &number, 4);
  bits |= (uint32_t)(half & 0x8000) << 16 | ((half & 0x7c00) == 0x7c00 ? 0x7f800000 : 0);
  memcpy(&number, &bits, 4);
  return number;
}

void scale_float16(const uint16_t *restrict from, float *restrict to, float mean, float divisor,
                   int64_t size, int64_t num_threads) {
  #pragma omp parallel for simd num_threads(num_threads)
  for (int64_t i = 0; i < size; i++) to[i] = (widen(from[i]) - mean) / divisor;
}

void scale_float32(const float *restrict from, float *restrict to, float mean, float divisor,
                   int64_t size, int64_t num_threads) {
  #pragma omp parallel for simd num_threads(num_threads)
  for (int64_t i = 0; i < size; i++) to[i] = (from[i] - mean) / divisor;
}
