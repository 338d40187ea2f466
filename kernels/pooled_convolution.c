/* Convolution with 3 x 3 x 3 taps, zeros around the volume, and max-pooling by 2, in one pass.

   The convolution's own output, eight numbers for each one that is kept, stays in registers. Its
   gradient is zero but at the places of the maxima, so that the way back visits these alone.

   Volumes are padded, channels last: [2 * w2 + 2][2 * h2 + 2][2 * d2 + 2][INPUTS], where w2, h2, d2
   are the sizes after pooling, rounded up. Weights: [OUTPUTS][3 * 3 * 3][INPUTS]. Pooled outputs,
   places of their maxima (0 to 7) and gradients: [w2][h2][d2][OUTPUTS]. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined __AVX512F__
#define LANES (OUTPUTS % 16 ? 8 : 16)
#elif defined __AVX__
#define LANES 8
#else
#define LANES 4
#endif
#define TAPS (27 * INPUTS)

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4)));

typedef struct { int64_t w, h, d; } size; /* before pooling */
static int64_t right(int place) { return place >> 2; }
static int64_t front(int place) { return place >> 1 & 1; }
static int64_t up(int place) { return place & 1; }

#define AT(w, h, d) ((((w) * padded_h + (h)) * padded_d + (d)) * INPUTS)
#define FOR_POOLED(a, b, c) \
  int64_t w2 = (of.w + 1) / 2, h2 = (of.h + 1) / 2, d2 = (of.d + 1) / 2; \
  int64_t padded_h = 2 * h2 + 2, padded_d = 2 * d2 + 2; \
  for (int64_t a = 0; a < w2; a++) for (int64_t b = 0; b < h2; b++) for (int64_t c = 0; c < d2; c++)

static void pool(const float *restrict volume, const float *restrict packed,
                 const float *restrict bias, float *restrict out, uint8_t *restrict places,
                 size of) {
  FOR_POOLED(a, b, c) {
    for (int first = 0; first < OUTPUTS; first += LANES) {
      lanes sum[8];
      for (int p = 0; p < 8; p++) sum[p] = *(const lanes *)(bias + first);
      const float *tap = packed + first * TAPS;
      for (int i = 0; i < 3; i++) for (int j = 0; j < 3; j++) {
        const float *row = volume + AT(2 * a + i, 2 * b + j, 2 * c);
        #pragma GCC unroll 4
        for (int k = 0; k < 3 * INPUTS; k++, tap += LANES) {
          lanes weight = *(const lanes *)tap;
          #pragma GCC unroll 8
          for (int p = 0; p < 8; p++) sum[p] += weight * row[AT(right(p), front(p), up(p)) + k];
        }
      }
      lanes best = sum[0];
      whole place = {0};
      #pragma GCC unroll 8
      for (int p = 1; p < 8; p++) {
        if (2 * a + right(p) >= of.w || 2 * b + front(p) >= of.h || 2 * c + up(p) >= of.d)
          continue;
        whole take = (sum[p] > best) | (sum[p] != sum[p]); /* what is no number stays seen */
        best = (lanes)((take & (whole)sum[p]) | (~take & (whole)best));
        place = (take & p) | (~take & place);
      }
      *(lanes *)out = best;
      for (int l = 0; l < LANES; l++) places[l] = place[l];
      out += LANES, places += LANES;
    }
  }
}

