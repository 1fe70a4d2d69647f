// Attention of one token of each chat to its own keys and values, in fp32.
#ifndef ATTENTION_H
#define ATTENTION_H

#include "vectors.h"

#define KEYS 128 // whose scores are there at a time

// Ask for so many numbers from an index on, which are needed soon.
INLINE void fetch(const char *from, int64_t index, int count, const int is_bf16)
{
    const int64_t size = is_bf16 ? 2 : 4;
    for (int64_t i = 0; from && i < count * size; i += 64)
        _mm_prefetch(from + index * size + i, _MM_HINT_T0);
}

// Sixteen vectors -> the sum of each.
INLINE __m512 sums_of(const __m512 *vectors)
{
    __m512 half[8], quarter[4], pairs[2];
    for (int i = 0; i < 8; i++)
        half[i] = _mm512_add_ps(_mm512_unpacklo_ps(vectors[i], vectors[i + 8]),
                                _mm512_unpackhi_ps(vectors[i], vectors[i + 8]));
    for (int i = 0; i < 4; i++)
        quarter[i] =
            _mm512_add_ps(_mm512_unpacklo_ps(half[i], half[i + 4]), _mm512_unpackhi_ps(half[i], half[i + 4]));
    for (int i = 0; i < 2; i++)
        pairs[i] = _mm512_add_ps(_mm512_shuffle_f32x4(quarter[2 * i], quarter[2 * i + 1], 0x88),
                                 _mm512_shuffle_f32x4(quarter[2 * i], quarter[2 * i + 1], 0xDD));
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_f32x4(pairs[0], pairs[1], 0x88),
                                      _mm512_shuffle_f32x4(pairs[0], pairs[1], 0xDD));
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_ps(order, sums);
}

// The scores of one query and `count` keys; the largest of them and of `most`, which NaN leaves as it is.
INLINE float scores_of(const float *query, const void *keys, const int is_bf16, int count, int width, float scale,
                       const char *next, float most, float *scores)
{
    __m512 largest = _mm512_set1_ps(most);
    for (int first = 0; first < count; first += LANES) {
        const int left = count - first < LANES ? count - first : LANES;
        fetch(next, (int64_t)first * width, left * width, is_bf16);
        __m512 sums[LANES];
        for (int key = 0; key < LANES; key++)
            sums[key] = _mm512_setzero_ps();
        for (int i = 0; i < width; i += LANES) {
            const __mmask16 mask = lanes_left(width - i);
            const __m512 part = _mm512_maskz_loadu_ps(mask, query + i);
            for (int key = 0; key < LANES; key++) { // the last one again where there are no more
                const int64_t index = (int64_t)(first + (key < left ? key : left - 1)) * width + i;
                sums[key] = _mm512_fmadd_ps(part, load_lanes(keys, index, is_bf16, mask), sums[key]);
            }
        }
        const __m512 found = _mm512_mul_ps(sums_of(sums), _mm512_set1_ps(scale));
        largest = _mm512_max_ps(found, largest);
        _mm512_storeu_ps(scores + first, found);
    }
    return _mm512_reduce_max_ps(largest);
}

// Scores become e^(score - largest); returns their sum.
INLINE float exponents(float *scores, int count, float largest)
{
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        const __m512 found =
            exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, scores + i), _mm512_set1_ps(largest)));
        _mm512_storeu_ps(scores + i, found);
        sum = _mm512_mask_add_ps(sum, mask, sum, found);
    }
    return _mm512_reduce_add_ps(sum);
}

// sums = sums * factor + weights @ values, for `count` values of one head; keys in turns, as a sum waits for the last.
INLINE void add_values(const float *weights, const void *values, const int is_bf16, int count, int width, float factor,
                       const char *next, float *sums)
{
    fetch(next, 0, count * width, is_bf16);
    for (int start = 0; start < width; start += 4 * LANES) {
        __m512 parts[2][4];
        __mmask16 mask[4];
        for (int lane = 0; lane < 4; lane++) {
            const int left = width - start - lane * LANES;
            mask[lane] = left > 0 ? lanes_left(left) : 0;
            parts[0][lane] = _mm512_mul_ps(_mm512_loadu_ps(sums + start + lane * LANES), _mm512_set1_ps(factor));
            parts[1][lane] = _mm512_setzero_ps();
        }
        for (int key = 0; key < count; key += 2)
            for (int turn = 0; turn < 2 && key + turn < count; turn++) {
                const __m512 weight = _mm512_set1_ps(weights[key + turn]);
                const int64_t index = (int64_t)(key + turn) * width + start;
                for (int lane = 0; lane < 4; lane++)
                    parts[turn][lane] = _mm512_fmadd_ps(
                        weight, load_lanes(values, index + lane * LANES, is_bf16, mask[lane]), parts[turn][lane]);
            }
        for (int lane = 0; lane < 4; lane++)
            _mm512_storeu_ps(sums + start + lane * LANES, _mm512_add_ps(parts[0][lane], parts[1][lane]));
    }
}

// The heads that share the keys of one head, for one chat: queries [sharing][width] -> [sharing][width]. While keys
// are multiplied, their values come from memory, and then the keys that follow, at last those of the next head.
INLINE void attend_head(const float *queries, const char *keys, const char *values, const char *next,
                        const int is_bf16, int count, int sharing, int width, float scale, float *results)
{
    float sums[MOST_SHARING][MOST_WIDTH], largest[MOST_SHARING], total[MOST_SHARING], scores[KEYS];
    for (int head = 0; head < sharing; head++) {
        memset(sums[head], 0, sizeof(sums[head]));
        largest[head] = -INFINITY;
        total[head] = 0;
    }
    const int64_t size = (is_bf16 ? 2 : 4) * width;
    for (int first = 0; first < count; first += KEYS, keys += KEYS * size, values += KEYS * size) {
        const int some = count - first < KEYS ? count - first : KEYS;
        const char *following = first + KEYS < count ? keys + KEYS * size : next;
        for (int head = 0; head < sharing; head++) {
            const float most = scores_of(queries + head * width, keys, is_bf16, some, width, scale,
                                         head ? NULL : values, largest[head], scores);
            const float factor = most > largest[head] ? expf(largest[head] - most) : 1;
            total[head] = total[head] * factor + exponents(scores, some, most);
            add_values(scores, values, is_bf16, some, width, factor, head ? NULL : following, sums[head]);
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
    const int threads = threads_for(step, (int64_t)step->tokens * heads * sharing * step->length * width);
#pragma omp parallel for collapse(2) num_threads(threads) if (threads > 1)
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
            const int start = step->starts[token], count = step->length - start;
            for (int side = 0; side < 2; side++)
                sides[side] += (int64_t)start * width * size;
            const char *next = head + 1 < heads ? sides[0] + step->head_stride * size : NULL;
            float *results = row_of(step, op->target, token, op->target_column + head * sharing * width);
            if (step->is_bf16)
                attend_head(queries, sides[0], sides[1], next, 1, count, sharing, width, op->value, results);
            else
                attend_head(queries, sides[0], sides[1], next, 0, count, sharing, width, op->value, results);
        }
}

#endif
