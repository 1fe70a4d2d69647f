// Keys and values in the rows of pages: written there, and laid out as the weights of a product are.
#ifndef PAGE_ROWS_H
#define PAGE_ROWS_H

#include "attention.h"

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
        for (int i = 0; i < LANES && key + LANES + i < count; i++)
            fetch(key_of(part, 0, first + key + LANES + i), 0, part->op->k, part->step->is_bf16);
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
        if (key + LANES < count)
            fetch(key_of(part, 1, first + key + LANES), 0, width, step == 2);
        if (step == 2 && key + LANES + 1 < count)
            fetch(key_of(part, 1, first + key + LANES + 1), 0, width, 1);
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
                        numbers = from_bf16(halves_of(numbers));
                    const __mmask16 wrong =
                        _mm512_cmp_ps_mask(_mm512_abs_ps(numbers), _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
                    const __m512 finite = _mm512_maskz_mov_ps((__mmask16)~wrong, numbers);
                    broken |= wrong;
                    if (step->is_bf16)
                        _mm256_mask_storeu_epi16(to + 2 * start, mask, halves_of(finite));
                    else
                        _mm512_mask_storeu_ps(to + 4 * start, mask, finite);
                }
                if (broken)
                    step->are_broken[token] = 1;
            }
        }
    }
}

#endif
