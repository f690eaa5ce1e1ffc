/* Matrix products, causal convolutions and cached attention for a few rows at a time, on a CPU.
 *
 * What they are for: one frame of a live stream multiplies every weight with one to four rows, so the time is that of
 * reading the weights. They are kept packed, in float32, or in int16 or int8 with a scale an output, in panels that are read
 * once from front to back and widened in registers. Every output is one chain of fused multiply-adds (in tiles.h: of a tile's steps) in the order of its
 * inputs, whatever else is in the batch, so a row's result depends on that row alone, to the last bit.
 *
 * Audio features are [batch, time, channels], float32, contiguous.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

/* Vectors are as wide as a register: gcc keeps wider ones in memory, which is ten times slower. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define PANEL 16 /* a panel is one, two or four times as many outputs wide */
#define WORTH 200000 /* multiplications below which waking another thread costs more than it saves */
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int8_t vec_i8 __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef int16_t vec_i16 __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef int32_t vec_i32 __attribute__((vector_size(4 * LANES)));
#define INLINE static inline __attribute__((always_inline))

INLINE vec read_f32(const float *w) { return *(const vec_u *)w; }
INLINE vec read_i8(const int8_t *w) { /* gcc 12 takes the portable form apart lane by lane */
#if defined(__AVX512F__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i_u *)w)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i_u *)w)));
#else
    return __builtin_convertvector(__builtin_convertvector(*(const vec_i8 *)w, vec_i32), vec);
#endif
}
INLINE vec read_i16(const int16_t *w) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i_u *)w)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i_u *)w)));
#else
    return __builtin_convertvector(__builtin_convertvector(*(const vec_i16 *)w, vec_i32), vec);
#endif
}
/* bfloat16 is the upper half of a float32. */
INLINE vec read_bf16(const uint16_t *w) {
#if defined(__AVX512F__)
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u *)w)), 16);
#elif defined(__AVX2__)
    return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i_u *)w)), 16);
#else
    vec_i32 wide;
    for (int l = 0; l < LANES; l++) wide[l] = (int32_t)((uint32_t)w[l] << 16);
    return (vec)wide;
