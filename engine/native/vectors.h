// What all files here share: vectors of 16 numbers, number formats, and the operations of a step.
#ifndef VECTORS_H
#define VECTORS_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 16       // numbers of 32 bits in a vector
#define BLOCK 64       // outputs whose weights lie together
#define MOST_TOKENS 256 // that go through the operations together
#define MOST_EXPERTS 64
#define MOST_SHARING 16 // heads that share keys
#define MOST_WIDTH 256  // of a head
#define MOST_ROWS (2 * MOST_TOKENS) // an 8-bit product may need a second row for a token

// Numbers of weights. The first three are oneDNN's layout, [N / 64][K / g][64][g] with g numbers in 32 bits; NF4 is
// bitsandbytes'; the last two are plain matrices [N][K].
enum Format { FP32, BF16, INT8, NF4, PLAIN_FP32, PLAIN_BF16 };

enum Kind { EMBED, NORM, PRODUCT, ROTATE, ATTEND, ACTIVATE, ADD, EXPERTS, KEEP };
enum Flags {
    CENTRED = 1,   // NORM: a LayerNorm, not an RMSNorm
    ADDING = 2,    // PRODUCT: to what is in the target
    GATED = 4,     // ACTIVATE: times the n numbers that follow
    GELU = 8,      // ACTIVATE: instead of SiLU
};

// See engine/native/operations.py, which has the same fields.
typedef struct {
    int32_t kind, format, flags, source, source_column, target, target_column, n, k, count, layer, other;
    float value;
    const void *weights, *scales;
    const float *bias;
    const uint16_t *levels; // NF4: the 16 numbers that codes stand for, twice
    const void *many, *many_levels; // NF4: four_bits of models/native/integer_products.c for many tokens; its levels
} Operation;

// The tokens of one chat in a step that reads prompts: `count` of them from `first` on, the last of `num_keys`, which
// lie in the rows of the pages that are listed from `key` on.
typedef struct {
    int32_t first, count, key, num_keys;
} Span;

typedef struct {
    const int32_t *ids, *positions, *starts;
    float *const *buffers; // [tokens][width] each
    const int32_t *widths;
    uint32_t *scratch;
    char *keys, *values; // [layers][requests][heads][capacity][D], of which a stride is given for the first three
    int64_t layer_stride, request_stride, head_stride;
    int32_t tokens, length, is_bf16, threads;
    // A step that reads prompts has these instead of `starts`, `keys` and `values`:
    const Span *spans;
    const int64_t *rows;
    char *const *pages;  // by layer, the rows of keys and those of values, of all heads each
    int32_t *are_broken; // [tokens]: whether a key or value was not finite, in whose place is zero
    const int32_t *kept; // tokens that KEEP leaves, in their order; all of them where there is none
    int32_t num_spans, num_kept;
    int32_t *found; // [threads][MOST_ROWS][32] for four_bits
} Step;

INLINE __mmask16 lanes_left(int left) { return left >= LANES ? 0xFFFF : (__mmask16)((1u << left) - 1); }

// bfloat16 has the upper half of a float's bits.
INLINE __m512 from_bf16(__m256i bits)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

INLINE uint16_t to_bf16(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, 4);
    if (number != number)
        return 0x7FC0;
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// 16 numbers of either format from an index on, zero beyond the mask.
INLINE __m512 load_lanes(const void *numbers, int64_t index, int is_bf16, __mmask16 mask)
{
    if (is_bf16)
        return from_bf16(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)numbers + index));
    return _mm512_maskz_loadu_ps(mask, (const float *)numbers + index);
}

// acc + the two products of bfloat16 in each lane.
INLINE __m512 dot_pairs(__m512 acc, __m512i left, __m512i right)
{
#ifdef __AVX512BF16__
    // gcc copies a register before and after its own intrinsic of this instruction.
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(left), "v"(right));
    return acc;
#else
    const __m512i upper = _mm512_set1_epi32((int)0xFFFF0000);
    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(left, 16)),
                          _mm512_castsi512_ps(_mm512_slli_epi32(right, 16)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(left, upper)),
                           _mm512_castsi512_ps(_mm512_and_si512(right, upper)), acc);
#endif
}

// e^x within 2 units in the last place; NaN stays NaN, as the second operand of min and max does.
INLINE __m512 exponential(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), _mm512_min_ps(_mm512_set1_ps(89.0f), x));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x); // ln 2 in two parts, the first with few bits
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

// How many threads so many multiplications are worth: to wake the others takes as long as a few hundred thousand.
INLINE int threads_for(const Step *step, int64_t products) { return products < 1 << 18 ? 1 : step->threads; }

// Numbers in bfloat16: to the nearest, of two the even one; NaN stays NaN.
INLINE __m256i halves_of(__m512 numbers)
{
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(numbers);
#else
    const __m512i bits = _mm512_castps_si512(numbers);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i found = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
    const __m512i rounded = _mm512_mask_mov_epi32(found, is_nan, _mm512_set1_epi32(0x7FC00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}

// How many of `left` things to take now, so that parts of at most so many are of about the same size.
INLINE int share_of(int left, int most)
{
    const int parts = (left + most - 1) / most;
    return (left + parts - 1) / parts;
}

INLINE float *row_of(const Step *step, int buffer, int token, int column)
{
    return step->buffers[buffer] + (int64_t)token * step->widths[buffer] + column;
}

#endif
