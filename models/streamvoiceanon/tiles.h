/* Convolutions in the matrix tiles of a processor that has them (Intel's AMX), at nearly float32's exactness.
 *
 * A tile multiplies bfloat16 numbers, of 8 bits, and sums in float32. Each number is split in two, its first 8 bits and
 * the next 8, and three of the four products are summed: a product is off by 2^-15 at most and by 2^-18 as a rule. A
 * tile's work is done so fast that three times as much of it is still a small part of the time.
 *
 * Like the other kernels these sum every output in one order, whatever else is in the batch. Processors without tiles
 * get nearly the same from `convolve_f32`.
 */
#if defined(__x86_64__) && defined(__linux__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#define TILE_ROWS 16
#define GROUP_ROWS 32 /* instants and outputs that four tiles of sums hold */

/* Whether this process may use tiles: Linux wants to be asked, once, and some sandboxes say no. */
int tiles_allowed(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }

/* Tiles 0 to 3 hold sums, 4 and 5 activations [16 instants, k], 6 and 7 weights [k / 2, 16 outputs, 2]. */
static void shape_tiles(int64_t k) {
    struct { uint8_t palette, start, none[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = i == 4 || i == 5 ? 2 * k : 64;
        shape.rows[i] = i > 5 ? k / 2 : TILE_ROWS;
    }
    __asm__ volatile("" : : "r"(&shape) : "memory"); /* gcc's header says that the next line reads 8 bytes of the 64 */
    _tile_loadconfig(&shape);
}

/* x = high + low, each in bfloat16; `count` is a multiple of 16. */
static void split(const float *x, uint16_t *high, uint16_t *low, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
        const __m512 v = _mm512_loadu_ps(x + i);
        const __m256i first = (__m256i)_mm512_cvtneps_pbh(v);
        const __m512 rest = v - (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(first), 16);
        _mm256_storeu_si256((__m256i *)(high + i), first);
        _mm256_storeu_si256((__m256i *)(low + i), (__m256i)_mm512_cvtneps_pbh(rest));
    }
}

#define PRODUCTS                                                                                                     \
    _tile_dpbf16ps(0, 4, 6);                                                                                         \
    if (right) _tile_dpbf16ps(1, 4, 7);                                                                              \
    if (below) _tile_dpbf16ps(2, 5, 6);                                                                              \
    if (right && below) _tile_dpbf16ps(3, 5, 7);

/* Up to 32 instants by 32 outputs of one stream. x: where the first instant's oldest tap lies, in the high parts; `low`
 * numbers further the low ones. Reads up to 15 instants more than there are. sums [32, 32]. */
static void sum_tiles(const uint16_t *weights, int64_t depth, const uint16_t *x, int64_t low, const dilated *c,
                      int64_t channels, int64_t k, int below, int right, float *sums) {
    const int64_t line = 2 * channels, piece = k * 16; /* bytes between instants; weights in a tile */
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (int64_t tap = 0; tap < c->taps; tap++) {
        const uint16_t *a = x + tap * c->dilation * channels, *end = a + channels;
        for (; a < end; a += k, weights += 2 * piece) {
            const uint16_t *b = weights + depth;
            _tile_loadd(4, a, line);
            if (below) _tile_loadd(5, a + TILE_ROWS * channels, line);
            _tile_loadd(6, weights + piece, 64);
            if (right) _tile_loadd(7, b + piece, 64);
            PRODUCTS
            _tile_loadd(6, weights, 64);
            if (right) _tile_loadd(7, b, 64);
            PRODUCTS
            _tile_loadd(4, a + low, line);
            if (below) _tile_loadd(5, a + low + TILE_ROWS * channels, line);
            PRODUCTS
        }
    }
    _tile_stored(0, sums, 128);
    if (right) _tile_stored(1, sums + 16, 128);
    if (below) _tile_stored(2, sums + 512, 128);
    if (right && below) _tile_stored(3, sums + 528, 128);
}

/* `j` with the weights of `c` [outputs / 16, taps, channels / k, high and low, k / 2, 16, 2]; j->x is float32
 * [batch, time_in, channels], `planes` room for twice as many numbers and 32 instants more. Channels are 16 or a multiple
 * of 32, and as many as outputs. */
static void convolve_tiles(const dilated *c, const job *j, uint16_t *planes, int threads) {
    const int64_t channels = j->inputs, k = channels < 32 ? channels : 32, depth = 32 * j->taps * channels;
    const int64_t rows = (j->time + GROUP_ROWS - 1) / GROUP_ROWS, outs = (channels + GROUP_ROWS - 1) / GROUP_ROWS;
    const int64_t low = (j->batch * j->time_in + TILE_ROWS) * channels, groups = j->batch * rows;
    const uint16_t *weights = (const uint16_t *)c->weights;
    const int worth = groups * outs * depth > WORTH / 4;
    _Pragma("omp parallel num_threads(threads) if (worth)") {
        _Pragma("omp for schedule(static)")
        for (int64_t row = 0; row < j->batch * j->time_in; row++)
            split(j->x + row * channels, planes + row * channels, planes + low + row * channels, channels);
        shape_tiles(k);
        _Pragma("omp for schedule(static)")
        for (int64_t task = 0; task < outs * groups; task++) {
            const int64_t out = task / groups * GROUP_ROWS, stream = task % groups / rows;
            const int64_t first = task % rows * GROUP_ROWS, left = j->time - first;
            float sums[GROUP_ROWS * GROUP_ROWS] __attribute__((aligned(64)));
            sum_tiles(weights + out / 16 * depth, depth, planes + (stream * j->time_in + first) * channels, low, c, channels,
                      k, left > TILE_ROWS, channels - out > 16, sums);
            for (int64_t r = 0; r < left && r < GROUP_ROWS; r++)
                for (int64_t i = out; i < channels && i < out + GROUP_ROWS; i += LANES) {
                    const int64_t at = (stream * j->time + first + r) * channels + i;
                    vec sum = read_f32(sums + r * GROUP_ROWS + i - out) + read_f32(j->bias + i);
                    if (j->residual) sum += read_f32(j->residual + at);
                    *(vec_u *)(j->y + at) = sum;
                }
        }
        _tile_release();
    }
}
#else
int tiles_allowed(void) { return 0; }
static void convolve_tiles(const dilated *c, const job *j, uint16_t *planes, int threads) {}
#endif