#endif
}
/* Numbers of a key-value cache, from `at` on: bfloat16 where `half`, else float32. */
INLINE vec read_cache(const void *cache, int64_t at, int half) {
    return half ? read_bf16((const uint16_t *)cache + at) : read_f32((const float *)cache + at);
}
INLINE float read_one(const void *cache, int64_t at, int half) {
    if (!half) return ((const float *)cache)[at];
    const uint32_t bits = (uint32_t)((const uint16_t *)cache)[at] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static void write_cache(void *cache, int64_t at, const float *x, int64_t count, int half) {
    if (!half) {
        memcpy((float *)cache + at, x, count * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < count; i++) { /* to the nearest, to the even one between two */
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        ((uint16_t *)cache)[at + i] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
}
/* a where `mask` is all ones, b where it is zero. */
INLINE vec choose(vec_i32 mask, vec a, vec b) { return (vec)((mask & (vec_i32)a) | (~mask & (vec_i32)b)); }
/* e^x: 2 to the integer nearest to x log2(e), times a polynomial of what is left (|rest| < 0.35, error below 3e-7). */
INLINE vec exponential(vec x) {
    const vec least = (vec){0} - 87.0f, most = (vec){0} + 88.0f;
    x = choose(x < least, least, choose(x > most, most, x));
    const vec magic = (vec){0} + 12582912.0f; /* 1.5 x 2^23: adding it rounds to an integer */
    const vec whole = (x * 1.442695041f + magic) - magic;
    const vec rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    vec y = rest * (1.0f / 720) + 1.0f / 120;
    y = y * rest + 1.0f / 24;
    y = y * rest + 1.0f / 6;
    y = y * rest + 0.5f;
    y = y * rest + 1.0f;
    y = y * rest + 1.0f;
    return y * (vec)((__builtin_convertvector(whole, vec_i32) + 127) << 23);
}

typedef struct {
    const float *scale, *bias, *x, *residual; /* scale, bias [outputs]; residual like y; each may be null */
    float *y;                                 /* [batch, time, outputs] */
    int64_t batch, time, time_in, inputs, outputs, taps, dilation, stride;
} job;

/* Scale, shift and store one instant's outputs. y may be the residual. */
static void store(const job *j, const float *line, int64_t row, int64_t out, int64_t width) {
    const int64_t start = row * j->outputs + out;
    float sum[4 * PANEL];
    memcpy(sum, line, width * sizeof(float));
    if (j->outputs - out < width) width = j->outputs - out;
    if (j->scale) for (int64_t i = 0; i < width; i++) sum[i] *= j->scale[out + i];
    if (j->bias) for (int64_t i = 0; i < width; i++) sum[i] += j->bias[out + i];
    if (j->residual) for (int64_t i = 0; i < width; i++) sum[i] += j->residual[start + i];
    memcpy(j->y + start, sum, width * sizeof(float));
}

/* Ask for the `BYTES` that are needed 8 KB later: with few rows the processor's own guess comes too late. */
#if LANES == 16
#define ASK(PANEL_AT, BYTES)                                                                                         \
    _Pragma("GCC unroll 4") for (uint64_t b = 0; b < (BYTES); b += 64)                                               \
        __builtin_prefetch((const char *)(PANEL_AT) + 8192 + b);
#else
#define ASK(PANEL_AT, BYTES)
#endif

/* A tile is ROWS instants by VECS x LANES outputs, summed in registers while their weights go by. A panel has `width`
 * outputs and `depth` weights; tiles wider than one read several, side by side. */
#define OFFSET(V) ((V) / VECS_A_PANEL * depth + (V) % VECS_A_PANEL * LANES)
#define TILE(NAME, TYPE, READ, ROWS, VECS)                                                                          \
    static __attribute__((noinline)) void tile_##NAME##_##ROWS##_##VECS(const TYPE *panel, int64_t width, int64_t depth, \
                                                                        const job *j, int64_t row, int64_t out) {  \
        vec sum[ROWS][VECS];                                                                                        \
        const float *x[ROWS];                                                                                       \
        _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++) {                                                   \
            int64_t stream = (row + r) / j->time, at = (row + r) % j->time;                                         \
            x[r] = j->x + (stream * j->time_in + at * j->stride) * j->inputs;                                       \
            _Pragma("GCC unroll 16") for (int v = 0; v < VECS; v++) sum[r][v] = (vec){0};                           \
        }                                                                                                           \
        for (int64_t tap = 0; tap < j->taps; tap++) {                                                               \
            const int64_t shift = tap * j->dilation * j->inputs, end = shift + j->inputs;                           \
            for (int64_t k = shift; k < end; k++, panel += width) {                                                 \
                ASK(panel, VECS * LANES * sizeof(TYPE))                                                             \
                if (VECS <= ROWS) { /* what there is fewer of stays in registers beside the sums */                 \
                    vec w[VECS];                                                                                    \
                    _Pragma("GCC unroll 16") for (int v = 0; v < VECS; v++) w[v] = READ(panel + OFFSET(v));         \
                    _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++) {                                       \
                        const float now = x[r][k];                                                                  \
                        _Pragma("GCC unroll 16") for (int v = 0; v < VECS; v++) sum[r][v] += w[v] * now;            \
                    }                                                                                               \
                } else {                                                                                            \
                    float now[ROWS];                                                                                \
                    _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++) now[r] = x[r][k];                       \
                    _Pragma("GCC unroll 16") for (int v = 0; v < VECS; v++) {                                       \
                        const vec w = READ(panel + OFFSET(v));                                                      \
                        _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++) sum[r][v] += w * now[r];            \
                    }                                                                                               \
                }                                                                                                   \
            }                                                                                                       \
        }                                                                                                           \
        _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++) {                                                   \
            vec line[VECS]; /* a copy: what a call may see is kept in memory, and the sums are not to be */         \
            _Pragma("GCC unroll 16") for (int v = 0; v < VECS; v++) line[v] = sum[r][v];                            \
            store(j, (const float *)line, row + r, out, VECS * LANES);                                              \
        }                                                                                                           \
    }

#if LANES == 16 /* 32 registers: a panel is as wide as its tiles, `vecs` x 16 outputs */
#define VECS_A_PANEL 4
#define GROUP 1
#define COLUMN(NAME, TYPE, VECS, TALL)                                                                               \
    static void column_##NAME##_##VECS(const TYPE *panel, const job *j, int64_t row, int64_t end, int64_t out) {     \
        const int64_t width = VECS * LANES;                                                                          \
        for (; row + TALL <= end; row += TALL) tile_##NAME##_##TALL##_##VECS(panel, width, 0, j, row, out);          \
        for (; row + 4 <= end; row += 4) tile_##NAME##_4_##VECS(panel, width, 0, j, row, out);                       \
        for (; row + 2 <= end; row += 2) tile_##NAME##_2_##VECS(panel, width, 0, j, row, out);                       \
        for (; row < end; row++) tile_##NAME##_1_##VECS(panel, width, 0, j, row, out);                               \
    }
/* All rows of one panel, the tallest tiles first. */
#define COLUMNS(NAME, TYPE, READ)                                                                                    \
    TILE(NAME, TYPE, READ, 6, 4) TILE(NAME, TYPE, READ, 4, 4) TILE(NAME, TYPE, READ, 2, 4) TILE(NAME, TYPE, READ, 1, 4) \
    TILE(NAME, TYPE, READ, 12, 2) TILE(NAME, TYPE, READ, 4, 2) TILE(NAME, TYPE, READ, 2, 2) TILE(NAME, TYPE, READ, 1, 2) \
    TILE(NAME, TYPE, READ, 12, 1) TILE(NAME, TYPE, READ, 4, 1) TILE(NAME, TYPE, READ, 2, 1) TILE(NAME, TYPE, READ, 1, 1) \
    COLUMN(NAME, TYPE, 4, 6) COLUMN(NAME, TYPE, 2, 12) COLUMN(NAME, TYPE, 1, 12)                                     \
    static void columns_##NAME(const TYPE *panel, int64_t panels, int64_t depth, int64_t vecs, const job *j,         \
                               int64_t row, int64_t end, int64_t out) {                                              \
        if (vecs == 4) column_##NAME##_4(panel, j, row, end, out);                                                   \
        else if (vecs == 2) column_##NAME##_2(panel, j, row, end, out);                                              \
        else column_##NAME##_1(panel, j, row, end, out);                                                             \
    }
