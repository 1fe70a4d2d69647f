// Attention of the tokens of a step that reads prompts: each to its chat's keys and values up to its own, in pages.
//
// As products of small matrices: some keys are laid out as the weights of a product are, then all queries meet them,
// and their weights the values. Keys come in their order from the chat's first on, the same number at a time, so a
// token's sums have one order, however a prompt was cut and whoever else is there.
#ifndef PAGES_H
#define PAGES_H

#include "attention.h"
#include "products.h"

#define CHUNK 256 // keys that are laid out at a time
#define BLOCKS (CHUNK / BLOCK)
#define GROUP 16          // queries that meet one block of keys after the other
#define QUERIES_APART 64  // tokens whose queries are one thread's, if there are several threads

// Keys [blocks][words][64] and values [parts][keys / g][64] of a chunk, in words of g numbers.
typedef struct {
    __m512i keys[CHUNK * MOST_WIDTH / LANES], values[CHUNK * MOST_WIDTH / LANES];
} Chunk;

// One chat's tokens from `first` on up to `last`, and one head of keys with the heads that share it.
typedef struct {
    const Operation *op;
    const Step *step;
    const Span *span;
    int first, last, head;
} Part;

INLINE char *key_of(const Part *part, int side, int key)
{
    const int64_t width = part->op->k, heads = part->op->count, size = part->step->is_bf16 ? 2 : 4;
    const int64_t row = part->step->rows[part->span->key + key];
    return part->step->pages[2 * part->op->layer + side] + (row * heads + part->head) * width * size;
}

// Sixteen vectors of words become those of the first word of each, of the second, and so on.
INLINE void transpose(__m512i *rows)
{
    __m512i pairs[16], fours[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int half = 0; half < 2; half++) {
            fours[i + 2 * half] = _mm512_unpacklo_epi64(pairs[i + half], pairs[i + half + 2]);
            fours[i + 2 * half + 1] = _mm512_unpackhi_epi64(pairs[i + half], pairs[i + half + 2]);
        }
    for (int i = 0; i < 4; i++) { // of each quarter, the words i
        const __m512i low = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0x88);
        const __m512i low_odd = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0xDD);
        const __m512i high = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0x88);
        const __m512i high_odd = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0xDD);
        rows[i] = _mm512_shuffle_i32x4(low, high, 0x88);
        rows[8 + i] = _mm512_shuffle_i32x4(low, high, 0xDD);
        rows[4 + i] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
        rows[12 + i] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xDD);
    }
}

static void lay_out_keys(const Part *part, int first, int count, Chunk *chunk)
{
    const int words = part->step->is_bf16 ? part->op->k / 2 : part->op->k;
    for (int key = 0; key < (count + BLOCK - 1) / BLOCK * BLOCK; key += LANES) {
        const char *from[LANES];
        for (int i = 0; i < LANES; i++)
            from[i] = key + i < count ? key_of(part, 0, first + key + i) : NULL;
        __m512i *to = chunk->keys + (key / BLOCK * words * BLOCK + key % BLOCK) / LANES;
        for (int word = 0; word < words; word += LANES) {
            const int some = words - word < LANES ? words - word : LANES;
            __m512i rows[LANES];
            for (int i = 0; i < LANES; i++)
                rows[i] = from[i] ? _mm512_maskz_loadu_epi32(lanes_left(some), from[i] + 4 * word)
                                  : _mm512_setzero_si512();
            transpose(rows);
            for (int i = 0; i < some; i++)
                to[(word + i) * (BLOCK / LANES)] = rows[i];
        }
    }
}

static void lay_out_values(const Part *part, int first, int count, Chunk *chunk)
{
    const int width = part->op->k, step = part->step->is_bf16 ? 2 : 1, parts = (width + BLOCK - 1) / BLOCK;
    for (int key = 0; key < (count + 1) / 2 * 2; key += step) {
        const char *from = key < count ? key_of(part, 1, first + key) : NULL;
        const char *next = step == 2 && key + 1 < count ? key_of(part, 1, first + key + 1) : NULL;
        for (int start = 0; start < parts * BLOCK; start += LANES) {
            const __mmask16 mask = start < width ? lanes_left(width - start) : 0;
            __m512i found = _mm512_setzero_si512();
            if (step == 1 && from)
                found = _mm512_maskz_loadu_epi32(mask, from + 4 * start);
            if (step == 2 && from)
                found = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from + 2 * start));
            if (step == 2 && next) {
                const __m512i more = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, next + 2 * start));
                found = _mm512_or_si512(found, _mm512_slli_epi32(more, 16));
            }
            chunk->values[((start / BLOCK * CHUNK + key) / step * BLOCK + start % BLOCK) / LANES] = found;
        }
    }
}

