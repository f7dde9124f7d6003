/* The formats of blocks that no GGUF file has: our own, for what other quantized models have (`formats.py`), and
   bfloat16, which is none.

   A part of `kernels.c`, which includes it. */

#ifndef SHARDBOARD_OWN_FORMATS
#define SHARDBOARD_OWN_FORMATS

#include "formats.h"

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

/* 16 numbers of 8 bits as 32 bits each. */
INLINE void widened(s8x16 codes, vi *into) {
#if WIDTH == 16 && defined(__AVX512F__)
    into[0] = (vi)_mm512_cvtepi8_epi32((__m128i)codes);
#elif WIDTH == 8 && defined(__AVX2__)
    into[0] = (vi)_mm256_cvtepi8_epi32((__m128i)codes);
    into[1] = (vi)_mm256_cvtepi8_epi32(_mm_srli_si128((__m128i)codes, 8));
#else
    int32_t found[16];
    for (int each = 0; each < 16; each++) found[each] = codes[each];
    memcpy(into, found, sizeof found);
#endif
}

/* 16 numbers of FP8 (e4m3) as floats: exponent and mantissa where a float has them, and its bias made up for. Numbers
   without an exponent, m / 8 * 2^-6, come out as (1 + m / 8) * 2^-7, of which they are made; multiplying bits that are
   a float without an exponent would be right, too, and takes processors of Intel's a hundred times as long. */
INLINE void e4m3(const group *from, int half, vf *into) {
    vi numbers[16 / WIDTH];
    widened(half ? from->high : from->low, numbers);
    UNROLLED for (int each = 0; each < 16 / WIDTH; each++) {
        const vi bits = numbers[each], size = (bits & 0x7f) << 20, small = size < 0x00800000;
        const vf usual = (vf)(size + (120 << 23));
        const vi found = (small & (vi)(usual + usual - splat(0x1p-6f))) | (~small & (vi)usual);
        into[each] = (vf)(found | (bits & INT32_MIN));
    }
}

/* Codes of 4 bits whose scale and minimum are floats. */
INLINE void scale_affine4(const uint8_t *block, scales *found) {
    for (int each = 0; each < 2; each++) {
        found->scale[each] = single(block);
        found->minimum[each] = single(block + 4);
    }
}

INLINE void unpack_affine4(const uint8_t *block, int which, group *found) { nibbles(block + 8 + which * 16, found); }

/* Codes of 4 bits that are places in a table of floats: bitsandbytes' NF4 and FP4. */
static const float NF4_TABLE[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
    0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
};
static const float FP4_TABLE[16] = {
    0.0f, 0.0052083334885537624f, 0.6666666865348816f, 1.0f, 0.3333333432674408f, 0.5f, 0.1666666716337204f, 0.25f,
    0.0f, -0.0052083334885537624f, -0.6666666865348816f, -1.0f, -0.3333333432674408f, -0.5f, -0.1666666716337204f, -0.25f,
};

INLINE void unpack_table(const uint8_t *block, int which, group *found) { nibbles(block + 4 + which * 16, found); }

INLINE void from_table(const float *table, const group *from, int half, vf *into) {
    const s8x16 codes = half ? from->high : from->low;
#if WIDTH == 16 && defined(__AVX512F__)
    into[0] = (vf)_mm512_permutexvar_ps(_mm512_cvtepu8_epi32((__m128i)codes), _mm512_loadu_ps(table));
#elif WIDTH == 8 && defined(__AVX2__)
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
    UNROLLED for (int each = 0; each < 2; each++) {
        const __m128i here = each ? _mm_srli_si128((__m128i)codes, 8) : (__m128i)codes;
        const __m256i index = _mm256_cvtepu8_epi32(here); /* its fourth bit says which half of the table */
        into[each] = (vf)_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index),
                                          _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
    }
#else
    float found[16];
    for (int each = 0; each < 16; each++) found[each] = table[(uint8_t)codes[each]];
    memcpy(into, found, sizeof found);
#endif
}

INLINE void nf4(const group *from, int half, vf *into) { from_table(NF4_TABLE, from, half, into); }

INLINE void fp4(const group *from, int half, vf *into) { from_table(FP4_TABLE, from, half, into); }

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
#define scale_nf4_32 scale_int4
#define unpack_nf4_32 unpack_table
#define scale_nf4_64 scale_int4
#define unpack_nf4_64 unpack_table
#define scale_fp4_32 scale_int4
#define unpack_fp4_32 unpack_table
#define scale_fp4_64 scale_int4
#define unpack_fp4_64 unpack_table
#define scale_affine4_32 scale_affine4
#define unpack_affine4_32 unpack_affine4
#define scale_affine4_64 scale_affine4
#define unpack_affine4_64 unpack_affine4

#endif
