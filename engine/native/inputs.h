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
    int token[MOST_ROWS];
    int32_t sum[MOST_ROWS]; // INT8: of the integers
    float scale[MOST_ROWS]; // INT8
} Rows;

// bfloat16, two in a word: of each four, with `by_nf4`, numbers 0 and 2, then 1 and 3.
static void prepare_pairs(const float *from, int k, int by_nf4, uint16_t *to)
{
    if (k % 2)
        to[k] = 0;
    for (int i = 0; i < k; i++)
        to[i] = to_bf16(from[i]);
    for (int i = 0; by_nf4 && i < k; i += 4) {
        const uint16_t second = to[i + 1];
        to[i + 1] = to[i + 2];
        to[i + 2] = second;
    }
}

// Integers of one row, of at most LEVELS; what rounding leaves of it goes to `rest`, if that is given.
static void round_row(const float *from, int k, float largest, int8_t *to, int32_t *sum, float *rest)
{
    const __m512 factor = _mm512_set1_ps(LEVELS / largest), back = _mm512_set1_ps(largest / LEVELS);
    __m512i total = _mm512_setzero_si512();
    for (int i = 0; i < k; i += LANES) {
        const __mmask16 mask = lanes_left(k - i);
        const __m512 numbers = _mm512_maskz_loadu_ps(mask, from + i);
        const __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(numbers, factor));
        total = _mm512_add_epi32(total, integers);
        _mm_mask_storeu_epi8(to + i, mask, _mm512_cvtepi32_epi8(integers));
        if (rest)
            _mm512_mask_storeu_ps(rest + i, mask, _mm512_fnmadd_ps(_mm512_cvtepi32_ps(integers), back, numbers));
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

// A token as bytes in row `token`; one with a number far above the others gets a second row, behind all tokens.
static void prepare_bytes(const float *from, int k, int token, Rows *rows, uint32_t *words)
{
    float mean_square, rest[k], largest = largest_of(from, k, &mean_square);
    int8_t *to = (int8_t *)(words + token * rows->stride);
    rows->scale[token] = largest / LEVELS;
    if (largest != largest) { // no sum is finite then
        memset(to, 0, 4 * rows->stride);
        rows->sum[token] = 0;
        return;
    }
    const int has_peak = largest > PEAK * sqrtf(mean_square);
    round_row(from, k, largest, to, &rows->sum[token], has_peak ? rest : NULL);
    if (has_peak) {
        const int row = rows->count++;
        largest = largest_of(rest, k, &mean_square);
        rows->token[row] = token;
        rows->scale[row] = largest / LEVELS;
        round_row(rest, k, largest, (int8_t *)(words + row * rows->stride), &rows->sum[row], NULL);
    }
}

#endif
