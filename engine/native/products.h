// Products of a few tokens with large matrices: each weight is read once, and a token's sums have one order, whatever
// the other tokens are. N outputs, K inputs.
#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "inputs.h"
#include "many_tokens.h"

#define GROUPS 64  // of 32 bits of weights of each of 64 outputs: 16 KiB, which stay near while all rows are multiplied
#define TOGETHER 5 // rows whose sums are in registers at a time, at most
#define PANEL 48   // rows that meet all of a block's weights before the next rows do: their sums stay near, too
#define AHEAD (256 * GROUPS) // bytes: while rows are multiplied with a tile, the next one comes from memory
#define AHEAD_NF4 2048

// Some rows of a product, from row `first` on.
typedef struct {
    const uint32_t *words;
    int64_t stride;
    int first, count;
} Panel;

// The sums of 64 outputs for a row of a panel, as float or int32.
typedef struct {
    __m512i lanes[BLOCK / LANES];
} Sums;

// `count` rows times `groups` words of weights, one after the other for 64 outputs. Of the next tile lines `from` to
// `to` of each four are fetched: rows that come later fetch the others.
#define TILE(name, type, cast, back, multiply, flip)                                                                   \
    INLINE void name(const char *weights, const uint32_t *words, int64_t stride, const int count, int groups,          \
                     int from, int to, Sums *sums)                                                                     \
    {                                                                                                                  \
        type acc[TOGETHER][4];                                                                                         \
        for (int row = 0; row < count; row++)                                                                          \
            for (int lane = 0; lane < 4; lane++)                                                                       \
                acc[row][lane] = cast(sums[row].lanes[lane]);                                                          \
        for (int group = 0; group < groups; group++, weights += 256) {                                                 \
            for (int lane = from; lane < to; lane++)                                                                   \
                _mm_prefetch(weights + AHEAD + 64 * lane, _MM_HINT_T0);                                                \
            for (int lane = 0; lane < 4; lane++) {                                                                     \
                __m512i weight = flip(_mm512_loadu_si512(weights + 64 * lane));                                        \
                __asm__("" : "+v"(weight)); /* gcc would read it anew for each row */                                  \
                for (int row = 0; row < count; row++)                                                                  \
                    acc[row][lane] =                                                                                   \
                        multiply(acc[row][lane], weight, _mm512_set1_epi32((int)words[row * stride + group]));         \
            }                                                                                                          \
        }                                                                                                              \
        for (int row = 0; row < count; row++)                                                                          \
            for (int lane = 0; lane < 4; lane++)                                                                       \
                sums[row].lanes[lane] = back(acc[row][lane]);                                                          \
    }

#define SAME(x) (x)
#define ABOVE_ZERO(x) _mm512_xor_si512(x, _mm512_set1_epi8((char)0x80))
#define MULTIPLY_FP32(acc, weight, word) _mm512_fmadd_ps(_mm512_castsi512_ps(weight), _mm512_castsi512_ps(word), acc)

// Unsigned times signed bytes: 128 more than each weight, for which 128 times the sum of the inputs is taken away.
INLINE __m512i multiply_int8(__m512i acc, __m512i weight, __m512i word)
{
    // gcc copies a register before and after its own intrinsic of this instruction.
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(weight), "v"(word));
    return acc;
}

TILE(tile_fp32, __m512, _mm512_castsi512_ps, _mm512_castps_si512, MULTIPLY_FP32, SAME)
TILE(tile_bf16, __m512, _mm512_castsi512_ps, _mm512_castps_si512, dot_pairs, SAME)
#ifdef __AVX512VNNI__
TILE(tile_int8, __m512i, SAME, SAME, multiply_int8, ABOVE_ZERO)
#endif

