/* Matrices whose weights stay in the blocks that GGUF files store: a block of 32 (or 256) weights of one row has
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
#define MOST_ROWS 8
#define INLINE static inline __attribute__((always_inline))
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

typedef float vf __attribute__((vector_size(4 * WIDTH)));
typedef float vf_loose __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16_loose __attribute__((vector_size(16), aligned(1)));
typedef int8_t s8x16 __attribute__((vector_size(16)));

/* 32 weights of a row: w[i] = codes[i] * scale[i / 16] + minimum[i / 16] */
typedef struct {
    s8x16 low, high;
    float scale[2], minimum[2];
} group;

/* The group `which` of a block; always a constant where it is called, so that shifts and cases are decided by the
   compiler. Blocks of 32 weights have one group, those of 256 eight. */
typedef void (*unpacker)(const uint8_t *block, int which, group *found);

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
    for (int each = 0; each < 16; each++) into[each / WIDTH][each % WIDTH] = (float)codes[each];
#endif
}

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

INLINE void one(group *found, float scale, float minimum) {
    found->scale[0] = found->scale[1] = scale;
    found->minimum[0] = found->minimum[1] = minimum;
}

INLINE void nibbles(const uint8_t *from, group *found) {
    u8x16 both = load(from);
    found->low = (s8x16)(both & 15);
    found->high = (s8x16)(both >> 4);
}

/* --- the formats, as llama.cpp's ggml-common.h describes their blocks ------------------------------------------ */

INLINE void unpack_q4_0(const uint8_t *block, int which, group *found) {
    (void)which;
    float scale = half(block);
    nibbles(block + 2, found);
    one(found, scale, -8.0f * scale);
}

INLINE void unpack_q4_1(const uint8_t *block, int which, group *found) {
    (void)which;
    nibbles(block + 4, found);
    one(found, half(block), half(block + 2));
}

INLINE void unpack_q5_0(const uint8_t *block, int which, group *found) {
    (void)which;
    float scale = half(block);
    nibbles(block + 6, found);
    found->low |= (s8x16)spread(block + 2, 16);
    found->high |= (s8x16)spread(block + 4, 16);
    one(found, scale, -16.0f * scale);
}

INLINE void unpack_q5_1(const uint8_t *block, int which, group *found) {
    (void)which;
    nibbles(block + 8, found);
    found->low |= (s8x16)spread(block + 4, 16);
    found->high |= (s8x16)spread(block + 6, 16);
    one(found, half(block), half(block + 2));
}

INLINE void unpack_q8_0(const uint8_t *block, int which, group *found) {
    (void)which;
    found->low = (s8x16)load(block + 2);
    found->high = (s8x16)load(block + 18);
    one(found, half(block), 0.0f);
}

/* The 6-bit scale and minimum of one of a block's eight groups (Q4_K, Q5_K). */
INLINE void k_scales(const uint8_t *block, int which, group *found) {
    const uint8_t *packed = block + 4;
    int scale, minimum;
    if (which < 4) {
        scale = packed[which] & 63;
        minimum = packed[which + 4] & 63;
    } else {
        scale = (packed[which + 4] & 15) | ((packed[which - 4] >> 6) << 4);
        minimum = (packed[which + 4] >> 4) | ((packed[which] >> 6) << 4);
    }
    one(found, half(block) * (float)scale, -half(block + 2) * (float)minimum);
}

INLINE void unpack_q4_k(const uint8_t *block, int which, group *found) {
    const int shift = (which & 1) * 4;
    const uint8_t *codes = block + 16 + (which >> 1) * 32;
    found->low = (s8x16)((load(codes) >> shift) & 15);
    found->high = (s8x16)((load(codes + 16) >> shift) & 15);
    k_scales(block, which, found);
}

INLINE void unpack_q5_k(const uint8_t *block, int which, group *found) {
    const int shift = (which & 1) * 4;
    const uint8_t *codes = block + 48 + (which >> 1) * 32, *fifth = block + 16;
    found->low = (s8x16)(((load(codes) >> shift) & 15) | (((load(fifth) >> which) & 1) << 4));
    found->high = (s8x16)(((load(codes + 16) >> shift) & 15) | (((load(fifth + 16) >> which) & 1) << 4));
    k_scales(block, which, found);
}

