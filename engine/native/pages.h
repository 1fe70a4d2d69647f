// Attention of the tokens of a step that reads prompts: each to its chat's keys and values up to its own, in pages.
//
// As products of small matrices: some keys are laid out as the weights of a product are, then all queries meet them,
// and their weights the values. Keys come in their order from the chat's first on, the same number at a time, so a
// token's sums have one order, however a prompt was cut and whoever else is there.
#ifndef PAGES_H
#define PAGES_H

#include "attention.h"
#include "page_rows.h"
#include "products.h"

// Numbers as a product's words: themselves, or in bfloat16 two in a word.
INLINE void as_words(const float *from, int count, int is_bf16, uint32_t *to)
{
    for (int i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        const __m512 numbers = _mm512_maskz_loadu_ps(mask, from + i);
        if (is_bf16)
            _mm256_mask_storeu_epi16((uint16_t *)to + i, mask, halves_of(numbers));
        else
            _mm512_mask_storeu_ps(to + i, mask, numbers);
    }
}

// `count` rows of words times `groups` words of 64 columns.
INLINE void multiply_rows(const __m512i *columns, const uint32_t *words, int stride, int count, int groups,
                          int is_bf16, Sums *sums)
{
    for (int row = 0, next; row < count; row = next) {
        const char *weights = (const char *)columns;
        const uint32_t *own = words + row * stride;
        next = row + share_of(count - row, TOGETHER);
#define CALL_FP32(n) tile_fp32(weights, own, stride, n, groups, 0, 0, sums + row)
#define CALL_BF16(n) tile_bf16(weights, own, stride, n, groups, 0, 0, sums + row)
        if (is_bf16) {
            BY_COUNT(next - row, CALL_BF16)
        } else {
            BY_COUNT(next - row, CALL_FP32)
        }
    }
}

// Scores [blocks] of one query become e^(score - largest) in `words`, zero from key `count` up to `end`; what the sums
// so far are to be multiplied with.
INLINE float weigh(const Sums (*scores)[GROUP], int row, int count, int end, float scale, const int is_bf16,
                   float *largest, float *total, uint32_t *words)
{
    __m512 found[CHUNK / LANES], most = _mm512_set1_ps(*largest), sum = _mm512_setzero_ps();
    for (int key = 0; key < count; key += LANES) {
        const __m512 score = _mm512_castsi512_ps(scores[key / BLOCK][row].lanes[key % BLOCK / LANES]);
        found[key / LANES] = _mm512_mul_ps(score, _mm512_set1_ps(scale));
        most = _mm512_mask_max_ps(most, lanes_left(count - key), found[key / LANES], most);
    }
    const float now = _mm512_reduce_max_ps(most);
    const float factor = now > *largest ? _mm512_cvtss_f32(exponential(_mm512_set1_ps(*largest - now))) : 1;
    for (int key = 0; key < end; key += LANES) {
        const __mmask16 mask = key < count ? lanes_left(count - key) : 0;
        const __m512 off = _mm512_sub_ps(found[key / LANES], _mm512_set1_ps(now));
        const __m512 weight = _mm512_maskz_mov_ps(mask, exponential(off));
        sum = _mm512_add_ps(sum, weight);
        if (is_bf16)
            _mm256_storeu_si256((void *)(words + key / 2), halves_of(weight));
        else
            _mm512_storeu_ps(words + key, weight);
    }
    *total = *total * factor + _mm512_reduce_add_ps(sum);
    *largest = now;
    return factor;
}

