/* Few rows of input against matrices in blocks, in whole numbers.

   One row against a matrix is bound by arithmetic, and making floats of the codes is most of it. So the input becomes
   whole numbers instead, once for all rows of weights: fixed point, with a unit for each group of 32. Codes have 8 bits
   at most, so their products with 16 bits, and the sums of these over a group, fit into 32 bits and are exact; scales,
   minima and units are applied once for each group, in float32.

   How many bits is decided for each row of input by itself, by what they would lose of it, as root mean square against
   what is usual in the row: the geometric mean of all its numbers that are not 0, which a few large ones, whose
   neighbours it is that lose, hardly move.

     16 bits, where less is lost than who calls it allows: a small part of what the row's own type rounds to. Numbers of
              bfloat16 are kept as they are down to 1/128 of the largest of their group.
     31 bits, where less than 2^-20 is lost: rows of float32, and those in which numbers are far apart. In two planes of
              16 bits, for half as much work again.
     floats   else, and where something is infinite, no number, or smaller than 2^-87 together with its whole group.

   What comes out is off by less than that part of |row of weights| * |row of input|, whatever stands in the two (by the
   inequality of Cauchy and Schwarz), besides the order of sums. And it is the same to the bit however many rows are
   multiplied together.

   A part of `kernels.c`, which includes it. */

#ifndef SHARDBOARD_INTEGERS
#define SHARDBOARD_INTEGERS

#include "formats.h"

#define FEW_INPUTS 4 /* for more, a panel of weights that was unfolded once is faster */

typedef int16_t words_loose __attribute__((vector_size(LINE_BYTES), aligned(2)));
typedef uint16_t plain_words __attribute__((vector_size(LINE_BYTES)));
typedef int32_t wholes __attribute__((vector_size(LINE_BYTES)));
typedef float lanes __attribute__((vector_size(LINE_BYTES)));
typedef float eight __attribute__((vector_size(32)));
typedef int32_t eight_wholes __attribute__((vector_size(32)));
typedef float eight_loose __attribute__((vector_size(32), aligned(4)));
#define KEPT_IN_MEMORY(values) __asm__ volatile("" : "+m"(values))

/* --- the input -------------------------------------------------------------------------------------------------- */

/* A row of input in fixed point: high * unit, and where there are two planes low * unit / 65536 besides. Of each line of
   bytes the numbers of the first, third, … stand before those of the second, fourth, …, as `widener` gives them. */
typedef struct {
    int planes;             /* 1 or 2; 0 if it has to be multiplied as floats, and `halves` are sums of these */
    int16_t *high, *low;
    float *units, *paired;  /* of each group its unit; the same twice */
    float *sums, *halves;   /* of each group what its numbers come to, and of each 16 of them */
} fixed;

#define FIXED_FLOATS 40  /* room that a fixed row takes for each of its groups, in floats: 32 + 1 + 2 + 1 + 2, rounded */
#define LEAST_EXPONENT 40 /* of floats, biased: groups of nothing but smaller ones are multiplied as floats */
#define MAGIC 12582912.0f /* added to a number below 2^22 it leaves the nearest whole one in the last bits */

INLINE float power_of_two(int32_t exponent) {
    float found;
    exponent <<= 23;
    memcpy(&found, &exponent, 4);
    return found;
}

/* The biased exponent of the largest of 32 numbers; 0 for nothing, -1 if one is infinite, no number, or all too small. */
INLINE int32_t exponent_of(const float *from) {
    eight_wholes tops = {0};
    UNROLLED for (int at = 0; at < 32; at += 8) {
        const eight_wholes sizes = (eight_wholes)*(const eight_loose *)(from + at) & 0x7fffffff, more = sizes > tops;
        tops = (sizes & more) | (tops & ~more);
    }
    int32_t top = 0;
    UNROLLED for (int each = 0; each < 8; each++) top = tops[each] > top ? tops[each] : top;
    if (!top) return 0;
    return top >= 0x7f800000 || top >> 23 < LEAST_EXPONENT ? -1 : top >> 23;
}

