/* Matrices whose weights stay in blocks, as GGUF files store them: a block of 32 (128, 256) weights of one row has
   small whole numbers, and one or several scales and minima by which they become the weights.

   Every weight is turned into the float32 number that the format means, in registers, and multiplied with the input
   as it is: results differ from those of dequantised weights in the order of sums alone. Inputs are not rounded.

   One source for all processors: vectors are the compiler's own (`vector_size`), as wide as SHARDBOARD_WIDTH floats.
   It is compiled once for each level of instructions (`building.py`); who calls it says how many threads there are
   and lends the OpenMP runtime's own `GOMP_parallel`, so that no second pool of threads stands beside torch's. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifndef SHARDBOARD_WIDTH
#define SHARDBOARD_WIDTH 4
#endif
#define WIDTH SHARDBOARD_WIDTH
#define VECTORS (32 / WIDTH)
#define HALF (VECTORS / 2)
#if WIDTH == 16 || defined(__aarch64__) /* with 32 registers for vectors */
#define TILE_WEIGHTS 4
#define TILE_INPUTS 6
#else
#define TILE_WEIGHTS 3
#define TILE_INPUTS 4
#endif
#define UNROLLED _Pragma("GCC unroll 8")
#define PANEL (4 * TILE_WEIGHTS) /* rows of weights that are unfolded at a time, CHUNK numbers of each */
#define CHUNK 256
#define MOST_INPUTS 96 /* rows of input that a panel is multiplied with before it is forgotten */
#define INLINE static inline __attribute__((always_inline))
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

typedef float vf __attribute__((vector_size(4 * WIDTH)));
typedef int32_t vi __attribute__((vector_size(4 * WIDTH)));
typedef float vf_loose __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16_loose __attribute__((vector_size(16), aligned(1)));
typedef int8_t s8x16 __attribute__((vector_size(16)));

/* 32 consecutive numbers of a row, as they are stored. Blocks of 32 weights have one such group, those of 128 four,
   those of 256 eight. */
typedef struct {
    s8x16 low, high;
    const uint8_t *wide; /* where numbers of 16 bits stand */
} group;

/* What turns the numbers of a block into its weights, w[i] = code[i] * scale + minimum: for each of its groups, or for
   each half of a group where the format has its scales `apart`. */
typedef struct {
    float scale[16], minimum[16];
} scales;

typedef void (*scaler)(const uint8_t *block, scales *found);
/* `which` is always a constant where it is called, so that shifts and cases are decided by the compiler. */
typedef void (*unpacker)(const uint8_t *block, int which, group *found);
/* What 16 numbers of a group, its first half or its second, are as floats. */
typedef void (*reader)(const group *from, int half, vf *into);

/* --- small readers ------------------------------------------------------------------------------------------- */

INLINE u8x16 load(const uint8_t *from) { return (u8x16)(*(const u8x16_loose *)from); }

INLINE u8x16 all(uint8_t value) { return (u8x16){0} + value; }

INLINE float half(const uint8_t *from) {
    uint16_t bits;
    memcpy(&bits, from, 2);
#if defined(__F16C__)
    return _cvtsh_ss(bits);
#elif defined(__ARM_FP16_FORMAT_IEEE)
    __fp16 value;
    memcpy(&value, &bits, 2);
    return value;
#else
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, rest = bits & 0x7fffu, out;
    if (rest >= 0x7c00u) {
        out = sign | 0x7f800000u | ((rest & 0x3ffu) << 13);
    } else if (rest >= 0x400u) {
        out = sign | ((rest << 13) + 0x38000000u);
    } else { /* subnormal: exact as a product */
        float small = (float)rest * 5.9604644775390625e-8f;
        memcpy(&out, &small, 4);
        out |= sign;
    }
    float value;
    memcpy(&value, &out, 4);
    return value;
#endif
}

INLINE vf splat(float value) { return (vf){0} + value; }

/* 16 small numbers as floats, from vector `first` on */
INLINE void floats(s8x16 codes, vf *into) {
#if WIDTH == 16 && defined(__AVX512F__)
    into[0] = (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)codes));
#elif WIDTH == 8 && defined(__AVX2__)
    into[0] = (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32((__m128i)codes));
    into[1] = (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128((__m128i)codes, 8)));