#else /* 16 registers of a cache line's part: every panel is one line, 16 outputs, wide */
#define VECS_A_PANEL (PANEL / LANES)
#define GROUP 4
#if LANES == 8
#define VECS_1 2
#define VECS_2 4
#define VECS_4 8
#else
#define VECS_1 4
#define VECS_2 8
#define VECS_4 16
#endif
#define TILE_OF(NAME, TYPE, READ, ROWS, VECS) TILE(NAME, TYPE, READ, ROWS, VECS)
#define CALL_OF(NAME, ROWS, VECS) tile_##NAME##_##ROWS##_##VECS
#define CALL(NAME, ROWS, VECS) CALL_OF(NAME, ROWS, VECS)
/* `ROWS` rows of every panel, `WIDE` panels at once as long as there are so many. */
#define ACROSS(NAME, ROWS, WIDE, VECS)                                                                               \
    for (; p + WIDE <= panels; p += WIDE)                                                                            \
        CALL(NAME, ROWS, VECS)(panel + p * depth, PANEL, depth, j, row, out + p * PANEL);
/* All rows of up to 4 panels, the tallest tiles first. Few rows wait for weights, so their tiles are wide. */
#define COLUMNS(NAME, TYPE, READ)                                                                                    \
    TILE_OF(NAME, TYPE, READ, 6, VECS_1) TILE_OF(NAME, TYPE, READ, 5, VECS_1) TILE_OF(NAME, TYPE, READ, 4, VECS_1)   \
    TILE_OF(NAME, TYPE, READ, 3, VECS_1) TILE_OF(NAME, TYPE, READ, 2, VECS_1) TILE_OF(NAME, TYPE, READ, 1, VECS_1)   \
    TILE_OF(NAME, TYPE, READ, 2, VECS_2) TILE_OF(NAME, TYPE, READ, 1, VECS_4)                                        \
    static void columns_##NAME(const TYPE *panel, int64_t panels, int64_t depth, int64_t vecs, const job *j,         \
                               int64_t row, int64_t end, int64_t out) {                                              \
        const int64_t whole = row + (end - row) / 6 * 6;                                                             \
        for (int64_t p = 0; p < panels; p++)                                                                         \
            for (int64_t r = row; r < whole; r += 6)                                                                 \
                CALL(NAME, 6, VECS_1)(panel + p * depth, PANEL, depth, j, r, out + p * PANEL);                       \
        int64_t p = 0;                                                                                               \
        row = whole;                                                                                                 \
        switch (end - row) {                                                                                         \
        case 5: ACROSS(NAME, 5, 1, VECS_1) break;                                                                    \
        case 4: ACROSS(NAME, 4, 1, VECS_1) break;                                                                    \
        case 3: ACROSS(NAME, 3, 1, VECS_1) break;                                                                    \
        case 2: ACROSS(NAME, 2, 2, VECS_2) ACROSS(NAME, 2, 1, VECS_1) break;                                         \
        case 1: ACROSS(NAME, 1, 4, VECS_4) ACROSS(NAME, 1, 1, VECS_1) break;                                         \
        }                                                                                                            \
    }
#endif
const int panel_vecs = LANES == 16 ? 4 : 1; /* a panel is at most so many times 16 outputs wide */

#define CONVOLVE(NAME, TYPE, READ)                                                                                   \
    COLUMNS(NAME, TYPE, READ)                                                                                        \
    void convolve_##NAME(const TYPE *weights, const job *j, int64_t vecs, int threads) {                             \
        const int64_t width = vecs * PANEL, panels = (j->outputs + width - 1) / width, rows = j->batch * j->time;    \
        const int64_t depth = j->taps * j->inputs * width, chunk = 96, chunks = (rows + chunk - 1) / chunk;          \
        const int64_t groups = (panels + GROUP - 1) / GROUP;                                                         \
        const int worth = rows * panels * depth > WORTH;                                                             \
        _Pragma("omp parallel for schedule(static) num_threads(threads) if (worth)")                                 \
        for (int64_t task = 0; task < groups * chunks; task++) {                                                     \
            const int64_t p = task / chunks * GROUP, row = task % chunks * chunk;                                    \
            const int64_t end = row + chunk < rows ? row + chunk : rows;                                             \
            const int64_t side = panels - p < GROUP ? panels - p : GROUP;                                            \
            columns_##NAME(weights + p * depth, side, depth, vecs, j, row, end, p * width);                          \
        }                                                                                                            \
    }