// Numbers as a product's words: themselves, or in bfloat16 two in a word.
INLINE void as_words(const float *from, int count, int is_bf16, uint32_t *to)
{
    for (int i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        const __m512 numbers = _mm512_maskz_loadu_ps(mask, from + i);
        if (is_bf16)
            _mm256_mask_storeu_epi16((uint16_t *)to + i, mask, _mm512_cvtepi32_epi16(rounded(numbers)));
        else
            _mm512_mask_storeu_ps(to + i, mask, numbers);
    }
}

// `count` rows of words times `groups` words of 64 columns.
INLINE void multiply_rows(const __m512i *columns, const uint32_t *words, int stride, int count, int groups,
                          int is_bf16, Sums *sums)
{
    for (int row = 0; row < count; row += TOGETHER) {
        const char *weights = (const char *)columns;
        const uint32_t *own = words + row * stride;
#define CALL_FP32(n) tile_fp32(weights, own, stride, n, groups, 0, 0, sums + row)
#define CALL_BF16(n) tile_bf16(weights, own, stride, n, groups, 0, 0, sums + row)
        if (is_bf16) {
            BY_COUNT(count - row, CALL_BF16)
        } else {
            BY_COUNT(count - row, CALL_FP32)
        }
    }
}

// Scores [blocks] of one query become e^(score - largest) [CHUNK], zero from key `count` on, in `words`, too; what the
// sums so far are to be multiplied with.
INLINE float weigh(const Sums (*scores)[GROUP], int row, int count, float scale, int is_bf16, float *largest,
                   float *total, uint32_t *words)
{
    float weights[CHUNK];
    __m512 most = _mm512_set1_ps(*largest), sum = _mm512_setzero_ps();
    for (int key = 0; key < count; key += LANES) {
        const __mmask16 mask = lanes_left(count - key);
        const __m512 score = _mm512_castsi512_ps(scores[key / BLOCK][row].lanes[key % BLOCK / LANES]);
        const __m512 scaled = _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), mask, score, _mm512_set1_ps(scale));
        _mm512_storeu_ps(weights + key, scaled);
        most = _mm512_max_ps(scaled, most);
    }
    const float now = _mm512_reduce_max_ps(most), factor = now > *largest ? expf(*largest - now) : 1;
    for (int key = 0; key < CHUNK; key += LANES) {
        const __mmask16 mask = key < count ? lanes_left(count - key) : 0;
        const __m512 off = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, weights + key), _mm512_set1_ps(now));
        const __m512 weight = _mm512_maskz_mov_ps(mask, exponential(off));
        sum = _mm512_add_ps(sum, weight);
        _mm512_storeu_ps(weights + key, weight);
    }
    as_words(weights, CHUNK, is_bf16, words);
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
        factors[i] = weigh((const Sums(*)[GROUP])scores, i, some, part->op->value, is_bf16, largest + row + i,
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
        for (int row = 0; row < count; row += GROUP) {
            const int rows = count - row < GROUP ? count - row : GROUP;
            if (part->step->is_bf16)
                attend_group(part, &chunk, first, row, rows, 1, largest, total);
            else
                attend_group(part, &chunk, first, row, rows, 0, largest, total);
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

// New keys and values of all tokens into the pages, zero in place of what is not finite: it would reach all who have
// the pages, as 0 times NaN is NaN.
static void write_pages(const Operation *op, const Step *step)
{
    const int width = op->count * op->k;
    for (int number = 0; number < step->num_spans; number++) {
        const Span *span = step->spans + number;
        for (int i = 0; i < span->count; i++) {
            const int token = span->first + i;
            const int64_t row = step->rows[span->key + span->num_keys - span->count + i];
            for (int side = 0; side < 2; side++) {
                const float *from =
                    row_of(step, op->source, token, op->source_column + (op->n + side) * op->count * op->k);
                char *to = step->pages[2 * op->layer + side] + row * width * (step->is_bf16 ? 2 : 4);
                __mmask16 broken = 0;
                for (int start = 0; start < width; start += LANES) {
                    const __mmask16 mask = lanes_left(width - start);
                    __m512 numbers = _mm512_maskz_loadu_ps(mask, from + start);
                    if (step->is_bf16)
                        numbers = _mm512_castsi512_ps(_mm512_slli_epi32(rounded(numbers), 16));
                    const __mmask16 wrong =
                        _mm512_cmp_ps_mask(_mm512_abs_ps(numbers), _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
                    const __m512 finite = _mm512_maskz_mov_ps((__mmask16)~wrong, numbers);
                    broken |= wrong;
                    if (step->is_bf16)
                        _mm256_mask_storeu_epi16(to + 2 * start, mask, _mm512_cvtepi32_epi16(rounded(finite)));
                    else
                        _mm512_mask_storeu_ps(to + 4 * start, mask, finite);
                }
                if (broken)
                    step->are_broken[token] = 1;
            }
        }
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
