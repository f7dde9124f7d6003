/* Many rows of bfloat16 times a matrix in blocks, by the tiles of Intel's AMX.

   A panel of weights is unfolded into bfloat16, a chunk of each row at a time, so that it stays in the first cache while
   every row of input passes it; products of two bfloat16 are added up in float32. What a row is unfolded into is its
   weights over the scale of its first group, which the sums are multiplied with again: where a row, or the whole matrix,
   has a single scale, the numbers are then exact, while those of the weights themselves would be rounded to one side.

   A part of `kernels.c`, which includes it. */

#ifndef SHARDBOARD_TILES
#define SHARDBOARD_TILES

#include "formats.h"

/* One multiplication. */
typedef struct {
    const uint8_t *blocks;
    int64_t row_bytes, rows, steps; /* groups of a row */
    const uint16_t *input;
    int64_t count; /* rows of input */
    uint16_t *scratch, *output;
} tiled;
#define FACE 32 /* rows of weights, and of input, that are multiplied at a time: two tiles of each */

#if WIDTH == 16 && defined(__x86_64__) && defined(__linux__) && \
    ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define WITH_TILES 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILED __attribute__((target("amx-tile,amx-bf16,avx512bf16")))
#define SIDE 16              /* rows of a tile, of 64 bytes each: 16 floats, or 32 halves */
#define STEP (2 * SIDE)      /* numbers of a row that a product of two tiles takes: those of a group */
#define TILE (SIDE * STEP)   /* halves of a tile */
#define STEPS 32             /* of a chunk */
#define MOST_TILED 512       /* rows of input that a panel is multiplied with before it is forgotten */
#define PANELS 4             /* that a chunk of the input is multiplied with before it leaves the second cache */

/* Room for a panel's chunk, tile by tile: the rows of a step stand beside each other, which the first cache likes. */
typedef struct {
    uint16_t weights[STEPS * 2 * TILE] __attribute__((aligned(64)));
    float factors[PANELS][FACE] __attribute__((aligned(64)));
    float sums[PANELS][MOST_TILED * FACE] __attribute__((aligned(64)));
} panel;

/* Whether this processor has them, and the system lets this process use them. */
static int may_use_tiles(void) {
    unsigned a, b, c, d, features;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &features) || !(features >> 22 & 1) || !(features >> 24 & 1)) return 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return 0;
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XFEATURE_XTILEDATA */) == 0;
}