#elif WIDTH == 4 && defined(__ARM_NEON)
    int16x8_t low = vmovl_s8(vget_low_s8((int8x16_t)codes)), high = vmovl_s8(vget_high_s8((int8x16_t)codes));
    into[0] = (vf)vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
    into[1] = (vf)vcvtq_f32_s32(vmovl_s16(vget_high_s16(low)));
    into[2] = (vf)vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
    into[3] = (vf)vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)));
#else
    typedef int8_t part __attribute__((vector_size(WIDTH)));
    for (int each = 0; each < 16 / WIDTH; each++) {
        part here;
        memcpy(&here, (const int8_t *)&codes + each * WIDTH, sizeof here);
        into[each] = __builtin_convertvector(here, vf);
    }
#endif
}

INLINE void small(const group *from, int half, vf *into) { floats(half ? from->high : from->low, into); }

INLINE s8x16 looked_up(const int8_t *table, u8x16 index) {
#if defined(__AVX2__)
    return (s8x16)_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)table), (__m128i)index);
#elif defined(__aarch64__)
    return (s8x16)vqtbl1q_s8(vld1q_s8(table), (uint8x16_t)index);
#else
    s8x16 found;
    for (int each = 0; each < 16; each++) found[each] = table[index[each]];
    return found;
#endif
}

