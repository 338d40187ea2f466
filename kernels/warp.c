/* Rotated, scaled, shifted and mirrored copies of volumes.

   For 64 voxels at a time the places first, in vector registers; then two neighbours with every
   load, which is faster than gathering eight; then the last step between these two. */

#include <stdint.h>
#include <string.h>
#define CHUNK 64
typedef float four __attribute__((vector_size(16)));

static inline four load(const float *from) {
  four numbers;
  memcpy(&numbers, from, 16);
  return numbers;
}

/* out[w][h] = src at map * (d, w, h, 1), linear in between, `fill` outside of the volume; three
   numbers after the end of src are read as well */
static void warp_slice(const float *restrict src, float *restrict out, const double *map,
                       float fill, int d, int D, int W, int H) {
  int dx = D > 1 ? W * H : 0, dy = W > 1 ? H : 0;
  int last_i = D > 1 ? D - 2 : 0, last_j = W > 1 ? W - 2 : 0, last_k = H > 1 ? H - 2 : 0;
  for (int w = 0; w < W; w++) {
    double x0 = map[0] * d + map[1] * w + map[3];
    double y0 = map[4] * d + map[5] * w + map[7];
    double z0 = map[8] * d + map[9] * w + map[11];
    float *row = out + (int64_t)w * H;
    for (int start = 0; start < H; start += CHUNK) {
      int n = H - start < CHUNK ? H - start : CHUNK, at[CHUNK], inside[CHUNK];
      float fx[CHUNK], fy[CHUNK], fz[CHUNK], both[CHUNK][2];
      #pragma omp simd
      for (int c = 0; c < n; c++) {
        int h = start + c;
        double x = x0 + map[2] * h, y = y0 + map[6] * h, z = z0 + map[10] * h;
        inside[c] = (x >= -0.5) & (x < D - 0.5) & (y >= -0.5) & (y < W - 0.5)
                  & (z >= -0.5) & (z < H - 0.5);
        x = x < 0 ? 0 : x; x = x > D - 1 ? D - 1 : x;
        y = y < 0 ? 0 : y; y = y > W - 1 ? W - 1 : y;
        z = z < 0 ? 0 : z; z = z > H - 1 ? H - 1 : z;
        int i = (int)x, j = (int)y, k = (int)z;
        i = i > last_i ? last_i : i; j = j > last_j ? last_j : j; k = k > last_k ? last_k : k;
        fx[c] = (float)(x - i); fy[c] = (float)(y - j); fz[c] = (float)(z - k);
        at[c] = (i * W + j) * H + k;
      }
      for (int c = 0; c < n; c++) {
        const float *p = src + at[c];
        four a = load(p), b = load(p + dy), e = load(p + dx), f = load(p + dx + dy);
        a += fy[c] * (b - a), e += fy[c] * (f - e), a += fx[c] * (e - a);
        memcpy(both[c], &a, 8);
      }
      #pragma omp simd
      for (int c = 0; c < n; c++)
        row[start + c] = inside[c] ? both[c][0] + fz[c] * (both[c][1] - both[c][0]) : fill;
    }
  }
}

/* Maps one volume, [D][W][H], as above; fills the whole copy. */
void warp(const float *source, float *copy, const double *map, float fill, int64_t D, int64_t W,
          int64_t H, int64_t num_threads) {
  #pragma omp parallel for num_threads(num_threads) schedule(dynamic, 8)
  for (int64_t d = 0; d < D; d++) warp_slice(source, copy + d * W * H, map, fill, d, D, W, H);
}