CONVOLVE(f32, float, read_f32)
CONVOLVE(i8, int8_t, read_i8)
CONVOLVE(i16, int16_t, read_i16)

/* Convolve with packed weights of any kind: 0 float32, 1 int8, 2 int16. */
static void convolve(int64_t kind, const void *weights, const job *j, int64_t vecs, int threads) {
    if (kind == 0) convolve_f32(weights, j, vecs, threads);
    else if (kind == 1) convolve_i8(weights, j, vecs, threads);
    else convolve_i16(weights, j, vecs, threads);
}

/* One kernel a channel: x [batch, time + taps - 1, channels], weights [taps, channels], y [batch, time, channels]. */
static void convolve_depthwise(const float *weights, const float *bias, const float *x, float *y, int64_t batch,
                               int64_t time, int64_t channels, int64_t taps, int threads) {
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (batch * time * channels * taps > WORTH)")
    for (int64_t row = 0; row < batch * time; row++) {
        const float *past = x + (row / time * (time + taps - 1) + row % time) * channels;
        float *out = y + row * channels;
        memcpy(out, bias, channels * sizeof(float));
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t c = 0; c < channels; c++) out[c] += weights[tap * channels + c] * past[tap * channels + c];
    }
}

/* x / (1 + e^-x). */
INLINE vec silu(vec x) { return x / (1.0f + exponential(-x)); }

/* x times the normal distribution function of x: erf by Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most. */
INLINE vec gelu(vec x) {
    const vec sign = (vec)((vec_i32)x & (int32_t)0x80000000);
    const vec z = (vec)((vec_i32)x & 0x7fffffff) * 0.70710678118f;
    const vec t = 1.0f / (1.0f + 0.3275911f * z);
    vec y = t * 1.061405429f - 1.453152027f;
    y = y * t + 1.421413741f;
    y = y * t - 0.284496736f;
    y = y * t + 0.254829592f;
    const vec erf = 1.0f - y * t * exponential(-z * z);
    return 0.5f * x * (1.0f + (vec)((vec_i32)erf | (vec_i32)sign));
}

/* y = FUNCTION(x) of `count` numbers; x may be y. The last few go through a vector of their own. */
#define EACH(FUNCTION)                                                                                                \
    static void FUNCTION##_all(const float *x, float *y, int64_t count) {                                             \
        int64_t i = 0;                                                                                                \
        for (; i + LANES <= count; i += LANES) *(vec_u *)(y + i) = FUNCTION(read_f32(x + i));                         \
        if (i < count) {                                                                                              \
            float rest[LANES] = {0};                                                                                  \
            memcpy(rest, x + i, (count - i) * sizeof(float));                                                         \
            *(vec_u *)rest = FUNCTION(read_f32(rest));                                                                \
            memcpy(y + i, rest, (count - i) * sizeof(float));                                                         \
        }                                                                                                             \
    }
EACH(silu)
EACH(gelu)

/* Lay out what a causal convolution reads, line [batch, memory + time, channels]: the past, then x or silu(x). `after` is
 * what the next chunk has to see again. */
static void lay_out(const float *past, const float *x, float *line, float *after, int64_t batch, int64_t time,
                    int64_t memory, int64_t channels, int activate, int threads) {
    const int64_t chunk = 64, chunks = (time + chunk - 1) / chunk;
    const int worth = batch * time * channels > WORTH / 16;
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (worth)")
    for (int64_t task = 0; task < batch * chunks; task++) {
        const int64_t b = task / chunks, row = task % chunks * chunk, end = row + chunk < time ? row + chunk : time;
        float *to = line + (b * (memory + time) + memory + row) * channels;
        const float *from = x + (b * time + row) * channels;
        if (activate) silu_all(from, to, (end - row) * channels);
        else memcpy(to, from, (end - row) * channels * sizeof(float));
        if (row == 0) memcpy(to - memory * channels, past + b * memory * channels, memory * channels * sizeof(float));
    }
    for (int64_t b = 0; b < batch; b++)
        memcpy(after + b * memory * channels, line + (b * (memory + time) + time) * channels, memory * channels * sizeof(float));
}

typedef struct {
    const void *weights;
    const float *bias;
    int64_t vecs, taps, dilation;
} dilated; /* a causal convolution of as many outputs as inputs; `vecs` 0: its weights are packed for tiles */

#include "tiles.h"

/* The mean of `branches` residual blocks, each `pairs` times silu, convolution, silu, convolution, added to its input:
 * x and y [batch, time, channels]. `past` and `after` [branches x pairs x 2] are the convolutions' memories. `scratch` holds
 * 4 x batch x (time + the longest memory) + 32 times the channels. */