/* Sixteen bits, one in each byte: `value` where it is set. */
INLINE u8x16 spread(const uint8_t *bits, uint8_t value) {
    const u8x16 mask = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
#if defined(__AVX2__)
    int16_t both;
    memcpy(&both, bits, 2);
    const __m128i where = _mm_set_epi8(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    u8x16 bytes = (u8x16)_mm_shuffle_epi8(_mm_set1_epi16(both), where);
#else
    const uint8_t a = bits[0], b = bits[1];
    u8x16 bytes = {a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b};
#endif
    return (u8x16)((bytes & mask) != 0) & value;
}

INLINE void nibbles(const uint8_t *from, group *found) {
    u8x16 both = load(from);
    found->low = (s8x16)(both & 15);
    found->high = (s8x16)(both >> 4);
}

/* 16 numbers of one factor each. */
INLINE void scaled(s8x16 numbers, float factor, float *into) {
    vf as_floats[16 / WIDTH];
    floats(numbers, as_floats);
    for (int each = 0; each < 16 / WIDTH; each++) ((vf_loose *)into)[each] = as_floats[each] * splat(factor);
}

/* --- the formats, as llama.cpp's ggml-common.h describes their blocks ------------------------------------------ */

INLINE void scale_q4_0(const uint8_t *block, scales *found) {
    found->scale[0] = half(block);
    found->minimum[0] = -8.0f * found->scale[0];
}

INLINE void unpack_q4_0(const uint8_t *block, int which, group *found) {
    (void)which;
    nibbles(block + 2, found);
}

INLINE void scale_q4_1(const uint8_t *block, scales *found) {
    found->scale[0] = half(block);
    found->minimum[0] = half(block + 2);
}

INLINE void unpack_q4_1(const uint8_t *block, int which, group *found) {
    (void)which;
    nibbles(block + 4, found);
}

INLINE void scale_q5_0(const uint8_t *block, scales *found) {
    found->scale[0] = half(block);
    found->minimum[0] = -16.0f * found->scale[0];
}

INLINE void unpack_q5_0(const uint8_t *block, int which, group *found) {
    (void)which;
    nibbles(block + 6, found);
    found->low |= (s8x16)spread(block + 2, 16);
    found->high |= (s8x16)spread(block + 4, 16);
}

#define scale_q5_1 scale_q4_1

INLINE void unpack_q5_1(const uint8_t *block, int which, group *found) {
    (void)which;
    nibbles(block + 8, found);
    found->low |= (s8x16)spread(block + 4, 16);
    found->high |= (s8x16)spread(block + 6, 16);
}

INLINE void scale_alone(const uint8_t *block, scales *found) {
    found->scale[0] = half(block);
    found->minimum[0] = 0.0f;
}

#define scale_q8_0 scale_alone

INLINE void unpack_q8_0(const uint8_t *block, int which, group *found) {
    (void)which;
    found->low = (s8x16)load(block + 2);
    found->high = (s8x16)load(block + 18);
}

/* Q4_K and Q5_K: eight scales and eight minima of 6 bits each, in 12 bytes. */
INLINE void scale_q4_k(const uint8_t *block, scales *found) {
    uint32_t packed[3], bytes[4];
    memcpy(packed, block + 4, 12);
    bytes[0] = packed[0] & 0x3f3f3f3fu;
    bytes[1] = (packed[2] & 0x0f0f0f0fu) | ((packed[0] >> 2) & 0x30303030u);
    bytes[2] = packed[1] & 0x3f3f3f3fu;
    bytes[3] = ((packed[2] >> 4) & 0x0f0f0f0fu) | ((packed[1] >> 2) & 0x30303030u);
    float both[16];
    s8x16 numbers;
    memcpy(&numbers, bytes, 16);
    scaled(numbers, 1.0f, both);
    const float whole = half(block), least = -half(block + 2);
    for (int each = 0; each < 8; each++) {
        found->scale[each] = whole * both[each];
        found->minimum[each] = least * both[8 + each];
    }
}

INLINE void unpack_q4_k(const uint8_t *block, int which, group *found) {
    const int shift = (which & 1) * 4;
    const uint8_t *codes = block + 16 + (which >> 1) * 32;
    found->low = (s8x16)((load(codes) >> shift) & 15);
    found->high = (s8x16)((load(codes + 16) >> shift) & 15);
}

#define scale_q5_k scale_q4_k

INLINE void unpack_q5_k(const uint8_t *block, int which, group *found) {
    const int shift = (which & 1) * 4;
    const uint8_t *codes = block + 48 + (which >> 1) * 32, *fifth = block + 16;
    found->low = (s8x16)(((load(codes) >> shift) & 15) | (((load(fifth) >> which) & 1) << 4));
    found->high = (s8x16)(((load(codes + 16) >> shift) & 15) | (((load(fifth + 16) >> which) & 1) << 4));
}

INLINE void scale_q6_k(const uint8_t *block, scales *found) {
    scaled((s8x16)load(block + 192), half(block + 208), found->scale);
    for (int each = 0; each < 16; each++) found->minimum[each] = -32.0f * found->scale[each];
}

INLINE void unpack_q6_k(const uint8_t *block, int place, group *found) {
    const int side = place >> 2, which = place & 3;
    const uint8_t *four = block + side * 64 + (which & 1) * 32, *two = block + 128 + side * 32;
    int shift = (which >> 1) * 4;
    found->low = (s8x16)(((load(four) >> shift) & 15) | (((load(two) >> (2 * which)) & 3) << 4));
    found->high = (s8x16)(((load(four + 16) >> shift) & 15) | (((load(two + 16) >> (2 * which)) & 3) << 4));
}

INLINE void scale_q2_k(const uint8_t *block, scales *found) {
    scaled((s8x16)(load(block) & 15), half(block + 80), found->scale);
    scaled((s8x16)(load(block) >> 4), -half(block + 82), found->minimum);
}

INLINE void unpack_q2_k(const uint8_t *block, int place, group *found) {
    const int side = place >> 2, which = place & 3;
    const uint8_t *codes = block + 16 + side * 32;
    found->low = (s8x16)((load(codes) >> (2 * which)) & 3);
    found->high = (s8x16)((load(codes + 16) >> (2 * which)) & 3);
}

INLINE void scale_q3_k(const uint8_t *block, scales *found) {
    s8x16 numbers;
    for (int each = 0; each < 16; each++) {
        int four = (block[96 + (each & 7)] >> (4 * (each >> 3))) & 15;
        int two = (block[104 + (each & 3)] >> (2 * (each >> 2))) & 3;
        numbers[each] = (int8_t)((four | (two << 4)) - 32);
    }
    scaled(numbers, half(block + 108), found->scale);
    for (int each = 0; each < 16; each++) found->minimum[each] = -4.0f * found->scale[each];
}

INLINE void unpack_q3_k(const uint8_t *block, int place, group *found) {
    const int side = place >> 2, which = place & 3;
    const uint8_t *codes = block + 32 + side * 32;
    int bit = side * 4 + which;
    found->low = (s8x16)(((load(codes) >> (2 * which)) & 3) | (((load(block) >> bit) & 1) << 2));
    found->high = (s8x16)(((load(codes + 16) >> (2 * which)) & 3) | (((load(block + 16) >> bit) & 1) << 2));
}

static const int8_t UNEVEN[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t FP4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

INLINE void uneven_nibbles(const uint8_t *from, const int8_t *table, group *found) {
    u8x16 both = load(from);
    found->low = looked_up(table, both & 15);
    found->high = looked_up(table, both >> 4);
}

#define scale_iq4_nl scale_alone

INLINE void unpack_iq4_nl(const uint8_t *block, int which, group *found) {
    (void)which;
    uneven_nibbles(block + 2, UNEVEN, found);
}

INLINE void scale_iq4_xs(const uint8_t *block, scales *found) {
    const float whole = half(block);
    for (int each = 0; each < 8; each++) {
        int four = (block[4 + (each >> 1)] >> (4 * (each & 1))) & 15;
        int two = ((block[2] | (block[3] << 8)) >> (2 * each)) & 3;
        found->scale[each] = whole * (float)((four | (two << 4)) - 32);
        found->minimum[each] = 0.0f;
    }
}

INLINE void unpack_iq4_xs(const uint8_t *block, int which, group *found) {
    uneven_nibbles(block + 8 + which * 16, UNEVEN, found);
}

INLINE void scale_mxfp4(const uint8_t *block, scales *found) {
    /* 2^(e - 128): half of what the exponent says, since the table holds the numbers doubled */
    uint32_t bits = block[0] < 2 ? 0x00200000u << block[0] : (uint32_t)(block[0] - 1) << 23;
    memcpy(found->scale, &bits, 4);
    found->minimum[0] = 0.0f;
}

INLINE void unpack_mxfp4(const uint8_t *block, int which, group *found) {
    (void)which;
    uneven_nibbles(block + 1, FP4, found);
}

/* --- formats of our own, for what other quantized models have: see formats.py ---------------------------------- */

INLINE float single(const uint8_t *from) {
    float value;
    memcpy(&value, from, 4);
    return value;
}

INLINE void scale_int4(const uint8_t *block, scales *found) {
    for (int each = 0; each < 4; each++) {
        found->scale[each] = single(block);
        found->minimum[each] = 0.0f;
    }
}

INLINE void unpack_int4(const uint8_t *block, int which, group *found) {
    const s8x16 zero = (s8x16)all(block[4]);
    nibbles(block + 5 + which * 16, found);
    found->low -= zero; /* before it is scaled: one rounding for each weight, whatever the scale */
    found->high -= zero;
}

INLINE void scale_int8(const uint8_t *block, scales *found) {
    for (int each = 0; each < 4; each++) {
        found->scale[each] = single(block);
        found->minimum[each] = single(block + 4);
    }
}

INLINE void unpack_int8(const uint8_t *block, int which, group *found) {
    found->low = (s8x16)load(block + 8 + which * 32);
    found->high = (s8x16)load(block + 24 + which * 32);
}

INLINE void unpack_fp8(const uint8_t *block, int which, group *found) {
    found->low = (s8x16)load(block + 4 + which * 32);
    found->high = (s8x16)load(block + 20 + which * 32);
}

/* 16 numbers of FP8 (e4m3) as floats: exponent and mantissa where a float has them, and its bias made up for. */
INLINE void e4m3(const group *from, int half, vf *into) {
    const s8x16 codes = half ? from->high : from->low;
    typedef int8_t part __attribute__((vector_size(WIDTH)));
    for (int each = 0; each < 16 / WIDTH; each++) {
        part here;
        memcpy(&here, (const int8_t *)&codes + each * WIDTH, sizeof here);
        vi bits = __builtin_convertvector(here, vi);
        into[each] = (vf)((bits & INT32_MIN) | ((bits & 0x7f) << 20)) * splat(0x1p120f);
    }
}

/* bfloat16, for processors without instructions for it: the upper halves of floats. */
INLINE void scale_bf16(const uint8_t *block, scales *found) {
    (void)block;
    found->scale[0] = 1.0f;
    found->minimum[0] = 0.0f;
}

INLINE void unpack_bf16(const uint8_t *block, int which, group *found) {
    (void)which;
    found->wide = block;
}

INLINE void upper(const group *from, int half, vf *into) {
    typedef uint16_t part __attribute__((vector_size(2 * WIDTH)));
    for (int each = 0; each < 16 / WIDTH; each++) {
        part here;
        memcpy(&here, from->wide + half * 32 + each * 2 * WIDTH, sizeof here);
        into[each] = (vf)(__builtin_convertvector(here, vi) << 16);
    }
}

#define scale_int4_32 scale_int4
#define scale_int4_128 scale_int4
#define scale_int8_32 scale_int8
#define scale_int8_128 scale_int8
#define scale_fp8_32 scale_int4
#define scale_fp8_128 scale_int4
#define unpack_int4_32 unpack_int4
#define unpack_int4_128 unpack_int4
#define unpack_int8_32 unpack_int8
#define unpack_int8_128 unpack_int8
#define unpack_fp8_32 unpack_fp8
#define unpack_fp8_128 unpack_fp8

/* --- what is done with them --------------------------------------------------------------------------------- */

INLINE float sum(vf values) {
    float found[WIDTH];
    memcpy(found, &values, sizeof values);
    for (int half = WIDTH / 2; half > 0; half /= 2)
        for (int each = 0; each < half; each++) found[each] += found[each + half];
    return found[0];
}

/* The format that a task is compiled for; `apart`: each half of a group has a scale of its own. */
typedef struct {
    scaler scale;
    unpacker unpack;
    reader read;
    int block_bytes, groups, apart;
} format;

/* Each group of `groups_in_all` from `row` on: `found`, its number `at`, and what turns it into weights, `known` from
   `side` on. */
#define EACH_GROUP(of, row, groups_in_all)                                                                     \
    const uint8_t *block = row;                                                                                \
    for (int64_t base = 0; base < groups_in_all; base += (of).groups, block += (of).block_bytes) {                \
        scales known;                                                                                          \
        (of).scale(block, &known);                                                                             \
        UNROLLED for (int which = 0; which < (of).groups; which++) {                                           \
            group found;                                                                                       \
            (of).unpack(block, which, &found);                                                                 \
            const int64_t at = base + which;                                                                      \
            const int first = (of).apart ? 2 * which : which, second = (of).apart ? first + 1 : first;

#define NEXT_GROUP                                                                                             \
        }                                                                                                      \
    }

/* One row of weights times one row of input, whose sums of 16 numbers each stand in `sums`. */
INLINE float dot(format of, const uint8_t *row, int64_t groups, const float *input, const float *sums) {
    vf low = splat(0), high = splat(0);
    float least = 0.0f, least2 = 0.0f;
    EACH_GROUP(of, row, groups)
        vf codes[VECTORS];
        of.read(&found, 0, codes);
        of.read(&found, 1, codes + HALF);
        const vf_loose *given = (const vf_loose *)(input + at * 32);
        vf here = codes[0] * given[0], there = codes[HALF] * given[HALF];
        UNROLLED for (int each = 1; each < HALF; each++) {
            here += codes[each] * given[each];
            there += codes[HALF + each] * given[HALF + each];
        }
        low += here * splat(known.scale[first]);
        high += there * splat(known.scale[second]);
        least += known.minimum[first] * sums[2 * at];
        least2 += known.minimum[second] * sums[2 * at + 1];
    NEXT_GROUP
    return sum(low + high) + least + least2;
}

/* `groups` groups of one row from group `from` on, as floats. */
INLINE void unfold_row(format of, const uint8_t *row, int64_t from, int64_t groups, float *into) {
    EACH_GROUP(of, row + from / of.groups * of.block_bytes, groups)
        vf ready[VECTORS];
        of.read(&found, 0, ready);
        of.read(&found, 1, ready + HALF);
        vf_loose *target = (vf_loose *)(into + at * 32);
        UNROLLED for (int each = 0; each < HALF; each++) {
            target[each] = ready[each] * splat(known.scale[first]) + splat(known.minimum[first]);
            target[HALF + each] = ready[HALF + each] * splat(known.scale[second]) + splat(known.minimum[second]);
        }
    NEXT_GROUP
}

typedef struct {
    int kind;
    const uint8_t *blocks;
    int64_t row_bytes, rows, groups;
    const float *input;
    float *scratch; /* of one row of input the sums of 16 numbers each, of several all numbers as `arrange` lays them */
    int64_t count;     /* rows of input */
    float *output;         /* [count, rows], or what is unfolded */
    const int64_t *chosen; /* which rows to unfold; NULL for all */
    int threads, task;
} work;

/* Adds to `totals` the products of TILE_WEIGHTS rows of weights and `inputs` rows of input, vector by vector. */
INLINE void tile(int inputs, const float *weights, const float *given, int64_t length, vf *totals, int64_t stride) {
    vf sums[TILE_WEIGHTS][TILE_INPUTS];
    UNROLLED for (int row = 0; row < TILE_WEIGHTS; row++)
        UNROLLED for (int each = 0; each < inputs; each++) sums[row][each] = totals[row * stride + each];
    for (int64_t at = 0; at < length; at += WIDTH) {
        vf here[TILE_WEIGHTS];
        UNROLLED for (int row = 0; row < TILE_WEIGHTS; row++) here[row] = *(const vf_loose *)(weights + row * CHUNK + at);
        UNROLLED for (int each = 0; each < inputs; each++) {
            const vf one = *(const vf_loose *)(given + each * length + at);
            UNROLLED for (int row = 0; row < TILE_WEIGHTS; row++) sums[row][each] += here[row] * one;
        }
    }
    UNROLLED for (int row = 0; row < TILE_WEIGHTS; row++)
        UNROLLED for (int each = 0; each < inputs; each++) totals[row * stride + each] = sums[row][each];
}

static __attribute__((noinline)) void tiles(const float *panel, const float *given, int64_t count, int64_t length,
                                            vf *totals) {
    /* all tiles as wide as they can be, and none much narrower than the others */
    int64_t parts = (count + TILE_INPUTS - 1) / TILE_INPUTS;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t from = count * part / parts, here = count * (part + 1) / parts - from;
        for (int row = 0; row < PANEL; row += TILE_WEIGHTS) {
            const float *weights = panel + row * CHUNK, *input = given + from * length;
            vf *into = totals + row * MOST_INPUTS + from;
            switch (here) {
            case 1: tile(1, weights, input, length, into, MOST_INPUTS); break;
            case 2: tile(2, weights, input, length, into, MOST_INPUTS); break;
            case 3: tile(3, weights, input, length, into, MOST_INPUTS); break;
            case 4: tile(4, weights, input, length, into, MOST_INPUTS); break;
#if TILE_INPUTS > 4
            case 5: tile(5, weights, input, length, into, MOST_INPUTS); break;
            case 6: tile(6, weights, input, length, into, MOST_INPUTS); break;
#endif
            }
        }
    }
}

/* Several rows of input, which `arrange` has laid out. The order of each sum is the same for every `count`. */
INLINE void multiply_many(format of, const work *w, int64_t begin, int64_t end) {
    vf totals[PANEL * MOST_INPUTS];
    float panel[PANEL * CHUNK] __attribute__((aligned(64))) = {0};
    const int64_t width = w->groups * 32;
    for (int64_t from = 0, here; from < w->count; from += here) {
        here = w->count - from < MOST_INPUTS ? w->count - from : MOST_INPUTS;
        for (int64_t first = begin; first < end; first += PANEL) {
            const int64_t rows = end - first < PANEL ? end - first : PANEL;
            memset(totals, 0, sizeof totals);
            for (int64_t at = 0; at < width; at += CHUNK) {
                const int64_t length = width - at < CHUNK ? width - at : CHUNK;
                for (int64_t row = 0; row < rows; row++)
                    unfold_row(of, w->blocks + (first + row) * w->row_bytes, at / 32, length / 32, panel + row * CHUNK);
                tiles(panel, w->scratch + w->count * at + from * length, here, length, totals);
            }
            for (int64_t row = 0; row < rows; row++)
                for (int64_t each = 0; each < here; each++)
                    w->output[(from + each) * w->rows + first + row] = sum(totals[row * MOST_INPUTS + each]);
        }
    }
}

INLINE void multiply(format of, const work *w, int64_t begin, int64_t end) {
    if (w->count > 1) {
        multiply_many(of, w, begin, end);
        return;
    }
    for (int64_t each = begin; each < end; each++)
        w->output[each] = dot(of, w->blocks + each * w->row_bytes, w->groups, w->input, w->scratch);
}

/* Rows [begin, end) of the input, so that CHUNK numbers of all rows stand beside each other. */
static void arrange(const work *w, int64_t begin, int64_t end) {
    const int64_t width = w->groups * 32;
    for (int64_t at = 0; at < width; at += CHUNK) {
        const int64_t length = width - at < CHUNK ? width - at : CHUNK;
        for (int64_t row = begin; row < end; row++)
            memcpy(w->scratch + w->count * at + row * length, w->input + row * width + at, (size_t)length * 4);
    }
}

INLINE void unfold(format of, const work *w, int64_t begin, int64_t end) {
    for (int64_t each = begin; each < end; each++) {
        const uint8_t *row = w->blocks + (w->chosen ? (int64_t)w->chosen[each] : each) * w->row_bytes;
        unfold_row(of, row, 0, w->groups, w->output + each * w->groups * 32);
    }
}

/* Number (of GGUF's types, or ours from 1000 on), name, bytes of a block, groups in it, whether a group has two scales,
   and what its numbers are */
#define FORMATS(each)                                                                                                \
    each(2, q4_0, 18, 1, 0, small) each(3, q4_1, 20, 1, 0, small) each(6, q5_0, 22, 1, 0, small)                     \
    each(7, q5_1, 24, 1, 0, small) each(8, q8_0, 34, 1, 0, small) each(10, q2_k, 84, 8, 1, small)                    \
    each(11, q3_k, 110, 8, 1, small) each(12, q4_k, 144, 8, 0, small) each(13, q5_k, 176, 8, 0, small)               \
    each(14, q6_k, 210, 8, 1, small) each(20, iq4_nl, 18, 1, 0, small) each(23, iq4_xs, 136, 8, 0, small)            \
    each(30, bf16, 64, 1, 0, upper) each(39, mxfp4, 17, 1, 0, small) each(1000, int4_32, 21, 1, 0, small)            \
    each(1001, int4_128, 69, 4, 0, small) each(1002, int8_32, 40, 1, 0, small) each(1003, int8_128, 136, 4, 0, small)\
    each(1004, fp8_32, 36, 1, 0, e4m3) each(1005, fp8_128, 132, 4, 0, e4m3)

#define TASKS(number, name, bytes, groups, apart, read)                                                              \
    static __attribute__((noinline)) void multiply_##name(const work *w, int64_t begin, int64_t end) {                     \
        multiply((format){scale_##name, unpack_##name, read, bytes, groups, apart}, w, begin, end);                  \
    }                                                                                                                \
    static __attribute__((noinline)) void unfold_##name(const work *w, int64_t begin, int64_t end) {                       \
        unfold((format){scale_##name, unpack_##name, read, bytes, groups, apart}, w, begin, end);                    \
    }
FORMATS(TASKS)

enum { MULTIPLY, UNFOLD, ARRANGE };

static void share(const work *w, int thread) {
    int64_t lines = w->task == MULTIPLY ? w->rows : w->count;
    int64_t begin = lines * thread / w->threads, end = lines * (thread + 1) / w->threads;
    if (w->task == ARRANGE) {
        arrange(w, begin, end);
        return;
    }
    switch (w->kind) {
#define CHOICE(number, name, bytes, groups, apart, read)                                                                \
    case number: w->task == UNFOLD ? unfold_##name(w, begin, end) : multiply_##name(w, begin, end); break;
        FORMATS(CHOICE)
    }
}

/* The OpenMP runtime's own entries, lent by who loads this library; without them all runs in the caller's thread. */
static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*thread_number)(void);

static void in_a_thread(void *given) { share((const work *)given, thread_number()); }

static void run(work *w) {
    if (w->threads > 1 && parallel) {
        parallel(in_a_thread, w, (unsigned)w->threads, 0);
    } else {
        w->threads = 1;
        share(w, 0);
    }
}

EXPORT void shardboard_lend(void *parallel_entry, void *thread_number_entry) {
    parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))parallel_entry;
    thread_number = (int (*)(void))thread_number_entry;
}