/* 16 x 16 numbers of 32 bits, from rows `stride` numbers apart: rows become columns. */
INLINE void turned(const uint32_t *from, int64_t stride, __m512i *into) {
    __m512i pairs[16], fours[16];
    UNROLLED for (int at = 0; at < 16; at += 2) {
        const __m512i one = _mm512_loadu_si512(from + at * stride), two = _mm512_loadu_si512(from + (at + 1) * stride);
        pairs[at] = _mm512_unpacklo_epi32(one, two);
        pairs[at + 1] = _mm512_unpackhi_epi32(one, two);
    }
    UNROLLED for (int at = 0; at < 16; at += 4) {
        UNROLLED for (int each = 0; each < 2; each++) {
            fours[at + 2 * each] = _mm512_unpacklo_epi64(pairs[at + each], pairs[at + 2 + each]);
            fours[at + 2 * each + 1] = _mm512_unpackhi_epi64(pairs[at + each], pairs[at + 2 + each]);
        }
    }
    /* fours[4 * q + c]: of rows 4 q to 4 q + 3 the columns c, c + 4, c + 8, c + 12 */
    UNROLLED for (int column = 0; column < 4; column++) {
        const __m512i low = _mm512_shuffle_i32x4(fours[column], fours[4 + column], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(fours[column], fours[4 + column], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(fours[8 + column], fours[12 + column], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(fours[8 + column], fours[12 + column], 0xdd);
        into[column] = _mm512_shuffle_i32x4(low, low2, 0x88);
        into[8 + column] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        into[4 + column] = _mm512_shuffle_i32x4(high, high2, 0x88);
        into[12 + column] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
}

/* Where in the scratch the tiles of 16 rows of input begin, for the chunk from step `at` on. */
INLINE int64_t place(int64_t count, int64_t row, int64_t at, int64_t length) {
    return (count + SIDE - 1) / SIDE * TILE * at + row / SIDE * TILE * length;
}

/* Rows [begin, end) of tiles of the input: pairs of numbers of 16 rows stand beside each other. */
static void arrange_tiles(const tiled *w, int64_t begin, int64_t end) {
    const int64_t steps = w->steps, width = steps * STEP, count = w->count;
    for (int64_t block = begin; block < end; block++) {
        const int64_t row = block * SIDE, rows = count - row < SIDE ? count - row : SIDE;
        for (int64_t at = 0, length; at < steps; at += length) {
            length = steps - at < STEPS ? steps - at : STEPS;
            __m512i *into = (__m512i *)(w->scratch + place(count, row, at, length));
            for (int64_t step = at; step < at + length; step++, into += SIDE) {
                const uint16_t *from = w->input + row * width + step * STEP;
                uint16_t last[TILE];
                if (rows < SIDE) { /* what is missing is nothing */
                    memset(last, 0, sizeof last);
                    for (int64_t each = 0; each < rows; each++) memcpy(last + each * STEP, from + each * width, 2 * STEP);
                    turned((const uint32_t *)last, STEP / 2, into);
                } else {
                    turned((const uint32_t *)from, width / 2, into);
                }
            }
        }
    }
}

/* What all weights of a row are divided by. */
INLINE float factor_of(format of, const uint8_t *row) {
    scales known;
    of.scale(row, &known);
    const float first = known.scale[0], size = first < 0.0f ? -first : first;
    return size > 1e-30f && size < 1e30f ? first : 1.0f;
}

/* `groups` groups from `blocks` on of the row that begins at `row`, as bfloat16, into the tiles of a panel. */
TILED INLINE void unfold_halves(format of, const uint8_t *row, const uint8_t *blocks, int64_t groups, uint16_t *into,
                                float *factor) {
    *factor = factor_of(of, row);
    const vf part = splat(1.0f / *factor);
    EACH_GROUP(of, blocks, groups)
        vf ready[VECTORS];
        of.read(&found, 0, ready);
        of.read(&found, 1, ready + HALF);
        const vf low = (ready[0] * splat(known.scale[first]) + splat(known.minimum[first])) * part;
        const vf high = (ready[1] * splat(known.scale[second]) + splat(known.minimum[second])) * part;
        _mm512_store_si512(into + at * 2 * TILE, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
    NEXT_GROUP
}

/* Adds `steps` products of two tiles of weights and one or two tiles of input to the sums. */
#define PRODUCTS(both)                                                                                              \
    for (int64_t step = 0; step < steps; step++) {                                                                  \
        _tile_loadd(4, weights + step * 2 * TILE, 64);                                                              \
        _tile_loadd(5, weights + step * 2 * TILE + TILE, 64);                                                       \
        _tile_loadd(6, input + step * TILE, 64);                                                                    \
        _tile_dpbf16ps(0, 4, 6);                                                                                    \
        _tile_dpbf16ps(1, 5, 6);                                                                                    \
        if (both) {                                                                                                 \
            _tile_loadd(7, input + apart + step * TILE, 64);                                                        \
            _tile_dpbf16ps(2, 4, 7);                                                                                \
            _tile_dpbf16ps(3, 5, 7);                                                                                \
        }                                                                                                           \
    }

TILED static void products(const uint16_t *weights, const uint16_t *input, int64_t apart, int64_t steps, int begins,
                           float *sums) {
    if (begins) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + SIDE * SIDE, 64);
        if (apart) _tile_loadd(2, sums + 2 * SIDE * SIDE, 64);
        if (apart) _tile_loadd(3, sums + 3 * SIDE * SIDE, 64);
    }
    if (apart) {
        PRODUCTS(1)
    } else {
        PRODUCTS(0)
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SIDE * SIDE, 64);
    if (apart) _tile_stored(2, sums + 2 * SIDE * SIDE, 64);
    if (apart) _tile_stored(3, sums + 3 * SIDE * SIDE, 64);
}

/* The sums of a panel as bfloat16, [here, rows in all] from `output` on; the panel has `rows`. */
TILED static void write_sums(const float *sums, const float *factors, int64_t here, int64_t rows, uint16_t *output,
                             int64_t rows_in_all) {
    const __m512 factor = _mm512_load_ps(factors), factor2 = _mm512_load_ps(factors + SIDE);
    const __mmask32 mask = rows < FACE ? (__mmask32)((1u << rows) - 1) : ~(__mmask32)0;
    for (int64_t row = 0; row < here; row += SIDE, sums += 2 * SIDE * SIDE) {
        __m512i low[SIDE], high[SIDE];
        turned((const uint32_t *)sums, SIDE, low);
        turned((const uint32_t *)sums + SIDE * SIDE, SIDE, high);
        for (int64_t each = 0; each < SIDE && row + each < here; each++)
            _mm512_mask_storeu_epi16(output + (row + each) * rows_in_all, mask,
                                     (__m512i)_mm512_cvtne2ps_pbh((__m512)high[each] * factor2,
                                                                  (__m512)low[each] * factor));
    }
}

typedef void (*unfolder)(const uint8_t *row, const uint8_t *blocks, int64_t groups, uint16_t *into, float *factor);

/* Rows [begin, end) of the matrix. Blocks of its format have so many groups and bytes. */
TILED static void multiply_tiled(const tiled *w, unfolder unfold, int64_t groups, int64_t block_bytes, int64_t begin,
                                 int64_t end) {
    static const uint8_t shape[64] __attribute__((aligned(64))) = {
        [0] = 1, [16] = 64, [18] = 64, [20] = 64, [22] = 64, [24] = 64, [26] = 64, [28] = 64, [30] = 64,
        [48] = SIDE, [49] = SIDE, [50] = SIDE, [51] = SIDE, [52] = SIDE, [53] = SIDE, [54] = SIDE, [55] = SIDE,
    };
    panel held;
    _tile_loadconfig(shape);
    for (int64_t from = 0, here; from < w->count; from += here) {
        here = w->count - from < MOST_TILED ? w->count - from : MOST_TILED;
        for (int64_t group = begin; group < end; group += PANELS * FACE) {
            const int64_t last = end - group < PANELS * FACE ? end : group + PANELS * FACE;
            for (int64_t at = 0, length; at < w->steps; at += length) {
                length = w->steps - at < STEPS ? w->steps - at : STEPS;
                for (int64_t first = group; first < last; first += FACE) {
                    const int64_t rows = last - first < FACE ? last - first : FACE;
                    const uint8_t *top = w->blocks + first * w->row_bytes;
                    float *factors = held.factors[(first - group) / FACE];
                    float *sums = held.sums[(first - group) / FACE];
                    if (rows < FACE) memset(held.weights, 0, sizeof held.weights);
                    for (int64_t row = 0; row < rows; row++)
                        unfold(top + row * w->row_bytes, top + row * w->row_bytes + at / groups * block_bytes, length,
                               held.weights + row * STEP, factors + row);
                    for (int64_t row = 0; row < here; row += FACE)
                        products(held.weights, w->scratch + place(w->count, from + row, at, length),
                                 row + SIDE < here ? TILE * length : 0, length, at == 0, sums + row * FACE);
                }
            }
            for (int64_t first = group; first < last; first += FACE)
                write_sums(held.sums[(first - group) / FACE], held.factors[(first - group) / FACE], here,
                           last - first < FACE ? last - first : FACE, w->output + from * w->rows + first, w->rows);
        }
    }
    _tile_release();
}
#endif

#endif