// 64 inputs of 32 outputs, whose codes are 16 bytes for each input: output r in the lower half of byte 2 r, r + 16 in
// the upper. A word of 4 inputs becomes their pairs (0, 2) and (1, 3), which is how the inputs lie, too.
INLINE void tile_nf4(const char *codes, __m512i levels, const uint32_t *words, int64_t stride, const int count,
                     const uint16_t *scales, int lane, Sums *sums)
{
    const __m512i by_output = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512 acc[TOGETHER][2][2];
    for (int row = 0; row < count; row++)
        for (int half = 0; half < 4; half++)
            acc[row][half & 1][half >> 1] = _mm512_setzero_ps();
    for (int group = 0; group < 16; group++, codes += 64) {
        _mm_prefetch(codes + AHEAD_NF4, _MM_HINT_T0);
        const __m512i four = _mm512_permutexvar_epi16(by_output, _mm512_loadu_si512(codes));
        __m512i weights[2][2]; // [output below 16 or not][pair]
        weights[0][0] = _mm512_permutexvar_epi16(four, levels); // which looks at the lowest 5 bits of each 16
        weights[1][0] = _mm512_permutexvar_epi16(_mm512_srli_epi16(four, 4), levels);
        weights[0][1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(four, 8), levels);
        weights[1][1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(four, 12), levels);
        for (int row = 0; row < count; row++)
            for (int pair = 0; pair < 2; pair++) {
                const __m512i word = _mm512_set1_epi32((int)words[row * stride + 2 * group + pair]);
                acc[row][0][pair] = dot_pairs(acc[row][0][pair], weights[0][pair], word);
                acc[row][1][pair] = dot_pairs(acc[row][1][pair], weights[1][pair], word);
            }
    }
    for (int half = 0; half < 2; half++) {
        const __m512 scale = from_bf16(_mm256_loadu_si256((const __m256i *)(scales + half * LANES)));
        for (int row = 0; row < count; row++) {
            const __m512 sum = _mm512_add_ps(acc[row][half][0], acc[row][half][1]);
            const __m512 before = _mm512_castsi512_ps(sums[row].lanes[lane + half]);
            sums[row].lanes[lane + half] = _mm512_castps_si512(_mm512_fmadd_ps(sum, scale, before));
        }
    }
}

#define BY_COUNT(count, call)                                                                                          \
    switch (count) {                                                                                                   \
    case 1: call(1); break;                                                                                            \
    case 2: call(2); break;                                                                                            \
    case 3: call(3); break;                                                                                            \
    case 4: call(4); break;                                                                                            \
    default: call(5);                                                                                                  \
    }