/* output[count, rows] = input[count, 32 * groups] times the transposed matrix. There is room in `scratch` for as many
   numbers as the input has. */
EXPORT void shardboard_multiply(int kind, const uint8_t *blocks, int64_t row_bytes, int64_t rows, int64_t groups,
                                const float *input, int64_t count, float *scratch, float *output, int threads) {
    work w = {kind, blocks, row_bytes, rows, groups, input, scratch, count, output, 0, threads, ARRANGE};
    if (count > 1) {
        if (count < 32) w.threads = 1; /* a few pages: waking threads would take longer */
        run(&w);
        w.threads = threads;
    } else {
        for (int64_t at = 0; at < 2 * groups; at++) {
            scratch[at] = 0.0f;
            for (int each = 0; each < 16; each++) scratch[at] += input[at * 16 + each];
        }
    }
    w.task = MULTIPLY;
    run(&w);
}

/* output[count, 32 * groups]: rows of the matrix as float32; those that are chosen, or the first `count`. */
EXPORT void shardboard_unfold(int kind, const uint8_t *blocks, int64_t row_bytes, int64_t groups, const int64_t *chosen,
                              int64_t count, float *output, int threads) {
    work w = {kind, blocks, row_bytes, count, groups, 0, 0, count, output, chosen, threads, UNFOLD};
    run(&w);
}

