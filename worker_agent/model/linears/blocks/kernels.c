/* Matrices whose weights stay in blocks, as GGUF files store them: a block of 32 (128, 256) weights of one row has
   small whole numbers, and one or several scales and minima by which they become the weights.

   Few rows of input are multiplied in whole numbers (`integers.h`). For more, every weight is turned into the float32
   number that the format means (`formats.h`), in registers, and multiplied with the input as it is: results differ from
   those of dequantised weights in the order of sums alone.

   One source for all processors: vectors are the compiler's own (`vector_size`), as wide as SHARDBOARD_WIDTH floats.
   It is compiled once for each level of instructions (`building.py`); who calls it says how many threads there are
   and lends the OpenMP runtime's own `GOMP_parallel`, so that no second pool of threads stands beside torch's. */

#include <stdlib.h>

#include "formats.h"
#include "integers.h"
#include "own_formats.h"
#include "tiles.h"

#if WIDTH == 16 || defined(__aarch64__) /* with 32 registers for vectors */
#define TILE_WEIGHTS 4
#define TILE_INPUTS 6
#else
#define TILE_WEIGHTS 3
#define TILE_INPUTS 4
#endif
#define PANEL (4 * TILE_WEIGHTS) /* rows of weights that are unfolded at a time, CHUNK numbers of each */
#define CHUNK 256
#define TURNS 8    /* in how many turns a thread does its share */
#define MOST_INPUTS 96 /* rows of input that a panel is multiplied with before it is forgotten */
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Sums of 16 numbers each. */
static void sum_halves(const float *from, int64_t groups, float *halves) {
    for (int64_t at = 0; at < 2 * groups; at++) {
        halves[at] = 0.0f;
        for (int each = 0; each < 16; each++) halves[at] += from[at * 16 + each];
    }
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
    float *scratch;   /* all numbers of the input as `arrange` lays them */
    const fixed *few; /* or the rows one by one, where they are few */
    int64_t count;     /* rows of input */
    float *output;         /* [count, rows], or what is unfolded */
    const int64_t *chosen; /* which rows to unfold; NULL for all */
    const tiled *tiles; /* for tiles */
    int threads, task;
    long next; /* the first line that no thread has taken yet */
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

/* Few rows of input, two at a time where they are of a kind. What a row gives does not depend on that. */
INLINE void multiply_few(format of, widener widen, const work *w, int64_t begin, int64_t end) {
    for (int64_t each = begin; each < end; each++) {
        const uint8_t *row = w->blocks + each * w->row_bytes;
        for (int64_t at = 0, here; at < w->count; at += here) {
            const fixed *rows = w->few + at;
            float found[2] = {0};
            here = of.whole && rows[0].planes && at + 1 < w->count && rows[1].planes == rows[0].planes ? 2 : 1;
            if (!of.whole || !rows[0].planes)
                found[0] = dot(of, row, w->groups, w->input + at * w->groups * 32, rows[0].halves);
            else if (rows[0].planes == 1 && here == 1) dot_fixed(of, widen, row, w->groups, rows, 1, 1, found);
            else if (rows[0].planes == 1) dot_fixed(of, widen, row, w->groups, rows, 2, 1, found);
            else if (here == 1) dot_fixed(of, widen, row, w->groups, rows, 1, 2, found);
            else dot_fixed(of, widen, row, w->groups, rows, 2, 2, found);
            for (int64_t one = 0; one < here; one++) w->output[(at + one) * w->rows + each] = found[one];
        }
    }
}

INLINE void multiply(format of, widener widen, const work *w, int64_t begin, int64_t end) {
    if (w->few) {
        multiply_few(of, widen, w, begin, end);
    } else {
        multiply_many(of, w, begin, end);
    }
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
   what its numbers are, whether these are whole and have minima, and how they are taken out then */
#define FORMATS(each)                                                                                                \
    each(2, q4_0, 18, 1, 0, small, WHOLE | MINIMA, wide_q4_0)                                                        \
    each(3, q4_1, 20, 1, 0, small, WHOLE | MINIMA, wide_q4_1)                                                        \
    each(6, q5_0, 22, 1, 0, small, WHOLE | MINIMA, plain)                                                            \
    each(7, q5_1, 24, 1, 0, small, WHOLE | MINIMA, plain)                                                            \
    each(8, q8_0, 34, 1, 0, small, WHOLE, wide_q8_0)                                                                 \
    each(10, q2_k, 84, 8, 1, small, WHOLE | MINIMA, plain)                                                           \
    each(11, q3_k, 110, 8, 1, small, WHOLE | MINIMA, plain)                                                          \
    each(12, q4_k, 144, 8, 0, small, WHOLE | MINIMA, wide_q4_k)                                                      \
    each(13, q5_k, 176, 8, 0, small, WHOLE | MINIMA, wide_q5_k)                                                      \
    each(14, q6_k, 210, 8, 1, small, WHOLE | MINIMA, wide_q6_k)                                                      \
    each(20, iq4_nl, 18, 1, 0, small, WHOLE, with_signs)                                                             \
    each(23, iq4_xs, 136, 8, 0, small, WHOLE, with_signs)                                                            \
    each(30, bf16, 64, 1, 0, upper, 0, plain)                                                                        \
    each(39, mxfp4, 17, 1, 0, small, WHOLE, with_signs)                                                              \
    each(1000, int4_32, 21, 1, 0, small, WHOLE, wide_int4)                                                           \
    each(1001, int4_128, 69, 4, 0, small, WHOLE, wide_int4)                                                          \
    each(1002, int8_32, 40, 1, 0, small, WHOLE | MINIMA, wide_int8)                                                  \
    each(1003, int8_128, 136, 4, 0, small, WHOLE | MINIMA, wide_int8)                                                \
    each(1004, fp8_32, 36, 1, 0, e4m3, 0, plain)                                                                     \
    each(1005, fp8_128, 132, 4, 0, e4m3, 0, plain)                                                                   \
    each(1006, nf4_32, 20, 1, 0, nf4, 0, plain)                                                                      \
    each(1007, nf4_64, 36, 2, 0, nf4, 0, plain)                                                                      \
    each(1008, fp4_32, 20, 1, 0, fp4, 0, plain)                                                                      \
    each(1009, fp4_64, 36, 2, 0, fp4, 0, plain)                                                                      \
    each(1010, affine4_32, 24, 1, 0, small, WHOLE | MINIMA, wide_affine4)                                            \
    each(1011, affine4_64, 40, 2, 0, small, WHOLE | MINIMA, wide_affine4)

#define TASKS(number, name, bytes, groups, apart, read, whole, widen)                                                 \
    static __attribute__((noinline)) void multiply_##name(const work *w, int64_t begin, int64_t end) {               \
        multiply((format){scale_##name, unpack_##name, read, bytes, groups, apart, whole}, widen, w, begin, end);     \
    }                                                                                                                \
    static __attribute__((noinline)) void unfold_##name(const work *w, int64_t begin, int64_t end) {                 \
        unfold((format){scale_##name, unpack_##name, read, bytes, groups, apart, whole}, w, begin, end);             \
    }                                                                                                                \
    TILES(name, read, bytes, groups, apart, whole)
#ifdef WITH_TILES
#define TILES(name, read, bytes, groups, apart, whole)                                                                \
    TILED static __attribute__((noinline)) void halves_##name(const uint8_t *row, const uint8_t *from,                \
                                                              int64_t count, uint16_t *into, float *factor) {         \
        unfold_halves((format){scale_##name, unpack_##name, read, bytes, groups, apart, whole}, row, from, count,     \
                      into, factor);                                                                                  \
    }
#else
#define TILES(name, read, bytes, groups, apart, whole)
#endif
FORMATS(TASKS)

enum { MULTIPLY, UNFOLD, ARRANGE, MULTIPLY_TILES, ARRANGE_TILES };

static void lines_of_task(const work *w, int64_t begin, int64_t end) {
#ifdef WITH_TILES
    if (w->task == MULTIPLY_TILES) {
        switch (w->kind) {
#define TILED_CHOICE(number, name, bytes, groups, apart, read, whole, widen)                                          \
        case number: multiply_tiled(w->tiles, halves_##name, groups, bytes, begin, end); break;
            FORMATS(TILED_CHOICE)
        }
        return;
    }
#endif
    switch (w->kind) {
#define CHOICE(number, name, bytes, groups, apart, read, whole, widen)                                               \
    case number: w->task == UNFOLD ? unfold_##name(w, begin, end) : multiply_##name(w, begin, end); break;
        FORMATS(CHOICE)
    }
}

/* What one of the threads does. Lines are taken as each thread gets on, not shared out before: a core may be slower than
   others, or taken for a moment by another program, and all would wait for it. No line depends on who computes it. */
static void share(work *w, int thread) {
    const int64_t lines = w->task == MULTIPLY || w->task == MULTIPLY_TILES ? w->rows : w->count;
    if (w->task == ARRANGE) {
        arrange(w, lines * thread / w->threads, lines * (thread + 1) / w->threads);
        return;
    }
#ifdef WITH_TILES
    if (w->task == ARRANGE_TILES) {
        arrange_tiles(w->tiles, lines * thread / w->threads, lines * (thread + 1) / w->threads);
        return;
    }
#endif
    if (w->threads == 1) {
        lines_of_task(w, 0, lines);
        return;
    }
    const int64_t together = w->task == MULTIPLY_TILES ? FACE : PANEL;
    const int64_t least = lines / (w->threads * TURNS), turn = (least / together + 1) * together;
    for (;;) {
        const int64_t begin = __atomic_fetch_add(&w->next, (long)turn, __ATOMIC_RELAXED);
        if (begin >= lines) return;
        lines_of_task(w, begin, begin + turn < lines ? begin + turn : lines);
    }
}

/* The OpenMP runtime's own entries, lent by who loads this library; without them all runs in the caller's thread. */
static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*thread_number)(void);

static void in_a_thread(void *given) { share((work *)given, thread_number()); }

static void run(work *w) {
    w->next = 0;
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

/* Whether a format's numbers are whole. */
static int is_whole(int kind) {
    switch (kind) {
#define KIND(number, name, bytes, groups, apart, read, whole, widen)                                                  \
    case number: return (whole) != 0;
        FORMATS(KIND)
    }
    return 0;
}

/* output[count, rows] = input[count, 32 * groups] times the transposed matrix. There is room in `scratch` for as many
   numbers as the input has. */
EXPORT void shardboard_multiply(int kind, const uint8_t *blocks, int64_t row_bytes, int64_t rows, int64_t groups,
                                const float *input, int64_t count, float *scratch, float *output, int threads) {
    work w = {kind, blocks, row_bytes, rows, groups, input, scratch, 0, count, output, 0, 0, threads, ARRANGE, 0};
    if (count < 32) w.threads = 1; /* a few pages: waking threads would take longer */
    run(&w);
    w.threads = threads;
    w.task = MULTIPLY;
    run(&w);
}

/* Room for `count` floats, the same for each call of a thread; NULL where there is no memory. */
static float *room_for(int64_t count) {
    static _Thread_local float *room;
    static _Thread_local int64_t held;
    if (held < count) {
        free(room);
        room = malloc((size_t)count * sizeof *room);
        held = room ? count : 0;
    }
    return room;
}

/* To the nearest bfloat16, to the even one of two. */
static void to_halves(const float *from, int64_t count, uint16_t *into) {
    for (int64_t at = 0; at < count; at++) {
        uint32_t bits;
        memcpy(&bits, from + at, 4);
        const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
        into[at] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
    }
}

static void from_halves(const uint16_t *from, int64_t count, float *into) {
    for (int64_t at = 0; at < count; at++) {
        const uint32_t bits = (uint32_t)from[at] << 16;
        memcpy(into + at, &bits, 4);
    }
}

/* The same for up to `shardboard_few` rows of input, which may be bfloat16 like the output if they are `halves`.
   `allowed`: which part of a row may be lost (`integers.h`). 0 where there is no memory for it. */
EXPORT int shardboard_multiply_few(int kind, const uint8_t *blocks, int64_t row_bytes, int64_t rows, int64_t groups,
                                   const void *given, int64_t count, int halves, double allowed, void *output,
                                   int threads) {
    const int64_t width = groups * 32, whole = is_whole(kind);
    float *room = room_for(1 + count * (groups * FIXED_FLOATS + (halves ? width + rows : 0)));
    if (!room) return 0;
    float *numbers = room + count * groups * FIXED_FLOATS, *found = numbers + count * width;
    if (halves) from_halves(given, count * width, numbers);
    const float *input = halves ? numbers : given;
    fixed few[FEW_INPUTS];
    for (int64_t row = 0; row < count; row++) {
        few[row] = laid_out(groups, room + row * groups * FIXED_FLOATS);
        if (whole) fix(input + row * width, groups, allowed, few + row);
        if (!few[row].planes) sum_halves(input + row * width, groups, few[row].halves);
    }
    float *into = halves ? found : output;
    work w = {kind, blocks, row_bytes, rows, groups, input, 0, few, count, into, 0, 0, threads, MULTIPLY, 0};
    run(&w);
    if (halves) to_halves(found, count * rows, output);
    return 1;
}

/* Whether this processor has tiles for bfloat16, and the system lets this process use them. */
EXPORT int shardboard_may_use_tiles(void) {
#ifdef WITH_TILES
    return may_use_tiles();
#else
    return 0;
#endif
}

/* output[count, rows] = input[count, 32 * groups] times the transposed matrix, all of it bfloat16, by tiles: only where
   they may be used. There is room in `scratch`, which lies at 64 bytes, for the next multiple of 16 rows of input. */
EXPORT void shardboard_multiply_tiles(int kind, const uint8_t *blocks, int64_t row_bytes, int64_t rows, int64_t groups,
                                      const uint16_t *input, int64_t count, uint16_t *scratch, uint16_t *output,
                                      int threads) {
#ifdef WITH_TILES
    const tiled tiles = {blocks, row_bytes, rows, groups, input, count, scratch, output};
    work w = {.kind = kind, .rows = rows, .count = (count + SIDE - 1) / SIDE, .tiles = &tiles, .threads = threads};
    w.task = ARRANGE_TILES;
    if (count < 32) w.threads = 1;
    run(&w);
    w.threads = threads;
    w.task = MULTIPLY_TILES;
    run(&w);
#endif
}

/* How many rows of input are few. */
EXPORT int shardboard_few(int kind) { return is_whole(kind) ? FEW_INPUTS : 1; }

/* output[count, 32 * groups]: rows of the matrix as float32; those that are chosen, or the first `count`. */
EXPORT void shardboard_unfold(int kind, const uint8_t *blocks, int64_t row_bytes, int64_t groups, const int64_t *chosen,
                              int64_t count, float *output, int threads) {
    work w = {kind, blocks, row_bytes, count, groups, 0, 0, 0, count, output, chosen, 0, threads, UNFOLD, 0};
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