/* Puts 32 whole numbers of 16 bits where `add_group` looks for them, and tells what the first and the last 16 sum up to. */
INLINE void put(const eight_wholes *numbers, int16_t *into, int32_t *sums) {
#if defined(__AVX2__)
    const __m256i *from = (const __m256i *)numbers, low = _mm256_set1_epi32(0xffff), ones = _mm256_set1_epi16(1);
    const __m256i first = _mm256_packs_epi32(from[0], from[1]), last = _mm256_packs_epi32(from[2], from[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i even = _mm256_packus_epi32(_mm256_and_si256(first, low), _mm256_and_si256(last, low));
    __m256i odd = _mm256_packus_epi32(_mm256_srli_epi32(first, 16), _mm256_srli_epi32(last, 16));
    even = _mm256_permutevar8x32_epi32(even, order);
    odd = _mm256_permutevar8x32_epi32(odd, order);
    _mm256_storeu_si256((__m256i *)into, even);
    _mm256_storeu_si256((__m256i *)into + 1, odd);
    __m256i all = _mm256_add_epi32(_mm256_madd_epi16(even, ones), _mm256_madd_epi16(odd, ones));
    all = _mm256_hadd_epi32(all, all);
    all = _mm256_hadd_epi32(all, all);
    sums[0] = _mm256_cvtsi256_si32(all);
    sums[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(all, 1));
#else
    int32_t each[32];
    memcpy(each, numbers, sizeof each);
    for (int half = 0; half < 32; half += 16) {
        int32_t all = 0;
        for (int at = 0; at < 16; at++) all += each[half + at];
        for (int at = 0; at < 8; at++) {
            into[half + at] = (int16_t)each[half + 2 * at];
            into[half + 8 + at] = (int16_t)each[half + 2 * at + 1];
        }
        sums[half / 16] = all;
    }
#endif
}

INLINE void note(const fixed *row, int64_t at, float unit, float first, float second) {
    row->units[at] = row->paired[2 * at] = row->paired[2 * at + 1] = unit;
    row->halves[2 * at] = first * unit;
    row->halves[2 * at + 1] = second * unit;
    row->sums[at] = (first + second) * unit;
}

/* What a row would lose, beside what is usual in it. */
typedef struct {
    double lost;          /* sum of squares */
    int64_t sizes, count; /* the upper halves of all numbers but 0 as bits, which are nearly their logarithms; how many */
} losses;

INLINE void note_losses(losses *all, const eight *squares, double unit, const eight_wholes *sizes,
                        const eight_wholes *some) {
    float square = 0.0f;
    for (int each = 0; each < 8; each++)
        square += (*squares)[each], all->sizes += (*sizes)[each], all->count += (*some)[each];
    all->lost += square * (unit * unit);
}

static int is_below(const losses *all, double share) {
    if (!all->count) return 1;
    const int32_t usual = (int32_t)(all->sizes / all->count) << 16;
    float typical;
    memcpy(&typical, &usual, 4);
    return all->lost <= share * share * (double)all->count * ((double)typical * typical);
}

/* 16 bits for each number; 0 where that loses too much, -1 where nothing can be fixed at all. */
static __attribute__((noinline)) int fix_in_one(const float *from, int64_t groups, double allowed, const fixed *row) {
    losses all = {0.0, 0, 0};
    for (int64_t at = 0; at < groups; at++, from += 32) {
        const int32_t exponent = exponent_of(from);
        if (exponent < 0) return -1;
        const float inverse = exponent ? power_of_two(268 - exponent) : 0.0f;
        const float unit = exponent ? power_of_two(exponent - 14) : 0.0f;
        eight_wholes numbers[4], sizes = {0}, some = {0};
        eight squares = {0};
        UNROLLED for (int each = 0; each < 4; each++) {
            const eight given = *(const eight_loose *)(from + 8 * each), number = given * inverse;
            const eight_wholes over = number > 32767.0f, bits = (eight_wholes)given & 0x7fffffff;
            const eight kept = (eight)((over & (eight_wholes)((eight){0} + 32767.0f)) | (~over & (eight_wholes)number));
            const eight moved = kept + MAGIC, off = number - (moved - MAGIC);
            numbers[each] = (eight_wholes)moved - 0x4b400000;
            squares += off * off;
            sizes += bits >> 16;
            some -= bits != 0;
        }
        int32_t sums[2];
        note_losses(&all, &squares, unit, &sizes, &some);
        put(numbers, row->high + 32 * at, sums);
        note(row, at, unit, (float)sums[0], (float)sums[1]);
    }
    return is_below(&all, allowed);
}

/* 31 bits for each number; 0 where that loses too much. */
static __attribute__((noinline)) int fix_in_two(const float *from, int64_t groups, const fixed *row) {
    losses all = {0.0, 0, 0};
    for (int64_t at = 0; at < groups; at++, from += 32) {
        const int32_t exponent = exponent_of(from);
        const float inverse = exponent ? power_of_two(283 - exponent) : 0.0f;
        const float unit = exponent ? power_of_two(exponent - 13) : 0.0f;
        eight_wholes high[4], low[4], sizes = {0}, some = {0};
        eight squares = {0};
        int32_t high_sums[2], low_sums[2];
        UNROLLED for (int each = 0; each < 4; each++) {
            const eight given = *(const eight_loose *)(from + 8 * each), number = given * inverse;
            const eight_wholes whole = __builtin_convertvector(number, eight_wholes);
            const eight_wholes bits = (eight_wholes)given & 0x7fffffff;
            const eight off = number - __builtin_convertvector(whole, eight);
            high[each] = (whole + 0x8000) >> 16;
            low[each] = whole - (high[each] << 16);
            squares += off * off;
            sizes += bits >> 16;
            some -= bits != 0;
        }
        note_losses(&all, &squares, unit * 0x1p-16, &sizes, &some);
        put(high, row->high + 32 * at, high_sums);
        put(low, row->low + 32 * at, low_sums);
        note(row, at, unit, (float)high_sums[0] + (float)low_sums[0] * 0x1p-16f,
             (float)high_sums[1] + (float)low_sums[1] * 0x1p-16f);
    }
    return is_below(&all, 0x1p-20);
}

/* Where in `room` what belongs to a row of 32 * groups numbers stands. */
INLINE fixed laid_out(int64_t groups, float *room) {
    return (fixed){0, (int16_t *)room, (int16_t *)(room + 16 * groups), room + 32 * groups, room + 33 * groups,
                   room + 35 * groups, room + 36 * groups};
}

/* Puts a row of 32 * groups numbers into fixed point, if that can be; 16 bits may lose the part `allowed` of it. */
static void fix(const float *from, int64_t groups, double allowed, fixed *row) {
    const int found = fix_in_one(from, groups, allowed, row);
    row->planes = found > 0 ? 1 : !found && fix_in_two(from, groups, row) ? 2 : 0;
}

/* --- the numbers of a group, as 16 bits each ---------------------------------------------------------------------- */

INLINE void lines_of(unpacker unpack, const uint8_t *block, int which, plain_words *lines) {
    group found;
    unpack(block, which, &found);
#if defined(__AVX2__)
    lines[0] = (plain_words)_mm256_set_m128i((__m128i)found.high, (__m128i)found.low);
#else
    lines[0] = (plain_words)found.low;
    lines[1] = (plain_words)found.high;
#endif
}

INLINE void plain_pairs(plain_words bytes, words *numbers) {
    numbers[0] = (words)(bytes & 255);
    numbers[1] = (words)(bytes >> 8);
}

INLINE void signed_pairs(plain_words bytes, words *numbers) {
    numbers[0] = (words)(bytes << 8) >> 8;
    numbers[1] = (words)bytes >> 8;
}

INLINE void plain(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    plain_words lines[LINES];
    lines_of(unpack, block, which, lines);
    UNROLLED for (int each = 0; each < LINES; each++) plain_pairs(lines[each], numbers + 2 * each);
}

INLINE void with_signs(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    plain_words lines[LINES];
    lines_of(unpack, block, which, lines);
    UNROLLED for (int each = 0; each < LINES; each++) signed_pairs(lines[each], numbers + 2 * each);
}

#if defined(__AVX2__) /* the same in fewer instructions than it takes to put two halves together */
INLINE __m256i all_of(const uint8_t *from) { return _mm256_loadu_si256((const __m256i *)from); }

/* Of each pair of bytes, those bits that are in `mask` once the numbers were moved down by `shift` (up, if negative). */
INLINE void masked(__m256i bytes, int shift, int mask, words *numbers) {
    const __m256i low = shift < 0 ? _mm256_slli_epi16(bytes, -shift) : shift ? _mm256_srli_epi16(bytes, shift) : bytes;
    const __m256i high = _mm256_srli_epi16(bytes, 8 + shift), only = _mm256_set1_epi16((int16_t)mask);
    numbers[0] = (words)_mm256_and_si256(low, only);
    numbers[1] = (words)(8 + shift + 4 == 16 && mask == 15 ? high : _mm256_and_si256(high, only));
}

INLINE __m256i nibbles_of(const uint8_t *from) {
    const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)from));
    return _mm256_srlv_epi32(twice, _mm256_set_epi32(4, 4, 4, 4, 0, 0, 0, 0));
}