/* --- groups of 32 floats as whole numbers from 0 to 15 ------------------------------------------------------------ */

INLINE vf chosen(vi where, vf these, vf others) { return (vf)((where & (vi)these) | (~where & (vi)others)); }

INLINE vf code(vf value, float inverse, float least) {
    vf at = (value - splat(least)) * splat(inverse);
    at = chosen(at > splat(0.0f), at, splat(0.0f));
    at = chosen(at < splat(15.0f), at, splat(15.0f));
    return __builtin_convertvector(__builtin_convertvector(at + splat(0.5f), vi), vf);
}

INLINE float inverse_of(float scale) { return scale == 0.0f ? 0.0f : 1.0f / scale; }

/* What fits a group best, as far as two rounds of least squares find it; the minimum is not above nothing. */
static void fit(const float *group32, float *scale, float *least) {
    const vf_loose *values = (const vf_loose *)group32;
    float lowest = 0.0f, highest = group32[0], total = 0.0f;
    for (int each = 0; each < 32; each++) {
        lowest = group32[each] < lowest ? group32[each] : lowest;
        highest = group32[each] > highest ? group32[each] : highest;
        total += group32[each];
    }
    float s = highest > lowest ? (highest - lowest) / 15.0f : 0.0f, m = lowest;
    for (int round = 0; round < 2; round++) {
        vf ones = splat(0), squares = splat(0), mixed = splat(0), apart = splat(0);
        for (int each = 0; each < VECTORS; each++) {
            vf number = code(values[each], inverse_of(s), m), off = number * splat(s) + splat(m) - values[each];
            ones += number;
            squares += number * number;
            mixed += number * values[each];
            apart += off * off;
        }
        float one = sum(ones), square = sum(squares), mix = sum(mixed);
        float spread = 32.0f * square - one * one;
        float better = spread > 0.0f ? (32.0f * mix - one * total) / spread : s, shift = (total - better * one) / 32.0f;
        if (shift > 0.0f) {
            better = mix * inverse_of(square);
            shift = 0.0f;
        }
        better = better > 0.0f ? better : 0.0f;
        vf fresh = splat(0);
        for (int each = 0; each < VECTORS; each++) {
            vf off = code(values[each], inverse_of(better), shift) * splat(better) + splat(shift) - values[each];
            fresh += off * off;
        }
        if (!(sum(fresh) < sum(apart))) break;
        s = better;
        m = shift;
    }
    *scale = s;
    *least = m;
}

EXPORT void shardboard_fit(const float *groups, int64_t count, float *scales, float *minima) {
    for (int64_t at = 0; at < count; at++) fit(groups + at * 32, scales + at, minima + at);
}

EXPORT void shardboard_codes(const float *groups, int64_t count, const float *scales, const float *minima, uint8_t *codes) {
    for (int64_t at = 0; at < count; at++) {
        const vf_loose *values = (const vf_loose *)(groups + at * 32);
        for (int each = 0; each < VECTORS; each++) {
            vf number = code(values[each], inverse_of(scales[at]), minima[at]);
            for (int lane = 0; lane < WIDTH; lane++) codes[at * 32 + each * WIDTH + lane] = (uint8_t)number[lane];
        }
    }
}