int runs_in_parallel(void) {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

/* Returns 0, or 1 without memory. */
int pooled_convolution(const float *volumes, const float *weight, const float *bias, float *out,
                       uint8_t *places, int64_t num_volumes, int64_t w, int64_t h, int64_t d,
                       int64_t num_threads) {
  size of = {w, h, d};
  int64_t num_pooled = ((w + 1) / 2) * ((h + 1) / 2) * ((d + 1) / 2);
  int64_t num_padded = 8 * ((w + 1) / 2 + 1) * ((h + 1) / 2 + 1) * ((d + 1) / 2 + 1) * INPUTS;
  float *packed = malloc(sizeof(float) * OUTPUTS * TAPS); /* LANES outputs side by side */
  if (!packed) return 1;
  for (int o = 0; o < OUTPUTS; o++) for (int t = 0; t < TAPS; t++)
    packed[(o / LANES * TAPS + t) * LANES + o % LANES] = weight[o * TAPS + t];
  #pragma omp parallel for num_threads(num_threads) schedule(dynamic)
  for (int64_t n = 0; n < num_volumes; n++)
    pool(volumes + n * num_padded, packed, bias, out + n * num_pooled * OUTPUTS,
         places + n * num_pooled * OUTPUTS, of);
  free(packed);
  return 0;
}

#if INPUTS == 1
/* Every place's share of the 4 x 4 x 4 voxels around it, then the taps out of these. */
static void spread(const float *restrict volume, const float *restrict grad,
                   const uint8_t *restrict places, float (*restrict sums)[8][64], size of) {
  FOR_POOLED(a, b, c) {
    float around[64];
    for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++)
      memcpy(around + 16 * i + 4 * j, volume + AT(2 * a + i, 2 * b + j, 2 * c), 16);
    for (int o = 0; o < OUTPUTS; o++) {
      float g = *grad++, *sum = sums[o][*places++];
      for (int k = 0; k < 64; k++) sum[k] += g * around[k];
    }
  }
}
#else
static void spread(const float *restrict volume, const float *restrict weight,
                   const float *restrict grad, const uint8_t *restrict places,
                   float *restrict grad_weight, float *restrict grad_volume, size of) {
  for (int o = 0; o < OUTPUTS; o++) {
    float *restrict to = grad_weight + o * TAPS;
    const float *restrict from = weight + o * TAPS;
    int64_t at = o;
    FOR_POOLED(a, b, c) {
      float g = grad[at];
      int p = places[at];
      at += OUTPUTS;
      if (g == 0) continue; /* half of them, behind a ReLU */
      int64_t corner = AT(2 * a + right(p), 2 * b + front(p), 2 * c + up(p));
      for (int i = 0; i < 3; i++) for (int j = 0; j < 3; j++) {
        const float *row = volume + corner + AT(i, j, 0);
        float *grad_row = grad_volume + corner + AT(i, j, 0);
        int tap = (3 * i + j) * 3 * INPUTS;
        for (int k = 0; k < 3 * INPUTS; k++) to[tap + k] += g * row[k];
        for (int k = 0; k < 3 * INPUTS; k++) grad_row[k] += g * from[tap + k];
      }
    }
  }
}
#endif

/* Fills grad_weights, [num_pieces][OUTPUTS][27][INPUTS], one sum for each piece of the batch, and
   adds to the padded grad_volumes where there are several inputs. Returns 0, or 1 without memory. */
int pooled_convolution_back(const float *volumes, const float *weight, const float *grad,
                            const uint8_t *places, float *grad_weights, float *grad_volumes,
                            int64_t num_volumes, int64_t num_pieces, int64_t w, int64_t h,
                            int64_t d, int64_t num_threads) {
  size of = {w, h, d};
  int64_t num_pooled = ((w + 1) / 2) * ((h + 1) / 2) * ((d + 1) / 2) * OUTPUTS;
  int64_t num_padded = 8 * ((w + 1) / 2 + 1) * ((h + 1) / 2 + 1) * ((d + 1) / 2 + 1) * INPUTS;
  int failed = 0;
  #pragma omp parallel for num_threads(num_threads) schedule(dynamic) reduction(|:failed)
  for (int64_t piece = 0; piece < num_pieces; piece++) {
    int64_t begin = num_volumes * piece / num_pieces;
    int64_t end = num_volumes * (piece + 1) / num_pieces;
    float *to = grad_weights + piece * OUTPUTS * TAPS;
    memset(to, 0, sizeof(float) * OUTPUTS * TAPS);
#if INPUTS == 1
    float (*sums)[8][64] = calloc(OUTPUTS, sizeof *sums);
    failed |= !sums;
    if (!sums) continue;
    for (int64_t n = begin; n < end; n++)
      spread(volumes + n * num_padded, grad + n * num_pooled, places + n * num_pooled, sums, of);
    for (int o = 0; o < OUTPUTS; o++) for (int p = 0; p < 8; p++)
      for (int i = 0; i < 3; i++) for (int j = 0; j < 3; j++) for (int k = 0; k < 3; k++)
        to[o * 27 + 9 * i + 3 * j + k] +=
            sums[o][p][16 * (i + right(p)) + 4 * (j + front(p)) + k + up(p)];
    free(sums);
#else
    for (int64_t n = begin; n < end; n++)
      spread(volumes + n * num_padded, weight, grad + n * num_pooled, places + n * num_pooled, to,
             grad_volumes + n * num_padded, of);
#endif
  }
  return failed;
}
