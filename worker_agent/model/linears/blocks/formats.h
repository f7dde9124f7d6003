/* The formats of blocks, as llama.cpp's ggml-common.h and `formats.py` describe them: for each what scales and minima
   a block has (`scale_…`) and which small whole numbers (`unpack_…`), and the vectors that these are read into.

   A part of `kernels.c`, which includes it. */

#ifndef SHARDBOARD_FORMATS
#define SHARDBOARD_FORMATS

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
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
#define UNROLLED _Pragma("GCC unroll 8")
#define INLINE static inline __attribute__((always_inline))
typedef float vf __attribute__((vector_size(4 * WIDTH)));
typedef int32_t vi __attribute__((vector_size(4 * WIDTH)));
typedef float vf_loose __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16_loose __attribute__((vector_size(16), aligned(1)));
typedef int8_t s8x16 __attribute__((vector_size(16)));

#if defined(__AVX2__)
#define LINE_BYTES 32 /* of the vectors for whole numbers */
#else
#define LINE_BYTES 16
#endif
#define LINES (32 / LINE_BYTES) /* that the numbers of a group fill */
typedef int16_t words __attribute__((vector_size(LINE_BYTES)));

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
/* The numbers of a group as 16 bits each, for a format that is multiplied in whole numbers (`integers.h`): of each line
   of bytes the first, third, …, then the second, fourth, …. */
typedef void (*widener)(unpacker unpack, const uint8_t *block, int which, words *numbers);

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

/* Q4_K and Q5_K: eight scales and eight minima of 6 bits each, in 12 bytes behind what they are counted in. */
INLINE s8x16 sixes(const uint8_t *block) {
#if defined(__AVX2__)
    const __m128i all = _mm_loadu_si128((const __m128i *)block);
    const __m128i low = _mm_shuffle_epi8(all, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    const __m128i high = _mm_shuffle_epi8(all, _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
    const __m128i bits = _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f);
    return (s8x16)_mm_or_si128(_mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 0, 4)), bits),
                               _mm_and_si128(_mm_srli_epi32(high, 2), _mm_set1_epi8(0x30)));
#else
    uint32_t packed[3], bytes[4];
    memcpy(packed, block + 4, 12);
    bytes[0] = packed[0] & 0x3f3f3f3fu;
    bytes[1] = (packed[2] & 0x0f0f0f0fu) | ((packed[0] >> 2) & 0x30303030u);
    bytes[2] = packed[1] & 0x3f3f3f3fu;
    bytes[3] = ((packed[2] >> 4) & 0x0f0f0f0fu) | ((packed[1] >> 2) & 0x30303030u);
    s8x16 numbers;
    memcpy(&numbers, bytes, 16);
    return numbers;
#endif
}

INLINE void scale_q4_k(const uint8_t *block, scales *found) {
    float both[16];
    scaled(sixes(block), 1.0f, both);
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

/* --- what all that is done with them goes through --------------------------------------------------------------- */

INLINE float sum(vf values) {
    float found[WIDTH];
    memcpy(found, &values, sizeof values);
    for (int half = WIDTH / 2; half > 0; half /= 2)
        for (int each = 0; each < half; each++) found[each] += found[each + half];
    return found[0];
}

/* The format that a task is compiled for; `apart`: each half of a group has a scale of its own; `whole`: whether its
   numbers are, and have minima. */
typedef struct {
    scaler scale;
    unpacker unpack;
    reader read;
    int block_bytes, groups, apart, whole;
} format;
enum { WHOLE = 1, MINIMA = 2 }; /* its numbers are whole; they have minima */

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

#endif
