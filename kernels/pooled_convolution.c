/* Convolution with 3 x 3 x 3 taps and zeros around the volume, max-pooling by 2, and with RELU=1 the
   ReLU, in one pass.

   The convolution's own output, eight numbers for each one that is kept, stays in registers. Its
   gradient is zero but at the places of the maxima, so that the way back visits these alone.

   Volumes are padded, channels last: [2 * w2 + 2][2 * h2 + 2][2 * d2 + 2][INPUTS], where w2, h2, d2
   are the sizes after pooling, rounded up. Weights: [OUTPUTS][3 * 3 * 3][INPUTS]. Outputs, places of
   the maxima (0 to 7, or OFF where the ReLU gave 0) and gradients: [w2][h2][d2][OUTPUTS]. */

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
#define OFF 8
#define NOT_INLINE __attribute__((noinline)) /* or its loop is short of registers */

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4)));

typedef struct { int64_t w, h, d; } size; /* before pooling */
static int64_t right(int place) { return place >> 2; }
static int64_t front(int place) { return place >> 1 & 1; }
static int64_t up(int place) { return place & 1; }

#define AT(w, h, d) ((((w) * padded_h + (h)) * padded_d + (d)) * INPUTS)
#define SIZES \
  int64_t w2 = (of.w + 1) / 2, h2 = (of.h + 1) / 2, d2 = (of.d + 1) / 2; \
  int64_t padded_h = 2 * h2 + 2, padded_d = 2 * d2 + 2;
#define FOR_POOLED(a, b, c) \
  for (int64_t a = 0; a < w2; a++) for (int64_t b = 0; b < h2; b++) for (int64_t c = 0; c < d2; c++)

static void pool(const float *restrict volume, const float *restrict packed,
                 const float *restrict bias, float *restrict out, uint8_t *restrict places,
                 size of) {
  SIZES
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
#if RELU
      whole off = best <= 0;
      best = (lanes)(~off & (whole)best);
      place = (off & OFF) | (~off & place);
#endif
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
typedef struct { float around[OUTPUTS][8][64], bias[OUTPUTS]; } shares;

/* What each place adds to the 4 x 4 x 4 voxels around it; the taps are cut out of these sums. */
static void spread(const float *restrict volume, const float *restrict grad,
                   const uint8_t *restrict places, shares *restrict sums, size of) {
  SIZES
  FOR_POOLED(a, b, c) {
    float around[64];
    for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++)
      memcpy(around + 16 * i + 4 * j, volume + AT(2 * a + i, 2 * b + j, 2 * c), 16);
    for (int o = 0; o < OUTPUTS; o++) {
      float g = *places == OFF ? 0 : *grad, *to = sums->around[o][*places % OFF];
      sums->bias[o] += g, grad++, places++;
      for (int k = 0; k < 64; k++) to[k] += g * around[k];
    }
  }
}
#else
#define INPUT_LANES (INPUTS % LANES ? 4 : LANES)
#define PARTS (3 * INPUTS / INPUT_LANES)
typedef float input_lanes __attribute__((vector_size(4 * INPUT_LANES), aligned(4)));

/* One row of taps, whose sums stay in registers. */
static NOT_INLINE void spread_row(const float *restrict volume, const float *restrict weight,
                                  float *restrict grad_weight, float *restrict grad_volume,
                                  const int64_t *restrict corners, const float *restrict grads,
                                  int64_t num) {
  input_lanes taps[PARTS], sums[PARTS] = {{0}};
  memcpy(taps, weight, sizeof taps);
  for (int64_t n = 0; n < num; n++) {
    const input_lanes *from = (const input_lanes *)(volume + corners[n]);
    input_lanes *to = (input_lanes *)(grad_volume + corners[n]);
    #pragma GCC unroll 12
    for (int k = 0; k < PARTS; k++) sums[k] += grads[n] * from[k], to[k] += grads[n] * taps[k];
  }
  for (int k = 0; k < PARTS; k++) *((input_lanes *)grad_weight + k) += sums[k];
}

