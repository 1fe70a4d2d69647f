// Attention of one token of each chat to its own keys and values, in fp32.
#ifndef ATTENTION_H
#define ATTENTION_H

#include "vectors.h"

#define KEYS 128         // whose scores are there at a time
#define MOST_SHARING 16  // heads that share keys
#define MOST_WIDTH 256   // of a head
#define MOST_LANES (MOST_WIDTH / LANES)

// The scores of one query and `count` keys, 16 at a time: 16 sums of 16 lanes become one vector.
static void scores_of(const float *query, const void *keys, int is_bf16, int64_t first, int count, int width,
                      float scale, float *scores)
{
    for (int key = 0; key < count; key++) {
        __m512 sum = _mm512_setzero_ps();
        for (int i = 0; i < width; i += LANES) {
            const __mmask16 mask = lanes_left(width - i);
            const __m512 numbers = load_lanes(keys, (first + key) * width + i, is_bf16, mask);
            sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, query + i), numbers, sum);
        }
        scores[key] = _mm512_reduce_add_ps(sum) * scale;
    }
}

// Scores become e^(score - largest); returns their sum.
static float exponents(float *scores, int count, float largest)
{
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        const __m512 score = _mm512_maskz_loadu_ps(mask, scores + i);
        const __m512 found = exponential(_mm512_sub_ps(score, _mm512_set1_ps(largest)));
        _mm512_mask_storeu_ps(scores + i, mask, found);
        sum = _mm512_mask_add_ps(sum, mask, sum, found);
    }
    return _mm512_reduce_add_ps(sum);
}

// sums = sums * factor + weights @ values, for `count` values of one head.
INLINE void add_values(const float *weights, const void *values, int is_bf16, int64_t first, int count, int width,
                       float factor, float *sums)
{
    for (int i = 0; i < width; i += LANES) {
        const __mmask16 mask = lanes_left(width - i);
        // Two sums in turns, as an addition waits for the one before.
        __m512 even = _mm512_mul_ps(_mm512_loadu_ps(sums + i), _mm512_set1_ps(factor)), odd = _mm512_setzero_ps();
        int key = 0;
        for (; key + 1 < count; key += 2) {
            const int64_t index = (first + key) * width + i;
            even = _mm512_fmadd_ps(_mm512_set1_ps(weights[key]), load_lanes(values, index, is_bf16, mask), even);
            odd = _mm512_fmadd_ps(_mm512_set1_ps(weights[key + 1]), load_lanes(values, index + width, is_bf16, mask), odd);
        }
        if (key < count) {
            const int64_t index = (first + key) * width + i;
            even = _mm512_fmadd_ps(_mm512_set1_ps(weights[key]), load_lanes(values, index, is_bf16, mask), even);
        }
        _mm512_storeu_ps(sums + i, _mm512_add_ps(even, odd));
    }
}

// The heads that share the keys of one head, for one chat: queries [sharing][width] -> [sharing][width].
static void attend_head(const float *queries, const void *keys, const void *values, int is_bf16, int start, int end,
                        int sharing, int width, float scale, float *results)
{
    float sums[MOST_SHARING][MOST_WIDTH + LANES], largest[MOST_SHARING], total[MOST_SHARING], scores[KEYS];
    for (int head = 0; head < sharing; head++) {
        memset(sums[head], 0, sizeof(sums[head]));
        largest[head] = -INFINITY;
        total[head] = 0;
    }
    for (int first = start; first < end; first += KEYS) {
        const int count = end - first < KEYS ? end - first : KEYS;
        for (int head = 0; head < sharing; head++) {
            scores_of(queries + head * width, keys, is_bf16, first, count, width, scale, scores);
            float most = largest[head];
            for (int key = 0; key < count; key++)
                most = scores[key] > most ? scores[key] : most;
            const float factor = most > largest[head] ? expf(largest[head] - most) : 1;
            total[head] = total[head] * factor + exponents(scores, count, most);
            add_values(scores, values, is_bf16, first, count, width, factor, sums[head]);
            largest[head] = most;
        }
    }
    for (int head = 0; head < sharing; head++)
        for (int i = 0; i < width; i++)
            results[head * width + i] = sums[head][i] / total[head];
}

// Each chat's new key and value [count][width] go to the end of its own, its queries [n][count][width] meet all.
// The source has queries, keys and values one after the other.
static void attend(const Operation *op, const Step *step)
{
    const int heads = op->count, sharing = op->n, width = op->k, size = step->is_bf16 ? 2 : 4;
#pragma omp parallel for collapse(2) num_threads(step->threads) if (step->threads > 1)
    for (int token = 0; token < step->tokens; token++)
        for (int head = 0; head < heads; head++) {
            const float *queries = row_of(step, op->source, token, op->source_column + head * sharing * width);
            const float *fresh = row_of(step, op->source, token, op->source_column + (heads * sharing + head) * width);
            const int64_t at = op->layer * step->layer_stride + token * step->request_stride + head * step->head_stride;
            char *sides[2] = {step->keys + at * size, step->values + at * size};
            for (int side = 0; side < 2; side++) {
                const float *from = fresh + side * heads * width;
                char *to = sides[side] + (int64_t)(step->length - 1) * width * size;
                if (step->is_bf16)
                    for (int i = 0; i < width; i++)
                        ((uint16_t *)to)[i] = to_bf16(from[i]);
                else
                    memcpy(to, from, 4 * width);
            }
            attend_head(queries, sides[0], sides[1], step->is_bf16, step->starts[token], step->length, sharing, width,
                        op->value, row_of(step, op->target, token, op->target_column + head * sharing * width));
        }
}

#endif