void residual_blocks(const dilated *convolutions, int64_t branches, int64_t pairs, const float *x,
                     const float *const *past, float *const *after, float *y, float *scratch, int64_t batch,
                     int64_t time, int64_t channels, int64_t longest, int threads) {
    const int64_t count = batch * time * channels;
    float *const line = scratch, *const middle = line + batch * (time + longest) * channels, *const sum = middle + count;
    uint16_t *const planes = (uint16_t *)(sum + count);
    for (int64_t branch = 0, i = 0; branch < branches; branch++) {
        for (int64_t pair = 0; pair < pairs; pair++) {
            const float *now = pair ? sum : x;
            for (int second = 0; second < 2; second++, i++) {
                const dilated *c = convolutions + i;
                const int64_t memory = (c->taps - 1) * c->dilation;
                lay_out(past[i], second ? middle : now, line, after[i], batch, time, memory, channels, 1, threads);
                const job j = {0, c->bias, line, second ? now : 0, second ? sum : middle, batch, time, memory + time,
                               channels, channels, c->taps, c->dilation, 1};
                if (c->vecs) convolve_f32(c->weights, &j, c->vecs, threads);
                else convolve_tiles(c, &j, planes, threads);
            }
        }
        if (branch == 0) memcpy(y, sum, count * sizeof(float));
        else for (int64_t n = 0; n < count; n++) y[n] += sum[n];
    }
    for (int64_t n = 0; n < count; n++) y[n] /= branches;
}

typedef struct {
    const float *depthwise, *depthwise_bias, *gain, *shift; /* depthwise [taps, channels] */
    const void *wide, *narrow;
    const float *wide_scale, *wide_bias, *narrow_scale, *narrow_bias; /* those of `narrow` times gamma already */
    int64_t taps, channels, hidden, wide_vecs, narrow_vecs, kind;
    float epsilon;
} convnext;

/* gelu(x) of rows [rows, width]; y may be x. */
static void activate(const float *x, float *y, int64_t rows, int64_t width, int threads) {
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (rows * width > WORTH / 16)")
    for (int64_t row = 0; row < rows; row++) gelu_all(x + row * width, y + row * width, width);
}

/* Layer normalization of rows [rows, width]; y may be x. */
static void layer_norm(const float *x, const float *gain, const float *shift, float *y, int64_t rows, int64_t width,
                       float epsilon) {
    for (int64_t row = 0; row < rows; row++, x += width, y += width) {
        double mean = 0, square = 0;
        for (int64_t c = 0; c < width; c++) mean += x[c];
        mean /= width;
        for (int64_t c = 0; c < width; c++) square += (x[c] - mean) * (x[c] - mean);
        const float factor = 1.0f / sqrtf((float)(square / width) + epsilon), centre = (float)mean;
        for (int64_t c = 0; c < width; c++) y[c] = (x[c] - centre) * factor * gain[c] + shift[c];
    }
}

/* A ConvNeXt block: x and y [batch, time, channels], memory of taps - 1 rows. `scratch` holds batch x ((time + taps - 1)
 * x channels + time x (channels + hidden)). */
void convnext_block(const convnext *b, const float *x, const float *past, float *after, float *y, float *scratch,
                    int64_t batch, int64_t time, int threads) {
    const int64_t rows = batch * time, channels = b->channels, memory = b->taps - 1;
    float *const line = scratch, *const normed = line + batch * (time + memory) * channels;
    float *const wide = normed + rows * channels;
    lay_out(past, x, line, after, batch, time, memory, channels, 0, threads);
    convolve_depthwise(b->depthwise, b->depthwise_bias, line, normed, batch, time, channels, b->taps, threads);
    layer_norm(normed, b->gain, b->shift, normed, rows, channels, b->epsilon);
    const job widen = {b->wide_scale, b->wide_bias, normed, 0, wide, 1, rows, rows, channels, b->hidden, 1, 1, 1};
    convolve(b->kind, b->wide, &widen, b->wide_vecs, threads);
    activate(wide, wide, rows, b->hidden, threads);
    const job narrow = {b->narrow_scale, b->narrow_bias, wide, x, y, 1, rows, rows, b->hidden, channels, 1, 1, 1};
    convolve(b->kind, b->narrow, &narrow, b->narrow_vecs, threads);
}

/* silu(a) * b of rows [a, b]: x [rows, 2 x width], y [rows, width]. */
static void gate(const float *x, float *y, int64_t rows, int64_t width, int threads) {
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (rows * width > WORTH / 16)")
    for (int64_t row = 0; row < rows; row++) {
        const float *a = x + row * 2 * width, *b = a + width;
        float *out = y + row * width;
        for (int64_t i = 0; i < width; i += LANES) { /* width is a multiple of the lanes */
            const vec v = read_f32(a + i);
            *(vec_u *)(out + i) = silu(v) * read_f32(b + i);
        }
    }
}

/* Root-mean-square normalization of rows [rows, width]. */
void rms_norm(const float *x, const float *gain, float *y, int64_t rows, int64_t width, float epsilon) {
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * width;
        float *out = y + row * width;
        vec squares = {0};
        float sum = 0;
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES) { vec v = read_f32(in + i); squares += v * v; }
        for (int l = 0; l < LANES; l++) sum += squares[l];
        for (; i < width; i++) sum += in[i] * in[i];
        const float factor = 1.0f / sqrtf(sum / width + epsilon);
        for (i = 0; i < width; i++) out[i] = in[i] * factor * gain[i];
    }
}