// Some queries and a chunk of keys from `first` on: the sums so far are in the target.
static void attend_group(const Part *part, const Chunk *chunk, int first, int row, int count, const int is_bf16,
                         float *largest, float *total)
{
    const int sharing = part->op->n, width = part->op->k, words = is_bf16 ? width / 2 : width;
    const int before = part->span->num_keys - part->span->count; // keys that all of the span's tokens see
    const int seen = before + part->first + (row + count - 1) / sharing + 1 - first; // of this chunk, by the last query
    if (seen <= 0)
        return;
    const int keys = seen < CHUNK ? seen : CHUNK;
    uint32_t queries[GROUP * MOST_WIDTH], weights[GROUP * CHUNK];
    float *targets[GROUP], factors[GROUP];
    Sums scores[BLOCKS][GROUP], sums[GROUP];
    for (int i = 0; i < count; i++) {
        const int token = part->span->first + part->first + (row + i) / sharing;
        const int head = part->head * sharing + (row + i) % sharing;
        targets[i] = row_of(part->step, part->op->target, token, part->op->target_column + head * width);
        as_words(row_of(part->step, part->op->source, token, part->op->source_column + head * width), width, is_bf16,
                 queries + i * words);
    }
    for (int block = 0; block * BLOCK < keys; block++) {
        memset(scores[block], 0, sizeof(Sums) * count);
        multiply_rows(chunk->keys + block * words * (BLOCK / LANES), queries, words, count, words, is_bf16,
                      scores[block]);
    }
    for (int i = 0; i < count; i++) {
        const int own = before + part->first + (row + i) / sharing + 1 - first;
        const int some = own < 0 ? 0 : own < CHUNK ? own : CHUNK;
        factors[i] = weigh((const Sums(*)[GROUP])scores, i, some, keys, part->op->value, is_bf16, largest + row + i,
                           total + row + i, weights + i * (is_bf16 ? CHUNK / 2 : CHUNK));
    }
    const int groups = is_bf16 ? (keys + 1) / 2 : keys, stride = is_bf16 ? CHUNK / 2 : CHUNK;
    for (int start = 0; start < width; start += BLOCK) {
        for (int i = 0; i < count; i++)
            for (int lane = 0; lane < BLOCK / LANES; lane++) {
                const int at = start + lane * LANES;
                const __mmask16 mask = at < width ? lanes_left(width - at) : 0;
                const __m512 so_far = _mm512_maskz_loadu_ps(mask, targets[i] + at);
                sums[i].lanes[lane] = _mm512_castps_si512(_mm512_mul_ps(so_far, _mm512_set1_ps(factors[i])));
            }
        multiply_rows(chunk->values + start * stride / LANES, weights, stride, count, groups, is_bf16, sums);
        for (int i = 0; i < count; i++)
            for (int lane = 0; lane < BLOCK / LANES; lane++) {
                const int at = start + lane * LANES;
                const __mmask16 mask = at < width ? lanes_left(width - at) : 0;
                _mm512_mask_storeu_epi32(targets[i] + at, mask, sums[i].lanes[lane]);
            }
    }
}

static void attend_part(const Part *part)
{
    const int sharing = part->op->n, width = part->op->k, count = (part->last - part->first) * sharing;
    const int num_keys = part->span->num_keys - part->span->count + part->last;
    float largest[MOST_TOKENS * MOST_SHARING], total[MOST_TOKENS * MOST_SHARING];
    Chunk chunk;
    for (int row = 0; row < count; row++) {
        const int head = part->head * sharing + row % sharing;
        float *target = row_of(part->step, part->op->target, part->span->first + part->first + row / sharing,
                               part->op->target_column + head * width);
        memset(target, 0, 4 * width);
        largest[row] = -INFINITY;
        total[row] = 0;
    }
    for (int first = 0; first < num_keys; first += CHUNK) {
        const int some = num_keys - first < CHUNK ? num_keys - first : CHUNK;
        lay_out_keys(part, first, some, &chunk);
        lay_out_values(part, first, some, &chunk);
        for (int row = 0, next; row < count; row = next) {
            next = row + share_of(count - row, GROUP);
            if (part->step->is_bf16)
                attend_group(part, &chunk, first, row, next - row, 1, largest, total);
            else
                attend_group(part, &chunk, first, row, next - row, 0, largest, total);
        }
    }
    for (int row = 0; row < count; row++) {
        const int head = part->head * sharing + row % sharing;
        float *target = row_of(part->step, part->op->target, part->span->first + part->first + row / sharing,
                               part->op->target_column + head * width);
        for (int i = 0; i < width; i++)
            target[i] /= total[row];
    }
}

// See attend of attention.h.
static void attend_pages(const Operation *op, const Step *step)
{
    write_pages(op, step);
    int64_t products = 0;
    for (int number = 0; number < step->num_spans; number++)
        products += (int64_t)step->spans[number].count * step->spans[number].num_keys * op->count * op->n * op->k;
    const int threads = threads_for(step, products), apart = threads > 1 ? QUERIES_APART : MOST_TOKENS;
    const int pieces = (MOST_TOKENS + apart - 1) / apart;
#pragma omp parallel for collapse(3) schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int number = 0; number < step->num_spans; number++)
        for (int head = 0; head < op->count; head++)
            for (int piece = 0; piece < pieces; piece++) {
                const int count = step->spans[number].count, first = piece * apart;
                const Part part = {op, step, step->spans + number, first,
                                   first + apart < count ? first + apart : count, head};
                if (first < count)
                    attend_part(&part);
            }
}

#endif