INLINE void wide_q4_0(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    (void)unpack, (void)which;
    masked(nibbles_of(block + 2), 0, 15, numbers);
}

INLINE void wide_q4_1(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    (void)unpack, (void)which;
    masked(nibbles_of(block + 4), 0, 15, numbers);
}

INLINE void wide_int4(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    (void)unpack;
    const words zero = (words)_mm256_set1_epi16(block[4]);
    masked(nibbles_of(block + 5 + which * 16), 0, 15, numbers);
    numbers[0] -= zero;
    numbers[1] -= zero;
}

INLINE void wide_affine4(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    (void)unpack;
    masked(nibbles_of(block + 8 + which * 16), 0, 15, numbers);
}

INLINE void wide_q4_k(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    (void)unpack;
    masked(all_of(block + 16 + (which >> 1) * 32), which & 1 ? 4 : 0, 15, numbers);
}

INLINE void wide_q5_k(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    (void)unpack;
    const __m256i both = all_of(block + 48 + (which >> 1) * 32), fifth = all_of(block + 16);
    const __m256i four = _mm256_and_si256(which & 1 ? _mm256_srli_epi16(both, 4) : both, _mm256_set1_epi8(15));
    const __m256i moved = which < 4 ? _mm256_slli_epi16(fifth, 4 - which) : _mm256_srli_epi16(fifth, which - 4);
    const __m256i five = _mm256_or_si256(four, _mm256_and_si256(moved, _mm256_set1_epi8(16)));
    plain_pairs((plain_words)five, numbers);
}