/* Sums of neighbours: a0 + a1, a2 + a3, .., b0 + b1, .. */
INLINE vec fold(vec a, vec b) {
    vec_i32 even;
    for (int l = 0; l < LANES; l++) even[l] = 2 * l;
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + 1);
}
INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }

/* The products of a query with LANES keys, the first of them at `slot`; past `count` they mean nothing. Every one is summed
 * in the same order, whatever its place. */
INLINE vec similarities(const float *q, const void *keys, int64_t slot, int64_t count, int64_t width, int64_t slots,
                        int half) {
    int64_t key[LANES];
    vec sum[LANES];
    for (int l = 0; l < LANES; l++) {
        const int64_t at = slot + (l < count ? l : 0);
        key[l] = (at < slots ? at : at - slots) * width;
    }
    _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) sum[l] = (vec){0};
    int64_t d = 0;
    for (; d + LANES <= width; d += LANES) {
        const vec now = read_f32(q + d);
        _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) sum[l] += now * read_cache(keys, key[l] + d, half);
    }
    _Pragma("GCC unroll 4") for (int left = LANES / 2; left; left /= 2)
        _Pragma("GCC unroll 8") for (int l = 0; l < left; l++) sum[l] = fold(sum[2 * l], sum[2 * l + 1]);
    for (; d < width; d++)
        for (int l = 0; l < LANES; l++) sum[0][l] += q[d] * read_one(keys, key[l] + d, half);
    return sum[0];
}

/* out [width] = scale x the sum of `count` values, the first of them at `slot`, times their weights, oldest first. */
INLINE void weighted_sum(const float *weight, const void *values, int64_t slot, int64_t count, int64_t width,
                         int64_t slots, float scale, float *out, int half) {
    const int64_t run = slots - slot < count ? slots - slot : count; /* as far as the slots go, then from slot 0 */
    int64_t d = 0;
    for (; d + 4 * LANES <= width; d += 4 * LANES) {
        vec sum[4] = {0};
        for (int64_t i = 0; i < count; i++) {
            const int64_t v = (i < run ? slot + i : i - run) * width + d;
            _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) sum[k] += weight[i] * read_cache(values, v + k * LANES, half);
        }
        _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) *(vec_u *)(out + d + k * LANES) = sum[k] * scale;
    }
    if (d == width) return;
    memset(out + d, 0, (width - d) * sizeof(float)); /* not a sum each: gcc would add some with and some without rounding */
    for (int64_t i = 0; i < count; i++) {
        const int64_t v = (i < run ? slot + i : i - run) * width;
        for (int64_t k = d; k < width; k++) out[k] += weight[i] * read_one(values, v + k, half);
    }
    for (; d < width; d++) out[d] *= scale;
}

/* One stream b and one head h of `attend`; `key` and `value` are that head's caches, `weight` scratch for its window. */
INLINE void attend_head(float *qkv, const float *rotation, void *key, void *value, int64_t position, float *y,
                        float *weight, int64_t b, int64_t h, int64_t time, int64_t heads, int64_t width, int64_t slots,
                        int64_t window, int half) {
    const float root = 1.0f / sqrtf((float)width);
    for (int64_t t = 0; t < time; t++) {
        float *q = qkv + (((b * time + t) * 3) * heads + h) * width, *k = q + heads * width, *v = k + heads * width;
        const float *turn = rotation ? rotation + (b * time + t) * width : 0;
        for (int64_t i = 0; turn && i < width; i += 2) {
            const float c = turn[i], s = turn[i + 1], q0 = q[i], q1 = q[i + 1], k0 = k[i], k1 = k[i + 1];
            q[i] = q0 * c - q1 * s, q[i + 1] = q0 * s + q1 * c;
            k[i] = k0 * c - k1 * s, k[i + 1] = k0 * s + k1 * c;
        }
        const int64_t slot = (position + t) % slots;
        write_cache(key, slot * width, k, width, half);
        write_cache(value, slot * width, v, width, half);
    }
    for (int64_t t = 0; t < time; t++) {
        const float *q = qkv + (((b * time + t) * 3) * heads + h) * width;
        float *out = y + ((b * time + t) * heads + h) * width;
        const int64_t last = position + t, first = last - window + 1 > 0 ? last - window + 1 : 0;
        const int64_t count = last - first + 1;
        for (int64_t i = 0; i < count; i += LANES)
            *(vec_u *)(weight + i) = similarities(q, key, (first + i) % slots, count - i, width, slots, half) * root;
        for (int64_t i = count; i % LANES; i++) weight[i] = -INFINITY;
        vec most = read_f32(weight), totals = {0};
        for (int64_t i = LANES; i < count; i += LANES) most = larger(most, read_f32(weight + i));
        float highest = most[0], total = 0;
        for (int l = 1; l < LANES; l++) highest = most[l] > highest ? most[l] : highest;
        for (int64_t i = 0; i < count; i += LANES) {
            const vec e = exponential(read_f32(weight + i) - highest);
            *(vec_u *)(weight + i) = e;
            totals += e;
        }
        for (int l = 0; l < LANES; l++) total += totals[l];
        weighted_sum(weight, value, first % slots, count, width, slots, 1.0f / total, out, half);
    }
}