// One block of 64 outputs of oneDNN's layout for some rows. The first ones bring it from memory.
#define BLOCK_PRODUCT(name, tile)                                                                                      \
    static void name(const char *weights, const Panel *rows, int groups, Sums *sums)                                   \
    {                                                                                                                  \
        for (int start = 0; start < groups; start += GROUPS) {                                                         \
            const int some = groups - start < GROUPS ? groups - start : GROUPS;                                        \
            for (int row = 0, next; row < rows->count; row = next) {                                                   \
                const uint32_t *words = rows->words + row * rows->stride + start;                                      \
                const char *tiles = weights + 256 * (int64_t)start;                                                    \
                next = row + share_of(rows->count - row, TOGETHER);                                                    \
                const int from = rows->first ? 0 : 4 * row / rows->count, to = rows->first ? 0 : 4 * next / rows->count; \
                BY_COUNT(next - row, CALL_##tile)                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }
#define CALL_tile_fp32(n) tile_fp32(tiles, words, rows->stride, n, some, from, to, sums + row)
#define CALL_tile_bf16(n) tile_bf16(tiles, words, rows->stride, n, some, from, to, sums + row)
#define CALL_tile_int8(n) tile_int8(tiles, words, rows->stride, n, some, from, to, sums + row)
BLOCK_PRODUCT(block_fp32, tile_fp32)
BLOCK_PRODUCT(block_bf16, tile_bf16)
#ifdef __AVX512VNNI__
BLOCK_PRODUCT(block_int8, tile_int8)
#endif

// 32 outputs of NF4 for some rows, from output `first` on.
static void block_nf4(const char *codes, const Operation *op, int first, const Panel *rows, int lane, Sums *sums)
{
    const __m512i levels = _mm512_loadu_si512(op->levels);
    const uint16_t *scales = (const uint16_t *)op->scales + first;
    for (int start = 0; start < op->k; start += 64, codes += 16 * 64, scales += op->n)
        for (int row = 0, next; row < rows->count; row = next) {
            const uint32_t *words = rows->words + row * rows->stride + start / 2;
            next = row + share_of(rows->count - row, TOGETHER);
#define CALL_NF4(n) tile_nf4(codes, levels, words, rows->stride, n, scales, lane, sums + row)
            BY_COUNT(next - row, CALL_NF4)
        }
}

// One output of a plain matrix for some rows.
INLINE void plain_rows(const char *weights, const uint32_t *words, int64_t stride, const int count, int k, int is_bf16,
                       float *results)
{
    const int length = is_bf16 ? (k + 1) / 2 : k;
    __m512 acc[TOGETHER];
    for (int row = 0; row < count; row++)
        acc[row] = _mm512_setzero_ps();
    for (int word = 0; word < length; word += LANES) {
        const __mmask16 mask = lanes_left(length - word);
        // An odd last number of bfloat16 has only half of its word.
        const __mmask32 halves = (__mmask32)((1ull << (k - 2 * word < 32 ? k - 2 * word : 32)) - 1);
        const __m512i weight = is_bf16 ? _mm512_maskz_loadu_epi16(halves, weights + 4 * (int64_t)word)
                                       : _mm512_maskz_loadu_epi32(mask, weights + 4 * (int64_t)word);
        for (int row = 0; row < count; row++) {
            const __m512i input = _mm512_maskz_loadu_epi32(mask, words + row * stride + word);
            acc[row] = is_bf16 ? dot_pairs(acc[row], weight, input) : MULTIPLY_FP32(acc[row], weight, input);
        }
    }
    for (int row = 0; row < count; row++)
        results[row * BLOCK] = _mm512_reduce_add_ps(acc[row]);
}

static void plain_output(const Operation *op, int output, const Panel *rows, int place, Sums *sums)
{
    const int is_bf16 = op->format == PLAIN_BF16;
    const char *weights = (const char *)op->weights + (int64_t)output * op->k * (is_bf16 ? 2 : 4);
    for (int row = 0, next; row < rows->count; row = next) {
        const uint32_t *words = rows->words + row * rows->stride;
        next = row + share_of(rows->count - row, TOGETHER);
        float *results = (float *)(sums + row) + place;
#define CALL_PLAIN(n) plain_rows(weights, words, rows->stride, n, op->k, is_bf16, results)
        BY_COUNT(next - row, CALL_PLAIN)
    }
}

// Sums become outputs: with their scales and bias, and where they go.
static void finish(const Operation *op, const Step *step, const Rows *rows, const Panel *panel, int first, int count,
                   const Sums *sums)
{
    for (int place = 0; place < panel->count; place++) {
        const int row = panel->first + place;
        const int is_rest = row >= step->tokens; // of a token that has its first sums already
        float *target = row_of(step, op->target, rows->token[row], op->target_column + first);
        for (int start = 0; start < count; start += LANES) {
            const __mmask16 mask = lanes_left(count - start);
            const __m512i lanes = sums[place].lanes[start / LANES];
            __m512 found = _mm512_castsi512_ps(lanes);
            if (op->format == INT8) {
                const __m512i own = _mm512_sub_epi32(lanes, _mm512_set1_epi32(128 * rows->sum[row]));
                const __m512 scale = _mm512_maskz_loadu_ps(mask, (const float *)op->scales + first + start);
                found = _mm512_mul_ps(_mm512_cvtepi32_ps(own),
                                      _mm512_mul_ps(scale, _mm512_set1_ps(rows->scale[row])));
            }
            if (op->bias && !is_rest)
                found = _mm512_add_ps(found, _mm512_maskz_loadu_ps(mask, op->bias + first + start));
            if (is_rest || op->flags & ADDING)
                found = _mm512_add_ps(found, _mm512_maskz_loadu_ps(mask, target + start));
            _mm512_mask_storeu_ps(target + start, mask, found);
        }
    }
}

// The sums of 64 outputs, or as many as are left, from output `first` on.
static void sums_of_block(const Operation *op, const Panel *rows, int first, int count, Sums *sums)
{
    const char *weights = op->weights;
    if (op->format == FP32)
        block_fp32(weights + 4 * (int64_t)first * op->k, rows, op->k, sums);
    else if (op->format == BF16)
        block_bf16(weights + 2 * (int64_t)first * op->k, rows, op->k / 2, sums);
#ifdef __AVX512VNNI__
    else if (op->format == INT8)
        block_int8(weights + (int64_t)first * op->k, rows, op->k / 4, sums);
#endif
    else if (op->format == NF4)
        for (int start = 0; start < count; start += 32)
            block_nf4(weights + (int64_t)(first + start) * op->k / 2, op, first + start, rows, start / LANES, sums);
    else
        for (int n = 0; n < count; n++)
            plain_output(op, first + n, rows, n, sums);
}

static void product(const Operation *op, const Step *step)
{
    if (op->many && step->spans) {
        product_of_many(op, step);
        return;
    }
    Rows rows;
    prepare(op, step, &rows);
    const int threads = threads_for(step, (int64_t)op->n * op->k * step->tokens);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int first = 0; first < op->n; first += BLOCK) {
        Sums sums[PANEL];
        const int count = op->n - first < BLOCK ? op->n - first : BLOCK;
        for (int row = 0, next; row < rows.count; row = next) {
            next = row + share_of(rows.count - row, PANEL);
            const Panel panel = {rows.words + row * rows.stride, rows.stride, row, next - row};
            memset(sums, 0, sizeof(Sums) * panel.count);
            sums_of_block(op, &panel, first, count, sums);
            finish(op, step, &rows, &panel, first, count, sums);
        }
    }
}

#endif