INLINE void wide_q6_k(unpacker unpack, const uint8_t *block, int place, words *numbers) {
    (void)unpack;
    const int side = place >> 2, which = place & 3;
    const __m256i both = all_of(block + side * 64 + (which & 1) * 32), two = all_of(block + 128 + side * 32);
    const __m256i four = _mm256_and_si256(which >> 1 ? _mm256_srli_epi16(both, 4) : both, _mm256_set1_epi8(15));
    const __m256i moved = which < 3 ? _mm256_slli_epi16(two, 4 - 2 * which) : _mm256_srli_epi16(two, 2);
    plain_pairs((plain_words)_mm256_or_si256(four, _mm256_and_si256(moved, _mm256_set1_epi8(48))), numbers);
}

INLINE void wide_q8_0(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    (void)unpack, (void)which;
    signed_pairs((plain_words)all_of(block + 2), numbers);
}

INLINE void wide_int8(unpacker unpack, const uint8_t *block, int which, words *numbers) {
    (void)unpack;
    signed_pairs((plain_words)all_of(block + 8 + which * 32), numbers);
}
#else
#define wide_q4_0 plain
#define wide_q4_1 plain
#define wide_int4 with_signs
#define wide_affine4 plain
#define wide_q4_k plain
#define wide_q5_k plain
#define wide_q6_k plain
#define wide_q8_0 with_signs
#define wide_int8 with_signs
#endif

/* --- a row of weights times rows of input ------------------------------------------------------------------------- */

/* The products of two lines, each lane the sum of two of them. */
INLINE wholes in_pairs(words one, words other) {
#if defined(__AVX2__)
    return (wholes)_mm256_madd_epi16((__m256i)one, (__m256i)other);
#elif defined(__SSE2__)
    return (wholes)_mm_madd_epi16((__m128i)one, (__m128i)other);
#elif defined(__ARM_NEON)
    int16x8_t a = (int16x8_t)one, b = (int16x8_t)other;
    return (wholes)vmlal_s16(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vget_high_s16(a), vget_high_s16(b));
#else
    wholes found;
    for (int each = 0; each < LINE_BYTES / 4; each++)
        found[each] = one[2 * each] * other[2 * each] + one[2 * each + 1] * other[2 * each + 1];
    return found;
#endif
}