/* What is not 0 first, then all of it for one row of taps after the other. */
static void spread(const float *restrict volume, const float *restrict weight,
                   const float *restrict grad, const uint8_t *restrict places,
                   float *restrict grad_weight, float *restrict grad_bias,
                   float *restrict grad_volume, int64_t *restrict corners, float *restrict grads,
                   size of) {
  SIZES
  for (int o = 0; o < OUTPUTS; o++) {
    int64_t at = o, num = 0;
    FOR_POOLED(a, b, c) {
      int p = places[at];
      corners[num] = AT(2 * a + right(p), 2 * b + front(p), 2 * c + up(p));
      grads[num] = grad[at];
      num += (p != OFF) & (grad[at] != 0);
      at += OUTPUTS;
    }
    for (int64_t n = 0; n < num; n++) grad_bias[o] += grads[n];
    for (int i = 0; i < 3; i++) for (int j = 0; j < 3; j++) {
      int64_t row = AT(i, j, 0), tap = o * TAPS + (3 * i + j) * 3 * INPUTS;
      spread_row(volume + row, weight + tap, grad_weight + tap, grad_volume + row, corners, grads,
                 num);
    }
  }
}
#endif

/* Fills grad_weights, [num_pieces][OUTPUTS][27][INPUTS], and grad_biases, [num_pieces][OUTPUTS], one
   sum for each piece of the batch, and adds to the padded grad_volumes where there are several
   inputs. Returns 0, or 1 without memory. */
int pooled_convolution_back(const float *volumes, const float *weight, const float *grad,
                            const uint8_t *places, float *grad_weights, float *grad_biases,
                            float *grad_volumes, int64_t num_volumes, int64_t num_pieces,
                            int64_t w, int64_t h, int64_t d, int64_t num_threads) {
  size of = {w, h, d};
  int64_t num_pooled = ((w + 1) / 2) * ((h + 1) / 2) * ((d + 1) / 2) * OUTPUTS;
  int64_t num_padded = 8 * ((w + 1) / 2 + 1) * ((h + 1) / 2 + 1) * ((d + 1) / 2 + 1) * INPUTS;
  int failed = 0;
  #pragma omp parallel for num_threads(num_threads) schedule(dynamic) reduction(|:failed)
  for (int64_t piece = 0; piece < num_pieces; piece++) {
    int64_t begin = num_volumes * piece / num_pieces;
    int64_t end = num_volumes * (piece + 1) / num_pieces;
    float *to = grad_weights + piece * OUTPUTS * TAPS, *to_bias = grad_biases + piece * OUTPUTS;
    memset(to, 0, sizeof(float) * OUTPUTS * TAPS);
    memset(to_bias, 0, sizeof(float) * OUTPUTS);
#if INPUTS == 1
    shares *sums = aligned_alloc(64, (sizeof *sums + 63) / 64 * 64);
    failed |= !sums;
    if (!sums) continue;
    memset(sums, 0, sizeof *sums);
    for (int64_t n = begin; n < end; n++)
      spread(volumes + n * num_padded, grad + n * num_pooled, places + n * num_pooled, sums, of);
    memcpy(to_bias, sums->bias, sizeof sums->bias);
    for (int o = 0; o < OUTPUTS; o++) for (int p = 0; p < OFF; p++)
      for (int i = 0; i < 3; i++) for (int j = 0; j < 3; j++) for (int k = 0; k < 3; k++)
        to[o * 27 + 9 * i + 3 * j + k] +=
            sums->around[o][p][16 * (i + right(p)) + 4 * (j + front(p)) + k + up(p)];
    free(sums);
#else
    int64_t *corners = malloc(sizeof *corners * (num_pooled / OUTPUTS + 1));
    float *grads = malloc(sizeof *grads * (num_pooled / OUTPUTS + 1));
    failed |= !corners || !grads;
    for (int64_t n = begin; n < end && !failed; n++)
      spread(volumes + n * num_padded, weight, grad + n * num_pooled, places + n * num_pooled, to,
             to_bias, grad_volumes + n * num_padded, corners, grads, of);
    free(corners), free(grads);
#endif
  }
  return failed;
}
