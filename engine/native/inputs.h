// The inputs of a product in the form that its format multiplies.
#ifndef INPUTS_H
#define INPUTS_H

#include "vectors.h"

#define LEVELS 127.0f
#define LEAST 1e-30f // a token of zeros is divided by this
#define PEAK 8.0f    // times the root of the mean square: see models/quantized/eight_bits.py

// K / g words for each row: a row for each token, and one more for what 8 bits have left of some.
typedef struct {
    const uint32_t *words;
    int64_t stride;
    int count;
    int token[MOST_ROWS]; // whose row it is; of a token with a second row, `rest` says which
    int rest[MOST_TOKENS];
    int32_t sum[MOST_ROWS]; // INT8: of the integers
    float scale[MOST_ROWS]; // INT8
} Rows;

// bfloat16, two in a word: of each four, with `by_nf4`, numbers 0 and 2, then 1 and 3.
INLINE void prepare_pairs(const float *from, int k, const int by_nf4, uint16_t *to)
{
    const __m256i order = _mm256_set_epi16(15, 13, 14, 12, 11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0);
    if (k % 2)
        to[k] = 0;
    for (int i = 0; i < k; i += LANES) {
        const __mmask16 mask = lanes_left(k - i);
        const __m256i halves = halves_of(_mm512_maskz_loadu_ps(mask, from + i));
        _mm256_mask_storeu_epi16(to + i, mask, by_nf4 ? _mm256_permutexvar_epi16(order, halves) : halves);
    }
}

// Integers of one row, of at most LEVELS.
static void round_row(const float *from, int k, float largest, int8_t *to, int32_t *sum)
{
    const __m512 factor = _mm512_set1_ps(LEVELS / largest);
    __m512i total = _mm512_setzero_si512();
    for (int i = 0; i < k; i += LANES) {
        const __mmask16 mask = lanes_left(k - i);
        const __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, from + i), factor));
        total = _mm512_add_epi32(total, integers);
        _mm_mask_storeu_epi8(to + i, mask, _mm512_cvtepi32_epi8(integers));
    }
    *sum = _mm512_reduce_add_epi32(total);
}

// The largest absolute value of a row, NaN where it has NaN or infinity, and the mean of its squares.
static float largest_of(const float *from, int k, float *mean_square)
{
    __m512 largest = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    __mmask16 is_broken = 0;
    for (int i = 0; i < k; i += LANES) {
        const __m512 numbers = _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes_left(k - i), from + i));
        is_broken |= _mm512_cmp_ps_mask(numbers, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
        largest = _mm512_max_ps(largest, numbers);
        squares = _mm512_fmadd_ps(numbers, numbers, squares);
    }
    *mean_square = _mm512_reduce_add_ps(squares) / k;
    return is_broken ? NAN : fmaxf(_mm512_reduce_max_ps(largest), LEAST);
}

// A token as bytes in row `token`; whether one of its numbers is far above the others.
static int prepare_bytes(const float *from, int k, int token, Rows *rows, uint32_t *words)
{
    float mean_square, largest = largest_of(from, k, &mean_square);
    int8_t *to = (int8_t *)(words + token * rows->stride);
    rows->scale[token] = largest / LEVELS;
    rows->sum[token] = 0;
    if (largest != largest) // no sum is finite then
        memset(to, 0, 4 * rows->stride);
    else
        round_row(from, k, largest, to, &rows->sum[token]);
    return largest > PEAK * sqrtf(mean_square);
}

// What rounding has left of a token, as bytes in another row.
static void prepare_rest(const float *from, int k, int row, Rows *rows, uint32_t *words)
{
    const int token = rows->token[row];
    const int8_t *integers = (const int8_t *)(words + token * rows->stride);
    float mean_square, rest[k];
    for (int i = 0; i < k; i++)
        rest[i] = from[i] - (float)integers[i] * rows->scale[token];
    const float largest = largest_of(rest, k, &mean_square);
    rows->scale[row] = largest / LEVELS;
    round_row(rest, k, largest, (int8_t *)(words + row * rows->stride), &rows->sum[row]);
}

// Tokens as bytes; one with a number far above the others gets a second row, behind all tokens.
static void prepare_integers(const Operation *op, const Step *step, Rows *rows)
{
    const int threads = threads_for(step, (int64_t)step->tokens * op->k * 4);
    rows->count = step->tokens;
    rows->words = step->scratch;
    rows->stride = op->k / 4;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int token = 0; token < step->tokens; token++)
        rows->rest[token] = prepare_bytes(row_of(step, op->source, token, op->source_column), op->k, token, rows,
                                          step->scratch);
    for (int token = 0; token < step->tokens; token++) {
        rows->token[token] = token;
        if (rows->rest[token]) {
            rows->rest[token] = rows->count;
            rows->token[rows->count++] = token;
        }
    }
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int row = step->tokens; row < rows->count; row++)
        prepare_rest(row_of(step, op->source, rows->token[row], op->source_column), op->k, row, rows, step->scratch);
}

// The inputs of a product as its format wants them.
static void prepare(const Operation *op, const Step *step, Rows *rows)
{
    if (op->format == INT8) {
        prepare_integers(op, step, rows);
        return;
    }
    rows->count = step->tokens;
    for (int token = 0; token < step->tokens; token++)
        rows->token[token] = token;
    if (op->format == FP32 || op->format == PLAIN_FP32) {
        rows->words = (const uint32_t *)row_of(step, op->source, 0, op->source_column);
        rows->stride = step->widths[op->source];
        return;
    }
    rows->words = step->scratch;
    rows->stride = (op->k + 1) / 2;
    const int threads = threads_for(step, (int64_t)step->tokens * op->k * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int token = 0; token < step->tokens; token++) {
        const float *from = row_of(step, op->source, token, op->source_column);
        uint16_t *to = (uint16_t *)(step->scratch + token * rows->stride);
        if (op->format == NF4)
            prepare_pairs(from, op->k, 1, to);
        else
            prepare_pairs(from, op->k, 0, to);
    }
}

#endif