/* Rotate queries and keys (not where `rotation` is null), write keys and values at their slots, and attend: qkv [batch,
 * time, 3, heads, width], rotation [batch, time, width / 2, 2], caches [streams, heads, slots, width] of which a row is
 * streams[b] (null: b), position [batch], y [batch, time, heads, width].
 * `scores` is scratch, [batch x heads, a multiple of 16 above the window]. Position p lies in slot p mod slots; a query
 * sees the last `window` positions, its own included. The caches are bfloat16 where `half`, else float32. */
static void attend(float *qkv, const float *rotation, void *keys, void *values, const int64_t *position,
                   const int64_t *streams, float *y, float *scores, int64_t batch, int64_t time, int64_t heads,
                   int64_t width, int64_t slots, int64_t window, int half, int threads) {
    const int64_t room = (window + LANES - 1) / LANES * LANES;
    int64_t seen = time * batch;
    for (int64_t b = 0; b < batch; b++) seen += position[b];
    const int worth = heads * time * width * seen > WORTH;
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (worth)")
    for (int64_t lane = 0; lane < batch * heads; lane++) {
        const int64_t b = lane / heads, h = lane % heads;
        const int64_t cache = ((streams ? streams[b] : b) * heads + h) * slots * width;
        float *const weight = scores + lane * room;
        if (half)
            attend_head(qkv, rotation, (uint16_t *)keys + cache, (uint16_t *)values + cache, position[b], y, weight, b, h,
                        time, heads, width, slots, window, 1);
        else
            attend_head(qkv, rotation, (float *)keys + cache, (float *)values + cache, position[b], y, weight, b, h, time,
                        heads, width, slots, window, 0);
    }
}

typedef struct {
    const void *weights;
    const float *scale, *bias; /* of each output, or null */
    int64_t vecs, inputs, outputs;
} matrix;

typedef struct {
    const float *gain, *shift; /* without a shift it is root-mean-square normalization */
} norm;

typedef struct {
    matrix qkv, out, up, down; /* `up` is as wide as `down` asks for, or holds the two halves of a gated unit */
    norm before_attention, before_feed_forward;
    int64_t heads, kind; /* as in `convolve` */
    float epsilon;
} layer;

static void normalise(const norm *n, const float *x, float *y, int64_t rows, int64_t width, float epsilon) {
    if (n->shift) layer_norm(x, n->gain, n->shift, y, rows, width, epsilon);
    else rms_norm(x, n->gain, y, rows, width, epsilon);
}

static void multiply(const matrix *m, int64_t kind, const float *x, const float *residual, float *y, int64_t rows, int threads) {
    const job j = {m->scale, m->bias, x, residual, y, 1, rows, rows, m->inputs, m->outputs, 1, 1, 1};
    convolve(kind, m->weights, &j, m->vecs, threads);
}

/* One transformer layer: x and y [batch, time, width], which may be the same; the rest as in `attend`. `scratch` holds,
 * for each row, 5 widths and 3 times the hidden width, and then the scores. */
static void transformer_layer(const layer *l, const float *x, const float *rotation, void *keys, void *values,
                       const int64_t *position, const int64_t *streams, float *y, float *scratch, int64_t batch,
                       int64_t time, int64_t slots, int64_t window, int half, int threads) {
    const int64_t rows = batch * time, width = l->qkv.inputs, hidden = l->down.inputs;
    float *normed = scratch, *qkv = normed + rows * width, *middle = qkv + 3 * rows * width;
    float *wide = middle + rows * width, *active = wide + 2 * rows * hidden, *scores = active + rows * hidden;
    normalise(&l->before_attention, x, normed, rows, width, l->epsilon);
    multiply(&l->qkv, l->kind, normed, 0, qkv, rows, threads);
    attend(qkv, rotation, keys, values, position, streams, normed, scores, batch, time, l->heads, width / l->heads, slots,
           window, half, threads);
    multiply(&l->out, l->kind, normed, x, middle, rows, threads);
    normalise(&l->before_feed_forward, middle, normed, rows, width, l->epsilon);
    multiply(&l->up, l->kind, normed, 0, wide, rows, threads);
    if (l->up.outputs == hidden) activate(wide, active, rows, hidden, threads);
    else gate(wide, active, rows, hidden, threads);
    multiply(&l->down, l->kind, active, middle, y, rows, threads);
}