INLINE float added(lanes values) {
    UNROLLED for (int half = LINE_BYTES / 8; half > 0; half /= 2)
        UNROLLED for (int each = 0; each < half; each++) values[each] += values[each + half];
    return values[0];
}

INLINE lanes everywhere(const float *value) {
#if defined(__AVX2__)
    return (lanes)_mm256_broadcast_ss(value);
#else
    return (lanes){0} + *value;
#endif
}

/* Adds a group's sums of products to `total`, times its factor, or those of its first 16 numbers and of the others. */
INLINE void add_group(const words *numbers, const int16_t *input, int apart, const float *factors, lanes *total) {
    wholes found[LINES];
    UNROLLED for (int each = 0; each < LINES; each++) {
        const words_loose *given = (const words_loose *)input + 2 * each;
        found[each] = in_pairs(numbers[2 * each], given[0]) + in_pairs(numbers[2 * each + 1], given[1]);
    }
#if LINES == 1
    lanes factor = everywhere(factors);
    if (apart) factor = (lanes)_mm256_set_m128(_mm_broadcast_ss(factors + 1), _mm_broadcast_ss(factors));
    *total += __builtin_convertvector(found[0], lanes) * factor;
#else
    if (apart) {
        *total += __builtin_convertvector(found[0], lanes) * everywhere(factors);
        *total += __builtin_convertvector(found[1], lanes) * everywhere(factors + 1);
    } else {
        *total += __builtin_convertvector(found[0] + found[1], lanes) * everywhere(factors);
    }
#endif
}

/* One row of weights times `count` (1 or 2) rows of input in as many `planes`; into[i] is of row i. */
INLINE void dot_fixed(format of, widener widen, const uint8_t *row, int64_t groups, const fixed *rows, int count,
                      int planes, float *into) {
    lanes totals[2][4] = {{{0}}}; /* of each row: for groups in turn, and for high and low halves */
    eight minima[2] = {{0}};
    float least[2] = {0};
    const uint8_t *block = row;
    for (int64_t base = 0; base < groups; base += of.groups, block += of.block_bytes) {
        scales known;
        float factors[2][16];
        of.scale(block, &known);
        UNROLLED for (int each = 0; each < count; each++) {
            const fixed *given = rows + each;
            if (of.groups == 8) {
                const float *units = of.apart ? given->paired + 2 * base : given->units + base;
                const float *sums = of.apart ? given->halves + 2 * base : given->sums + base;
                for (int at = 0; at < (of.apart ? 16 : 8); at += 8) {
                    *(eight_loose *)(factors[each] + at) =
                        *(eight_loose *)(known.scale + at) * *(const eight_loose *)(units + at);
                    if (of.whole & MINIMA)
                        minima[each] += *(eight_loose *)(known.minimum + at) * *(const eight_loose *)(sums + at);
                }
            } else {
                UNROLLED for (int which = 0; which < of.groups; which++) {
                    factors[each][which] = known.scale[which] * given->units[base + which];
                    if (of.whole & MINIMA) least[each] += known.minimum[which] * given->sums[base + which];
                }
            }
        }
        if (of.groups == 8) KEPT_IN_MEMORY(factors); /* from where each is spread by one instruction, and not by three */
        UNROLLED for (int which = 0; which < of.groups; which++) {
            words numbers[2 * LINES];
            widen(of.unpack, block, which, numbers);
            const int64_t at = (base + which) * 32;
            UNROLLED for (int each = 0; each < count; each++) {
                const float *factor = factors[each] + (of.apart ? 2 * which : which);
                lanes *total = totals[each] + 2 * (which & 1);
                add_group(numbers, rows[each].high + at, of.apart, factor, total);
                if (planes == 2) add_group(numbers, rows[each].low + at, of.apart, factor, total + 1);
            }
        }
    }
    UNROLLED for (int each = 0; each < count; each++) {
        const lanes *all = totals[each];
        const lanes *few = (const lanes *)&minima[each];
        lanes whole = all[0] + all[2];
        if (planes == 2) whole += (all[1] + all[3]) * ((lanes){0} + 0x1p-16f);
        UNROLLED for (int at = 0; at < LINES; at++) whole += few[at];
        into[each] = added(whole) + least[each];
    }
}

#endif