INLINE void unpack_q6_k(const uint8_t *block, int place, group *found) {
    const int side = place >> 2, which = place & 3;
    const uint8_t *four = block + side * 64 + (which & 1) * 32, *two = block + 128 + side * 32;
    const int8_t *scales = (const int8_t *)block + 192 + side * 8 + which * 2;
    int shift = (which >> 1) * 4;
    found->low = (s8x16)(((load(four) >> shift) & 15) | (((load(two) >> (2 * which)) & 3) << 4));
    found->high = (s8x16)(((load(four + 16) >> shift) & 15) | (((load(two + 16) >> (2 * which)) & 3) << 4));
    float whole = half(block + 208);
    for (int side16 = 0; side16 < 2; side16++) {
        found->scale[side16] = whole * (float)scales[side16];
        found->minimum[side16] = -32.0f * found->scale[side16];
    }
}

INLINE void unpack_q2_k(const uint8_t *block, int place, group *found) {
    const int side = place >> 2, which = place & 3;
    const uint8_t *codes = block + 16 + side * 32, *scales = block + side * 8 + which * 2;
    found->low = (s8x16)((load(codes) >> (2 * which)) & 3);
    found->high = (s8x16)((load(codes + 16) >> (2 * which)) & 3);
    float whole = half(block + 80), least = half(block + 82);
    for (int side16 = 0; side16 < 2; side16++) {
        found->scale[side16] = whole * (float)(scales[side16] & 15);
        found->minimum[side16] = -least * (float)(scales[side16] >> 4);
    }
}

INLINE void unpack_q3_k(const uint8_t *block, int place, group *found) {
    const uint8_t *scales = block + 96;
    const int side = place >> 2, which = place & 3;
    const uint8_t *codes = block + 32 + side * 32;
    int bit = side * 4 + which;
    found->low = (s8x16)(((load(codes) >> (2 * which)) & 3) | (((load(block) >> bit) & 1) << 2));
    found->high = (s8x16)(((load(codes + 16) >> (2 * which)) & 3) | (((load(block + 16) >> bit) & 1) << 2));
    float whole = half(block + 108);
    for (int side16 = 0; side16 < 2; side16++) {
        int index = side * 8 + which * 2 + side16;
        int four = (scales[index & 7] >> (4 * (index >> 3))) & 15;
        int two = (scales[8 + (index & 3)] >> (2 * (index >> 2))) & 3;
        found->scale[side16] = whole * (float)((four | (two << 4)) - 32);
        found->minimum[side16] = -4.0f * found->scale[side16];
    }
}