/* Layers of one size, one after the other: `keys` and `values` hold each layer's cache. */
void transformer_layers(const layer *const *layers, int64_t count, const float *x, const float *rotation, void *const *keys,
                        void *const *values, const int64_t *position, const int64_t *streams, float *y, float *scratch,
                        int64_t batch, int64_t time, int64_t slots, int64_t window, int half, int threads) {
    for (int64_t i = 0; i < count; i++, x = y)
        transformer_layer(layers[i], x, rotation, keys[i], values[i], position, streams, y, scratch, batch, time, slots,
                          window, half, threads);
}

/* Draw a code from each row of logits [rows, codes], as `generation.sample` says it: the best where `greedy`, else the one
 * that `uniform` [rows] falls on. `order` is scratch for 2 x codes indices, `values` for 3 x (codes + 16) numbers. */
void draw_codes(const float *logits, const float *uniform, const uint8_t *greedy, int64_t *drawn, uint32_t *order,
                float *values, int64_t rows, int64_t codes, float top_p, float temperature) {
    float *const ordered = values, *const probable = ordered + codes + LANES, *const sharp = probable + codes + LANES;
    for (int64_t row = 0; row < rows; row++, logits += codes) {
        uint32_t *from = order, *to = order + codes;
        for (int64_t i = 0; i < codes; i++) from[i] = i;
        for (int shift = 0; shift < 32; shift += 8) { /* a stable sort, a byte at a time, the largest first */
            uint32_t start[257] = {0}, bits;
            for (int pass = 0; pass < 2; pass++) {
                for (int64_t i = 0; i < codes; i++) {
                    memcpy(&bits, logits + from[i], sizeof bits);
                    if (bits == 0x80000000) bits = 0; /* -0 is 0 */
                    const uint32_t digit = (bits ^ (bits >> 31 ? 0 : 0x7fffffff)) >> shift & 255;
                    if (pass) to[start[digit]++] = from[i];
                    else start[digit + 1]++;
                }
                for (int d = 0; !pass && d < 256; d++) start[d + 1] += start[d];
            }
            uint32_t *const swap = from;
            from = to, to = swap;
        }
        drawn[row] = from[0];
        if (greedy[row]) continue;
        for (int64_t i = 0; i < codes; i++) ordered[i] = logits[from[i]] - logits[from[0]];
        for (int64_t i = codes; i % LANES; i++) ordered[i] = -INFINITY;
        double all = 0, mass = 0, kept = 0, reached = 0;
        for (int64_t i = 0; i < codes; i += LANES) {
            *(vec_u *)(probable + i) = exponential(read_f32(ordered + i));
            *(vec_u *)(sharp + i) = exponential(read_f32(ordered + i) / temperature);
        }
        for (int64_t i = 0; i < codes; i++) all += probable[i];
        int64_t most = 0;
        for (; most < codes; most++) {
            mass += probable[most];
            if (most && mass > top_p * all) break;
            kept += sharp[most];
        }
        for (int64_t i = 0; i < most; i++) {
            reached += sharp[i];
            drawn[row] = from[i];
            if (reached > uniform[row] * kept) break;
        }
    }
}

/* Write a frame, code after code, as `AcousticLM.write_frame` and `draw_codes` do: hidden [batch, width]; of every codebook
 * rotation [batch, width of a head], position [batch] and uniform [batch], and codes [batch] and logits [batch, codes] as
 * they come out. `gain` and `epsilon` are of the normalization before `output`, which makes logits of `kind` weights;
 * embeddings [codes, width]; float32 caches [batch, heads, books, width of a head]. `scratch` holds, for each row, 7 widths,
 * 3 times the hidden width and the scores, and, once, the values of `draw_codes`; `order` is as there. */
void write_frame(const layer *const *layers, int64_t count, const float *hidden, const float *rotation, void *const *keys,
                 void *const *values, const int64_t *position, const float *gain, float epsilon, const matrix *output,
                 int64_t kind, const float *embeddings, const float *uniform, const uint8_t *greedy, int64_t *codes,
                 float *logits, float *scratch, uint32_t *order, int64_t batch, int64_t books, float top_p,
                 float temperature, int threads) {
    const int64_t width = output->inputs, head = width / layers[0]->heads, choices = output->outputs;
    float *const x = scratch, *const normed = x + batch * width, *const sorted = normed + batch * width;
    float *const rest = sorted + 3 * (choices + LANES);
    memcpy(x, hidden, batch * width * sizeof(float));
    for (int64_t book = 0; book < books; book++, codes += batch, logits += batch * choices) {
        for (int64_t row = 0; book && row < batch; row++)
            memcpy(x + row * width, embeddings + codes[row - batch] * width, width * sizeof(float));
        transformer_layers(layers, count, x, rotation + book * batch * head, keys, values, position + book * batch, 0, x,
                           rest, batch, 1, books, books, 0, threads);
        rms_norm(x, gain, normed, batch, width, epsilon);
        multiply(output, kind, normed, 0, logits, batch, threads);
        draw_codes(logits, uniform + book * batch, greedy, codes, order, sorted, batch, choices, top_p, temperature);
    }
}