static const int8_t UNEVEN[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t FP4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

INLINE void uneven_nibbles(const uint8_t *from, const int8_t *table, group *found) {
    u8x16 both = load(from);
    found->low = looked_up(table, both & 15);
    found->high = looked_up(table, both >> 4);
}

INLINE void unpack_iq4_nl(const uint8_t *block, int which, group *found) {
    (void)which;
    uneven_nibbles(block + 2, UNEVEN, found);
    one(found, half(block), 0.0f);
}

INLINE void unpack_iq4_xs(const uint8_t *block, int which, group *found) {
    int four = (block[4 + (which >> 1)] >> (4 * (which & 1))) & 15;
    int two = ((block[2] | (block[3] << 8)) >> (2 * which)) & 3;
    uneven_nibbles(block + 8 + which * 16, UNEVEN, found);
    one(found, half(block) * (float)((four | (two << 4)) - 32), 0.0f);
}

INLINE void unpack_mxfp4(const uint8_t *block, int which, group *found) {
    (void)which;
    /* 2^(e - 128): half of what the exponent says, since the table holds the numbers doubled */
    uint32_t bits = block[0] < 2 ? 0x00200000u << block[0] : (uint32_t)(block[0] - 1) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    uneven_nibbles(block + 1, FP4, found);
    one(found, scale, 0.0f);
}

/* --- formats of our own, for what other quantized models have: see formats.py ---------------------------------- */

INLINE float single(const uint8_t *from) {
    float value;
    memcpy(&value, from, 4);
    return value;
}

INLINE void unpack_int4(const uint8_t *block, int which, group *found) {
    const s8x16 zero = (s8x16)all(block[4]);
    nibbles(block + 5 + which * 16, found);
    found->low -= zero; /* before it is scaled: one rounding for each weight, whatever the scale */
    found->high -= zero;
    one(found, single(block), 0.0f);
}

INLINE void unpack_int8(const uint8_t *block, int which, group *found) {
    found->low = (s8x16)load(block + 8 + which * 32);
    found->high = (s8x16)load(block + 24 + which * 32);
    one(found, single(block), single(block + 4));
}

#define unpack_int4_32 unpack_int4
#define unpack_int4_128 unpack_int4
#define unpack_int8_32 unpack_int8
#define unpack_int8_128 unpack_int8

/* --- what is done with them --------------------------------------------------------------------------------- */

INLINE float sum(vf values) {
    float total = 0.0f;
    for (int each = 0; each < WIDTH; each++) total += values[each];
    return total;
}

INLINE void weights(const group *found, vf *into) {
    floats(found->low, into);
    floats(found->high, into + HALF);
    for (int side = 0; side < 2; side++)
        for (int each = side * HALF; each < (side + 1) * HALF; each++)
            into[each] = into[each] * splat(found->scale[side]) + splat(found->minimum[side]);
}

/* The format that a task is compiled for; `apart`: its two scales differ. */
typedef struct {
    unpacker unpack;
    int block_bytes, groups, apart;
} format;

#define EACH_GROUP(of, row, groups_in_all)                                                                     \
    const long per_block = (of).groups;                                                                        \
    const uint8_t *block = row;                                                                                \
    for (long base = 0; base < groups_in_all; base += per_block, block += (of).block_bytes)                    \
        _Pragma("GCC unroll 8") for (int which = 0; which < per_block; which++)

/* One row of weights times one row of input, whose sums of 16 numbers each stand in `sums`. */
INLINE float dot(format of, const uint8_t *row, long groups, const float *input, const float *sums) {
    vf first = splat(0), second = splat(0);
    float least = 0.0f, least2 = 0.0f;
    EACH_GROUP(of, row, groups) {
        group found;
        vf codes[VECTORS];
        of.unpack(block, which, &found);
        floats(found.low, codes);
        floats(found.high, codes + HALF);
        const long at = base + which;
        const vf_loose *given = (const vf_loose *)(input + at * 32);
        vf low = codes[0] * given[0], high = codes[HALF] * given[HALF];
        for (int each = 1; each < HALF; each++) {
            low += codes[each] * given[each];
            high += codes[HALF + each] * given[HALF + each];
        }
        if (of.apart) {
            first += low * splat(found.scale[0]);
            second += high * splat(found.scale[1]);
            least += found.minimum[0] * sums[2 * at];
            least2 += found.minimum[1] * sums[2 * at + 1];
        } else {
            first += low * splat(found.scale[0]);
            second += high * splat(found.scale[0]);
            least += found.minimum[0] * (sums[2 * at] + sums[2 * at + 1]);
        }
    }
    return sum(first + second) + least + least2;
}

INLINE void dots(format of, int count, const uint8_t *row, long groups, const float *input, long width, float *into,
                 long stride) {
    vf totals[MOST_ROWS];
    for (int each = 0; each < count; each++) totals[each] = splat(0);
    EACH_GROUP(of, row, groups) {
        group found;
        vf ready[VECTORS];
        of.unpack(block, which, &found);
        weights(&found, ready);
        for (int each = 0; each < count; each++) {
            const vf_loose *given = (const vf_loose *)(input + each * width + (base + which) * 32);
            for (int part = 0; part < VECTORS; part++) totals[each] += ready[part] * given[part];
        }
    }
    for (int each = 0; each < count; each++) into[each * stride] = sum(totals[each]);
}

typedef struct {
    int kind;
    const uint8_t *blocks;
    long row_bytes, rows, groups;
    const float *input, *sums;
    long count;            /* rows of input */
    float *output;         /* [count, rows], or what is unfolded */
    const int64_t *chosen; /* which rows to unfold; NULL for all */
    int threads, task;
} work;

INLINE void multiply(format of, const work *w, long begin, long end) {
    long width = w->groups * 32, stride = w->rows;
    if (w->count == 1) {
        for (long each = begin; each < end; each++)
            w->output[each] = dot(of, w->blocks + each * w->row_bytes, w->groups, w->input, w->sums);
        return;
    }
    for (long from = 0, here; from < w->count; from += here) {
        const long left = w->count - from;
        here = left >= MOST_ROWS ? MOST_ROWS : left >= 3 ? 3 : 1;
        const float *input = w->input + from * width;
        for (long each = begin; each < end; each++) {
            const uint8_t *row = w->blocks + each * w->row_bytes;
            float *into = w->output + from * stride + each;
            if (here == MOST_ROWS)
                dots(of, MOST_ROWS, row, w->groups, input, width, into, stride);
            else if (here == 3)
                dots(of, 3, row, w->groups, input, width, into, stride);
            else
                dots(of, 1, row, w->groups, input, width, into, stride);
        }
    }
}

INLINE void unfold(format of, const work *w, long begin, long end) {
    for (long each = begin; each < end; each++) {
        const uint8_t *row = w->blocks + (w->chosen ? (long)w->chosen[each] : each) * w->row_bytes;
        float *into = w->output + each * w->groups * 32;
        EACH_GROUP(of, row, w->groups) {
            group found;
            vf ready[VECTORS];
            of.unpack(block, which, &found);
            weights(&found, ready);
            for (int part = 0; part < VECTORS; part++) ((vf_loose *)(into + (base + which) * 32))[part] = ready[part];
        }
    }
}

/* Number (of GGUF's types, or ours from 1000 on), name, bytes of a block, groups in it, whether a group has two scales */
#define FORMATS(each)                                                                                          \
    each(2, q4_0, 18, 1, 0) each(3, q4_1, 20, 1, 0) each(6, q5_0, 22, 1, 0) each(7, q5_1, 24, 1, 0)            \
    each(8, q8_0, 34, 1, 0) each(10, q2_k, 84, 8, 1) each(11, q3_k, 110, 8, 1) each(12, q4_k, 144, 8, 0)       \
    each(13, q5_k, 176, 8, 0) each(14, q6_k, 210, 8, 1) each(20, iq4_nl, 18, 1, 0)                             \
    each(23, iq4_xs, 136, 8, 0) each(39, mxfp4, 17, 1, 0) each(1000, int4_32, 21, 1, 0)                        \
    each(1001, int4_128, 69, 4, 0) each(1002, int8_32, 40, 1, 0) each(1003, int8_128, 136, 4, 0)

#define TASKS(number, name, bytes, groups, apart)                                                              \
    static __attribute__((noinline)) void multiply_##name(const work *w, long begin, long end) {               \
        multiply((format){unpack_##name, bytes, groups, apart}, w, begin, end);                                \
    }                                                                                                          \
    static __attribute__((noinline)) void unfold_##name(const work *w, long begin, long end) {                 \
        unfold((format){unpack_##name, bytes, groups, apart}, w, begin, end);                                  \
    }
FORMATS(TASKS)

static void share(const work *w, int thread) {
    long lines = w->task ? w->count : w->rows;
    long begin = lines * thread / w->threads, end = lines * (thread + 1) / w->threads;
    switch (w->kind) {
#define CHOICE(number, name, bytes, groups, apart)                                                                      \
    case number: w->task ? unfold_##name(w, begin, end) : multiply_##name(w, begin, end); break;
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

/* output[count, rows] = input[count, 32 * groups] times the transposed matrix; `sums` has room for 2 * groups. */
EXPORT void shardboard_multiply(int kind, const uint8_t *blocks, long row_bytes, long rows, long groups,
                                const float *input, long count, float *sums, float *output, int threads) {
    if (count == 1)
        for (long at = 0; at < 2 * groups; at++) {
            float total = 0.0f;
            for (int each = 0; each < 16; each++) total += input[at * 16 + each];
            sums[at] = total;
        }
    work w = {kind, blocks, row_bytes, rows, groups, input, sums, count, output, 0, threads, 0};
    run(&w);
}

/* output[count, 32 * groups]: rows of the matrix as float32; those that are chosen, or the first `count`. */
EXPORT void shardboard_unfold(int kind, const uint8_t *blocks, long row_bytes, long groups, const int64_t *chosen,
                              long count, float *output, int threads) {
    work w = {kind, blocks, row_bytes, count, groups, 0, 0, count, output, chosen, threads, 1};
    run(&w);
}

/* --- groups of 32 floats as whole numbers from 0 to 15 ------------------------------------------------------------ */

typedef int32_t vi __attribute__((vector_size(4 * WIDTH)));

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

EXPORT void shardboard_fit(const float *groups, long count, float *scales, float *minima) {
    for (long at = 0; at < count; at++) fit(groups + at * 32, scales + at, minima + at);
}

EXPORT void shardboard_codes(const float *groups, long count, const float *scales, const float *minima, uint8_t *codes) {
    for (long at = 0; at < count; at++) {
        const vf_loose *values = (const vf_loose *)(groups + at * 32);
        for (int each = 0; each < VECTORS; each++) {
            vf number = code(values[each], inverse_of(scales[at]), minima[at]);
            for (int lane = 0; lane < WIDTH; lane++) codes[at * 32 + each * WIDTH + lane] = (uint8_t)number[lane];
        }
    }
}
